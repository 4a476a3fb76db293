"""What a metric becomes when a modality is taken away from everyone, or the inputs are noisy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

from adacomed.errors import InputError, nearest
from adacomed.evaluation.discrimination import METRICS
from adacomed.evaluation.intervals import percentile
from adacomed.evaluation.limits import limits
from adacomed.evaluation.notes import note
from adacomed.evaluation.predictions import Cells, listed
from adacomed.evaluation.scored import Floats
from adacomed.evaluation.survival_tables import at_horizon
from adacomed.schema import TEST, Predictions

NEEDED = (*Predictions.REQUIRED, Predictions.PRESENT, Predictions.KEPT, Predictions.NOISE)
_SCHEMA: dict[str, Any] = {
    Predictions.TASK: pl.String,
    Predictions.METHOD: pl.String,
    Predictions.KEPT: pl.List(pl.String),
    Predictions.NOISE: pl.Float64,
    "n": pl.Int64,
    "n_nothing": pl.Int64,
    **dict.fromkeys(("value", "low", "high"), pl.Float64),
    **dict.fromkeys(("difference", "difference_low", "difference_high"), pl.Float64),
    "note": pl.String,
}


def stress_table(
    stress: pl.DataFrame,
    *,
    metric: str = "auroc",
    split: str = TEST,
    n: int = 1000,
    seed: int = 0,
) -> pl.DataFrame:
    """A metric under every set of modalities and every amount of noise, and what that costs.

    Every labelled patient of the split is scored in every row, also one who has nothing left, so
    that rows can be compared (of survival, the label is the event by the horizon). Averages over
    repeats and seeds, and intervals, as in `compare.summarise`; the difference to the intact inputs
    (all modalities, no noise) has a percentile interval of the same resamples of the subjects.

    Args:
        stress: the columns of predictions, with `kept` (modalities not taken away), `noise` and
            `present` (what each patient has left).
        metric: a name in METRICS.
        n: resamples of the subjects.
        seed: of the resampling.
    Returns:
        task, method, kept, noise, n (samples), n_nothing (of them, without any modality left),
        value, low, high, difference (to the intact inputs), difference_low, difference_high, note;
        per task and method from all modalities to none, then the noise from weak to strong. Where
        the metric is undefined its numbers are null and the note says why.
    Raises:
        InputError: an unknown metric, a missing column, a method without a row of intact inputs, or
            not the same samples in every row.
    """
    if metric not in METRICS:
        raise InputError(f"no metric {metric!r}{nearest(metric, METRICS)}")
    lacking = [c for c in NEEDED if c not in stress.columns]
    if stress.width and lacking:
        raise InputError(
            f"column {lacking[0]!r} is missing; a stress table has {', '.join(NEEDED)}"
        )
    if not len(stress):
        return pl.DataFrame(schema=_SCHEMA)
    rows = at_horizon(stress).filter(
        (pl.col(Predictions.SPLIT) == split) & pl.col(Predictions.LABEL).is_not_null()
    )
    found = []
    for part in rows.partition_by(Predictions.TASK, Predictions.METHOD, maintain_order=True):
        found += list(_method(part, metric, n, seed))
    return pl.DataFrame(found, schema=_SCHEMA)


def _method(part: pl.DataFrame, metric: str, n: int, seed: int) -> Iterator[dict[str, object]]:
    """The rows of one task and method."""
    states = _ordered(part)
    intact = Cells(states[0])
    whole = set(part[Predictions.KEPT].explode().drop_nulls())
    kept, noise = _state(states[0])
    who = f"task {intact.task!r}, method {intact.method!r}"
    if set(kept) != whole or noise:
        raise InputError(f"{who}: no rows of the intact inputs, all of {', '.join(sorted(whole))}")
    value, draws = intact.value([metric]), intact.resampled([metric], n, seed)
    for state in states:
        cells = Cells(state)
        _assert_same(intact, cells, who)
        mine = cells.value([metric])
        drawn = cells.resampled([metric], n, seed)
        low, high, _ = limits(cells, [metric], mine, drawn)
        apart = percentile(drawn - draws)
        kept, noise = _state(state)
        yield {
            Predictions.TASK: cells.task,
            Predictions.METHOD: cells.method,
            Predictions.KEPT: kept,
            Predictions.NOISE: noise,
            **_sizes(state),
            **_numbers(("value", "low", "high"), mine, low, high),
            **_numbers(("difference", "difference_low", "difference_high"), mine - value, *apart),
            "note": _note(cells, metric, mine, low, high),
        }


def _ordered(part: pl.DataFrame) -> list[pl.DataFrame]:
    """The rows of every state: without noise from all modalities to none, then by noise."""
    states = part.partition_by(Predictions.KEPT, Predictions.NOISE, maintain_order=True)

    def place(state: pl.DataFrame) -> tuple[float, int]:
        kept, noise = _state(state)
        return noise, -len(kept)

    return sorted(states, key=place)


def _state(state: pl.DataFrame) -> tuple[list[str], float]:
    return state[Predictions.KEPT][0].to_list(), float(state[Predictions.NOISE][0])


def _sizes(state: pl.DataFrame) -> dict[str, int]:
    samples = state.unique(Predictions.SAMPLE_ID)
    left = samples[Predictions.PRESENT].list.len().fill_null(0)
    return {"n": len(samples), "n_nothing": int((left == 0).sum())}


def _numbers(names: tuple[str, str, str], *values: Floats) -> dict[str, float | None]:
    """Three columns of (1,) numbers; NaN is null."""
    found = [None if np.isnan(x[0]) else float(x[0]) for x in values]
    return dict(zip(names, found, strict=True))


def _note(cells: Cells, metric: str, value: Floats, low: Floats, high: Floats) -> str:
    if not len(cells.rows[Predictions.KEPT][0]):
        return (
            "nothing is known of anyone: the training prevalence of each fold is all that is left"
        )
    return note(cells, [metric], value, low, high)


def _assert_same(intact: Cells, other: Cells, who: str) -> None:
    keys = [Predictions.SAMPLE_ID, Predictions.SUBJECT_ID, Predictions.LABEL, *intact.keys]
    first, second = (c.rows.select(keys) for c in (intact, other))
    one = first.join(second, on=keys, how="anti", nulls_equal=True)
    two = second.join(first, on=keys, how="anti", nulls_equal=True)
    ids = pl.concat([one, two])[Predictions.SAMPLE_ID].to_list()
    if ids:
        kept = ", ".join(_state(other.rows)[0]) or "nothing"
        raise InputError(f"{who}: with {kept} other samples are scored than intact: {listed(ids)}")


def cost_of_each(table: pl.DataFrame) -> pl.DataFrame:
    """Of a stress table, the rows where exactly one modality is taken away, named in `without`."""
    if not len(table):
        return table.with_columns(pl.lit(None, pl.String).alias("without"))
    whole = pl.col(Predictions.KEPT).first().over(Predictions.TASK, Predictions.METHOD)
    lost = whole.list.set_difference(pl.col(Predictions.KEPT))
    return table.with_columns(lost.list.first().alias("without")).filter(
        (lost.list.len() == 1) & (pl.col(Predictions.NOISE) == 0)
    )
