"""Explanations averaged over a cohort, each figure with its interval."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from adacomed.evaluation.intervals import Columns, bootstrap, percentile
from adacomed.evaluation.scored import Floats
from adacomed.explain.patient import Patient
from adacomed.explain.shapley import Shapley
from adacomed.schema import History

SIZES = ("mean_abs", "mean")


def mean_shapley(found: Shapley, *, n: int = 1000, seed: int = 0) -> pl.DataFrame:
    """How much each modality moves predictions, over the patients who have it.

    Args:
        found: of N patients.
        n: bootstrap resamples of subjects, for percentile intervals.
    Returns:
        One row per modality and class (of two: 1 alone) or finding: modality, class, present
        (patients who have it), mean_abs and mean of the Shapley values, each with _low and _high;
        null for a modality that nobody has, limits null where there is one subject.
    """
    rows = []
    for m, name in enumerate(found.names):
        here = found.present[:, m]
        for k in found.shown:
            mine = found.values[here, m, k]
            row = {"modality": name, "class": k, "present": int(here.sum())}
            values = dict(zip(SIZES, (np.abs(mine), mine), strict=True))
            rows.append(row | _means(values, found.subject_id[here], n, seed))
    return pl.DataFrame(rows)


def mean_weights(
    patients: Sequence[Patient], subjects: ArrayLike, *, n: int = 1000, seed: int = 0
) -> pl.DataFrame:
    """Means of w_large, w_small, s and spread with intervals, and which branch leads how often.

    Args:
        patients: N of them; subjects: (N,) theirs.
    Returns:
        quantity, value, low, high; quantities that the method lacks have no row.
    """
    told = [p for p in patients if p.w_large is not None]
    if not told:
        return pl.DataFrame(schema=_QUANTITIES)
    values = {
        name: np.array([getattr(p, name) for p in told], np.float64)
        for name in ("w_large", "w_small", "s", "spread")
        if getattr(told[0], name) is not None
    }
    for who in ("large", "small", "neither"):
        values[f"share led by {who}"] = np.array([p.leads == who for p in told], np.float64)
    own = np.asarray(subjects)[[p.w_large is not None for p in patients]]
    found = _means(values, own, n, seed)
    rows = [(q, found[q], found[f"{q}_low"], found[f"{q}_high"]) for q in values]
    return pl.DataFrame(rows, schema=_QUANTITIES, orient="row")


_QUANTITIES = {"quantity": pl.String, "value": pl.Float64, "low": pl.Float64, "high": pl.Float64}


def _means(
    values: Mapping[str, Floats], subjects: ArrayLike, n: int, seed: int
) -> dict[str, float | None]:
    """Mean of each with the limits of a bootstrap of subjects; None where there is none."""
    names, own = list(values), np.asarray(subjects)
    if not len(own):
        return {f"{name}{end}": None for name in names for end in ("", "_low", "_high")}
    table = np.stack([values[name] for name in names], axis=1)  # (N, quantities)

    def statistic(columns: Columns, weight: Floats) -> Floats:
        found: Floats = weight @ columns["table"] / weight.sum(axis=1, keepdims=True)
        return found

    row: dict[str, float | None] = dict(zip(names, table.mean(axis=0).tolist(), strict=True))
    several = len(np.unique(own)) > 1  # one subject drawn again is the same subject
    low, high = percentile(bootstrap(statistic, {"table": table}, own, n=n, seed=seed))
    for i, name in enumerate(names):
        row[f"{name}_low"] = float(low[i]) if several else None
        row[f"{name}_high"] = float(high[i]) if several else None
    return row


def router_by_pattern(patients: Sequence[Patient]) -> pl.DataFrame:
    """Mean router weight of every expert, by which modalities a patient has.

    Returns:
        pattern (such as "ct + wsi"), n, expert, weight; an expert without weight has no row.
    """
    groups: dict[str, list[dict[str, float]]] = defaultdict(list)
    for patient in patients:
        if patient.router:
            have = [m for m, effect in patient.modalities.items() if effect.present]
            groups[" + ".join(have)].append(patient.router)
    rows = []
    for pattern, routers in sorted(groups.items(), key=lambda pair: -len(pair[1])):
        total: dict[str, float] = defaultdict(float)
        for router in routers:
            for expert, weight in router.items():
                total[expert] += weight
        ranked = sorted(total.items(), key=lambda pair: -pair[1])
        rows += [(pattern, len(routers), expert, w / len(routers)) for expert, w in ranked]
    types = {"pattern": pl.String, "n": pl.Int64, "expert": pl.String, "weight": pl.Float64}
    return pl.DataFrame(rows, schema=types, orient="row")


def trajectories(history: pl.DataFrame) -> pl.DataFrame:
    """s, w_large and w_small over the epochs of training, as the paper's Fig. 6.

    Args:
        history: schema.History.
    Returns:
        epoch, part ("train", "val"), metric, value; several members or folds of one epoch are
        averaged. Empty where the method has no branches.
    """
    keys = [History.EPOCH, History.PART, History.METRIC]
    told = history.filter(pl.col(History.METRIC).is_in(["s", "w_large"]))
    mean = told.group_by(keys).agg(pl.col(History.VALUE).mean())
    small = mean.filter(pl.col(History.METRIC) == "w_large").with_columns(
        pl.lit("w_small").alias(History.METRIC), (1 - pl.col(History.VALUE)).alias(History.VALUE)
    )
    return pl.concat([mean, small.select(mean.columns)]).sort(keys[1:] + keys[:1])
