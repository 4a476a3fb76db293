"""Everyone is accounted for: what a step loses, and where a modality's vectors came from."""

import polars as pl
import pytest

from adacomed.config import Experiment, parse
from adacomed.training.flow import data_flow
from adacomed.training.prepare import comparison_folds, one_fold, prepare

COHORT = """
name: ward
table: patients.csv
subject: patient
sample: visit
tasks: {died: {column: died, positive: 1}}
modalities:
  clinical: {kind: tabular, columns: [age, lactate]}
  note: {kind: text, column: note}
"""


@pytest.fixture(scope="module")
def ward(tmp_path_factory):
    """36 visits of 30 patients; 4 have no label, 6 no note, 2 an empty table."""
    folder = tmp_path_factory.mktemp("ward")
    n = 36
    frame = pl.DataFrame(
        {
            "visit": [f"v{i}" for i in range(n)],
            "patient": [f"p{i % 30}" for i in range(n)],
            "died": [None if i % 30 in (0, 15) else i % 30 % 2 for i in range(n)],
            "age": [None if i in (3, 4) else 50 + i for i in range(n)],
            "lactate": [None if i % 3 == 0 or i == 4 else i / 10 for i in range(n)],
            "note": [None if i < 6 else f"short of breath for {i} days" for i in range(n)],
        }
    )
    frame.write_csv(folder / "patients.csv")
    (folder / "cohort.yaml").write_text(COHORT)
    return folder


def settings(folder, **more) -> Experiment:
    return parse(Experiment, {"cohort": str(folder), **more}, "test")


def test_steps_lose_whom_they_say_and_add_up(ward):
    experiment = settings(ward)
    prepared = prepare(experiment)
    flow = data_flow(prepared, [one_fold(experiment, prepared)])
    table, labelled, training, test = flow["steps"]
    assert (table["subjects"], table["samples"], table["left_out"]) == (30, 36, 0)
    assert (labelled["samples"], labelled["left_out"], labelled["why"]) == (33, 3, "no label")
    assert training["samples"] + test["samples"] == labelled["samples"]
    assert training["subjects"] + test["subjects"] == labelled["subjects"] == 28


def test_modalities_say_who_has_them_and_what_made_their_vectors(ward):
    experiment = settings(ward)
    prepared = prepare(experiment)
    flow = data_flow(prepared, [one_fold(experiment, prepared)])
    note, clinical = flow["modalities"]
    assert note["name"] == "note"
    assert note["n_present"] == 28  # of 33 labelled: of v0 to v5 only v0 has no label
    assert note["encoder"] == "minilm"
    assert note["licence"] == "Apache-2.0"
    assert note["fingerprint"] == prepared.inputs.encoders["note"]
    assert note["weights_hash"]
    # v3 has no age and, as every third, no lactate: an empty row; v4 has neither too
    assert clinical == {"name": "clinical", "n_present": 31, "kind": "tabular"}


def test_complete_cases_are_a_step_with_its_reason(ward):
    experiment = settings(ward, preset="paper")
    prepared = prepare(experiment)
    steps = data_flow(prepared, [one_fold(experiment, prepared)])["steps"]
    assert [s["left_out"] for s in steps[:3]] == [0, 6, 2]
    assert steps[1]["why"] == "a modality is absent"


def test_cross_validation_tests_everyone(ward):
    experiment = settings(ward, split={"kind": "kfold", "folds": 3, "repeats": 2})
    prepared = prepare(experiment)
    steps = data_flow(prepared, comparison_folds(experiment, prepared))["steps"]
    assert steps[-1]["what"] == "each tested 2 times, by a model trained on the 2 other folds"
    assert steps[-1]["samples"] == 33
