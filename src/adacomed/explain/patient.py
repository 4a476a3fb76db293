"""One patient's prediction, explained: who said it, how sure, and what each modality did."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
from torch import Tensor

from adacomed.explain.modalities import modality_shapley, predicted
from adacomed.explain.shapley import Shapley
from adacomed.models.batch import Output
from adacomed.schema import Explanations
from adacomed.training.checkpoint import Run
from adacomed.training.loader import Inputs
from adacomed.training.outcome import Survival, Threshold

SCHEMA = {
    Explanations.SAMPLE_ID: pl.String,
    Explanations.CLASS: pl.Int64,
    Explanations.LEVEL: pl.String,
    Explanations.MODALITY: pl.String,
    Explanations.NAME: pl.String,
    Explanations.POSITION: pl.Float64,
    Explanations.VALUE: pl.Float64,
}
EVEN = 0.05  # weights of the two branches that differ by less: neither leads


@dataclass(frozen=True)
class ModalityEffect:
    """What one modality did to a patient's prediction; lists are over the K classes.

    Attributes:
        shapley: its share of the prediction less the base rate, in probability; exactly 0 where the
            patient lacks it.
        without: the probability without this modality alone.
        error: standard error of `shapley`; None where it is exact.
    """

    present: bool
    shapley: list[float]
    without: list[float]
    error: list[float] | None = None


@dataclass(frozen=True)
class Patient:
    """One patient's explanation.

    Attributes:
        sample_id: the only thing here that says who it is.
        classes: names of the K classes (or findings); of two the second is the positive one.
        shown: those with rows in explanations.parquet.
        prob: probability of each class.
        base: what the model says of a patient of whom nothing is known.
        threshold: on the positive class's probability (binary), or on each finding's.
        prediction_set: classes that cannot be ruled out; None where the run has no such sets.
        w_large, w_small: weights of the two branches; None for a method without them.
        leads: "large", "small" or "neither"; None for a method without branches.
        s: similarity of the two branches' views (Eq. 4).
        spread: standard deviation between the models averaged, in log-odds; None for a single one.
        router: modalities that an expert sees → its weight, those above 0.
        modalities: name → what it did.
        overlap: pairs of modalities → interaction of the explained class; below 0 they say the
            same thing.
    """

    sample_id: str
    classes: tuple[str, ...]
    shown: tuple[int, ...]
    prob: list[float]
    base: list[float]
    threshold: Threshold
    prediction_set: list[int] | None
    w_large: float | None
    w_small: float | None
    leads: str | None
    s: float | None
    spread: float | None
    router: dict[str, float]
    modalities: dict[str, ModalityEffect]
    overlap: dict[str, float]

    @property
    def explained(self) -> int:
        """The class that is written about: the positive one, or of several the likeliest."""
        return explained_class(self.prob, self.shown)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self) | {"classes": list(self.classes), "explained": self.explained}

    def rows(self) -> Iterator[tuple[object, ...]]:
        """Rows of schema.Explanations: modalities for each class (binary: 1), and experts."""
        for k in self.shown:
            for name, effect in self.modalities.items():
                yield (self.sample_id, k, "modality", name, name, None, effect.shapley[k])
        for expert, weight in self.router.items():
            yield (self.sample_id, self.explained, "expert", None, expert, None, weight)


def explained_class(prob: Sequence[float], shown: Sequence[int]) -> int:
    """Of the columns shown the likeliest: of two classes the positive one."""
    return max(shown, key=lambda k: prob[k])


def explain_patients(
    run: Run,
    inputs: Inputs,
    *,
    seed: int = 0,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[Patient], Shapley]:
    """Every patient's explanation, and the Shapley values that they hold, for the cohort.

    Args:
        inputs: N patients, as `intake.gather_for` gives them.
        seed, tick: as in `modality_shapley`.
    Raises:
        InputError: the model gives no number for a patient without any modality.
    """
    output, prob = predicted(run.trained, inputs)
    found = modality_shapley(run.trained, inputs, seed=seed, tick=tick)
    sets = getattr(run.trained, "sets", None)
    inside = None if sets is None else np.asarray(sets.sets(prob))  # (N, K) bool
    said = class_names(run)
    patients = []
    for i in range(len(inputs)):
        large, small = _number(output.w_large, i), _number(output.w_small, i)
        patients.append(
            Patient(
                sample_id=str(inputs.sample_id[i]),
                classes=said,
                shown=found.shown,
                prob=found.prob[i].tolist(),
                base=found.base[i].tolist(),
                threshold=run.trained.threshold,
                prediction_set=None if inside is None else np.flatnonzero(inside[i]).tolist(),
                w_large=large,
                w_small=small,
                leads=leads(large, small),
                s=_number(output.s, i),
                spread=_number(output.spread, i),
                router=_router(output, i, run.meta["experts"]),
                modalities=_effects(found, i),
                overlap=_overlap(found, i),
            )
        )
    return patients, found


def class_names(run: Run) -> tuple[str, ...]:
    """What each column is the probability of; survival's say by when."""
    outcome = run.trained.outcome
    if not isinstance(outcome, Survival):
        return run.classes
    by = f"by {outcome.horizon:g} {outcome.unit}".rstrip()
    return tuple(f"{name} {by}" for name in run.classes)


