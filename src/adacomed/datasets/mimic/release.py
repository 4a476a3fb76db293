"""What is read of a release, and where it lies: MIMIC-IV 1.0, 2.x and 3.x, CXR-JPG, Note."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import polars as pl

from adacomed.errors import InputError, nearest

Kind = Literal["id", "number", "text", "time"]
MARKER = "SIMULATED.txt"  # a generated release says so by this file in its folder
LAYOUTS = ("2.x or 3.x (hosp/, race)", "1.0 (core/, ethnicity)")
VERSIONS = "MIMIC-IV 1.0 (core/, with ethnicity), 2.x and 3.x (hosp/, with race)"

# Every column that the builder reads, by table; nothing else is read.
COLUMNS: dict[str, dict[str, Kind]] = {
    "admissions": {
        "subject_id": "id",
        "hadm_id": "id",
        "admittime": "time",
        "dischtime": "time",
        "deathtime": "time",
        "hospital_expire_flag": "id",
        "insurance": "text",
        "language": "text",
        "marital_status": "text",
        "race": "text",  # `ethnicity` in 1.0
    },
    "patients": {
        "subject_id": "id",
        "anchor_age": "id",
        "anchor_year": "id",
        "anchor_year_group": "text",
    },
    "icustays": {"subject_id": "id", "hadm_id": "id", "stay_id": "id", "intime": "time"},
    "chartevents": {
        "stay_id": "id",
        "charttime": "time",
        "storetime": "time",
        "itemid": "id",
        "valuenum": "number",
        "valueuom": "text",
    },
    "procedureevents": {
        "stay_id": "id",
        "starttime": "time",
        "storetime": "time",
        "itemid": "id",
    },
    "labevents": {
        "subject_id": "id",
        "hadm_id": "id",
        "charttime": "time",
        "storetime": "time",
        "itemid": "id",
        "valuenum": "number",
        "valueuom": "text",
    },
    "d_items": {"itemid": "id", "label": "text", "linksto": "text"},
    "d_labitems": {"itemid": "id", "label": "text", "fluid": "text"},
    "metadata": {
        "dicom_id": "text",
        "subject_id": "id",
        "study_id": "id",
        "ViewPosition": "text",
        "StudyDate": "text",
        "StudyTime": "text",
    },
    "radiology": {
        "note_id": "text",
        "subject_id": "id",
        "hadm_id": "id",
        "charttime": "time",
        "storetime": "time",
        "text": "text",
    },
}
METADATA = "mimic-cxr-2.0.0-metadata"
HOSPITAL = ("admissions", "patients")  # in core/ of 1.0, in hosp/ since 2.0


class Tables(Protocol):
    """The tables of a release, wherever they lie: csv files (`scan.py`), or a database."""

    layout: str
    simulated: bool

    def read(
        self, table: str, into: Path, *, among: Mapping[str, Sequence[int]] | None = None
    ) -> pl.LazyFrame:
        """Some rows of a table, through a Parquet file, in bounded memory.

        Args:
            table: a key of COLUMNS.
            into: folder of the Parquet file, `<table>.parquet`.
            among: column → ids; rows with another id, or none, are left out.
        Returns:
            The columns of COLUMNS in their order: id Int64, number Float64, text String (null where
            empty), time Datetime("us").
        Raises:
            InputError: the table, a column or a cell is not as expected.
        """
        ...


@dataclass(frozen=True)
class Files:
    """Files of a release.

    Attributes:
        paths: table → its csv or csv.gz.
        names: table → (our column → the file's).
        layout: which versions lie like this.
        simulated: it is a generated one.
    """

    paths: dict[str, Path]
    names: dict[str, dict[str, str]]
    layout: str
    simulated: bool


def find_files(mimic_iv: Path, mimic_cxr_jpg: Path, mimic_iv_note: Path) -> Files:
    """Find every table, and check that it has the columns that are read.

    Args:
        mimic_iv: folder with hosp/ and icu/ (and core/ in 1.0).
        mimic_cxr_jpg: folder with mimic-cxr-2.0.0-metadata.csv[.gz].
        mimic_iv_note: folder with note/radiology.csv[.gz], or with radiology.csv[.gz].
    Raises:
        InputError: an unknown version, a missing file or column, a file that is not csv.
    """
    first = _version_one(mimic_iv)
    hospital = "core" if first else "hosp"
    paths = {name: _file(mimic_iv, f"{hospital}/{name}") for name in HOSPITAL}
    for name in ("labevents", "d_labitems"):
        paths[name] = _file(mimic_iv, f"hosp/{name}")
    for name in ("icustays", "chartevents", "procedureevents", "d_items"):
        paths[name] = _file(mimic_iv, f"icu/{name}")
    paths["metadata"] = _file(mimic_cxr_jpg, METADATA)
    paths["radiology"] = _file(mimic_iv_note, _radiology(mimic_iv_note))
    names = {table: {c: c for c in COLUMNS[table]} for table in paths}
    if first:
        names["admissions"]["race"] = "ethnicity"
    for table, path in paths.items():
        _check_header(path, list(names[table].values()))
    return Files(paths, names, LAYOUTS[first], (mimic_iv / MARKER).is_file())


def find_metadata(mimic_cxr_jpg: Path) -> Path:
    """The metadata alone; errors as of `find_files`."""
    path = _file(mimic_cxr_jpg, METADATA)
    _check_header(path, list(COLUMNS["metadata"]))
    return path


def find_radiology(mimic_iv_note: Path) -> Path:
    """The radiology notes alone; errors as of `find_files`."""
    path = _file(mimic_iv_note, _radiology(mimic_iv_note))
    _check_header(path, list(COLUMNS["radiology"]))
    return path


def _radiology(folder: Path) -> str:
    return "note/radiology" if (folder / "note").is_dir() else "radiology"


def _version_one(folder: Path) -> bool:
    """Whether the release lies as in 1.0, with core/; InputError where as in no known version."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected {VERSIONS}")
    core, hosp = (_found(folder, f"{part}/admissions") for part in ("core", "hosp"))
    if bool(core) != bool(hosp):
        return bool(core)
    if core and hosp:
        raise InputError(f"{folder}: admissions both in core/ and in hosp/; expected {VERSIONS}")
    if (folder / "hosp").is_dir() and not (folder / "core").is_dir():
        return False  # of 2.x or 3.x, and that file is missing: named when it is asked for
    here = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    raise InputError(f"{folder}: an unknown version, expected {VERSIONS}; found {here}")


