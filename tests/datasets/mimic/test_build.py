"""From files to a cohort folder, on a release by hand: layouts, presets, errors, the command."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from adacomed.cohort.check import check
from adacomed.cohort.cohort import load_cohort
from adacomed.cohort.split import official
from adacomed.datasets.mimic.build import build, build_from
from adacomed.datasets.mimic.variables import DEMOGRAPHICS
from adacomed.errors import InputError
from adacomed.readers.series import SeriesTable
from adacomed.schema import SeriesCard
from adacomed.training.raw import gather_raw
from adacomed.training.raw_fit import SeriesRange

from .hand_made import (
    HEART,
    Memory,
    Rows,
    add_admission,
    at,
    chart,
    file_of,
    folders,
    note,
    release,
    write,
    write_images,
    xray,
)


def with_outcomes(patients: int) -> Rows:
    """Every task has both classes; of three patients one dies, and one comes back."""
    rows = release(patients)
    for n in range(patients):
        if n % 3 == 0:
            rows["admissions"][n]["hospital_expire_flag"] = 1
        elif n % 3 == 1:
            add_admission(rows, n, k=1, admittime=at(days=10), dischtime=at(days=12))
            rows["metadata"].append(xray(n, "b", at(2, days=10)))
            rows["radiology"].append(note(n, "2", at(3, days=10), hadm_id=20_001_000 + n))
            rows["chartevents"].append(chart(1000 + n, HEART, at(4, days=10), 90))
        if n % 2:
            rows["admissions"][n]["dischtime"] = at(days=9)
    return rows


# ---- a release by hand --------------------------------------------------------------------------
@pytest.mark.parametrize("first", [False, True])
def test_hand_made_release(first: bool, tmp_path: Path) -> None:
    """csv and csv.gz, both layouts, against the same rows in memory."""
    rows = with_outcomes(24)
    write(tmp_path, rows, first=first, zipped=first)
    seen: dict[str, list[int]] = {}

    def progress(name: str, done: int, total: int) -> None:
        assert 0 <= done <= total
        seen.setdefault(name, []).append(done)

    build(*folders(tmp_path), tmp_path / "files", progress=progress)
    build_from(Memory(rows), tmp_path / "cxr", tmp_path / "memory")
    for name in ("samples", "labels", "events", "images", "notes"):
        pair = [pl.read_parquet(tmp_path / c / f"{name}.parquet") for c in ("files", "memory")]
        assert_frame_equal(*pair, check_exact=True)
        assert len(pair[0]) >= 32
    assert len(seen) == 10
    sizes = {p.name: p.stat().st_size for p in tmp_path.rglob("*.csv*")}
    assert {name: done[-1] for name, done in seen.items()} == sizes
    cohort = load_cohort(tmp_path / "files")
    assert cohort.table("clinical").columns == list(DEMOGRAPHICS)
    assert not cohort.card.simulated  # no marker file
    assert cohort.samples["race"].to_list() == ["A"] * 32
    notes = gather_raw(cohort, ["note"])["note"]
    assert notes.texts[0] == 'AP chest, "1",\nno change.'


def test_paper_preset_scales_by_all_data_and_may_tear_a_patient(tmp_path: Path) -> None:
    rows = with_outcomes(40)
    for n, row in enumerate(rows["chartevents"]):
        row["valuenum"] = 62 + n % 38
    write_images(tmp_path, rows)
    build_from(Memory(rows), tmp_path, tmp_path / "c", preset="paper")
    cohort = load_cohort(tmp_path / "c")
    card = cohort.card.modalities["time"]
    assert isinstance(card, SeriesCard)
    values = pl.read_parquet(tmp_path / "c" / "events.parquet")["value"]
    ends = [values.quantile(q, "linear") for q in (0.01, 0.99)]
    assert card.bins["heart_rate"] == pytest.approx(ends)
    raw = gather_raw(cohort, ["time"])["time"]
    few = raw.take(np.arange(3))
    assert SeriesRange.fit(few).high == pytest.approx([ends[1]])  # not the few patients' own
    assert few.fingerprint() != replace(few, bins={}).fingerprint()
    target = cohort.target("mortality")
    assert len(official(cohort, target).test) == 8  # 15 % of 53
    assert any("in two splits, as the card says" in w for w in check(tmp_path / "c").warnings)
    whole = cohort.card.model_copy(update={"split_by_sample": False})
    with pytest.raises(InputError, match="two splits"):
        official(replace(cohort, card=whole), target)


def test_bins_of_an_unknown_variable_are_refused(tmp_path: Path) -> None:
    table = {"sample_id": ["a"], "hours": [1.0], "variable": ["hr"], "value": [80.0]}
    pl.DataFrame(table).write_parquet(tmp_path / "e.parquet")
    card = SeriesCard(kind="series", table=Path("e.parquet"), bins={"hrr": (0, 1)})
    with pytest.raises(InputError, match="bins for 'hrr'"):
        SeriesTable(tmp_path / "e.parquet", card)


# ---- errors -------------------------------------------------------------------------------------
def cut_gz(file: Path) -> None:
    packed = gzip.compress(file.read_bytes() * 50)
    file.with_name(f"{file.name}.gz").write_bytes(packed[:-20])
    file.unlink()


def swap(file: Path, old: str, new: str, count: int = 1) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, count))


BROKEN: list[tuple[str, Callable[[Path], object], str]] = [
    ("chartevents", cut_gz, r"chartevents\.csv\.gz: cut off"),
    ("labevents", Path.unlink, r"no hosp/labevents\.csv .*did you mean|no hosp/labevents"),
    (
        "d_items",
        lambda f: swap(f, "label", "lable"),
        "d_items.csv: no column 'label'; did you mean",
    ),
    ("admissions", lambda f: swap(f, "race", "ethnic_group"), "admissions.csv: no column 'race'"),
    ("chartevents", lambda f: swap(f, "80.0", "8o"), r"row 1 has no number in 'valuenum'"),
    ("chartevents", lambda f: swap(f, "220045", "22.5"), r"row 1 has no number in 'itemid'"),
    ("radiology", lambda f: swap(f, "2150-03-01 1", "1/3/2150 1"), r"no time in 'charttime'"),
    ("chartevents", lambda f: f.write_text(f.read_text()[:-4]), "chartevents.csv: ends without"),
    ("chartevents", lambda f: swap(f, ",80.0", ",80.0,1,2"), "more cells than the header's 6"),
    ("patients", lambda f: f.write_text(""), "patients.csv: empty"),
    ("icustays", lambda f: f.with_name("icustays.csv.gz").write_bytes(b""), "both icu/icustays"),
    ("d_labitems", lambda f: swap(f, "Sodium", "Natrium"), "expected 'Sodium'"),
    (
        "radiology",
        lambda f: f.write_text(f.read_text().splitlines()[0] + "\n"),
        "0 samples are left",
    ),
]


@pytest.mark.parametrize(("table", "break_it", "message"), BROKEN, ids=[m for *_, m in BROKEN])
def test_a_broken_release(
    table: str, break_it: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    """Each is an error that names the file, never with a patient's value, and leaves nothing."""
    write(tmp_path / "r", release(12))
    out = tmp_path / "out" / "c"
    build(*folders(tmp_path / "r"), out)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    break_it(file_of(tmp_path / "r", table))
    with pytest.raises(InputError, match=message) as caught:
        build(*folders(tmp_path / "r"), out)
    assert "8o" not in str(caught.value)
    with pytest.raises(InputError):
        build(*folders(tmp_path / "r"), tmp_path / "out" / "new")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["c"]  # nothing half built beside it
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


