from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tests.conftest import Ran

from adacomed.datasets.mimic.variables import CHARTED, FLUID, LABORATORY, PROCEDURES
from adacomed.datasets.mimic_release import build as generator
from adacomed.datasets.mimic_release.build import FEWEST, build, plan
from adacomed.datasets.mimic_release.images import HEIGHT, WIDTH, picture, xray
from adacomed.datasets.mimic_release.plan import Book
from adacomed.datasets.mimic_release.trap_events import EVENT_TRAPS, EVENT_TRAPS_OF
from adacomed.datasets.mimic_release.trap_items import ITEM_TRAPS, ITEM_TRAPS_OF
from adacomed.datasets.mimic_release.trap_stays import STAY_TRAPS
from adacomed.datasets.mimic_release.trap_values import VALUE_TRAPS
from adacomed.datasets.mimic_release.truth import labels, samples
from adacomed.errors import InputError
from adacomed.readers.image import read_image

CORE = ("patients", "admissions", "transfers")
LAB = ("labevents", "d_labitems")
ICU = ("icustays", "chartevents", "procedureevents", "d_items")
STAYS = FEWEST + 20


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("release") / "r"
    build(out, stays=STAYS, seed=3, release="3.1")
    return out


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("release") / "r"
    build(out, stays=STAYS, seed=3, release="1.0", compress=False)
    return out


@pytest.fixture(scope="module")
def book() -> Book:
    return plan(FEWEST, 5)


def read(path: Path) -> pl.DataFrame:
    return pl.read_csv(path, infer_schema=False)


