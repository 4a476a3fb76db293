"""Test patients under every set of modalities: whoever can run is run, nobody is fitted anew."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from adacomed.config import EvidenceSettings
from adacomed.evaluation.robustness import stress_table
from adacomed.schema import TEST, Predictions
from adacomed.training import stress as module
from adacomed.training.methods import Problem, run_method
from adacomed.training.perturb import subsets
from adacomed.training.raw import RawSeries
from adacomed.training.stress import INSIDE, State, states, stress

from .conftest import make_experiment, make_fold, make_inputs

QUICK = {
    "training": {"epochs": 1, "inner_folds": 2, "members": 1},
    "model": {"strategy": "ensemble", "H": 8, "d": 8},
    "small": {"width": 8},
    "baselines": {"size": "tiny"},
}
NAMES = ("a", "b", "clinical")
METHODS = ["adacomed", "average", "a-large", "logistic", "logistic-all", "flex-moe", "healnet"]


def problem(inputs=None, **settings) -> Problem:
    inputs = inputs or make_inputs()
    return Problem(make_experiment(**{**QUICK, **settings}), inputs, make_fold(), "task", 0)


def of(frame: pl.DataFrame, *kept: str, noise: float = 0.0) -> pl.DataFrame:
    same = pl.col("kept").list.join("+") == "+".join(kept)
    return frame.filter(same & (pl.col("noise") == noise))


def test_states_of_few_and_of_many_modalities():
    found = states(NAMES, [1.0, 0.5, 1.0])
    assert [s.kept for s in found[:8]] == list(subsets(NAMES))
    assert found[8:] == [State(NAMES, 0.5), State(NAMES, 1.0)]
    many = states([f"m{i}" for i in range(9)], [])
    assert sorted(len(s.kept) for s in many) == [0, *[1] * 9, *[8] * 9, 9]
    assert len({s.kept for s in many}) == 20


@pytest.mark.parametrize("method", METHODS)
def test_every_method_says_something_of_everyone_in_every_state(method):
    p = problem()
    result = run_method(method, p)
    rows, n = result.stress, len(p.fold.test)
    assert len(rows) == (8 + 3) * n
    assert rows[Predictions.PROB].is_between(0, 1).all()
    assert not set(INSIDE) & set(rows.columns)
    intact = of(rows, *NAMES)
    test = result.predictions.filter(split=TEST)
    for column in (Predictions.SAMPLE_ID, Predictions.LABEL, Predictions.THRESHOLD):
        assert intact[column].to_list() == test[column].to_list()
    assert intact[Predictions.PROB].to_list() == pytest.approx(test[Predictions.PROB], abs=1e-9)
    nothing = of(rows)
    assert nothing[Predictions.PROB].n_unique() == 1  # nobody is known: one answer for all
    assert (nothing[Predictions.PRESENT].list.len() == 0).all()
    assert "stress" not in result.choices
    table = stress_table(rows, n=20)
    assert table["value"].is_not_null().all()
    assert table.filter(pl.col("kept").list.len() == 0)["value"].to_list() == [0.5]


def test_a_modality_that_a_patient_lacks_changes_nothing():
    p = problem()
    rows = run_method("adacomed", p).stress
    lacks = np.isnan(p.inputs.vectors["b"][p.fold.test]).any(axis=1)
    assert 0 < lacks.sum() < len(lacks)
    for kept in (("a",), ("clinical",), ("a", "clinical"), ()):
        with_b = tuple(m for m in NAMES if m in kept or m == "b")
        one, two = (of(rows, *k)[Predictions.PROB].to_numpy() for k in (kept, with_b))
        assert one[lacks] == pytest.approx(two[lacks], abs=1e-12)
        assert not np.allclose(one[~lacks], two[~lacks], atol=1e-6)


def test_what_a_method_does_not_read_may_go():
    rows = run_method("logistic", problem()).stress  # of the table alone
    with_, without_ = of(rows, *NAMES), of(rows, "clinical")
    assert with_[Predictions.PROB].to_list() == without_[Predictions.PROB].to_list()
    assert of(rows, "a", "b")[Predictions.PROB].n_unique() == 1


def test_stress_moves_no_prediction_and_can_be_switched_off():
    for method in ("adacomed", "logistic-all"):
        on = run_method(method, problem())
        off = run_method(method, problem(evidence={"stress": False}))
        assert on.predictions.equals(off.predictions)
        assert off.stress.width == 0
    quiet = run_method("logistic", problem(evidence={"noise": []})).stress
    assert quiet["noise"].unique().to_list() == [0.0]


def test_three_classes_keep_their_probabilities():
    rows = run_method("logistic-all", problem(make_inputs(classes=3))).stress
    prob = rows.select("prob_0", "prob_1", "prob_2").to_numpy()
    assert prob.sum(axis=1) == pytest.approx(1)


def predicted(patients) -> pl.DataFrame:
    """A method that says how many of the vectors a patient has."""
    columns = {
        Predictions.SAMPLE_ID: patients.sample_id,
        Predictions.SUBJECT_ID: patients.subject_id,
        Predictions.PROB: patients.present.sum(axis=1) / 2,
        Predictions.PRESENT: [["a"]] * len(patients),
        Predictions.S: 0.5,
    }
    return pl.DataFrame(columns)


def test_many_patients_are_sampled_by_subject_and_it_is_said(monkeypatch, inputs):
    pairs = np.array([f"s{i // 2}" for i in range(120)])
    inputs = replace(inputs, subject_id=pairs)
    settings = EvidenceSettings(noise=[])
    whole, said = stress(predicted, inputs, inputs, settings)
    assert (len(whole), said) == (8 * 120, {})
    monkeypatch.setattr(module, "MOST", 8 * 31)
    some, said = stress(predicted, inputs, inputs, settings, seed=1)
    kept = some[Predictions.SUBJECT_ID].unique()
    assert len(some) == 8 * 30  # whole subjects: two rows each
    assert len(kept) == 15
    assert said == {"stress": {"subjects": 15, "of": 60, "why": "248 predictions at most"}}
    again, _ = stress(predicted, inputs.take(np.arange(120)[::-1]), inputs, settings, seed=1)
    assert set(again[Predictions.SUBJECT_ID]) == set(kept)  # whatever the order
    other, _ = stress(predicted, inputs, inputs, settings, seed=2)
    assert set(other[Predictions.SUBJECT_ID]) != set(kept)


def test_a_method_that_reads_raw_inputs_is_left_out_where_there_are_many(inputs):
    settings = EvidenceSettings()
    few, said = stress(predicted, inputs, inputs, settings, reads_raw=True)
    assert len(few)
    assert not said
    nothing = np.zeros(0)
    series = RawSeries((), np.zeros(121, np.int64), nothing, nothing.astype(np.int64), nothing)
    more = replace(inputs, raw={"vitals": series})
    rows, said = stress(predicted, more, more, settings, reads_raw=True)
    assert rows.is_empty()
    assert said["stress"]["left_out"] == "reads raw inputs, and 4 modalities have 16 sets"
    assert len(stress(predicted, more, more, settings).rows) == (16 + 3) * 120


def test_present_is_what_is_left_not_what_there_was(inputs):
    rows, _ = stress(predicted, inputs, inputs, EvidenceSettings(noise=[1.0]))
    for row in rows.iter_rows(named=True):
        assert set(row["present"]) <= set(row["kept"])
    clinical = of(rows, "clinical")["present"].list.len()
    table = inputs.tables["clinical"]
    assert clinical.sum() == table.select(pl.any_horizontal(pl.all().is_not_null())).sum().item()
    assert of(rows, "a", "b", "clinical", noise=1.0)["present"].equals(
        of(rows, "a", "b", "clinical")["present"]
    )
