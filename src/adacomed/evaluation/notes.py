"""What has to be said beside a row of figures: few patients, and why a figure is not there."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from adacomed.evaluation.discrimination import METRICS
from adacomed.evaluation.limits import HEAVY
from adacomed.evaluation.predictions import Cells
from adacomed.evaluation.scored import Floats, Scored
from adacomed.schema import Predictions

FEW = 20  # samples of the rarer class below which a row gets a note
ALWAYS = ("acc", "brier", "log_loss", "ece", "net_benefit")  # defined with one class only, too


def note(cells: Cells, names: list[str], value: Floats, low: Floats, high: Floats) -> str:
    """Few samples of a class, and the reason of every NaN, in words; "" where all is well.

    Args:
        names: M metrics.
        value: (M,) their values; `low` and `high` (M,) their limits.
    """
    missing = {name for name, v in zip(names, value, strict=True) if np.isnan(v)}
    said = _few(cells)
    said += _constant(cells, names)
    said += _undefined(cells, names, missing)
    at = dict(zip(names, zip(low, high, strict=True), strict=True))
    bare = [name for name in names if name not in missing and np.isnan(at[name]).any()]
    if bare:
        said.append(f"no interval, as the resamples agree or are mostly undefined: {_listed(bare)}")
    return "; ".join(said)


def _few(cells: Cells) -> list[str]:
    """A warning where the rarer class (K > 2: any class) has few samples, but has some."""
    samples = cells.rows.unique(Predictions.SAMPLE_ID)
    count = np.bincount(samples[Predictions.LABEL].to_numpy(), minlength=cells.K)
    rarest = int(count.argmin())
    if count[rarest] >= FEW or not count[rarest]:
        return []
    what = _class(cells, rarest)
    if count[rarest] == 1:
        what = what.replace("events", "event").replace("samples", "sample")
    return [f"{count[rarest]} {what}: the interval is wide"]


def _constant(cells: Cells, names: list[str]) -> list[str]:
    if "auroc" not in names or cells.K > 2 or len(np.unique(cells.columns["prob"])) > 1:
        return []
    return ["every patient has the same score, so AUROC is 0.5 by definition"]


def _undefined(cells: Cells, names: list[str], missing: set[str]) -> list[str]:
    """One clause per reason, with the metrics that are missing for it."""
    found: dict[str, list[str]] = {}
    causes = _Causes(cells)
    for name in (m for m in names if m in missing):
        found.setdefault(causes.of(name), []).append(name)
    return [f"{why}, so no {_listed(which)}" for why, which in found.items()]


class _Causes:
    """Why a metric of some cells has no value."""

    def __init__(self, cells: Cells) -> None:
        self.cells = cells
        columns = cells.columns
        whole = Scored.of(columns["label"], columns["prob"], columns["threshold"])
        self.parts = [_rows(whole, columns["cell"] == c) for c in np.unique(columns["cell"])]

    def of(self, name: str) -> str:
        """The reason, as the start of a sentence."""
        if name not in ALWAYS and (lacking := self._lacking(name)):
            return lacking
        if name in ("ppv", "npv"):
            return self._never_decided(name)
        if name in HEAVY:
            return self._no_line()
        if self.cells.K > 2:
            return "there are more than two classes"
        return "a decision threshold is 1"

    def _lacking(self, name: str) -> str:
        """`no events`, if some cell lacks a class that the metric needs."""
        need = {"sensitivity": [1], "specificity": [0], "ppv": [], "npv": []}
        classes = range(self.cells.K)
        needed = need.get(name, classes) if self.cells.K == 2 else classes
        for k in needed:
            lacking = [not (s.label == k).any() for s in self.parts]
            if all(lacking):
                return f"no {_class(self.cells, k)}"
            if any(lacking):
                return f"no {_class(self.cells, k)} in a repeat or fold"
        return ""

    def _no_line(self) -> str:
        if any(len(np.unique(s.prob[:, 1])) == 1 for s in self.parts):
            return "there is one score only"
        which = "the classes" if self.cells.K == 2 else "a class from the rest"
        return f"the scores separate {which} completely"

    def _never_decided(self, name: str) -> str:
        if self.cells.K == 2:
            return f"no patient is decided {'positive' if name == 'ppv' else 'negative'}"
        return f"a class is {'never' if name == 'ppv' else 'always'} decided for"


def _rows(s: Scored, rows: NDArray[np.bool_]) -> Scored:
    return Scored(
        s.label[rows], s.prob[rows], s.decision[rows], s.weight[:, rows], s.threshold[rows]
    )


def _class(cells: Cells, k: int) -> str:
    return ("non-events", "events")[k] if cells.K == 2 else f"samples of class {k}"


def _listed(names: list[str]) -> str:
    return ", ".join(METRICS[name].label for name in names)