def test_unknown_versions(tmp_path: Path) -> None:
    write(tmp_path, release(12))
    iv = tmp_path / "iv"
    with pytest.raises(InputError, match="no such folder"):
        build(tmp_path / "no", tmp_path / "cxr", tmp_path / "note", tmp_path / "c")
    (iv / "core").mkdir()
    (iv / "core" / "admissions.csv").write_bytes((iv / "hosp" / "admissions.csv").read_bytes())
    with pytest.raises(InputError, match=r"both in core/ and in hosp/"):
        build(*folders(tmp_path), tmp_path / "c")
    (iv / "hosp").rename(iv / "hospital")
    (iv / "core" / "admissions.csv").unlink()
    with pytest.raises(InputError, match="an unknown version, expected"):
        build(*folders(tmp_path), tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_command(tmp_path: Path, cli) -> None:
    write(tmp_path, release(12))
    iv, cxr, notes = folders(tmp_path)
    words = ["cohort", "build", "mimic-iv-mm", "--mimic-iv", iv, "--mimic-cxr-jpg", cxr]
    lacking = cli(*words, "--out", tmp_path / "c")
    assert lacking.exit_code == 2
    assert "needs --mimic-iv-note" in lacking.stderr
    words += ["--mimic-iv-note", notes, "--out", tmp_path / "c"]
    for wrong, hint in (("--preset", "'papr'"), ("--split", "'papr'")):
        refused = cli(*words, wrong, "papr")
        assert refused.exit_code == 2
        assert hint in refused.stderr
    assert "split of its own" in cli(*words, "--preset", "paper", "--split", "time").stderr
    ran = cli(*words, "--split", "time")
    assert ran.exit_code == 0, ran.output
    lines = [line.split() for line in ran.stdout.splitlines()]
    assert ["stays", "in", "intensive", "care", "12", "12", "12", "0"] in lines
    assert ["heart_rate", "12", *"00000000"] in lines
    assert any(line[:4] == ["patients", "6485", "12", "-6473"] for line in lines)
    assert "read chartevents.csv: " in ran.stderr
