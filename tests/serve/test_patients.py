"""The patients that the page lists: whose they are, and where their inputs come from."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import polars as pl
import pytest
import yaml
from tests.serve.arrivals import cohort_beside, gap, offline

from adacomed.errors import InputError
from adacomed.inference import predict
from adacomed.intake import gather_for
from adacomed.schema import RunFiles
from adacomed.serve.patients import Patients, open_patients
from adacomed.serve.service import Service
from adacomed.training.checkpoint import Run, load_run

EXACT = 1e-12


@pytest.fixture(scope="module")
def run(small_run: Path) -> Run:
    return load_run(small_run)


@pytest.fixture(scope="module")
def held_out(run: Run) -> Patients:
    return open_patients(run, None, None)


def test_the_runs_own_held_out_patients(run, held_out) -> None:
    rows = pl.read_parquet(run.folder / RunFiles.PREDICTIONS).filter(pl.col("split") == "test")
    assert held_out.rows["sample_id"].to_list() == rows["sample_id"].to_list()
    assert held_out.note == f"{len(rows)} held-out patients of Small cohort of every kind"
    service = Service(run, patients=held_out)
    cohort = cohort_beside(run.folder)
    ids = cohort.samples["sample_id"].to_list()
    whole = offline(run, cohort)
    for row in rows.head(4).to_dicts():
        case = held_out.case(row["sample_id"])
        record = asyncio.run(service.predict(case))
        assert abs(record["predictions"][0]["prob"]["Y"] - row["prob"]) <= 1e-6
        assert gap(record, whole[ids.index(row["sample_id"])]) <= EXACT
        assert case.label == row["label"]
        assert len(case.cohort) == 1
        assert set(case.hashes) >= {"clinical", "xray"}
    asyncio.run(service.close())


def test_an_unknown_patient(held_out) -> None:
    known = held_out.rows["sample_id"][0]
    with pytest.raises(
        InputError, match=f"no patient '{known}x' among the .* did you mean '{known}'"
    ):
        held_out.case(f"{known}x")


def test_a_training_patient_is_not_listed(run, held_out) -> None:
    rows = pl.read_parquet(run.folder / RunFiles.PREDICTIONS).filter(pl.col("split") != "test")
    with pytest.raises(InputError, match="no patient"):
        held_out.case(rows["sample_id"][0])


def test_another_cohort_is_predicted(run) -> None:
    found = open_patients(run, run.folder.parent / "cohort.yaml", None)
    cohort = cohort_beside(run.folder)
    expected = predict(run, gather_for(run, cohort))
    assert found.rows["prob"].equals(expected["prob"])
    assert "48 patients of Small cohort" in found.note
    service = Service(run, patients=found)
    record = asyncio.run(service.predict(found.case("p7")))
    assert gap(record, offline(run, cohort)[7]) <= EXACT
    asyncio.run(service.close())


def test_training_patients_come_in_the_background(run) -> None:
    patients = open_patients(run, None, None)
    assert patients.reference() is None
    assert "still being read" in patients.similar_note
    service = Service(run, patients=patients)
    service.warm()
    patients.wait()
    reference = patients.reference()
    assert reference is not None, patients.similar_note
    assert patients.similar_note == ""
    assert len(reference) == 48 - patients.rows["sample_id"].n_unique()
    assert not set(reference.sample_id) & set(patients.rows["sample_id"])
    asyncio.run(service.close())


@pytest.fixture
def moved(run: Run, tmp_path: Path) -> Path:
    """The run on another machine: its cohort is not there."""
    folder = Path(shutil.copytree(run.folder, tmp_path / "run"))
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump(config | {"cohort": "gone/cohort.yaml"}))
    return folder


def test_inputs_that_are_not_on_this_machine(moved) -> None:
    found = open_patients(load_run(moved), None, None)
    assert found.cohort is None
    assert "cannot be read on this machine" in found.note
    assert len(found.rows)
    with pytest.raises(InputError, match=r"inputs of patient .* are not here"):
        found.case(found.rows["sample_id"][0])
    found.start()
    found.wait()
    assert "cannot be read" in found.similar_note


def test_a_run_without_its_predictions(moved) -> None:
    (moved / RunFiles.PREDICTIONS).unlink()
    found = open_patients(load_run(moved), None, None)
    assert found.rows.is_empty()
    assert "without its patients' predictions" in found.note
    with pytest.raises(InputError, match="no patient"):
        found.case("p1")


def test_an_encoder_of_the_users_own_needs_its_file(moved, run) -> None:
    """It lies beside the cohort; away from there a service says so, and takes ready vectors."""
    meta = json.loads((moved / RunFiles.INPUTS).read_text())
    cards = meta["cohort"]["modalities"]
    cards["note"]["encoder"] = "moments_that_moved:words"
    (moved / RunFiles.INPUTS).write_text(json.dumps(meta))
    service = Service(load_run(moved))
    service.warm()
    assert "moments_that_moved" in service.unavailable["note"]
    asyncio.run(service.close())