def _number(x: Tensor | None, i: int) -> float | None:
    return None if x is None else float(x[i])


def leads(large: float | None, small: float | None) -> str | None:
    """Which branch has the larger weight, or "neither"; None without branches."""
    if large is None or small is None:
        return None
    if abs(large - small) < EVEN:
        return "neither"
    return "large" if large > small else "small"


def _router(output: Output, i: int, experts: Sequence[str]) -> dict[str, float]:
    if output.router is None:
        return {}
    weights = zip(experts, output.router[i].tolist(), strict=True)
    return {name: w for name, w in sorted(weights, key=lambda pair: -pair[1]) if w > 0}


def _effects(found: Shapley, i: int) -> dict[str, ModalityEffect]:
    return {
        name: ModalityEffect(
            present=bool(found.present[i, m]),
            shapley=found.values[i, m].tolist(),
            without=found.without[i, m].tolist(),
            error=None if found.error is None else found.error[i, m].tolist(),
        )
        for m, name in enumerate(found.names)
    }


def _overlap(found: Shapley, i: int) -> dict[str, float]:
    """Interactions of the modalities that the patient has, the explained class's."""
    if found.interaction is None:
        return {}
    k, names = explained_class(found.prob[i].tolist(), found.shown), found.names
    pairs = [(a, b) for a in range(len(names)) for b in range(a + 1, len(names))]
    return {
        f"{names[a]} + {names[b]}": float(found.interaction[i, a, b, k])
        for a, b in pairs
        if found.present[i, a] and found.present[i, b]
    }


def frame(rows: Sequence[tuple[object, ...]]) -> pl.DataFrame:
    """Rows as a table of schema.Explanations."""
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def text(patient: Patient) -> str:
    """The explanation for a terminal: ids, names and numbers, no value of the patient's."""
    k = patient.explained
    said = f"probability of {patient.classes[k]}: {patient.prob[k]:.3f}"
    lines = [f"{patient.sample_id}  {said} (base {patient.base[k]:.3f})"]
    if isinstance(patient.threshold, float) and len(patient.prob) == 2:
        lines[0] += f", threshold {patient.threshold:.3f}"
    if patient.prediction_set is not None:
        inside = ", ".join(patient.classes[c] for c in patient.prediction_set)
        lines.append(f"  cannot be ruled out: {inside or 'no class (unlike the patients known)'}")
    if patient.leads is not None:
        s = "" if patient.s is None else f", s {patient.s:.3f}"
        spread = "" if patient.spread is None else f", spread {patient.spread:.2f} nats"
        weights = f"w_large {patient.w_large:.2f}, w_small {patient.w_small:.2f}"
        lines.append(f"  {patient.leads} leads: {weights}{s}{spread}")
    if patient.router:
        best = list(patient.router.items())[:3]
        lines.append("  experts: " + ", ".join(f"{name} {w:.2f}" for name, w in best))
    width = max(len(name) for name in patient.modalities)
    for name, effect in patient.modalities.items():
        if not effect.present:
            lines.append(f"  {name:{width}}  absent")
            continue
        error = "" if effect.error is None else f" ± {effect.error[k]:.3f}"
        value = f"{effect.shapley[k]:+.3f}{error}"
        lines.append(f"  {name:{width}}  {value}   without it {effect.without[k]:.3f}")
    return "\n".join(lines)
