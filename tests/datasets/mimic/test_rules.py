"""Each rule of the builder on rows written by hand."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.model_selection import train_test_split

from adacomed.datasets.mimic import events as reasons
from adacomed.datasets.mimic import windows
from adacomed.datasets.mimic.events import find_events
from adacomed.datasets.mimic.flow import Flow
from adacomed.datasets.mimic.images import NO_FILE, OTHER_VIEW, find_images
from adacomed.datasets.mimic.items import choose_items
from adacomed.datasets.mimic.labels import find_labels, overlapping
from adacomed.datasets.mimic.notes import find_notes
from adacomed.datasets.mimic.parts import grouped_split, original_split, strata_of, time_split
from adacomed.datasets.mimic.variables import PROCEDURES
from adacomed.datasets.mimic.windows import People, find_people
from adacomed.errors import InputError

from .hand_made import (
    CREATININE,
    GLUCOSE,
    HEART,
    OTHER_GLUCOSE,
    PROCEDURE,
    SODIUM,
    SPO2,
    Memory,
    Rows,
    add_admission,
    add_patient,
    at,
    chart,
    frame,
    lab,
    note,
    release,
    write_images,
    xray,
)

FIRST = "30000000"


@pytest.fixture
def rows() -> Rows:
    return release(3)


def people_of(rows: Rows, into: Path, flow: Flow | None = None) -> People:
    return find_people(Memory(rows), into, flow or Flow())


def events_of(rows: Rows, into: Path, *, erase: bool = False) -> tuple[pl.DataFrame, Flow]:
    """Events of patient 0 and what was told."""
    flow, people = Flow(), people_of(rows, into)
    people = people.only(pl.Series([FIRST]))
    items = choose_items(frame(rows, "d_items"), frame(rows, "d_labitems"))
    find_events(Memory(rows), items, people, into, into / "e.parquet", flow, erase=erase)
    return pl.read_parquet(into / "e.parquet"), flow


# ---- who ----------------------------------------------------------------------------------------
def test_stays_that_can_be_samples(tmp_path: Path) -> None:
    rows = release(10)
    rows["patients"][1]["anchor_age"] = 17
    rows["patients"][2] |= {"anchor_age": 17, "anchor_year": 2149}  # 18 at admission
    rows["patients"][3]["anchor_age"] = 91
    rows["icustays"][4]["intime"] = at(48)
    rows["icustays"][5]["intime"] = at(48, -1)
    rows["admissions"][6]["dischtime"] = at()
    rows["icustays"][7]["hadm_id"] = 29_999_999
    del rows["patients"][8]
    flow = Flow()
    found = people_of(rows, tmp_path, flow).stays
    assert [int(i) % 10 for i in found["sample_id"]] == [0, 2, 3, 5, 9]
    assert found["age_decade"].to_list() == [60, 10, 90, 60, 60]
    assert [(s["samples"], s["left_out"]) for s in flow.steps] == [
        (10, 0),
        (7, 3),
        (6, 1),
        (5, 1),
    ]
    assert all(s["why"] for s in flow.steps if s["left_out"])


def test_window_ends_at_hour_48_or_at_discharge(rows: Rows, tmp_path: Path) -> None:
    rows["admissions"][1]["dischtime"] = at(30)
    found = people_of(rows, tmp_path).stays
    assert found["index"].to_list() == [at()] * 3
    assert found["end"].to_list() == [at(48), at(30), at(48)]


# ---- events -------------------------------------------------------------------------------------
def test_events_of_the_window_alone(rows: Rows, tmp_path: Path) -> None:
    late = {"storetime": at(48, 1)}
    unknown = {"storetime": None}
    rows["chartevents"] = [
        chart(0, HEART, at(0), 61),
        chart(0, HEART, at(0, 1), 62),
        chart(0, HEART, at(48), 63),
        chart(0, HEART, at(48, 1), 64),
        chart(0, HEART, at(47), 65, **late),
        chart(0, HEART, at(46), 66, **unknown),
        chart(0, HEART, None, 67),
        chart(1, HEART, at(5), 68),
    ]
    found, flow = events_of(rows, tmp_path)
    assert found["value"].to_list() == [62, 66, 63]
    assert found["hours"].to_list() == [1 / 3600, 46, 48]
    assert flow.dropped == {
        ("heart_rate", windows.OUTSIDE): 2,
        ("heart_rate", windows.LATER): 1,
        ("heart_rate", windows.NO_TIME): 1,
    }


def test_nothing_after_discharge(rows: Rows, tmp_path: Path) -> None:
    rows["admissions"][0]["dischtime"] = at(30)
    rows["chartevents"] = [chart(0, HEART, at(30), 61), chart(0, HEART, at(30, 1), 62)]
    rows["labevents"] = [lab(0, SODIUM, at(29), 140, storetime=at(31))]
    found, flow = events_of(rows, tmp_path)
    assert found["value"].to_list() == [61]
    assert flow.dropped[("sodium", windows.LATER)] == 1


@pytest.mark.parametrize(
    ("value", "unit", "kept"),
    [
        (1.2, "mg/dL", 1.2),
        (1.2, " MG / dl ", 1.2),
        (1.2, None, 1.2),
        (88.42, "UMOL/L", 1.0),
        (1.2, "mmol/kg", None),
        (None, "mg/dL", None),
        (0.05, "mg/dL", 0.05),
        (0.04, "mg/dL", None),
        (60.0, "mg/dL", 60.0),
        (60.1, "mg/dL", None),
        (float("nan"), "mg/dL", None),
    ],
)
def test_values_in_one_unit_and_possible(
    rows: Rows, tmp_path: Path, value: float | None, unit: str | None, kept: float | None
) -> None:
    rows["chartevents"] = []
    rows["labevents"] = [lab(0, CREATININE, at(5), value, unit)]
    found, flow = events_of(rows, tmp_path)
    assert found["value"].to_list() == ([] if kept is None else [pytest.approx(kept, rel=1e-12)])
    why = reasons.IMPOSSIBLE
    why = reasons.NO_NUMBER if value is None else why
    why = reasons.OTHER_UNIT if unit == "mmol/kg" else why
    assert flow.dropped == ({} if kept is not None else {("creatinine", why): 1})


def test_of_several_for_one_time_the_last_stored_counts(rows: Rows, tmp_path: Path) -> None:
    rows["chartevents"] = [
        chart(0, HEART, at(5), 90, storetime=at(7)),
        chart(0, HEART, at(5), 80, storetime=at(8)),
        chart(0, HEART, at(5), 70, storetime=None),
        chart(0, SPO2, at(5), 97),  # another variable
        chart(0, HEART, at(6), 60),  # another time
    ]
    rows["labevents"] = [
        lab(0, OTHER_GLUCOSE, at(5), 100),
        lab(0, OTHER_GLUCOSE, at(5), 110),
        lab(0, GLUCOSE, at(5), 120),
    ]
    found, flow = events_of(rows, tmp_path)
    expected = [(5, "glucose", 110), (5, "heart_rate", 80), (5, "spo2", 97), (6, "heart_rate", 60)]
    assert found.drop("sample_id").rows() == expected
    assert flow.dropped == {("heart_rate", reasons.TWICE): 2, ("glucose", reasons.TWICE): 2}


def test_paper_erases_charted_values_outside_normal(rows: Rows, tmp_path: Path) -> None:
    rows["chartevents"] = [
        *(chart(0, HEART, at(1 + k), v) for k, v in enumerate((59, 60, 100, 101))),
        chart(0, HEART, at(9), 80, storetime=at(9)),
        chart(0, HEART, at(9), 150, storetime=at(10)),  # the last stored is the one erased
    ]
    rows["labevents"] = [lab(0, SODIUM, at(3), 120)]  # of the laboratory nothing is erased
    found, flow = events_of(rows, tmp_path, erase=True)
    assert sorted(found["value"].to_list()) == [60, 100, 120]
    assert flow.dropped[("heart_rate", reasons.ABNORMAL)] == 3
    kept, _ = events_of(rows, tmp_path)
    assert len(kept) == 6


def test_procedures_count_at_their_start(rows: Rows, tmp_path: Path) -> None:
    rows["chartevents"] = []
    rows["procedureevents"] = [
        {
            "stay_id": 30_000_000,
            "starttime": at(2),
            "storetime": at(3),
            "itemid": PROCEDURE[v.name],
        }
        for v in PROCEDURES
    ]
    found, _ = events_of(rows, tmp_path)
    assert found["variable"].to_list() == sorted(PROCEDURE)
    assert set(found.select("hours", "value").rows()) == {(2.0, 1.0)}


def test_a_laboratory_row_without_admission(rows: Rows, tmp_path: Path) -> None:
    """It is of the one admission that the patient was in; of none, or of two, of neither."""
    add_admission(rows, 0, k=1, admittime=at(40), dischtime=at(days=9))
    rows["chartevents"] = []
    stray = {"hadm_id": None}
    rows["labevents"] = [
        lab(0, SODIUM, at(5), 131, **stray),
        lab(0, SODIUM, at(39, 3599), 132, **stray),
        lab(0, SODIUM, at(40), 133, **stray),  # of both
        lab(0, SODIUM, at(-1), 134, **stray),
        lab(2, SODIUM, at(6), 135, **stray),
        lab(0, SODIUM, at(41), 136),
        lab(0, SODIUM, at(7), 137, hadm_id=20_001_000),
    ]
    found, flow = events_of(rows, tmp_path)
    assert found["value"].to_list() == [131, 132, 136]
    assert flow.dropped[("sodium", windows.STRAY)] == 2


# ---- images and notes ---------------------------------------------------------------------------
def test_x_rays_by_time_view_and_file(rows: Rows, tmp_path: Path) -> None:
    add_admission(rows, 0, k=1, admittime=at(days=30), dischtime=at(days=40))
    rows["metadata"] = [
        xray(0, "first", at(0)),
        xray(0, "last", at(48)),
        xray(0, "after", at(48, 1)),
        xray(0, "before", at(0, -1)),
        xray(0, "side", at(5), "LATERAL"),
        xray(0, "pa", at(5), "PA"),
        xray(0, "none", at(5), None),
        xray(0, "again", at(days=31)),
        xray(0, "midnight", at(16, 5.25)),
        {**xray(0, "never", at(5)), "StudyTime": None},
    ]
    write_images(tmp_path, rows)
    rows["metadata"].append(xray(0, "gone", at(6)))
    flow = Flow()
    found = find_images(Memory(rows), people_of(rows, tmp_path), tmp_path, tmp_path, flow)
    names = [Path(path).stem for path in found["path"]]
    assert names == ["first0", "midnight0", "last0", "again0"]
    assert found["sample_id"].to_list() == [FIRST] * 3 + ["30001000"]
    assert found["hours"].to_list() == pytest.approx([0, 16 + 5.25 / 3600, 48, 24], rel=1e-12)
    told = {why: n for (_, why), n in flow.dropped.items()}
    assert told == {OTHER_VIEW: 3, windows.OUTSIDE: 2, NO_FILE: 1, windows.NO_TIME: 1}
    with pytest.raises(InputError, match="none of the 5 X-rays"):
        find_images(Memory(rows), people_of(rows, tmp_path), tmp_path / "no", tmp_path, Flow())


def test_notes_by_admission_and_time(rows: Rows, tmp_path: Path) -> None:
    add_admission(rows, 0, k=1, admittime=at(days=30), dischtime=at(days=40))
    rows["icustays"].append({**rows["icustays"][0], "stay_id": 30_009_000})
    rows["radiology"] = [
        note(0, "index", at(0)),
        note(0, "one", at(0, 1), storetime=None),
        note(0, "last", at(48), storetime=at(48)),
        note(0, "late", at(47), storetime=at(49)),
        note(0, "stray", at(9), hadm_id=None),
        note(0, "lost", at(days=20), hadm_id=None),
        note(0, "other", at(10), hadm_id=20_007_777),
        note(0, "empty", at(11), text=None),
        note(0, "again", at(days=31), hadm_id=None),
    ]
    flow = Flow()
    found = find_notes(Memory(rows), people_of(rows, tmp_path), tmp_path, flow)
    mine = found.filter(pl.col("sample_id") == FIRST)
    assert mine["note_id"].to_list() == ["0-one", "0-stray", "0-last"]
    assert mine["text"][0] == 'AP chest, "one",\nno change.'
    second = found.filter(pl.col("sample_id") == "30009000")  # of the same admission
    assert second.drop("sample_id").equals(mine.drop("sample_id"))
    assert found.filter(pl.col("sample_id") == "30001000")["note_id"].to_list() == ["0-again"]
    assert flow.dropped[("note", windows.STRAY)] == 1
    assert flow.dropped[("note", windows.LATER)] == 2  # a note of two stays


# ---- labels -------------------------------------------------------------------------------------
def labels_of(rows: Rows, into: Path, *, paper: bool = False) -> dict[str, dict[int, int]]:
    found = find_labels(people_of(rows, into), paper=paper)
    return {
        task: {int(s) % 1000: k for s, t, k in found.rows() if t == task and int(s) % 10**4 < 1000}
        for task in ("mortality", "longstay", "readmission")
    }


def test_death_in_hospital(rows: Rows, tmp_path: Path) -> None:
    rows["admissions"][0]["deathtime"] = at(90)
    rows["admissions"][1]["hospital_expire_flag"] = 1
    assert labels_of(rows, tmp_path)["mortality"] == {0: 1, 1: 1, 2: 0}


def test_long_stay(tmp_path: Path) -> None:
    rows = release(4)
    ends = [at(days=3), at(days=3, seconds=-1), at(days=7), at(days=7, seconds=1)]
    for admission, end in zip(rows["admissions"], ends, strict=True):
        admission["dischtime"] = end
    assert labels_of(rows, tmp_path)["longstay"] == {0: 0, 2: 0, 3: 1}


def test_readmission(tmp_path: Path) -> None:
    """Patients: back on day 30, a second later, never, dead, transferred, back where none is."""
    rows = release(7)
    discharge, month = at(days=4), timedelta(days=30)
    later = {"dischtime": at(days=90)}
    add_admission(rows, 0, k=1, admittime=discharge + month, **later)
    add_admission(rows, 1, k=1, admittime=discharge + month + timedelta(seconds=1), **later)
    rows["admissions"][3]["deathtime"] = discharge
    add_admission(rows, 3, k=1, admittime=discharge + timedelta(days=1), **later)
    add_admission(rows, 4, k=1, admittime=at(days=3), dischtime=at(days=5))
    add_admission(rows, 5, k=1, admittime=at(days=9), **later)
    del rows["icustays"][-1]  # an admission without a sample
    add_admission(rows, 6, k=1, admittime=at(days=3), dischtime=at(days=5))
    add_admission(rows, 6, k=2, admittime=at(days=20), **later)
    expected = {0: 1, 1: 0, 2: 0, 4: 0, 5: 1, 6: 1}
    assert labels_of(rows, tmp_path)["readmission"] == expected
    paper = labels_of(rows, tmp_path, paper=True)["readmission"]
    assert paper == expected | {3: 0, 5: 0}
    assert overlapping(people_of(rows, tmp_path)) == 2


# ---- items --------------------------------------------------------------------------------------
def test_items_by_label_checked_against_ids(rows: Rows) -> None:
    blood = {"label": "Glucose", "fluid": "Blood"}
    rows["d_labitems"] += [{"itemid": 52569, **blood}, {"itemid": 7, **blood, "fluid": "Urine"}]
    rows["d_labitems"] = [r for r in rows["d_labitems"] if r["itemid"] != GLUCOSE]
    items = choose_items(frame(rows, "d_items"), frame(rows, "d_labitems"))
    [told] = [t for t in items.told if t["variable"] == "glucose"]
    assert (told["used"], told["further"], told["absent"]) == ([OTHER_GLUCOSE], [52569], [GLUCOSE])
    assert {i for i, v in items.laboratory.items() if v.name == "glucose"} == {OTHER_GLUCOSE}
    assert len(items.told) == 41


def test_items_that_are_not_as_expected(rows: Rows) -> None:
    def refused(table: str, change: dict[int, str | None], message: str) -> None:
        other = {t: [dict(r) for r in found] for t, found in rows.items()}
        for row in other[table]:
            row["label"] = change.get(row["itemid"], row["label"])
        with pytest.raises(InputError, match=message):
            choose_items(frame(other, "d_items"), frame(other, "d_labitems"))

    refused("d_items", {HEART: "Heart Rhythm"}, "item 220045 is 'Heart Rhythm'")
    refused("d_labitems", {SODIUM: None}, "expected 'Sodium'")
    refused("d_items", {PROCEDURE["eeg"]: "EEGs"}, r"0 items .* 'EEG', .* candidates: .*'EEGs'")
    refused("d_items", {PROCEDURE["eeg"]: "PICC Line"}, "2 items .* 'PICC Line'")
    rows["d_items"] = [r for r in rows["d_items"] if r["itemid"] != HEART]
    refused("d_items", {SPO2: "x"}, "no item 220045 with the label 'Heart Rate'")


# ---- split --------------------------------------------------------------------------------------
def test_the_original_split_is_two_nested_random_ones() -> None:
    parts = np.array(original_split(200))
    rest, test = train_test_split(np.arange(200), test_size=0.15, random_state=0)
    train, val = train_test_split(rest, test_size=0.15, random_state=0)
    for name, rows in (("train", train), ("val", val), ("test", test)):
        assert np.flatnonzero(parts == name).tolist() == sorted(rows)


def test_grouped_split_keeps_patients_together_and_labels_in_proportion(tmp_path: Path) -> None:
    rows = release(200)
    for n in range(200):
        if n % 8 == 0:
            rows["admissions"][n]["deathtime"] = at(90)
        if n % 3 == 0:
            rows["admissions"][n]["dischtime"] = at(days=9)
        if n % 10 == 1:
            add_admission(rows, n, k=1, admittime=at(days=20), dischtime=at(days=25))
    people = people_of(rows, tmp_path)
    labels = find_labels(people, paper=False)
    parts = grouped_split(people.stays["subject_id"], strata_of(people.stays, labels))
    stays = people.stays.with_columns(pl.Series("split", parts))
    assert stays.group_by("subject_id").agg(pl.col("split").n_unique())["split"].max() == 1
    share = stays.group_by("split").agg(pl.col("died").mean(), n=pl.col("subject").n_unique())
    found = {split: (died, n) for split, died, n in share.rows()}
    assert found["test"][1] == 30
    assert found["val"][1] == 26
    assert all(0.06 < died < 0.18 for died, _ in found.values())


def test_time_split_tests_the_last_patients(tmp_path: Path) -> None:
    rows = release(0)
    for n in range(20):
        group = f"{2008 + n // 2} - {2010 + n // 2}"
        add_patient(rows, n, anchor_year_group=group, anchor_year=2149)
        add_admission(rows, n)
    stays = people_of(rows, tmp_path).stays
    assert stays["period"][0] == 2009  # a year after the anchor year
    parts = time_split(stays["subject_id"], stays["period"])
    assert parts[:16] == ["train"] * 14 + ["val"] * 2
    assert sorted(parts[16:18]) == ["test", "val"]  # of one year: at random
    assert parts[18:] == ["test"] * 2
    rows["patients"][0]["anchor_year_group"] = None
    stays = people_of(rows, tmp_path).stays
    with pytest.raises(InputError, match="anchor_year_group"):
        time_split(stays["subject_id"], stays["period"])
