"""Similar patients: who of the training patients lies near in the space that a model fuses in.

Of AdaCoMed that space is the joint one (Eq. 3): z_large and z_small of a patient side by side, each
of length 1, as the contrastive loss compares them. Models that differ by their seed have spaces of
their own, so that each compares the patients in its own and the mean of their cosines counts.

A neighbour is near in what the model makes of the inputs. It is no proof, and no reason: a training
patient's label has shaped the very space that it is found in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adacomed.errors import InputError
from adacomed.explain.modalities import predicted
from adacomed.inference import in_double
from adacomed.models.adacomed import AdaCoMed
from adacomed.models.baselines.ensemble import Average, LargeEnsemble
from adacomed.models.batch import Batch
from adacomed.models.members import Members
from adacomed.training.checkpoint import Run
from adacomed.training.loader import Inputs
from adacomed.training.outcome import Findings, Survival
from adacomed.training.perturb import left

Floats = NDArray[np.float64]
ROWS = 256  # patients in a pass
DIGITS = 9  # of a similarity; beyond lies rounding, which must not order equal patients


@dataclass(frozen=True)
class Reference:
    """The N patients that others are compared with.

    Attributes:
        label: (N,) class, −1 where unknown or where the task is none of classes.
        seen: what became of each, in words; "" where unknown.
        present: the modalities of each.
        prob: (N, K) by the run; of patients whom it was trained on too sure of itself.
        vectors: (N, D), rows of length 1: the members' spaces side by side, so that the product of
            two rows is the mean of the members' cosines.
    """

    sample_id: NDArray[np.str_]
    subject_id: NDArray[np.str_]
    label: NDArray[np.int64]
    seen: tuple[str, ...]
    present: tuple[tuple[str, ...], ...]
    prob: Floats
    vectors: Floats

    def __len__(self) -> int:
        return len(self.sample_id)


@dataclass(frozen=True)
class Neighbour:
    """A patient of the reference who is near; `similarity` is a mean cosine, −1 to 1.

    The rest as in `Reference`; `label` is None where it is unknown.
    """

    sample_id: str
    similarity: float
    label: int | None
    seen: str
    present: tuple[str, ...]
    prob: tuple[float, ...]


def reference_of(run: Run, inputs: Inputs) -> Reference:
    """Where N patients lie; as a rule the run's training patients.

    Args:
        inputs: as `intake.gather_for` gives them.
    Raises:
        InputError: a method without such a space, or there is no patient.
    """
    if not len(inputs):
        raise InputError("no patient to compare with")
    of_classes = run.trained.outcome.kind == "classes"
    return Reference(
        sample_id=inputs.sample_id,
        subject_id=inputs.subject_id,
        label=inputs.target if of_classes else np.full(len(inputs), -1),
        seen=tuple(_seen(run, inputs, i) for i in range(len(inputs))),
        present=tuple(tuple(names) for names in left(inputs)),
        prob=predicted(run.trained, inputs)[1],
        vectors=_places(run, inputs),
    )


def similar(
    reference: Reference,
    run: Run,
    one: Inputs,
    *,
    k: int = 5,
    without_subject: str | None = None,
) -> list[Neighbour]:
    """The k nearest patients to one, the nearest first; of equal ones the lower id.

    Never one of the patient's own samples.

    Args:
        one: inputs of one patient.
        without_subject: another name that the patient's samples may have in the reference.
    Raises:
        InputError: as `reference_of`.
    """
    if len(one) != 1:
        raise InputError(f"similar patients are found for one patient, {len(one)} arrived")
    cosine: Floats = np.round(reference.vectors @ _places(run, one)[0], DIGITS)
    own = [str(one.subject_id[0]), without_subject]
    other = ~np.isin(reference.subject_id, [name for name in own if name is not None])
    other &= reference.sample_id != one.sample_id[0]
    rows = np.flatnonzero(other)
    order = rows[np.lexsort((reference.sample_id[rows], -cosine[rows]))]
    return [_neighbour(reference, int(i), float(cosine[i])) for i in order[:k]]


def _neighbour(reference: Reference, i: int, cosine: float) -> Neighbour:
    label = int(reference.label[i])
    return Neighbour(
        sample_id=str(reference.sample_id[i]),
        similarity=cosine,
        label=None if label < 0 else label,
        seen=reference.seen[i],
        present=reference.present[i],
        prob=tuple(reference.prob[i].tolist()),
    )


@torch.no_grad()
def _places(run: Run, inputs: Inputs) -> Floats:
    """(N, D) unit rows, in double precision, so that a patient's place is the patient's own."""
    trained = in_double(run.trained)
    model = trained.model
    members = list(model.members) if isinstance(model, Members) else [model]
    places = [_place_of(member, run.method) for member in members]
    batch = trained.fitted.batch(inputs).to("cpu", torch.float64)
    found = []
    for index in torch.split(torch.arange(len(batch)), ROWS):
        part = batch.rows(index)
        found.append(torch.cat([_unit(place(part)) for place in places], dim=1))
    return np.asarray((torch.cat(found) / len(members) ** 0.5).numpy())


def _place_of(model: nn.Module, method: str) -> Callable[[Batch], Tensor]:
    """How a model of this kind places a batch of B patients in its space, (B, D)."""
    if isinstance(model, AdaCoMed):
        return lambda batch: _joint(model, batch)
    if isinstance(model, LargeEnsemble):
        return lambda batch: model.hidden(batch.embeddings, batch.present)
    if isinstance(model, Average):
        sides = [_place_of(side, method) for side in (model.large, model.small)]
        return lambda batch: torch.cat([_unit(side(batch)) for side in sides], dim=1)
    if isinstance(model, Members):  # one side of an average
        inner = [_place_of(member, method) for member in model.members]
        return lambda batch: torch.cat([_unit(place(batch)) for place in inner], dim=1)
    embed: Callable[[Batch], Tensor] | None = getattr(model, "embed", None)
    if embed is None:
        raise InputError(
            f"no similar patients for {method}: it has no space of patients; adacomed, "
            f"large-ensemble, average and small have one"
        )
    return embed


def _joint(model: AdaCoMed, batch: Batch) -> Tensor:
    """z_large and z_small, each of length 1; without a large modality there is no z_large."""
    output = model(batch)
    assert output.z_large is not None
    assert output.z_small is not None
    here = batch.present.any(dim=1, keepdim=True)
    z_large = torch.where(here, _unit(output.z_large), 0.0)
    return torch.cat([z_large, _unit(output.z_small)], dim=1)


def _unit(x: Tensor) -> Tensor:
    return nn.functional.normalize(x, dim=1)


def _seen(run: Run, inputs: Inputs, i: int) -> str:
    """What became of a patient, as people say it."""
    outcome, names = run.trained.outcome, run.classes
    if isinstance(outcome, Findings | Survival):
        if inputs.truth is None or np.isnan(inputs.truth[i]).all():
            return ""
        truth = inputs.truth[i]
        if isinstance(outcome, Findings):
            found = [name for name, y in zip(names, truth, strict=True) if y == 1]
            return ", ".join(found) or "no finding"
        return f"{names[int(truth[1])]} at {truth[0]:g} {outcome.unit}".rstrip()
    label = int(inputs.target[i])
    return names[label] if 0 <= label < len(names) else ""
