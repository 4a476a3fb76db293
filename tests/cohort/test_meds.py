"""A cohort from a MEDS dataset and a label file, against facts written by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from tests.conftest import Ran

from adacomed.cohort.cohort import load_cohort
from adacomed.cohort.meds_files import EVENTS, PARTS, scan_events
from adacomed.cohort.split import official
from adacomed.datasets.meds import from_meds
from adacomed.errors import InputError
from adacomed.schema import CohortCard

T0 = datetime(2150, 3, 1, 8)
Event = tuple[int, datetime | None, str, float | None]
SPLIT = {1: "train", 2: "train", 3: "tuning", 4: "held_out"}


def at(hours: float) -> datetime:
    return T0 + timedelta(hours=hours)


def history(subject: int) -> list[Event]:
    """Before hour 0, at it, and after it, and facts without a time."""
    return [
        (subject, None, "GENDER//F" if subject % 2 else "GENDER//M", None),
        (subject, None, "HEIGHT", 160.0 + subject),
        (subject, None, "SMOKER", None),
        (subject, None, "MEDS_DEATH", None),  # a time of death that is not known
        (subject, datetime(2100, 3, 1, 8), "MEDS_BIRTH", None),
        (subject, at(-100), "LAB//sodium", 140.0),
        (subject, at(-5), "LAB//sodium", 141.0),
        (subject, at(-5), "DIAGNOSIS//x", None),
        (subject, at(-1), "HR", 80.0),
        (subject, at(-1), "HR", float("nan")),
        (subject, at(0), "HR", 81.0),
        (subject, at(1e-7), "HR", 666.0),  # after 0.36 ms
        (subject, at(3), "LAB//sodium", 667.0),
    ]


def write(folder: Path, events: Sequence[Event], *, split: dict[int, str] | None = SPLIT) -> Path:
    """A dataset with two shards."""
    (folder / "metadata").mkdir(parents=True)
    for number in (0, 1):
        mine = [e for e in events if e[0] % 2 == number]
        frame = pl.DataFrame(mine, schema=EVENTS, orient="row").sort("subject_id", "time")
        path = folder / f"data/any/{number}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        frame.write_parquet(path)
    if split is not None:
        pl.DataFrame({"subject_id": list(split), "split": list(split.values())}).write_parquet(
            folder / "metadata/subject_splits.parquet"
        )
    about = {"dataset_name": "little", "license": "none", "dataset_version": "7"}
    (folder / "metadata/dataset.json").write_text(json.dumps(about))
    return folder


def write_labels(path: Path, rows: Sequence[tuple[int, datetime | None, bool | None]]) -> Path:
    schema: dict[str, Any] = {"subject_id": pl.Int64, "prediction_time": pl.Datetime("us")}
    frame = pl.DataFrame(rows, schema={**schema, "boolean_value": pl.Boolean}, orient="row")
    frame.with_columns(integer_value=pl.lit(None, pl.Int64)).write_parquet(path)
    return path


def read_card(folder: Path) -> CohortCard:
    return CohortCard.model_validate(yaml.safe_load((folder / "cohort.yaml").read_text()))


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write(tmp_path / "meds", [e for s in SPLIT for e in history(s)])


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return write_labels(tmp_path / "l.parquet", [(s, T0, s > 2) for s in SPLIT])


def test_what_is_known_at_the_prediction_time(dataset: Path, labels: Path, tmp_path: Path) -> None:
    told = from_meds(dataset, labels, tmp_path / "c", task="death")
    events = pl.read_parquet(tmp_path / "c/events.parquet")
    one = events.filter(pl.col("sample_id") == "1@21500301T080000").drop("sample_id")
    assert one.rows() == [
        (-52.0, "LAB//sodium", 140.0),
        (43.0, "LAB//sodium", 141.0),
        (47.0, "HR", 80.0),
        (48.0, "HR", 81.0),
    ]
    assert events["hours"].max() == 48.0
    assert len(events) == 16
    dropped = {row["why"]: row["rows"] for row in told["dropped"]}
    assert dropped == {"after the prediction time": 8, "no finite number": 4}
    samples = pl.read_parquet(tmp_path / "c/samples.parquet")
    assert samples["split"].to_list() == ["train", "train", "val", "test"]
    assert samples["subject_id"].to_list() == ["1", "2", "3", "4"]
    assert samples["GENDER"].to_list() == ["F", "M", "F", "M"]
    assert samples["HEIGHT"].to_list() == [161.0, 162.0, 163.0, 164.0]
    assert samples["SMOKER"].to_list() == ["yes"] * 4
    assert samples["age"].to_list() == pytest.approx([50.0] * 4, abs=0.01)
    assert not {"MEDS_DEATH", "MEDS_BIRTH", "boolean_value"} & set(samples.columns)
    assert pl.read_parquet(tmp_path / "c/labels.parquet")["label"].to_list() == [0, 0, 1, 1]
    assert json.loads((tmp_path / "c/flow.json").read_text()) == told
    card = read_card(tmp_path / "c")
    assert list(card.modalities) == ["time", "clinical"]
    assert card.source == "MEDS dataset little, 7"
    assert (card.licence, card.simulated) == ("none", False)


def test_the_future_changes_nothing(labels: Path, tmp_path: Path) -> None:
    """Whatever is written after the prediction time, every file of inputs stays the same."""
    past = [e for s in SPLIT for e in history(s) if e[1] is None or e[1] <= T0]
    future = [(s, at(h), code, 9.0) for s in SPLIT for h in (1e-7, 24) for code in ("HR", "X")]
    future += [(s, at(2), "MEDS_DEATH", None) for s in SPLIT]
    for name, rows in (("a", past), ("b", past + future)):
        from_meds(write(tmp_path / name, rows), labels, tmp_path / f"c{name}")
    for file in ("samples.parquet", "events.parquet", "labels.parquet", "cohort.yaml"):
        assert (tmp_path / "ca" / file).read_bytes() == (tmp_path / "cb" / file).read_bytes()


def test_window_and_several_times_of_a_patient(dataset: Path, tmp_path: Path) -> None:
    rows = [(s, T0, True) for s in SPLIT] + [(1, at(-1), False), (1, at(0.5), True)]
    labels = write_labels(tmp_path / "l.parquet", rows)
    from_meds(dataset, labels, tmp_path / "c", window=5)
    events = pl.read_parquet(tmp_path / "c/events.parquet").filter(
        pl.col("sample_id").str.starts_with("1@")
    )
    found = {name[0]: part for name, part in events.group_by("sample_id")}
    hours = {name: sorted(part["hours"].to_list()) for name, part in found.items()}
    assert hours["1@21500301T080000"] == [47.0, 48.0]  # hour −5 itself lies before the window
    assert hours["1@21500301T070000"] == [44.0, 48.0]
    assert hours["1@21500301T083000"] == [46.5, 47.5, pytest.approx(47.5)]


def test_codes_and_columns_are_chosen_by_the_training_samples(tmp_path: Path) -> None:
    split = {s: "train" if s <= 200 else "held_out" for s in range(1, 302)}
    events: list[Event] = [(s, at(-1), "HR", 80.0) for s in split]
    events += [(1, at(-1), "RARE", 1.0), (2, at(-1), "TWO", 1.0), (3, at(-1), "TWO", 1.0)]
    events += [(s, at(-1), "TESTED", 1.0) for s in split if s > 200]
    events += [(s, None, "SITE//tested", None) for s in split if s > 200]
    events += [(s, None, f"WARD//{s % 30}", None) for s in split]
    events += [(s, None, "WARD//0", None) for s in split if s % 30 < 15]
    source = write(tmp_path / "m", events, split=split)
    labels = write_labels(tmp_path / "l.parquet", [(s, T0, s % 2 == 0) for s in split])
    told = from_meds(source, labels, tmp_path / "c")
    assert told["codes"] == ["HR", "TWO"]
    assert {"why": "of a code that few training samples have", "rows": 102} in told["dropped"]
    samples = pl.read_parquet(tmp_path / "c/samples.parquet")
    assert "SITE" not in samples.columns
    assert samples["WARD"].n_unique() == 20
    wards = set(samples["WARD"])
    assert {"other", "0 + 1", "15"} <= wards
    assert not {"0", "29"} & wards  # rarer in training than the 19 that are kept
    cohort = load_cohort(tmp_path / "c")
    assert cohort.table("clinical")["WARD"].n_unique() == 20
    assert len(official(cohort, cohort.target("outcome")).train) == 200


def test_nobody_is_lost_without_a_word(dataset: Path, tmp_path: Path) -> None:
    rows: list[tuple[int, datetime | None, bool | None]] = [(s, T0, True) for s in SPLIT]
    rows += [(1, T0, True), (2, at(1), None), (9, T0, False), (3, at(-200), True)]
    (tmp_path / "shards/train").mkdir(parents=True)
    write_labels(tmp_path / "shards/train/0.parquet", rows[:3])
    write_labels(tmp_path / "shards/1.parquet", rows[3:])
    told = from_meds(dataset, tmp_path / "shards", tmp_path / "c")
    left = {s["why"]: s["left_out"] for s in told["steps"] if s["why"]}
    assert left == {
        "no boolean_value, or no time": 1,
        "the same row again": 1,
        "in none of train, tuning and held_out": 1,
        "nothing measured in the window": 1,
    }
    assert [s["samples"] for s in told["steps"]] == [8, 7, 6, 5, 4]
    assert len(pl.read_parquet(tmp_path / "c/labels.parquet")) == 4


def test_a_dataset_without_split_text_or_numbers(labels: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "m", [(s, at(-1), "HR", 80.0) for s in SPLIT], split=None)
    from_meds(source, labels, tmp_path / "c")
    card = read_card(tmp_path / "c")
    assert card.split is None
    assert list(card.modalities) == ["time"]
    for path in sorted((source / "data").rglob("*.parquet")):
        pl.read_parquet(path).drop("numeric_value").write_parquet(path)
        assert scan_events(path).collect()["numeric_value"].null_count() == 2
    with pytest.raises(
        InputError, match=r"no sample is left .*are its subjects those of"
    ) as caught:
        from_meds(source, labels, tmp_path / "d")
    assert "with a measurement: the samples: 0" in str(caught.value)
    assert not (tmp_path / "d").exists()


def test_errors_name_the_file(dataset: Path, labels: Path, tmp_path: Path) -> None:
    def refused(source: Path, file: Path, match: str) -> None:
        with pytest.raises(InputError, match=match):
            from_meds(source, file, tmp_path / "c")
        assert not (tmp_path / "c").exists()

    refused(tmp_path / "none", labels, r"none: no data/\*\*/\*\.parquet; expected the folder")
    refused(dataset, tmp_path / "no.parquet", "no label file; expected")
    pl.read_parquet(labels).rename({"boolean_value": "bool_value"}).write_parquet(
        tmp_path / "x.parquet"
    )
    refused(dataset, tmp_path / "x.parquet", "no column 'boolean_value'; did you mean 'bool_value'")
    times = pl.col("prediction_time").dt.date()
    pl.read_parquet(labels).with_columns(times).write_parquet(tmp_path / "d.parquet")
    refused(dataset, tmp_path / "d.parquet", "'prediction_time' is Date, expected dates with times")
    two = write_labels(tmp_path / "two.parquet", [(1, T0, True), (1, T0, False)])
    refused(dataset, two, "subject 1 has two labels at one prediction time")
    shard = dataset / "data/any/1.parquet"
    frame = pl.read_parquet(shard)
    frame.rename({"code": "codes"}).write_parquet(shard)
    refused(dataset, labels, r"1\.parquet: no column 'code'; did you mean 'codes'")
    frame.with_columns(pl.col("time").dt.to_string()).write_parquet(shard)
    refused(dataset, labels, r"1\.parquet: column 'time' is String, expected Datetime")
    shard.write_bytes(shard.read_bytes()[:200])
    refused(dataset, labels, r"1\.parquet: not readable as Parquet")
    frame.write_parquet(shard)
    twice = pl.DataFrame({"subject_id": [1, 1], "split": ["train", "tuning"]})
    twice.write_parquet(dataset / "metadata/subject_splits.parquet")
    refused(dataset, labels, "subject 1 is in two splits")
    (dataset / "metadata/subject_splits.parquet").unlink()
    (dataset / "metadata/dataset.json").write_text("[]")
    refused(dataset, labels, r"dataset\.json: not a JSON object")
    assert set(PARTS.values()) == {"train", "tuning", "held_out"}


def test_command(dataset: Path, labels: Path, tmp_path: Path, cli: Callable[..., Ran]) -> None:
    csv = tmp_path / "l.csv"
    pl.read_parquet(labels).write_csv(csv)
    words = ("cohort", "build", "meds", "--out", tmp_path / "c", "--source", dataset)
    ran = cli(*words, "--labels", csv, "--task", "death", "--window", 24)
    assert ran.exit_code == 0, ran.output
    assert "with a measurement: the samples" in ran.stdout
    assert "before the window" in ran.stdout
    assert read_card(tmp_path / "c").tasks["death"].positive == "yes"
    ran = cli(*words)
    assert ran.exit_code == 2
    assert "meds needs --source, a MEDS dataset, and --labels" in ran.stderr
    ran = cli(*words, "--labels", csv, "--window", 0)
    assert ran.exit_code == 2
    assert "--window 0: expected hours above 0" in ran.stderr
