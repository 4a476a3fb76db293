"""What a task asks, and so what its head says: a class, several findings, or when an event comes.

Findings and survival are one thing for training: logits (B, J), a target (B, J) with NaN where
nothing was observed, one sigmoid a column, and the mean binary cross-entropy of what was observed.
For survival the columns are intervals of time and the sigmoid is the hazard: the chance of the
event in an interval of those who came to it. The target is 0 in every interval survived, 1 in the
interval of the event, and NaN afterwards; summed over a patient's intervals the cross-entropy is
exactly the log-likelihood of the discrete-time model (Allison 1982; Gensheimer & Narasimhan 2019).
A model is trained on what lies beyond `base`, the log-odds of each column among the training
patients: what is rare would otherwise take longer to learn than a small cohort trains.

Each of the three is a frozen dataclass with the same methods. `truth` is what was seen of N
patients: (N,) classes, (N, J) findings as 0, 1 or NaN, or (N, 2) time and event.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from adacomed.evaluation.discrimination import METRICS, auroc, choose_threshold
from adacomed.evaluation.findings import mean_auroc
from adacomed.evaluation.intervals import bootstrap
from adacomed.evaluation.scored import HALF, Floats, Scored
from adacomed.evaluation.survival import concordance, status_at

Truth = NDArray[Any]
Kind = Literal["classes", "findings", "survival"]
Threshold = float | list[float]
INTERVALS, EVENTS_EACH = 10, 10  # intervals where none are named: at most, and events for each


@dataclass(frozen=True)
class Classes:
    """One of K classes; names may be empty where only the maths is asked for."""

    names: tuple[str, ...] = ()
    base: ClassVar[tuple[float, ...]] = ()
    kind: ClassVar[Kind] = "classes"
    metric: ClassVar[str] = "auroc"  # what `score` is

    @property
    def width(self) -> int:
        """Columns of the head, K."""
        return len(self.names)

    def fit(self, truth: Truth) -> Classes:
        """Nothing is taken from the training patients."""
        return self

    def target(self, truth: Truth) -> Tensor:
        """(N,) int64."""
        return torch.from_numpy(truth)

    def probabilities(self, logits: Tensor) -> Floats:
        """Logits (N, K) → (N, K)."""
        return np.asarray(torch.softmax(logits.double(), dim=-1).numpy())

    def score(self, prob: Floats, truth: Truth) -> float:
        """AUROC, macro one-vs-rest where K > 2."""
        return float(auroc(truth, _positive(prob)))

    def resampled(self, prob: Floats, truth: Truth, subjects: Truth, n: int) -> Floats:
        """(n,) of the score: subjects drawn anew, stratified by class."""
        return bootstrap(
            lambda columns, weight: METRICS["auroc"].function(
                Scored.of(columns["label"], columns["prob"], weight=weight)
            ),
            {"label": truth, "prob": _positive(prob)},
            subjects,
            truth,
            n=n,
        )

    def threshold(self, prob: Floats, truth: Truth) -> float:
        """Maximises macro F1 on validation; 0.5 stands for argmax where K > 2."""
        return HALF if prob.shape[1] > 2 else float(choose_threshold(truth, prob[:, 1]))


UNNAMED = Classes()  # where only the maths of classes is asked for


def _positive(prob: Floats) -> Floats:
    return prob[:, 1] if prob.shape[1] == 2 else prob


@dataclass(frozen=True)
class Findings:
    """J findings, each present or absent of its own; a patient may be labelled for some only.

    Attributes:
        base: (J,) log-odds of each among the training patients, once fitted.
    """

    names: tuple[str, ...]
    base: tuple[float, ...] = ()
    kind: ClassVar[Kind] = "findings"
    metric: ClassVar[str] = "mean_auroc"

    @property
    def width(self) -> int:
        """Columns of the head, J."""
        return len(self.names)

    def fit(self, truth: Truth) -> Findings:
        """How frequent each is among the training patients."""
        return replace(self, base=_base(self.target(truth)))

    def target(self, truth: Truth) -> Tensor:
        """(N, J) float32, NaN where a finding was not labelled."""
        return torch.from_numpy(truth.astype(np.float32))

    def probabilities(self, logits: Tensor) -> Floats:
        """Logits (N, J) → (N, J), each of its own: a row does not sum to 1."""
        return np.asarray(torch.sigmoid(logits.double()).numpy())

    def score(self, prob: Floats, truth: Truth) -> float:
        """Mean AUROC of the findings that have both classes."""
        return float(mean_auroc(truth, prob)[0])

    def resampled(self, prob: Floats, truth: Truth, subjects: Truth, n: int) -> Floats:
        """(n,) of the score: subjects drawn anew, all findings of a subject together."""
        return bootstrap(
            lambda columns, weight: mean_auroc(columns["truth"], columns["prob"], weight),
            {"truth": truth, "prob": prob},
            subjects,
            n=n,
        )

    def threshold(self, prob: Floats, truth: Truth) -> list[float]:
        """One for each finding, as for two classes, on those labelled for it."""
        known = ~np.isnan(truth)
        return [
            float(choose_threshold(truth[k, j].astype(np.int64), prob[k, j])) if k.any() else HALF
            for j, k in enumerate(known.T)
        ]


@dataclass(frozen=True)
class Survival:
    """When an event comes; the head says its hazard in each of J intervals.

    Attributes:
        names: (no event, event).
        horizon: the time whose risk is `prob`, above 0.
        intervals: how many are wanted; None: `INTERVALS`, fewer where events are few.
        unit: of time, for people.
        ends: of the J intervals, once fitted, increasing; one of them is the horizon.
        base: (J,) log-odds of the event in each among those who came to it, once fitted.
    """

    names: tuple[str, ...]
    horizon: float
    intervals: int | None = None
    unit: str = ""
    ends: tuple[float, ...] = ()
    base: tuple[float, ...] = ()
    kind: ClassVar[Kind] = "survival"
    metric: ClassVar[str] = "c_index"

    @property
    def width(self) -> int:
        """Columns of the head, J; 0 before the fit."""
        return len(self.ends)

    def fit(self, truth: Truth) -> Survival:
        """The ends: quantiles of the training patients' event times, and the horizon among them."""
        times = truth[truth[:, 1] == 1, 0].astype(np.float64)
        n = self.intervals or max(1, min(INTERVALS, len(times) // EVENTS_EACH))
        share = np.arange(1, n + 1) / n
        found = np.quantile(times, share, method="higher") if len(times) else np.array([])
        ends = np.unique(found[found > 0]).tolist()
        fitted = replace(self, ends=tuple(with_horizon(ends, self.horizon)))
        return replace(fitted, base=_base(fitted.target(truth)))

    def target(self, truth: Truth) -> Tensor:
        """(N, J) float32: 0 survived, 1 the event, NaN not observed.

        Who was lost within an interval counts as having survived it where half of it was seen.
        """
        time, event = truth[:, :1], truth[:, 1:] == 1
        ends = np.array(self.ends)
        starts = np.concatenate([[0.0], ends[:-1]])
        seen = np.where(event, ends < time, time >= (starts + ends) / 2)
        here = event & (starts < np.maximum(time, np.finfo(float).tiny)) & (time <= ends)
        return torch.from_numpy(np.where(here, 1.0, np.where(seen, 0.0, np.nan)).astype(np.float32))

    def curves(self, logits: Tensor) -> Floats:
        """Logits of the hazards (N, J) → P(no event by the end of each interval), (N, J)."""
        return np.asarray(F.logsigmoid(-logits.double()).cumsum(dim=-1).exp().numpy())

    def probabilities(self, logits: Tensor) -> Floats:
        """Logits of the hazards (N, J) → P(no event, the event by the horizon), (N, 2)."""
        alive = self.curves(logits)[:, self.ends.index(self.horizon)]
        return np.stack([alive, 1 - alive], axis=1)

    def score(self, prob: Floats, truth: Truth) -> float:
        """Harrell's C-index of the risk at the horizon."""
        return float(concordance(truth[:, 0], truth[:, 1], prob[:, 1])[0])

    def resampled(self, prob: Floats, truth: Truth, subjects: Truth, n: int) -> Floats:
        """(n,) of the score: subjects drawn anew, stratified by the event."""
        return bootstrap(
            lambda columns, weight: concordance(
                columns["time"], columns["event"], columns["risk"], weight
            ),
            {"time": truth[:, 0], "event": truth[:, 1], "risk": prob[:, 1]},
            subjects,
            truth[:, 1].astype(np.int64),
            n=n,
        )

    def threshold(self, prob: Floats, truth: Truth) -> float:
        """Of the event by the horizon, among those of whom that is known."""
        status = status_at(truth[:, 0], truth[:, 1], self.horizon)
        known = ~np.isnan(status)
        if not known.any():
            return HALF
        return float(choose_threshold(status[known].astype(np.int64), prob[known, 1]))


Outcome = Classes | Findings | Survival


def _base(target: Tensor) -> tuple[float, ...]:
    """Log-odds of every column of (N, J), half a patient added to each side."""
    yes = target.nansum(dim=0).double() + 0.5
    no = (~target.isnan()).sum(dim=0).double() + 1 - yes
    return tuple((yes / no).log().tolist())


def with_horizon(ends: ArrayLike, horizon: float) -> list[float]:
    """Increasing ends with the horizon in the place of the nearest inner one, or of the last.

    >>> with_horizon([2, 5, 9], 6), with_horizon([2, 5], 12), with_horizon([], 12)
    ([2.0, 6.0, 9.0], [2.0, 12.0], [12.0])
    """
    out, horizon = [float(end) for end in np.asarray(ends, dtype=np.float64)], float(horizon)
    if not out or horizon >= out[-1]:
        return [*out[:-1], horizon]
    if len(out) == 1:
        return [horizon, *out]
    nearest = int(np.abs(np.array(out[:-1]) - horizon).argmin())
    out[nearest] = horizon
    return out


def outcome_state(outcome: Outcome) -> dict[str, Any]:
    """JSON values that a run keeps."""
    return {"kind": outcome.kind, **asdict(outcome)}


def outcome_of(state: dict[str, Any]) -> Outcome:
    """Back from `outcome_state`.

    Raises:
        KeyError, TypeError: not such a state.
    """
    kinds = {"classes": Classes, "findings": Findings, "survival": Survival}
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in state.items() if k != "kind"}
    made: Outcome = kinds[state["kind"]](**values)
    return made
