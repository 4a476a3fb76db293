"""Integrated gradients of the fused log-odds, by captum, where the way to them has a gradient.

Along a straight line from a baseline to the patient's input the gradients are averaged; the
attributions add up to the difference of the log-odds at its ends (completeness), which is checked.
Source: Sundararajan, Taly, Yan, ICML 2017.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from adacomed.explain.inside import Inside, Part, captum_attr, index_of, log_odds, one_row
from adacomed.models.adacomed import AdaCoMed
from adacomed.models.baselines.gru import GRUClassifier
from adacomed.models.baselines.meta_transformer import MetaTransformer
from adacomed.models.baselines.onellm import OneLLM
from adacomed.models.batch import Batch
from adacomed.models.members import Members
from adacomed.models.raw import Events
from adacomed.models.small.events import EventEncoder
from adacomed.models.small.scores import ScoreSmall
from adacomed.models.weighting import Weighting, cues_of, reliable, to_ranks
from adacomed.training.loader import Inputs
from adacomed.training.scaling import Standardiser
from adacomed.training.trained import Trained

STEPS = (64, 512, 4096)  # points on the line, more where the sum misses its total
TOLERANCE, SMALL = 0.01, 1e-4  # of the total; nats, which no reader would miss
NO_GRADIENT = (ScoreSmall, EventEncoder, MetaTransformer, OneLLM)  # trees, binned values
MIDDLE = 0.5  # of a variable's training range
Forward = Callable[..., Tensor]


class Undetached(nn.Module):
    """A fitted weighting, with the gradient through s and the branches that training cuts.

    What a patient's input changes in the weights is a part of what it changes in the prediction.
    """

    def __init__(self, fitted: Weighting) -> None:
        super().__init__()
        self.fitted = fitted
        self.detach, self.reads_s = False, True  # what the model asks of its weighting

    def forward(
        self, s: Tensor, large: Tensor, small: Tensor, present: Tensor, candidates: Any = 1
    ) -> tuple[Tensor, Tensor]:
        """As `Weighting.forward`."""
        w = self.fitted
        if w.batch_mean:
            s = s.mean().expand_as(s)
        if w.scale == "quantile":
            s = to_ranks(s * candidates, w.ranks.to(s))
        if w.weigh is not None:
            large_weight, small_weight = w.weigh(s)
        else:
            cues = cues_of(s, large, small, present) - w.centre
            large_weight, small_weight = reliable(cues, w.theta)
        alone = ~present.any(-1)
        return large_weight.masked_fill(alone, 0.0), small_weight.masked_fill(alone, 1.0)


class Fused:
    """A trained model as a function of a patient's batch that has a gradient.

    Args:
        trained: its model is copied, in double precision.
        inputs: one patient.
    Attributes:
        batch: the patient's, in double precision.
    """

    def __init__(self, trained: Trained, inputs: Inputs) -> None:
        self.trained = trained
        self.model = copy.deepcopy(trained.model).double().eval().requires_grad_(False)
        for module in self.model.modules():
            if isinstance(module, AdaCoMed):
                module.weighting = Undetached(module.weighting)  # type: ignore[assignment]
        self.batch = trained.fitted.batch(inputs).to("cpu", torch.float64)

    def __call__(self, batch: Batch, k: int) -> Tensor:
        """Log-odds (R,) of class k, prior corrected."""
        logits = _logits(self.model, batch) - self.trained.log_prior.double()
        return log_odds(logits, k, findings=self.trained.outcome.kind == "findings")

    def rows(self, n: int) -> Batch:
        """The patient, n times."""
        return self.batch.rows(index_of(n))

    def with_vector(self, modality: str, native: Tensor) -> Batch:
        """The patient with other vectors (R, D_m) of a large encoder, as the encoder gives them."""
        batch = self.rows(len(native))
        z = standardised(self.trained.fitted.large[modality], native)
        read = modality in batch.small and modality not in self.trained.fitted.tables
        small = {**batch.small, modality: z} if read else batch.small
        return replace(batch, embeddings={**batch.embeddings, modality: z}, small=small)


def _logits(model: nn.Module, batch: Batch) -> Tensor:
    if isinstance(model, Members):
        return torch.stack([_logits(member, batch) for member in model.members]).mean(dim=0)
    if isinstance(model, AdaCoMed):  # its own call of the frozen small model cuts the gradient
        batch = replace(batch, e_small=model.small.embed(batch))
    logits: Tensor = model(batch).logits
    return logits


def standardised(fitted: Standardiser, x: Tensor) -> Tensor:
    """A standardiser on a tensor (R, D), in double precision."""
    z = (x.double() - torch.from_numpy(fitted.mean)) / torch.from_numpy(fitted.scale)
    return z if fitted.components is None else z @ torch.from_numpy(fitted.components).double().T


def integrated(
    function: Forward,
    inputs: Sequence[Tensor],
    baselines: Sequence[Tensor],
    *,
    steps: Sequence[int] = STEPS,
    at_once: int = 256,
) -> tuple[list[Tensor], float, float]:
    """Integrated gradients with as many steps as completeness needs.

    Args:
        function: tensors like `inputs` with R rows → (R,).
        inputs, baselines: (1, …) each.
        steps: numbers of points to try, until the gap is below 1 % of the total or 1e-4 nats.
        at_once: rows of a forward pass.
    Returns:
        Attributions in the shape of `inputs`; total, the function's difference; gap, total less the
        sum of the attributions.
    """
    method = captum_attr().IntegratedGradients(function)
    ends = [function(*x).detach().double() for x in (inputs, baselines)]
    total = float(ends[0][0] - ends[1][0])
    found: tuple[Tensor, ...] = ()
    gap = total
    for points in steps:
        found = method.attribute(
            tuple(inputs),
            baselines=tuple(baselines),
            n_steps=points,
            method="riemann_middle",  # s as a rank has kinks, which Gauss's points do not like
            internal_batch_size=max(at_once, len(inputs)),
        )
        gap = total - float(sum(x.double().sum() for x in found))
        if abs(gap) <= max(TOLERANCE * abs(total), SMALL):
            break
    return [x.detach() for x in found], total, gap


def has_gradient(trained: Trained, inputs: Inputs, modality: str) -> bool:
    """Whether every way from a table or a raw series to the log-odds has a gradient."""
    if any(isinstance(module, NO_GRADIENT) for module in trained.model.modules()):
        return False
    if modality in inputs.tables:
        return modality not in inputs.vectors or modality in inputs.own
    vector = modality in inputs.encoders
    return not vector and any(isinstance(m, GRUClassifier) for m in trained.model.modules())


def table_gradients(trained: Trained, one: Inputs, modality: str, explained: int) -> Inside:
    """Integrated gradients of a table's columns, from the training mean; one patient.

    A missing cell gets exactly 0. The values of a category add up to one variable.
    """
    fused, encoder = Fused(trained, one), trained.fitted.tables[modality]
    x = torch.from_numpy(encoder.transform(one.tables[modality])).double()  # (1, P)
    observed = ~x.isnan()

    def function(z: Tensor) -> Tensor:
        batch = fused.rows(len(z))
        cells = torch.where(one_row(observed, len(z)), z, torch.nan)
        if modality in batch.small:
            batch = replace(batch, small={**batch.small, modality: cells})
        if modality in batch.embeddings and bool(observed.any()):
            own = standardised(trained.fitted.large[modality], cells).nan_to_num()
            batch = replace(batch, embeddings={**batch.embeddings, modality: own})
        return fused(batch, explained)

    start = torch.zeros_like(x)
    (found,), total, gap = integrated(function, [x.nan_to_num()], [start])
    values, first = [], 0
    for column in encoder.columns:
        width = len(column.columns_out)
        values.append(float(found[0, first : first + width].sum()))
        first += width
    parts = [Part("variable", column.name) for column in encoder.columns]
    method = "integrated gradients from the training mean"
    return Inside(str(one.sample_id[0]), modality, explained, method, parts, values, total, gap)


def series_gradients(trained: Trained, one: Inputs, modality: str, explained: int) -> Inside:
    """Integrated gradients of a raw series' values, from the middle of each training range.

    When something was measured stays as it is. Values by variable, and by time stamp.
    """
    fused = Fused(trained, one)
    events = fused.batch.raw[modality]
    assert isinstance(events, Events)
    observed = ~events.value.isnan()

    def function(z: Tensor) -> Tensor:
        batch = fused.rows(len(z))
        value = torch.where(one_row(observed, len(z)), z, torch.nan)
        series = Events(one_row(events.hours, len(z)), value)
        return fused(replace(batch, raw={**batch.raw, modality: series}), explained)

    there = torch.where(observed, events.value, MIDDLE)
    (found,), total, gap = integrated(function, [there], [torch.full_like(there, MIDDLE)])
    names = trained.fitted.raw.series[modality].names
    hours = events.hours[0][~events.hours[0].isnan()].tolist()
    parts = [Part("variable", name) for name in names]
    parts += [Part("time", f"{hour:g} h", hour) for hour in hours]
    values = found[0].sum(dim=0).tolist() + found[0, : len(hours)].sum(dim=1).tolist()
    method = "integrated gradients from the middle of each variable's training range"
    return Inside(str(one.sample_id[0]), modality, explained, method, parts, values, total, gap)
