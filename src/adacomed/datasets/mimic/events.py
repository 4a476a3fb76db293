"""Events of the stays: charted and laboratory values in one unit each, and procedures.

Rows pass in pieces and lie on the disk until they are sorted, so memory does not grow with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from adacomed.datasets.mimic.flow import Flow
from adacomed.datasets.mimic.items import Items
from adacomed.datasets.mimic.release import Tables
from adacomed.datasets.mimic.scan import pieces
from adacomed.datasets.mimic.variables import EVENTS, Variable
from adacomed.datasets.mimic.windows import (
    MICROSECONDS,
    SAMPLE,
    STRAY,
    People,
    why_left_out,
    with_admission,
)

PIECE = 1_000_000  # rows at a time
NO_NUMBER = "no number"
OTHER_UNIT = "in a unit that is not known"
IMPOSSIBLE = "outside what is possible"
TWICE = "charted again for the same time"
ABNORMAL = "outside the normal range (preset paper)"
NAMES = pl.Enum(sorted(v.name for v in EVENTS))
FINAL = {SAMPLE: pl.String, "hours": pl.Float64, "variable": pl.String, "value": pl.Float64}
STORED = ("row", "name", "micro", "value", "store", "itemid")


def find_events(
    tables: Tables, items: Items, people: People, into: Path, out: Path, flow: Flow, *, erase: bool
) -> pl.Series:
    """Write the events of each stay's window.

    Args:
        people: stays, at least one.
        into: folder for what is read.
        out: events.parquet: sample_id, hours (Float64), variable, value (Float64), sorted.
        flow: told what is left out, by value and stay.
        erase: leave out charted values outside the normal range, as the original work did.
    Returns:
        sample_ids that have an event, erased ones included.
    """
    parts = []
    for number, piece in enumerate(_every_piece(tables, items, people, into, flow)):
        parts.append(into / f"events-{number}.parquet")
        piece.write_parquet(parts[-1], compression="lz4", statistics=False)
    return _write_sorted(parts, people.stays[SAMPLE], into, out, flow, erase=erase)


def _every_piece(
    tables: Tables, items: Items, people: People, into: Path, flow: Flow
) -> Iterator[pl.DataFrame]:
    """Rows of the stays that are inputs, with STORED; the others are told."""
    stays = people.stays.sort(SAMPLE).with_row_index("row")
    windows = stays.select("row", "stay_id", "hadm_id", "index", "end")
    known = {
        "storetime": "store",
        "charttime": "time",
        "starttime": "time",
        "subject_id": "subject",
    }

    def read(table: str, variables: Mapping[int, Variable], of: str) -> Iterator[pl.DataFrame]:
        column = "subject_id" if of == "subject" else of
        among = {"itemid": list(variables), column: people.ids(of)}
        rows = tables.read(table, into, among=among)
        names = rows.collect_schema().names()
        yield from pieces(rows.rename({k: v for k, v in known.items() if k in names}), PIECE)

    for piece in read("chartevents", items.charted, "stay_id"):
        yield _valued(piece.join(windows, on="stay_id"), items.charted, flow)
    for piece in read("procedureevents", items.procedures, "stay_id"):
        ones = piece.with_columns(valuenum=pl.lit(1.0), valueuom=pl.lit(None, pl.String))
        yield _valued(ones.join(windows, on="stay_id"), items.procedures, flow)
    for piece in read("labevents", items.laboratory, "subject"):
        found = with_admission(piece, people.admissions)
        yield _valued(found.join(windows, on="hadm_id"), items.laboratory, flow)
        lost = found.filter(pl.col("hadm_id").is_null())
        names = lost.join(_ranges(items.laboratory), on="itemid")
        flow.drop(names.select("name", why=pl.lit(STRAY)))


def _valued(rows: pl.DataFrame, variables: Mapping[int, Variable], flow: Flow) -> pl.DataFrame:
    """Rows of the window in their variable's unit: STORED; the others are told.

    Args:
        rows: row, itemid, time, store, index, end, valuenum, valueuom.
    """
    timed = rows.with_columns(why=why_left_out())
    known = timed.filter(pl.col("why").is_null()).drop("why")
    outside = timed.filter(pl.col("why").is_not_null()).select("itemid", "why")
    flow.drop(outside.join(_ranges(variables), on="itemid"))
    about = known.join(_ranges(variables), on="itemid", how="left")
    about = about.with_columns(unit=pl.coalesce(written_alike(pl.col("valueuom")), "canonical"))
    scaled = about.join(_factors(variables), on=["itemid", "unit"], how="left")
    value = pl.col("valuenum") * pl.col("factor")
    impossible = ~value.is_between("low", "high")  # true for NaN, null where there are no limits
    why = (
        pl.when(pl.col("valuenum").is_null())
        .then(pl.lit(NO_NUMBER))
        .when(pl.col("factor").is_null())
        .then(pl.lit(OTHER_UNIT))
        .when(impossible.fill_null(False))
        .then(pl.lit(IMPOSSIBLE))
    )
    micro = (pl.col("time") - pl.col("index")).dt.total_microseconds()
    told = scaled.with_columns(micro=micro, value=value, why=why)
    flow.drop(told.select("name", "why"))
    return told.filter(pl.col("why").is_null()).select(STORED)


def written_alike(unit: pl.Expr) -> pl.Expr:
    """A unit without its spaces and in small letters; null where none is given."""
    plain = unit.str.replace_all(r"\s", "").str.to_lowercase()
    return pl.when(plain != "").then(plain)


def _ranges(variables: Mapping[int, Variable]) -> pl.DataFrame:
    """itemid → name, limits and canonical unit of its variable."""
    rows = [
        (item, v.name, *(v.limits or (None, None)), v.unit.lower().replace(" ", ""))
        for item, v in variables.items()
    ]
    types: dict[str, Any] = {"itemid": pl.Int64, "name": NAMES, "low": pl.Float64}
    types |= {"high": pl.Float64, "canonical": pl.String}
    return pl.DataFrame(rows, schema=types, orient="row")


def _factors(variables: Mapping[int, Variable]) -> pl.DataFrame:
    """(itemid, unit) → what a value in that unit is multiplied by."""
    rows = [
        (item, unit.lower().replace(" ", ""), factor)
        for item, v in variables.items()
        for unit, factor in {**v.factors, v.unit: 1.0}.items()
    ]
    types = {"itemid": pl.Int64, "unit": pl.String, "factor": pl.Float64}
    return pl.DataFrame(rows, schema=types, orient="row")


def last_charted(rows: pl.DataFrame) -> pl.DataFrame:
    """One row of those of one sample, variable and time: the last that was stored.

    Of those stored at once (or without a time of it, which is earliest), the largest item, then
    the largest value.
    """
    key = ["row", "micro", "name"]
    order = [*key, "store", "itemid", "value"]
    return rows.sort(order, nulls_last=False).unique(key, keep="last", maintain_order=True)


def outside_normal() -> pl.Expr:
    """Whether a value is one that the original work erased: outside an adult's normal range."""
    normal = {v.name: v.normal for v in EVENTS if v.normal}
    outside = [
        (pl.col("name") == name) & ~pl.col("value").is_between(low, high)
        for name, (low, high) in normal.items()
    ]
    return pl.any_horizontal(outside)


