"""The same cohort from a real PostgreSQL server and a real DuckDB file as from the csv files."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest
from tests.conftest import Ran

from adacomed.datasets.mimic.build import build, build_from
from adacomed.datasets.mimic.database import DatabaseTables, select
from adacomed.datasets.mimic.engines import open_database, without_password
from adacomed.datasets.mimic_release.build import FEWEST
from adacomed.datasets.mimic_release.build import build as generate
from adacomed.errors import InputError

duckdb = pytest.importorskip("duckdb")
FILES = ("samples", "labels", "events", "images", "notes")
IDS = ("subject_id", "hadm_id", "stay_id", "itemid", "anchor_age", "anchor_year", "study_id")
TYPES = dict.fromkeys((*IDS, "StudyDate", "hospital_expire_flag"), "integer")
TYPES |= {"valuenum": "double precision", "StudyTime": "numeric"}


def csv_files(release: Path) -> Iterator[tuple[str, Path]]:
    """(part of the release, file) of every table."""
    for path in sorted(release.glob("mimic-iv/*/*.csv")):
        yield path.parent.name, path
    yield "cxr", release / "mimic-cxr-jpg/mimic-cxr-2.0.0-metadata.csv"
    yield "note", release / "mimic-iv-note/note/radiology.csv"


def made(folder: Path, release: str) -> tuple[Path, Path, Path]:
    """A generated release; the cohort from its csv files; a folder with its X-rays alone."""
    out = folder / "release"
    generate(out, stays=FEWEST, seed=1, release=release, compress=False)
    parts = [out / name for name in ("mimic-iv", "mimic-cxr-jpg", "mimic-iv-note")]
    images = folder / "images"
    images.mkdir()
    for name in ("files", "SIMULATED.txt"):
        (images / name).symlink_to(parts[1] / name)
    build(parts[0], images_with_metadata(folder, parts[1]), parts[2], folder / "from-csv")
    return out, folder / "from-csv", images


def images_with_metadata(folder: Path, cxr: Path) -> Path:
    """The folder of X-rays, with metadata for as long as the csv files are read."""
    (folder / "images/mimic-cxr-2.0.0-metadata.csv").write_bytes(
        (cxr / "mimic-cxr-2.0.0-metadata.csv").read_bytes()
    )
    return folder / "images"


def assert_same(one: Path, other: Path) -> None:
    for name in FILES:
        mine, theirs = (pl.read_parquet(folder / f"{name}.parquet") for folder in (one, other))
        assert len(mine) > 20
        assert mine.schema == theirs.schema
        assert mine.equals(theirs), name
    for name in ("cohort.yaml", "flow.json", "flow.svg"):
        assert (one / name).read_text() == (other / name).read_text(), name


# ---- PostgreSQL ---------------------------------------------------------------------------------
class Server:
    """A PostgreSQL server of one's own, reached by a socket in its folder."""

    def __init__(self) -> None:
        found = [*map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True))]
        where = os.pathsep.join([*found, os.environ["PATH"]])
        self.bin = {n: shutil.which(n, path=where) for n in ("initdb", "pg_ctl", "psql")}
        if None in self.bin.values():
            assert os.environ.get("CI") != "true", "no PostgreSQL server to test with"
            pytest.skip("needs a PostgreSQL server: apt-get install postgresql")
        self.folder = Path(tempfile.mkdtemp(prefix="adacomed-pg-"))
        self.root = os.geteuid() == 0  # a server may not run as root
        if self.root:
            shutil.chown(self.folder, "postgres")
        self._run("initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "--no-sync")
        options = f"-k {self.folder} -c listen_addresses='' -c fsync=off"
        log = str(self.folder / "log")
        self._run("pg_ctl", "-D", self.data, "-w", "-l", log, "-o", options, "start")
        self.url = f"postgresql://postgres@/postgres?host={self.folder}"

    @property
    def data(self) -> str:
        return str(self.folder / "data")

    def _run(self, name: str, *words: str) -> None:
        before = ["runuser", "-u", "postgres", "--"] if self.root else []
        command = [*before, str(self.bin[name]), *words]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.folder)
        assert done.returncode == 0, done.stderr

    def sql(self, text: str) -> None:
        command = [str(self.bin["psql"]), self.url, "-q", "-v", "ON_ERROR_STOP=1"]
        done = subprocess.run(command, input=text, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def stop(self) -> None:
        self._run("pg_ctl", "-D", self.data, "-m", "immediate", "stop")
        shutil.rmtree(self.folder)


def kind(column: str) -> str:
    timed = column.endswith("time") and column != "StudyTime"
    return TYPES.get(column, "timestamp(0)" if timed else "text")


def load_postgresql(server: Server, release: Path) -> None:
    """The published scripts' schemas; names in small letters, as the server makes them."""
    schemas = {"hosp": "mimiciv_hosp", "icu": "mimiciv_icu", "cxr": "mimic_cxr"}
    schemas["note"] = "mimiciv_note"
    lines = [f"CREATE SCHEMA {schema};" for schema in schemas.values()]
    for part, path in csv_files(release):
        with path.open() as file:
            columns = file.readline().strip().split(",")
        table = f"{schemas[part]}.{'metadata' if part == 'cxr' else path.stem}"
        cells = ", ".join(f"{c} {kind(c)}" for c in columns)
        lines += [f"CREATE TABLE {table} ({cells});"]
        lines += [f"\\copy {table} FROM '{path}' WITH (FORMAT csv, HEADER)"]
    server.sql("\n".join(lines))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    pytest.importorskip("adbc_driver_postgresql")
    found = Server()
    yield found
    found.stop()


@pytest.fixture(scope="module")
def loaded(
    server: Server, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, Path, Path]:
    """URL of a server with release 3.1, the cohort from csv, the X-rays, the release."""
    release, cohort, images = made(tmp_path_factory.mktemp("postgresql"), "3.1")
    (images / "mimic-cxr-2.0.0-metadata.csv").unlink()
    load_postgresql(server, release)
    return server.url, cohort, images, release


def test_postgresql_gives_the_same_cohort(
    loaded: tuple[str, Path, Path, Path], tmp_path: Path
) -> None:
    url, cohort, images, release = loaded
    told: list[tuple[str, int, int]] = []
    tables = DatabaseTables(url, images, progress=lambda *row: told.append(row))
    build_from(tables, images, tmp_path / "c")
    assert_same(tmp_path / "c", cohort)
    ends = {name: done for name, done, total in told if done == total}
    assert ends["chartevents"] > 10_000
    assert set(ends) >= {"labevents", "metadata", "radiology", "admissions"}
    notes = DatabaseTables(url, images, release / "mimic-iv-note")  # from csv, all else as before
    build_from(notes, images, tmp_path / "n")
    assert_same(tmp_path / "n", cohort)


def test_rows_and_columns_are_chosen_by_the_server(
    loaded: tuple[str, Path, Path, Path], tmp_path: Path
) -> None:
    url, _, images, release = loaded
    tables = DatabaseTables(url, images)
    every = pl.read_csv(release / "mimic-iv/icu/chartevents.csv", infer_schema_length=None)
    stays = every["stay_id"].unique().sort().head(5).to_list()
    among = {"itemid": [220045, 220277], "stay_id": stays}
    rows = tables.read("chartevents", tmp_path, among=among).collect()
    wanted = every.filter(pl.col("itemid").is_in(among["itemid"]), pl.col("stay_id").is_in(stays))
    assert len(rows) == len(wanted) > 0
    assert rows.columns == ["stay_id", "charttime", "storetime", "itemid", "valuenum", "valueuom"]
    assert rows.schema["charttime"] == pl.Datetime("us")
    assert rows.schema["itemid"] == pl.Int64
    engine = open_database(url)
    columns = {c.name: c for c in engine.columns() if c.table == "chartevents"}
    query = select(engine, "chartevents", columns, among)
    assert query.count("::integer[])") == 2  # of another type they are compared one by one
    received = pl.read_parquet(tmp_path / "chartevents.parquet")
    assert len(received) == len(wanted)  # nothing else has left the server


def test_postgresql_rows_arrive_in_pieces(server: Server, tmp_path: Path) -> None:
    told: list[int] = []
    query = "SELECT g AS id, repeat('x', 100) AS text FROM generate_series(1, 500000) g"
    open_database(server.url).copy(query, tmp_path / "t.parquet", told.append)
    assert pl.read_parquet(tmp_path / "t.parquet")["id"].to_list() == list(range(1, 500_001))
    assert told == sorted(told)
    assert len(told) >= 3
    assert max(b - a for a, b in zip([0, *told], told, strict=False)) < told[-1] / 2


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            "ALTER TABLE mimiciv_hosp.admissions RENAME dischtime TO dischargetime",
            "ALTER TABLE mimiciv_hosp.admissions RENAME dischargetime TO dischtime",
            r"mimiciv_hosp\.admissions: no column 'dischtime'; did you mean 'dischargetime'",
        ),
        (
            "ALTER TABLE mimiciv_icu.icustays RENAME TO stays",
            "ALTER TABLE mimiciv_icu.stays RENAME TO icustays",
            r"no table mimiciv_icu\.icustays; did you mean",
        ),
        (
            "ALTER TABLE mimiciv_icu.icustays ALTER intime TYPE timestamptz",
            "ALTER TABLE mimiciv_icu.icustays ALTER intime TYPE timestamp",
            "column 'intime' is timestamp with time zone, expected timestamp without",
        ),
        (
            "CREATE SCHEMA mimic_hosp; CREATE TABLE mimic_hosp.patients (subject_id integer)",
            "DROP SCHEMA mimic_hosp CASCADE",
            "mimic_hosp.patients and mimiciv_hosp.patients are both there",
        ),
        (
            "ALTER TABLE mimiciv_note.radiology RENAME TO reports",
            "ALTER TABLE mimiciv_note.reports RENAME TO radiology",
            r"no table mimiciv_note\.radiology, or --mimic-iv-note DIR",
        ),
        (
            "ALTER TABLE mimic_cxr.metadata RENAME TO pictures",
            "ALTER TABLE mimic_cxr.pictures RENAME TO metadata",
            r"no mimic-cxr-2\.0\.0-metadata\.csv",
        ),
    ],
)
def test_what_a_database_lacks(
    loaded: tuple[str, Path, Path, Path], server: Server, before: str, after: str, message: str
) -> None:
    url, _, images, _ = loaded
    server.sql(before)
    try:
        with pytest.raises(InputError, match=message):
            DatabaseTables(url, images)
    finally:
        server.sql(after)