def files(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def check_layout(out: Path, release: str, end: str) -> None:
    core = "core" if release == "1.0" else "hosp"
    expected = (
        {f"{core}/{t}" for t in CORE} | {f"hosp/{t}" for t in LAB} | {f"icu/{t}" for t in ICU}
    )
    found = {str(p.relative_to(out / "mimic-iv")) for p in out.glob("mimic-iv/*/*")}
    assert found == {f"{name}{end}" for name in expected}
    assert (out / f"mimic-iv-note/note/radiology{end}").is_file()
    assert (out / f"mimic-cxr-jpg/mimic-cxr-2.0.0-metadata{end}").is_file()
    assert "Simulated" in (out / "mimic-iv/SIMULATED.txt").read_text()
    admissions = read(out / f"mimic-iv/{core}/admissions{end}")
    charts = read(out / f"mimic-iv/icu/chartevents{end}")
    tests = read(out / f"mimic-iv/hosp/d_labitems{end}")
    first = release == "1.0"
    assert ("ethnicity" in admissions.columns) == ("race" not in admissions.columns) == first
    assert ("caregiver_id" in charts.columns) == ("loinc_code" not in tests.columns) == (not first)
    spoken = {"English", "Spanish", "Russian", "Portuguese"}
    known = spoken if release == "3.1" else {"ENGLISH", "?"}
    assert set(admissions["language"].drop_nulls()) <= known


def test_layout_of_each_release(made: Path, old: Path) -> None:
    check_layout(made, "3.1", ".csv.gz")
    check_layout(old, "1.0", ".csv")


def test_the_cohort_does_not_depend_on_the_release(made: Path, old: Path) -> None:
    for name in ("labels_default", "events_paper", "images", "notes", "stays"):
        one, other = (pl.read_parquet(f / f"truth/{name}.parquet") for f in (made, old))
        assert one.equals(other), name


def test_another_seed_is_another_release(made: Path, book: Book) -> None:
    one, other = pl.read_parquet(made / "truth/samples.parquet"), samples(book, "3.1")
    assert not set(one["sample_id"]) & set(other["sample_id"])


def test_dictionaries_hold_every_variable_among_others(made: Path) -> None:
    items = read(made / "mimic-iv/icu/d_items.csv.gz")
    tests = read(made / "mimic-iv/hosp/d_labitems.csv.gz")
    for table, ids in ((items, "itemid"), (tests, "itemid")):
        assert table[ids].is_unique().all()
    for v in CHARTED:
        assert items.filter(pl.col("label") == v.label)["itemid"].to_list() == [str(v.ids[0])]
    for v in PROCEDURES:
        assert items.filter(pl.col("label") == v.label)["linksto"].to_list() == ["procedureevents"]
    blood = tests.filter(pl.col("fluid") == FLUID)
    for v in LABORATORY:
        found = blood.filter(pl.col("label") == v.label)["itemid"].to_list()
        assert {str(i) for i in v.ids} <= set(found)
    assert len(tests.filter((pl.col("label") == "Glucose") & (pl.col("fluid") != FLUID))) >= 3
    assert len(blood.filter(pl.col("label") == "Glucose")) == 3  # one more than is expected


def test_every_row_refers_to_one_that_exists(made: Path) -> None:
    hosp, icu = made / "mimic-iv/hosp", made / "mimic-iv/icu"
    subjects = read(hosp / "patients.csv.gz").select("subject_id")
    admissions = read(hosp / "admissions.csv.gz").select("subject_id", "hadm_id")
    stays = read(icu / "icustays.csv.gz").select("subject_id", "hadm_id", "stay_id")
    assert subjects["subject_id"].is_unique().all()
    assert admissions["hadm_id"].is_unique().all()
    assert len(stays) == stays["stay_id"].n_unique() == STAYS
    assert admissions.join(subjects, on="subject_id", how="anti").is_empty()
    assert stays.join(admissions, on=["subject_id", "hadm_id"], how="anti").is_empty()
    for table in ("chartevents", "procedureevents"):
        rows = read(icu / f"{table}.csv.gz")
        assert rows.join(stays, on=["subject_id", "hadm_id", "stay_id"], how="anti").is_empty()
        items = read(icu / "d_items.csv.gz").filter(pl.col("linksto") == table)
        assert rows.join(items, on="itemid", how="anti").is_empty()
    labs = read(hosp / "labevents.csv.gz")
    assert labs.join(read(hosp / "d_labitems.csv.gz"), on="itemid", how="anti").is_empty()
    assert labs["labevent_id"].is_unique().all()
    for rows in (labs, read(made / "mimic-iv-note/note/radiology.csv.gz")):
        assert rows.join(subjects, on="subject_id", how="anti").is_empty()
        named = rows.filter(pl.col("hadm_id").is_not_null())
        assert 0 < len(named) < len(rows)
        assert named.join(admissions, on=["subject_id", "hadm_id"], how="anti").is_empty()
    transfers = read(hosp / "transfers.csv.gz")
    assert transfers.join(admissions, on=["subject_id", "hadm_id"], how="anti").is_empty()
    assert set(transfers["hadm_id"]) == set(admissions["hadm_id"])


def test_pictures_open_and_those_of_the_truth_exist(made: Path) -> None:
    rows = read(made / "mimic-cxr-jpg/mimic-cxr-2.0.0-metadata.csv.gz")
    folder = made / "mimic-cxr-jpg"
    here = [
        (folder / f"files/p{s[:2]}/p{s}/s{study}/{dicom}.jpg").is_file()
        for s, study, dicom in rows.select("subject_id", "study_id", "dicom_id").rows()
    ]
    missing = sum(not h for h in here)
    assert 0 < missing < 10
    assert len(list(folder.rglob("*.jpg"))) == len(here) - missing
    truth = pl.read_parquet(made / "truth/images.parquet")
    assert set(truth["view"]) == {"AP"}
    for path in truth["path"][:5]:
        image = read_image(folder / path)
        assert image.shape == (HEIGHT, WIDTH, 1)
        assert image.std() > 0.1


def test_every_trap_is_there(made: Path) -> None:
    traps = json.loads((made / "truth/traps.json").read_text())
    rows = {**VALUE_TRAPS, **EVENT_TRAPS, **EVENT_TRAPS_OF, **ITEM_TRAPS, **ITEM_TRAPS_OF}
    assert set(traps) == {*STAY_TRAPS, *rows}
    stays = pl.read_parquet(made / "truth/stays.parquet")
    ids = dict(stays.select("stay_id", "left_out").rows())
    tables = {
        "metadata": ("mimic-cxr-jpg/mimic-cxr-2.0.0-metadata", "dicom_id"),
        "radiology": ("mimic-iv-note/note/radiology", "note_id"),
        "labevents": ("mimic-iv/hosp/labevents", "specimen_id"),
        "chartevents": ("mimic-iv/icu/chartevents", "stay_id"),
        "procedureevents": ("mimic-iv/icu/procedureevents", "stay_id"),
    }
    keys = {}
    for table, (path, key) in tables.items():
        frame = read(made / f"{path}.csv.gz")
        when = {"metadata": None, "procedureevents": "starttime"}.get(table, "charttime")
        keys[table] = set(
            frame.select(key, *([when, "itemid"] if "itemid" in frame.columns else [])).rows()
        )
    for name, trap in traps.items():
        assert trap["what"].endswith("."), name
        assert trap["places"], name
        for place in trap["places"]:
            if name in STAY_TRAPS:
                assert ids[place["stay_id"]] == place["left_out"]
                continue
            key = str(place[tables[place["table"]][1]])
            item = "itemid" in place
            found = (key, place["time"], str(place["itemid"])) if item else (key,)
            assert found in keys[place["table"]], name
    kept = [p["kept"] for n in rows for p in traps[n]["places"]]
    assert {True, False} == set(kept)


def test_what_a_trap_says_to_drop_is_not_in_the_truth(made: Path) -> None:
    traps = json.loads((made / "truth/traps.json").read_text())
    paths = set(pl.read_parquet(made / "truth/images.parquet")["path"].str.slice(-48, 44))
    notes = set(pl.read_parquet(made / "truth/notes.parquet")["note_id"])
    for name, trap in traps.items():
        for place in trap["places"]:
            if place["table"] == "metadata":
                assert (place["dicom_id"] in paths) == place["kept"], name
            if place["table"] == "radiology":
                assert (place["note_id"] in notes) == place["kept"], name


def test_readmissions_deaths_and_lengths_as_planned(book: Book) -> None:
    named = {p: labels(book, p) for p in ("default", "paper")}

    def told(trap: str, task: str, preset: str) -> list[int | None]:
        ids = [str(p["stay_id"]) for p in book.traps[trap]]
        found = dict(
            named[preset].filter(pl.col("task") == task).select("sample_id", "label").rows()
        )
        return [found.get(i) for i in ids]

    for preset in named:
        around = told("readmitted_around_day_30", "readmission", preset)
        assert around == [1, 0, 0, 0, 0, 0]
        assert told("readmitted_past_one_without_a_sample", "readmission", preset) == [1, 0]
        assert told("overlapping_admissions", "readmission", preset) == [0, 0]
        assert told("lengths_of_stay", "longstay", preset) == [None, 0, 0, 1]
        assert told("died_as_told_in_one_place", "mortality", preset) == [1, 1]
        assert told("died_after_discharge", "mortality", preset) == [0, 0]
    for trap in ("readmitted_to_the_ward", "readmitted_without_a_sample"):
        assert told(trap, "readmission", "default")[0] == 1
        assert told(trap, "readmission", "paper")[0] == 0
    assert told("died_as_told_in_one_place", "readmission", "default") == [None, None]
    assert told("died_as_told_in_one_place", "readmission", "paper") == [0, 0]
    decades = dict(samples(book, "3.1").select("stay_id", "age_decade").rows())
    old = [decades[p["stay_id"]] for p in book.traps["ninety_and_more"]]
    assert old == [90, 90, 80]
    assert [decades[p["stay_id"]] for p in book.traps["eighteen_since_the_anchor"]] == [10]


def test_pictures_show_the_haze(book: Book) -> None:
    admission = book.patients[0].admissions[0]
    row = xray(Book(np.random.default_rng(0)), admission, admission.admit, kept=False)
    lungs = [picture(row._replace(haze=haze))[50:90, 25:42].mean() for haze in (-2.0, 0.0, 2.0)]
    assert lungs[0] < lungs[1] - 5 < lungs[2] - 10
    assert (picture(row) == picture(row)).all()


def test_one_seed_one_release_and_filler_changes_nothing_that_counts(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adacomed.datasets.mimic_release.filler.PART", 7000)
    told: list[tuple[int, int]] = []
    build(tmp_path / "r", stays=STAYS, seed=3, rows=20_000, progress=lambda *n: told.append(n))
    assert told[-1] == (20_000, 20_000)
    assert len(told) == 3
    mine, other = files(tmp_path / "r"), files(made)
    assert {n for n in mine if mine[n] != other[n]} == {"mimic-iv/icu/chartevents.csv.gz"}
    few, many = (read(f / "mimic-iv/icu/chartevents.csv.gz") for f in (made, tmp_path / "r"))
    assert many.columns == few.columns
    assert len(many) == len(few) + 20_000
    assert few.join(many, on=few.columns, how="anti", nulls_equal=True).is_empty()
    planned = many.join(few.unique(), on=few.columns, how="semi", nulls_equal=True)
    assert planned.equals(few)  # the same rows, in the same order
    extra = many.join(few, on=few.columns, how="anti", nulls_equal=True)
    nine = extra.filter(pl.col("itemid").is_in([str(v.ids[0]) for v in CHARTED]))
    assert 0.15 < len(nine) / 20_000 < 0.25
    stays = pl.read_parquet(made / "truth/stays.parquet").with_columns(
        pl.col("stay_id").cast(pl.String)
    )
    admissions = read(made / "mimic-iv/hosp/admissions.csv.gz").select("hadm_id", "admittime")
    known = nine.join(stays.select("stay_id", "left_out"), on="stay_id").join(admissions, "hadm_id")
    hours = (
        known["charttime"].str.to_datetime() - known["admittime"].str.to_datetime()
    ).dt.total_seconds() / 3600
    inside = known.filter(hours <= 48)
    assert not inside.is_empty()
    assert inside["left_out"].is_not_null().all()
    assert "no event in the window" not in inside["left_out"]


def test_errors_and_what_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"known: 1\.0, 2\.2, 3\.1"):
        build(tmp_path / "r", release="4")
    with pytest.raises(InputError, match=f"at least {FEWEST}"):
        build(tmp_path / "r", stays=10)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.doc").write_text("x")
    with pytest.raises(InputError, match="something else"):
        build(tmp_path / "mine", stays=FEWEST)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        build(tmp_path / "file", stays=FEWEST)


def test_a_failed_build_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "r"
    (out / "mimic-iv").mkdir(parents=True)
    (out / "mimic-iv" / "SIMULATED.txt").write_text("earlier")

    def fails(_: object, folder: Path, *__: object) -> None:
        (folder / "mimic-iv").mkdir(parents=True)
        raise OSError("disk full")

    monkeypatch.setattr(generator, "write_release", fails)
    with pytest.raises(OSError, match="disk full"):
        build(out, stays=FEWEST)
    assert list(files(tmp_path)) == ["r/mimic-iv/SIMULATED.txt"]
    assert [p.name for p in tmp_path.iterdir()] == ["r"]


def test_command(cli: Callable[..., Ran], tmp_path: Path) -> None:
    out = tmp_path / "r"
    (out / "mimic-iv").mkdir(parents=True)
    (out / "mimic-iv" / "SIMULATED.txt").write_text("an earlier one, which is replaced")
    words = ("cohort", "build", "simulated-mimic", "--stays", FEWEST, "--release", "2.2")
    ran = cli(*words, "--seed", 1, "--out", out, "--rows", 100, "--no-gzip")
    assert ran.exit_code == 0, ran.output
    assert "no real data" in ran.stdout
    check_layout(out, "2.2", ".csv")
    ran = cli("cohort", "build", "simulated-mimic", "--release", "3.0", "--out", tmp_path / "x")
    assert ran.exit_code == 2
    assert "no release '3.0'" in ran.stderr