def _write_sorted(
    parts: Sequence[Path], samples: pl.Series, into: Path, out: Path, flow: Flow, *, erase: bool
) -> pl.Series:
    """Sort the rows that lie in `parts`, some samples at a time, and write those that count."""
    if not parts:
        pl.DataFrame(schema=FINAL).write_parquet(out)
        return samples.clear()
    stored = pl.scan_parquet([str(p) for p in parts], glob=False)
    ids = samples.sort()
    counts = stored.group_by("row").len().sort("row").collect(engine="streaming")
    names = pl.DataFrame({"row": pl.arange(len(ids), eager=True, dtype=pl.UInt32), SAMPLE: ids})
    groups = counts.with_columns(group=(pl.col("len").cum_sum() - 1) // PIECE)
    written = []
    for (number,), group in groups.group_by("group", maintain_order=True):
        low, high = group["row"].min(), group["row"].max()
        rows = stored.filter(pl.col("row").is_between(low, high)).collect(engine="streaming")
        final = _final(rows, flow, erase=erase).join(names, on="row")
        written.append(into / f"sorted-{number}.parquet")
        hours = (pl.col("micro") / MICROSECONDS).alias("hours")
        variable = pl.col("name").cast(pl.String).alias("variable")
        final.select(SAMPLE, hours, variable, "value").write_parquet(written[-1])
    if written:
        pl.scan_parquet([str(p) for p in written], glob=False).sink_parquet(out)
    else:
        pl.DataFrame(schema=FINAL).write_parquet(out)
    return ids.filter(pl.Series(range(len(ids))).is_in(counts["row"].implode()))


def _final(rows: pl.DataFrame, flow: Flow, *, erase: bool) -> pl.DataFrame:
    """The rows that count, in order; the others are told."""
    last = last_charted(rows)
    before, after = (dict(f.group_by("name").len().iter_rows()) for f in (rows, last))
    flow.dropped.update({(n, TWICE): k - after[n] for n, k in before.items() if k > after[n]})
    if erase:
        marked = last.with_columns(why=pl.when(outside_normal()).then(pl.lit(ABNORMAL)))
        flow.drop(marked.select("name", "why"))
        last = marked.filter(pl.col("why").is_null()).drop("why")
    flow.kept.update(dict(last.group_by("name").len().iter_rows()))
    return last
