"""How far the levels of a group lie apart: equalised odds, calibration, AUROC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from adacomed.errors import InputError
from adacomed.evaluation.discrimination import METRICS
from adacomed.evaluation.intervals import LEVEL as CONFIDENCE
from adacomed.evaluation.intervals import Columns, bootstrap
from adacomed.evaluation.levels import GROUP, LEAST, LEVEL, split_rows, too_few
from adacomed.evaluation.predictions import Cells
from adacomed.evaluation.scored import Floats, Scored
from adacomed.evaluation.tables import estimate
from adacomed.schema import TEST, Predictions


class Gap(NamedTuple):
    """A difference between levels: of which rates (columns of `_rates`), and its name."""

    rates: tuple[int, ...]
    label: str
    binary: bool = True  # for tasks of two classes only


GAPS: dict[str, Gap] = {
    "equalised_odds": Gap((0, 1), "equalised odds (the larger of the next two)"),
    "tpr": Gap((0,), "true positive rate"),
    "fpr": Gap((1,), "false positive rate"),
    "selection": Gap((2,), "share decided positive"),
    "calibration": Gap((3,), "observed less predicted risk"),
    "auroc": Gap((4,), "AUROC", binary=False),
}


def gaps(
    predictions: pl.DataFrame,
    *,
    by: str | Sequence[str],
    split: str = TEST,
    n: int = 1000,
    seed: int = 0,
    least: int = LEAST,
) -> pl.DataFrame:
    """How far a group's levels lie apart: the largest difference between any two of them.

    Rates are averaged over repeats and seeds first, then compared; decisions use the row's
    threshold. Levels that are too few (`subgroups`) are left out and named in the note.

    A largest difference is above 0 even where the levels are alike, and so are its resampled
    values. Its interval is therefore gap ± q, cut at 0, q the 95 % quantile of how far all levels'
    errors lie apart in resamples of the subjects (stratified by level and label): with that
    confidence the interval holds the true gap, whichever pair of levels is the widest. A lower
    limit of 0 says that no difference was shown.

    Args:
        predictions, by, split, n, seed, least: as for `subgroups`.
    Returns:
        task, method, group, gap (a name in GAPS), value, low, high, highest, lowest (levels), n
        (samples compared), levels (compared), note (who was left out; why there is no value).
    Raises:
        InputError: as `levels_of`, or n < 1.
    Source: equalised odds: Hardt et al., NeurIPS 2016, as fairlearn's difference between groups;
        the interval: the bootstrap form of Tukey's simultaneous intervals for all pairs.
    """
    if n < 1:
        raise InputError(f"{n} resamples: expected 1 or more")
    rows = []
    for part, group, order in split_rows(predictions, by, split):
        rows += _gap_rows(part, group, order, n, seed, least)
    text = (Predictions.TASK, Predictions.METHOD, GROUP, "gap")
    schema: dict[str, type[pl.DataType]] = dict.fromkeys(text, pl.String)
    schema |= dict.fromkeys(("value", "low", "high"), pl.Float64)
    schema |= dict.fromkeys(("highest", "lowest"), pl.String)
    return pl.DataFrame(
        rows, schema=schema | {"n": pl.Int64, "levels": pl.Int64, "note": pl.String}
    )


def _gap_rows(
    part: pl.DataFrame, group: str, order: list[str], n: int, seed: int, least: int
) -> list[dict[str, object]]:
    """The rows of one method and group."""
    of_level = {x: rows for x in order if len(rows := part.filter(pl.col(LEVEL) == x))}
    reasons = {x: too_few(rows, least) for x, rows in of_level.items()}
    kept = [x for x, reason in reasons.items() if not reason]
    left_out = [f"{x} left out, {reason}" for x, reason in reasons.items() if reason]
    rows = part.filter(pl.col(LEVEL).is_in(kept))
    about = {
        Predictions.TASK: part[Predictions.TASK][0],
        Predictions.METHOD: part[Predictions.METHOD][0],
        GROUP: group,
        "n": rows[Predictions.SAMPLE_ID].n_unique(),
        "levels": len(kept),
    }
    if len(kept) < 2:
        why = f"fewer than two levels to compare; {'; '.join(left_out)}".rstrip("; ")
        return [about | {"gap": gap, "note": why} for gap in GAPS]
    values, draws = _rates_of(rows, kept, n, seed)
    binary = Cells(part).K == 2
    found = []
    for name, gap in GAPS.items():
        notes = left_out if binary or not gap.binary else ["for a task of two classes only"]
        row: dict[str, object] = {"gap": name, "note": "; ".join(notes)}
        if binary or not gap.binary:
            row |= _gap(values[:, gap.rates], draws[:, :, gap.rates], kept)
        found.append(about | row)
    return found


def _gap(values: Floats, draws: Floats, levels: list[str]) -> dict[str, object]:
    """Value, limits, highest and lowest level of rates (L, Q) and their resamples (R, L, Q)."""
    ranges = np.ptp(values, axis=0)
    if np.isnan(ranges).any():
        return {"note": "a level has one class only in some repeat"}
    q, value = int(ranges.argmax()), float(ranges.max())
    errors = np.ptp(draws - values, axis=1).max(axis=1)
    half = float(np.nanquantile(errors, CONFIDENCE))
    highest, lowest = levels[int(values[:, q].argmax())], levels[int(values[:, q].argmin())]
    limits = {"low": max(0.0, value - half), "high": min(1.0, value + half)}
    return {"value": value, **limits, "highest": highest, "lowest": lowest}


def _rates_of(rows: pl.DataFrame, levels: list[str], n: int, seed: int) -> tuple[Floats, Floats]:
    """Rates (L, 5) of the levels, and (n, L, 5) in resamples of the subjects."""
    number = {level: i for i, level in enumerate(levels)}
    of_row = rows[LEVEL].replace_strict(number, return_dtype=pl.Int64).to_numpy()
    columns: Mapping[str, Any] = {**Cells(rows).columns, "level": of_row}
    subjects = rows[Predictions.SUBJECT_ID].to_numpy()
    strata = of_row * (int(columns["label"].max()) + 1) + columns["label"]
    draws = bootstrap(_rates, columns, subjects, strata, n, seed)
    return _rates(columns, np.ones((1, len(rows))))[0], draws


def _rates(columns: Columns, weight: Floats) -> Floats:
    """(R, L, 5): TPR, FPR, share positive, observed − predicted, AUROC; mean over the cells."""
    levels, cells = np.unique(columns["level"]), np.unique(columns["cell"])
    total = np.zeros((len(weight), len(levels), 5))
    for i, level in enumerate(levels):
        for cell in cells:
            here = np.flatnonzero((columns["level"] == level) & (columns["cell"] == cell))
            label, prob, cut = (columns[c][here] for c in ("label", "prob", "threshold"))
            s = Scored.of(label, prob, cut, weight[:, here])
            size = s.weight.sum(axis=1)
            with np.errstate(invalid="ignore"):
                positive = s.confusion[:, :, 1].sum(axis=1) / size
                off = s.weight @ (s.label - s.prob[:, 1]) / size
            rates = [METRICS["sensitivity"].function(s), 1 - METRICS["specificity"].function(s)]
            total[:, i] += np.stack([*rates, positive, off, METRICS["auroc"].function(s)], axis=1)
    return total / len(cells)


def sentences(table: pl.DataFrame) -> list[str]:
    """A table of `gaps` in words, one sentence for each task, method and group.

    >>> columns = {"task": "death", "method": "small", "group": "sex", "gap": "equalised_odds"}
    >>> columns |= {"value": 0.1, "low": 0.0, "high": 0.2, "highest": "F", "lowest": "M"}
    >>> sentences(pl.DataFrame([columns | {"n": 90, "levels": 2, "note": ""}]))
    ['death, small: by sex, equalised odds differ by 0.100 (0.00–0.20), most between F and M: \
no difference was shown.']
    """
    said = []
    for row in table.filter(pl.col("gap") == "equalised_odds").iter_rows(named=True):
        who = f"{row[Predictions.TASK]}, {row[Predictions.METHOD]}: by {row[GROUP]}, "
        if row["value"] is None:
            said.append(f"{who}nothing can be compared ({row['note']}).")
            continue
        between = f"most between {row['highest']} and {row['lowest']}"
        shown_ = "no difference was shown" if row["low"] <= 0 else "more than chance explains"
        left_out = f" ({row['note']})" if row["note"] else ""
        gap = estimate(row["value"], row["low"], row["high"])
        said.append(f"{who}equalised odds differ by {gap}, {between}: {shown_}{left_out}.")
    return said