def test_a_bad_cell_is_not_quoted(
    loaded: tuple[str, Path, Path, Path], server: Server, tmp_path: Path
) -> None:
    url, _, images, _ = loaded
    server.sql(
        "CREATE TABLE kept AS TABLE mimiciv_icu.icustays;"
        "ALTER TABLE mimiciv_icu.icustays ALTER intime TYPE text;"
        "UPDATE mimiciv_icu.icustays SET intime = NULL WHERE stay_id % 2 = 0"
    )
    tables = DatabaseTables(url, images)
    assert tables.read("icustays", tmp_path).collect()["intime"].null_count() > 10
    server.sql("UPDATE mimiciv_icu.icustays SET intime = 'Tuesday of Mr Smith'")
    with pytest.raises(InputError, match="'intime', text in the database, has a cell") as caught:
        tables.read("icustays", tmp_path)
    assert "Smith" not in str(caught.value)
    server.sql("DROP TABLE mimiciv_icu.icustays; ALTER TABLE kept SET SCHEMA mimiciv_icu;")
    server.sql("ALTER TABLE mimiciv_icu.kept RENAME TO icustays")


def test_no_server_no_rights_and_no_password_told(server: Server, tmp_path: Path) -> None:
    url = f"postgresql://postgres:s3cret@/nothing?host={server.folder}"
    with pytest.raises(InputError, match=r'cannot be opened .*"nothing" does not exist') as caught:
        open_database(url)
    assert "s3cret" not in str(caught.value)
    assert without_password("postgresql://me:s3cret@h:5433/m?password=x") == (
        "postgresql://me@h:5433/m"
    )
    with pytest.raises(InputError, match="mysql:// is not known; expected postgresql"):
        open_database("mysql://me@h/m")
    server.sql("CREATE ROLE guest LOGIN; CREATE TABLE secret (id integer)")
    guest = open_database(server.url.replace("postgres@", "guest@"))
    assert not [c for c in guest.columns() if c.table == "secret"]
    with pytest.raises(InputError, match="this user may not read it, 42501"):
        guest.copy("SELECT id FROM secret", tmp_path / "t.parquet", lambda size: None)


