"""ROC and precision-recall curves with bands from resampled patients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import precision_recall_curve, roc_curve

from adacomed.evaluation.intervals import Columns, bootstrap, percentile
from adacomed.evaluation.scored import Floats, ratio
from adacomed.report.figures import (
    UNIT,
    Problem,
    Style,
    band,
    layout,
    line,
    problems,
    rule,
    thin,
)
from adacomed.report.page import Figure, Spec, number
from adacomed.report.source import Source

RESAMPLES = 200  # behind a band; its edge then moves by about the width of its line
MOST = 16  # curves with a band; a page with more of them is unreadable and heavy
GRID = np.linspace(0, 1, 101)


def roc_band(label: ArrayLike, prob: ArrayLike, subjects: ArrayLike) -> tuple[Floats, Floats]:
    """Pointwise 95 % limits of the sensitivity at each 1 − specificity in GRID.

    Subjects are resampled within their class, and the curves averaged vertically.

    Args:
        label: (N,) 0 or 1, both present.
        prob: (N,) score, any scale.
        subjects: (N,) whose row it is.
    Source: Fawcett, Pattern Recognit. Lett. 2006, Sec. 9.1 (vertical averaging).
    """
    return _band(label, prob, subjects, _sensitivity)


def precision_band(label: ArrayLike, prob: ArrayLike, subjects: ArrayLike) -> tuple[Floats, Floats]:
    """Pointwise 95 % limits of the precision at each recall in GRID; as `roc_band`."""
    return _band(label, prob, subjects, _precision)


def _sensitivity(hit: Floats, false: Floats) -> Floats:
    sensitivity, fall_out = hit / hit[-1], false / false[-1]
    start = np.zeros(1)
    found: Floats = np.interp(
        GRID, np.concatenate([start, fall_out]), np.concatenate([start, sensitivity])
    )
    return found


def _precision(hit: Floats, false: Floats) -> Floats:
    at = np.searchsorted(hit / hit[-1], GRID - 1e-12)  # the highest threshold of that recall
    drawn = hit + false
    return ratio(hit[at], drawn[at])


def _band(
    label: ArrayLike,
    prob: ArrayLike,
    subjects: ArrayLike,
    curve: Callable[[Floats, Floats], Floats],
) -> tuple[Floats, Floats]:
    y, p = np.asarray(label), np.asarray(prob, dtype=np.float64)
    order = np.argsort(-p, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(p[order])), len(p) - 1)  # equal scores enter together

    def statistic(columns: Columns, weight: Floats) -> Floats:
        drawn = weight[:, order]
        events = drawn * columns["label"][order]
        hit = np.cumsum(events, axis=1)[:, ends]
        false = np.cumsum(drawn - events, axis=1)[:, ends]
        return np.stack([curve(h, f) for h, f in zip(hit, false, strict=True)])

    return percentile(bootstrap(statistic, {"label": y}, subjects, y, RESAMPLES))


def roc(source: Source, look: dict[str, Style], aurocs: dict[str, str]) -> Figure | None:
    """ROC curves of every method (K > 2: of every class against the rest)."""
    found = list(problems(source, look))
    if not found:
        return None
    lines = []
    for problem in found:
        fpr, tpr = thin(*roc_curve(problem.y, problem.p)[:2])
        lines.append(line(fpr, tpr, _named(problem, aurocs), problem.style))
    bands = [
        band(GRID, *roc_band(p.y, p.p, p.subjects), _named(p, aurocs), p.style)
        for p in found[:MOST]
    ]
    spec = {
        "data": [rule([0, 1], [0, 1], "chance"), *bands, *lines],
        "layout": layout("1 − specificity", "sensitivity", xaxis=UNIT, yaxis=UNIT),
    }
    return Figure(
        "roc", "ROC curves", _alt("Sensitivity against 1 − specificity", "AUROC", aurocs), spec
    )


def precision_recall(
    source: Source, look: dict[str, Style], auprcs: dict[str, str]
) -> Figure | None:
    """Precision-recall curves for the positive class, with the prevalence as the line of chance."""
    found = list(problems(source, look))
    if not found:
        return None
    lines: list[Spec] = []
    for problem in found:
        precision, recall, _ = precision_recall_curve(problem.y, problem.p, drop_intermediate=True)
        recall, precision = thin(recall, precision)
        drawn = line(recall, precision, _named(problem, auprcs), problem.style)
        lines.append(drawn | {"line": _steps(problem.style)})
    bands = [
        band(GRID, *precision_band(p.y, p.p, p.subjects), _named(p, auprcs), p.style)
        for p in found[:MOST]
    ]
    share = next((float(p.y.mean()) for p in found if p.name == source.headline), None)
    chance = [] if share is None else [rule([0, 1], [share, share], f"prevalence {number(share)}")]
    spec = {
        "data": [*bands, *lines, *chance],
        "layout": layout("recall (sensitivity)", "precision", xaxis=UNIT, yaxis=UNIT),
    }
    alt = _alt("Precision against recall for the positive class", "AUPRC", auprcs)
    return Figure("pr", "Precision–recall curves", alt, spec)


def _named(problem: Problem, values: dict[str, str]) -> str:
    value = values.get(problem.name)
    return f"{problem.name} · {value}" if value else problem.name


def _alt(what: str, metric: str, values: dict[str, str]) -> str:
    each = "; ".join(f"{method} {value}" for method, value in values.items())
    return f"{what}, the light area is the pointwise 95 % band. {metric}: {each}"


def _steps(style: Style) -> Spec:
    # precision between two thresholds is that of the nearer recall below: no straight interpolation
    return {"color": style.color, "dash": style.dash, "width": style.width, "shape": "hv"}
