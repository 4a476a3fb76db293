"""The tables of a release that lies in a database: PostgreSQL, or a DuckDB file.

Only the needed columns and rows leave the database. The X-rays stay files, so the folder of
MIMIC-CXR-JPG is needed beside it; what the database lacks is read from the folders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from adacomed.datasets.mimic.engines import BadCellError, Column, Engine, open_database
from adacomed.datasets.mimic.release import (
    COLUMNS,
    LAYOUTS,
    MARKER,
    Files,
    Kind,
    Tables,
    find_metadata,
    find_radiology,
)
from adacomed.datasets.mimic.scan import CsvTables, Progress
from adacomed.errors import InputError, nearest

# Names of the schema of each part of a release: those of the published scripts, then the csv
# folders'; tables may lie without any, too.
SCHEMAS = {
    "core": ("mimiciv_core", "mimic_core", "core"),
    "hosp": ("mimiciv_hosp", "mimic_hosp", "hosp"),
    "icu": ("mimiciv_icu", "mimic_icu", "icu"),
    "cxr": ("mimic_cxr", "mimic_cxr_jpg", "mimiciv_cxr", "cxr"),
    "note": ("mimiciv_note", "mimic_note", "note"),
}
NO_SCHEMA = ("public", "main")
PARTS = {
    "admissions": ("core", "hosp"),
    "patients": ("core", "hosp"),
    "labevents": ("hosp",),
    "d_labitems": ("hosp",),
    "icustays": ("icu",),
    "chartevents": ("icu",),
    "procedureevents": ("icu",),
    "d_items": ("icu",),
    "metadata": ("cxr",),
    "radiology": ("note",),
}
CALLED = {"metadata": ("metadata", "mimic-cxr-2.0.0-metadata", "mimic_cxr_2_0_0_metadata")}
OLD_NAMES = {"race": "ethnicity"}  # ours → the column of 1.0
FILES = {"metadata": "--mimic-cxr-jpg", "radiology": "--mimic-iv-note"}  # may be csv instead
SQL: dict[Kind, str] = {"id": "BIGINT", "number": "FLOAT8", "text": "TEXT", "time": "TIMESTAMP"}
WHOLE = ("integer", "bigint")  # types that hold every id
DATES = ("date", "time")  # beginnings of types that are no numbers and no texts
Place = tuple[str, str]  # schema, table


class DatabaseTables:
    """The tables of a release in a database; see `release.Tables`.

    Args:
        database: postgresql://user@host/name, or a DuckDB file.
        mimic_cxr_jpg: folder of the X-rays; its metadata are read where the database has none.
        mimic_iv_note: folder of the notes; None: they are in the database.
        progress: called as a table is read: name, bytes received, 0 before its end is known.
    Raises:
        InputError: it cannot be opened, or lacks a table or a column.
    """

    def __init__(
        self,
        database: str,
        mimic_cxr_jpg: Path,
        mimic_iv_note: Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._engine = open_database(database)
        self._progress = progress or (lambda name, done, total: None)
        tables = _by_table(self._engine.columns())
        files: dict[str, Path] = {}
        if mimic_iv_note is not None:
            files["radiology"] = find_radiology(mimic_iv_note)
        self._columns: dict[str, dict[str, Column]] = {}
        for table in COLUMNS:
            if table in files:
                continue
            place = _place(table, tables, self._engine.shown)
            if place is not None:
                self._columns[table] = _columns(table, tables[place], self._engine.shown)
            elif table == "metadata":
                files[table] = find_metadata(mimic_cxr_jpg)
            else:
                raise InputError(_missing(table, tables, self._engine.shown))
        old = self._columns["admissions"]["race"].name.lower() == OLD_NAMES["race"]
        self.layout = LAYOUTS[old]
        self.simulated = (mimic_cxr_jpg / MARKER).is_file()
        names = {table: {c: c for c in COLUMNS[table]} for table in files}
        self._files: Tables = CsvTables(Files(files, names, self.layout, self.simulated), progress)

    def read(
        self, table: str, into: Path, *, among: Mapping[str, Sequence[int]] | None = None
    ) -> pl.LazyFrame:
        """Some rows of a table; see `release.Tables.read`."""
        if table not in self._columns:
            return self._files.read(table, into, among=among)
        columns, out = self._columns[table], into / f"{table}.parquet"
        done = [0]

        def told(size: int) -> None:
            done[0] = size
            self._progress(table, size, 0)

        try:
            self._engine.copy(select(self._engine, table, columns, among or {}), out, told)
        except BadCellError:
            raise InputError(_bad_cell(table, columns, self._engine.shown)) from None
        self._progress(table, done[0], done[0])
        return pl.scan_parquet(out, glob=False)


def select(
    engine: Engine,
    table: str,
    columns: Mapping[str, Column],
    among: Mapping[str, Sequence[int]],
) -> str:
    """The query for the columns of `COLUMNS`, each of its kind, and the rows of some ids.

    Args:
        columns: ours → the database's.
        among: column → ids.
    """
    kinds = COLUMNS[table]
    cells = [f"{cast(columns[c], kind)} AS {_quoted(c)}" for c, kind in kinds.items()]
    place = next(iter(columns.values()))
    query = f"SELECT {', '.join(cells)} FROM {_quoted(place.schema)}.{_quoted(place.table)}"
    wanted = [engine.among(*_number(columns[c]), ids) for c, ids in among.items()]
    return f"{query} WHERE {' AND '.join(wanted)}" if wanted else query


def cast(column: Column, kind: Kind) -> str:
    """A column as its kind; an empty text is nothing recorded."""
    base = f"NULLIF({_quoted(column.name)}, '')" if _is_text(column) else _quoted(column.name)
    done = f"CAST({base} AS {SQL[kind]})"
    return f"NULLIF({done}, '')" if kind == "text" and not _is_text(column) else done


def _number(column: Column) -> tuple[str, str]:
    """A column of ids to be looked up, and its type; as it is where it can be, for its index."""
    if column.type.lower() in WHOLE:
        return _quoted(column.name), column.type
    return cast(column, "id"), SQL["id"]


def _is_text(column: Column) -> bool:
    return any(word in column.type.lower() for word in ("char", "text"))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _by_table(columns: Sequence[Column]) -> dict[Place, list[Column]]:
    found: dict[Place, list[Column]] = {}
    for column in columns:
        found.setdefault((column.schema, column.table), []).append(column)
    return found


def _place(table: str, tables: Mapping[Place, list[Column]], where: str) -> Place | None:
    """Where a table lies; None: nowhere. One in a schema of a release goes before one in none.

    Raises:
        InputError: there are several.
    """
    called = CALLED.get(table, (table,))
    named = [schema for part in PARTS[table] for schema in SCHEMAS[part]]
    for schemas in (named, NO_SCHEMA):
        found = [p for p in tables if p[0].lower() in schemas and p[1].lower() in called]
        if len(found) > 1:
            several = " and ".join(".".join(place) for place in found)
            raise InputError(
                f"{where}: {several} are both there; give a user, or a file, that has one release"
            )
        if found:
            return found[0]
    return None


def _missing(table: str, tables: Mapping[Place, list[Column]], where: str) -> str:
    wanted = " or ".join(f"{SCHEMAS[part][0]}.{table}" for part in PARTS[table])
    instead = f", or {FILES[table]} DIR" if table in FILES else ""
    here = [".".join(place) for place in tables]
    hint = nearest(wanted, here) if here else "; it has no table that may be read"
    return f"{where}: no table {wanted}{instead}{hint[:300]}"


def _columns(table: str, there: Sequence[Column], where: str) -> dict[str, Column]:
    """Ours → the database's columns, whatever the case of their names.

    Raises:
        InputError: one is missing, or of a type that cannot be read.
    """
    by_name = {column.name.lower(): column for column in there}
    shown = f"{where}: {there[0].schema}.{there[0].table}"
    found = {}
    for name, kind in COLUMNS[table].items():
        column = by_name.get(name.lower()) or by_name.get(OLD_NAMES.get(name, ""))
        if column is None:
            raise InputError(f"{shown}: no column {name!r}{nearest(name, by_name)}")
        type_ = column.type.lower()
        zoned = "with time zone" in type_ and "without" not in type_
        if zoned or type_.startswith(DATES) != (kind == "time" and not _is_text(column)):
            wanted = {"time": "timestamp without time zone", "text": "text, or a number"}
            raise InputError(
                f"{shown}: column {column.name!r} is {column.type}, expected "
                f"{wanted.get(kind, 'a number')}"
            )
        found[name] = column
    return found


def _bad_cell(table: str, columns: Mapping[str, Column], where: str) -> str:
    """Which columns can be at fault: those that the database holds as another kind."""
    kinds = COLUMNS[table]
    odd = [repr(c) for c in columns if kinds[c] != "text" and _is_text(columns[c])]
    place = next(iter(columns.values()))
    which = f"{' or '.join(odd)}, text in the database, " if odd else "a column "
    return (
        f"{where}: {place.schema}.{place.table}: {which}has a cell that is no number or time; "
        f"expected numbers (3.5), times (2180-05-06 22:23:00), or nothing"
    )
