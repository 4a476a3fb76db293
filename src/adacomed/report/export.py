"""Every table of a report as data: one JSON object, or a csv file each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from adacomed.report.page import NONE, Section, Table
from adacomed.strict_json import dumps


def tables(sections: list[Section]) -> Iterator[tuple[str, str, pl.DataFrame]]:
    """(section id, caption, data) of every table, those of the charts among them, top to bottom."""
    for section in sections:
        of_charts = [f.table for f in section.figures if f.table is not None]
        for table in [*section.tables, *of_charts]:
            yield section.id, table.caption, data(table)


def data(table: Table) -> pl.DataFrame:
    """The numbers of a table, else its text; a dash is null."""
    if table.frame is not None:
        return table.frame
    rows = [[None if c == NONE else c for c in row.cells] for row in table.rows]
    return pl.DataFrame(rows, schema=dict.fromkeys(table.columns, pl.String), orient="row")


def as_json(title: str, sections: list[Section]) -> str:
    """One object: title, and tables, each with section, caption and rows; NaN is null."""
    found = [
        {"section": section, "caption": caption, "rows": frame.to_dicts()}
        for section, caption, frame in tables(sections)
    ]
    return dumps({"title": title, "tables": found})


def write_csv(sections: list[Section], folder: Path) -> list[Path]:
    """A csv file per table, named after its section and caption; lists are joined by `+`."""
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for section, caption, frame in tables(sections):
        words = re.sub(r"[^a-z0-9]+", "-", caption.lower()).strip("-")[:60].rstrip("-")
        path = folder / f"{section}-{words}.csv"
        while path in written:  # two captions alike after their first 60 letters
            path = path.with_stem(f"{path.stem}-more")
        _flat(frame).write_csv(path)
        written.append(path)
    return written


def _flat(frame: pl.DataFrame) -> pl.DataFrame:
    lists = [c for c, kind in frame.schema.items() if isinstance(kind, pl.List)]
    joined = [pl.col(c).cast(pl.List(pl.String)).list.join("+") for c in lists]
    return frame.with_columns(joined)
