"""PostgreSQL and DuckDB: what tables there are, and the rows of a query as Parquet, streamed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from adacomed.errors import InputError

SCHEMES = ("postgresql", "postgres")
COLUMNS_OF = (
    "SELECT table_schema, table_name, column_name, data_type FROM information_schema.columns "
    "WHERE table_catalog = current_database() ORDER BY table_schema, table_name, ordinal_position"
)
FORMS = "postgresql://user@host/database, or a DuckDB file"
# How PostgreSQL says that a cell cannot be read as what was asked; rows that stream carry no code.
CELLS = ("invalid input syntax", "out of range")
Told = Callable[[int], None]  # bytes received so far


class Column(NamedTuple):
    """A column of a table in the database; the type as information_schema names it."""

    schema: str
    table: str
    name: str
    type: str


class BadCellError(Exception):
    """A cell cannot be read as what was asked; the message of the database is left out."""


class Engine(Protocol):
    """A database that is read only."""

    shown: str  # its name for people, without a password

    def columns(self) -> list[Column]:
        """Every column of every table that may be read."""
        ...

    def among(self, column: str, type_: str, ids: Sequence[int]) -> str:
        """SQL that is true where `column`, an expression of that type, is one of the ids."""
        ...

    def copy(self, query: str, out: Path, told: Told) -> None:
        """Write the rows of a query as Parquet, in bounded memory.

        Raises:
            BadCellError: a cell is not as the query asks.
            InputError: any other failure.
        """
        ...


def open_database(database: str) -> Engine:
    """Open a database for reading.

    Args:
        database: postgresql://user:password@host:port/name, or the path of a DuckDB file.
    Raises:
        InputError: neither, no package for it, or it cannot be opened.
    """
    scheme, _, rest = database.partition("://")
    if rest and scheme in SCHEMES:
        return PostgreSQL(database)
    if rest:
        raise InputError(f"--database: {scheme}:// is not known; expected {FORMS}")
    if not Path(database).is_file():
        raise InputError(f"--database {database}: no such file; expected {FORMS}")
    return DuckDB(Path(database))


class PostgreSQL:
    """A PostgreSQL server, through ADBC: rows arrive as Arrow batches and are written at once.

    Args:
        url: as libpq takes it.
    """

    def __init__(self, url: str) -> None:
        try:
            from adbc_driver_postgresql import dbapi
            from pyarrow import parquet
        except ImportError as error:
            raise InputError(
                f"--database postgresql:// needs {error.name}; pip install 'adacomed[mimic]'"
            ) from None
        self._parquet: Any = parquet
        self._errors: tuple[type[Exception], ...] = (dbapi.Error, OSError)
        self.shown = without_password(url)
        try:
            self._connection = dbapi.connect(url, autocommit=True)
        except self._errors as error:
            why = str(error).strip().splitlines()[-1][:200]
            raise InputError(f"{self.shown}: cannot be opened ({why})") from None

    def columns(self) -> list[Column]:
        """Every column of every table that this user may read."""
        with self._connection.cursor() as cursor:
            cursor.execute(COLUMNS_OF)
            return [Column(*map(str, row)) for row in cursor.fetchall()]

    def among(self, column: str, type_: str, ids: Sequence[int]) -> str:
        """The server looks the ids up in a hash, or uses the table's index.

        It does so only where the list has the column's own type; it compares one by one otherwise.
        """
        return f"{column} = ANY('{{{','.join(map(str, ids))}}}'::{type_}[])"

    def copy(self, query: str, out: Path, told: Told) -> None:
        """Write each batch as it arrives."""
        done = 0
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(query)
                reader = cursor.fetch_record_batch()
                with self._parquet.ParquetWriter(out, reader.schema) as file:
                    for batch in reader:
                        file.write_batch(batch)
                        done += batch.nbytes
                        told(done)
        except self._errors as error:
            state = getattr(error, "sqlstate", None) or ""
            if any(words in str(error) for words in CELLS):
                raise BadCellError from None
            raise InputError(f"{self.shown}: {_plain(error, state)}") from None


class DuckDB:
    """A DuckDB file, which writes Parquet itself."""

    def __init__(self, path: Path) -> None:
        try:
            import duckdb
        except ImportError:
            raise InputError(
                f"--database {path} needs duckdb; pip install 'adacomed[mimic]'"
            ) from None
        self.shown = str(path)
        self._errors: tuple[type[Exception], ...] = (duckdb.Error,)
        self._cells = (duckdb.ConversionException, duckdb.OutOfRangeException)
        try:
            self._connection = duckdb.connect(str(path), read_only=True)
            self._connection.execute("SET memory_limit = '2GB'")
            self._connection.execute("SET preserve_insertion_order = false")
        except self._errors as error:
            why = type(error).__name__
            raise InputError(f"{path}: cannot be opened as a DuckDB file ({why})") from None
        self._lists = 0

    def columns(self) -> list[Column]:
        """Every column of every table."""
        rows = self._connection.execute(COLUMNS_OF).fetchall()
        return [Column(*map(str, row)) for row in rows]

    def among(self, column: str, type_: str, ids: Sequence[int]) -> str:
        """The ids become a table in memory, which the rows are joined with."""
        self._lists += 1
        name = f"adacomed_ids_{self._lists}"
        make = f"CREATE TEMP TABLE {name} AS SELECT unnest($ids::BIGINT[]) AS id"
        self._connection.execute(make, {"ids": list(ids)})
        return f"{column} IN (SELECT id FROM {name})"

    def copy(self, query: str, out: Path, told: Told) -> None:
        """Let DuckDB write the file."""
        quoted = str(out).replace("'", "''")
        try:
            self._connection.execute(f"COPY ({query}) TO '{quoted}' (FORMAT parquet)")
        except self._cells:
            raise BadCellError from None
        except self._errors as error:
            raise InputError(f"{self.shown}: {_plain(error, '')}") from None
        told(out.stat().st_size)


def without_password(url: str) -> str:
    """postgresql://user@host:port/name: no password, and none of the options."""
    parts = urlsplit(url)
    before, at, host = parts.netloc.rpartition("@")
    return f"{parts.scheme}://{before.partition(':')[0]}{at}{host}{parts.path}"


def _plain(error: Exception, state: str) -> str:
    """Why a query failed, without the database's words, which may quote a patient's value."""
    kinds = {
        "42501": "this user may not read it",
        "57": "the server stopped the query",
        "08": "the connection was lost",
        "53": "the server has no memory or disk left",
    }
    why = next((text for code, text in kinds.items() if state.startswith(code)), "")
    return f"cannot be read ({why or type(error).__name__}{f', {state}' if state else ''})"