def _found(folder: Path, name: str) -> list[Path]:
    return [p for ending in (".csv", ".csv.gz") if (p := folder / f"{name}{ending}").is_file()]


def _file(folder: Path, name: str) -> Path:
    """The csv or csv.gz of a table."""
    found = _found(folder, name)
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f"{folder}: both {name}.csv and {name}.csv.gz; leave one of them there")
    parent = (folder / name).parent
    near = sorted(p.name for p in parent.iterdir())[:60] if parent.is_dir() else []
    wanted = f"{Path(name).name}.csv.gz"
    hint = nearest(wanted, near) if near else f"; {parent} is no folder or empty"
    raise InputError(f"{folder}: no {name}.csv or {name}.csv.gz{hint}")


def _check_header(path: Path, wanted: Sequence[str]) -> None:
    names = read_header(path)
    for name in wanted:
        if names.count(name) != 1:
            what = "two columns" if name in names else "no column"
            raise InputError(f"{path}: {what} {name!r}{nearest(name, set(names) - {name})}")


def read_header(path: Path) -> list[str]:
    """The column names of a csv or csv.gz.

    Raises:
        InputError: it is empty, or not such a file.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            line = file.readline(1 << 20).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        why = type(error).__name__
        raise InputError(f"{path}: cannot be read as {path.suffix} file ({why})") from None
    if not line.strip():
        raise InputError(f"{path}: empty, expected a header line")
    return next(csv.reader([line]))