# ---- DuckDB -------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path, Path]:
    """A DuckDB file with release 1.0 in the csv folders' names, the cohort, X-rays, release."""
    folder = tmp_path_factory.mktemp("duckdb")
    release, cohort, images = made(folder, "1.0")
    with duckdb.connect(str(folder / "mimic.duckdb")) as connection:
        for part, path in csv_files(release):
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {part}")
            read = f"read_csv('{path}', sample_size = -1)"  # types as DuckDB guesses them
            connection.execute(f'CREATE TABLE {part}."{path.stem}" AS SELECT * FROM {read}')
    return folder / "mimic.duckdb", cohort, images, release


def test_duckdb_gives_the_same_cohort(
    first: tuple[Path, Path, Path, Path], tmp_path: Path, cli: Callable[..., Ran]
) -> None:
    database, cohort, images, _ = first
    assert "1.0" in (cohort / "cohort.yaml").read_text()
    words = ("cohort", "build", "mimic-iv-mm", "--database", database, "--out", tmp_path / "c")
    ran = cli(*words, "--mimic-cxr-jpg", images)
    assert ran.exit_code == 0, ran.output
    assert "with an event: the samples" in ran.stdout
    assert "read chartevents" in ran.stderr
    assert_same(tmp_path / "c", cohort)
    before = database.read_bytes()[:4096]
    for more, message in (
        (("--mimic-cxr-jpg", images, "--mimic-iv", "x"), "either --mimic-iv or --database"),
        ((), "and --mimic-cxr-jpg, whose X-rays are files"),
    ):
        ran = cli(*words, *more)
        assert ran.exit_code == 2
        assert message in ran.stderr
    assert database.read_bytes()[:4096] == before


def test_duckdb_files_that_are_none(tmp_path: Path, first: tuple[Path, Path, Path, Path]) -> None:
    with pytest.raises(InputError, match="no such file; expected postgresql://"):
        open_database(str(tmp_path / "x.duckdb"))
    (tmp_path / "x.duckdb").write_text("not a database at all" * 1000)
    with pytest.raises(InputError, match="cannot be opened as a DuckDB file"):
        open_database(str(tmp_path / "x.duckdb"))
    with duckdb.connect(str(tmp_path / "empty.duckdb")):
        pass
    with pytest.raises(InputError, match=r"no table .*; it has no table that may be read"):
        DatabaseTables(str(tmp_path / "empty.duckdb"), tmp_path)
    shutil.copy(first[0], tmp_path / "text.duckdb")
    with duckdb.connect(str(tmp_path / "text.duckdb")) as connection:
        connection.execute("ALTER TABLE icu.chartevents ALTER valuenum TYPE VARCHAR")
        connection.execute("UPDATE icu.chartevents SET valuenum = 'Mr Smith' WHERE itemid = 220045")
    tables = DatabaseTables(str(tmp_path / "text.duckdb"), first[2])
    assert len(tables.read("chartevents", tmp_path, among={"itemid": [220277]}).collect()) > 100
    with pytest.raises(InputError, match="'valuenum', text in the database, has a cell") as caught:
        tables.read("chartevents", tmp_path, among={"itemid": [220045]})
    assert "Smith" not in str(caught.value)
