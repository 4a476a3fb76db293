"""Calibration and prediction sets on their way from validation patients into a run."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from scipy.special import expit

from adacomed.evaluation.conformal import as_mask, fit_sets
from adacomed.evaluation.discrimination import choose_threshold
from adacomed.evaluation.recalibration import Calibrator, choose_calibrator, fit_calibrator
from adacomed.inference import forward, prediction_frame, probabilities
from adacomed.schema import Predictions, RunFiles
from adacomed.training.calibrated import calibrate
from adacomed.training.checkpoint import load_run, save_run
from adacomed.training.methods import Problem, run_method
from adacomed.training.seed import derive

from .conftest import CARD, make_experiment, make_fold, make_inputs

PLATT = {"calibration": "platt"}
QUICK = {"epochs": 2, "inner_folds": 2, "members": 1}
METHODS = ["adacomed", "average", "b-large", "logistic-all"]


def problem(classes=2, **settings):
    inputs = make_inputs(classes=classes)
    model = {"strategy": "ensemble"}
    experiment = make_experiment(**{"training": QUICK, "model": model, **settings})
    return Problem(experiment, inputs, make_fold(), "task", 0)


def prob_of(rows, K):
    if K == 2:
        p = rows[Predictions.PROB].to_numpy()
        return np.stack([1 - p, p], axis=1)
    return rows.select(f"prob_{k}" for k in range(K)).to_numpy()


def split(result, name):
    return result.predictions.filter(pl.col(Predictions.SPLIT) == name)


@pytest.mark.parametrize("K", [2, 3])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_calibrated_on_its_validation_patients(name, K):
    """Against the same maps fitted here on the method's own uncalibrated validation rows."""
    plain = run_method(name, problem(K, evidence={"calibration": "none"}))
    ours = run_method(name, problem(K, evidence=PLATT))
    val, test = (split(plain, s) for s in ("val", "test"))
    label = val[Predictions.LABEL].to_numpy()
    platt = fit_calibrator("platt", label, prob_of(val, K))
    assert platt.slope != 1
    for part, rows in (("val", val), ("test", test)):
        found = prob_of(split(ours, part), K)
        assert found == pytest.approx(platt.apply(prob_of(rows, K)), abs=1e-6)
    calibrated = prob_of(split(ours, "val"), K)
    sets = fit_sets(label, calibrated, 0.9)
    mask = as_mask(split(ours, "test")[Predictions.SET], K)
    assert np.array_equal(mask, sets.sets(prob_of(split(ours, "test"), K)))
    cut = choose_threshold(label, calibrated[:, 1]) if K == 2 else 0.5
    assert ours.predictions[Predictions.THRESHOLD].unique().to_list() == pytest.approx([cut])
    assert ours.choices["calibration"]["kind"] == "platt"
    assert ours.choices["sets"]["n"] == np.bincount(label).tolist()
    json.dumps(ours.choices)


def test_branches_are_on_the_scale_of_the_probability():
    """A threshold cuts the branches where it cuts prob, and their mixture still is prob."""
    plain = run_method("adacomed", problem(evidence={"calibration": "none"})).predictions
    ours = run_method("adacomed", problem(evidence=PLATT)).predictions
    assert (ours[Predictions.PROB] - plain[Predictions.PROB]).abs().max() > 1e-3
    kept = [Predictions.W_LARGE, Predictions.W_SMALL, Predictions.S]
    assert ours.select(kept).equals(plain.select(kept))
    for frame in (plain, ours):
        large, small, w = (
            frame[c].to_numpy()
            for c in (Predictions.LOGIT_LARGE, Predictions.LOGIT_SMALL, Predictions.W_LARGE)
        )
        mixed = expit(w * large + (1 - w) * small)
        np.testing.assert_allclose(mixed, frame[Predictions.PROB], atol=1e-9)


def test_test_labels_change_no_map_and_no_set():
    p = problem(evidence={"calibration": "isotonic"})
    y = p.inputs.target.copy()
    y[p.fold.test] = 1 - y[p.fold.test]
    flipped = replace(p, inputs=replace(p.inputs, target=y))
    columns = [Predictions.SAMPLE_ID, Predictions.PROB, Predictions.SET]
    one, two = (run_method("adacomed", q).predictions.select(columns) for q in (p, flipped))
    assert one.equals(two)


def test_auto_is_the_choice_made_on_validation_alone():
    p = problem()
    found = run_method("adacomed", p)
    plain = run_method("adacomed", problem(evidence={"calibration": "none"}))
    val = split(plain, "val")
    label, raw = val[Predictions.LABEL].to_numpy(), prob_of(val, 2)
    who = val[Predictions.SUBJECT_ID].to_numpy()
    chosen = choose_calibrator("auto", label, raw, who, derive(0, "calibration"))
    assert found.choices["calibration"]["kind"] == chosen.found["kind"]
    assert found.trained.calibrator.kind == chosen.found["kind"]
    assert "why" in found.choices["calibration"]


@pytest.mark.parametrize("preset", ["paper", "authors"])
def test_a_published_preset_keeps_its_probabilities_unless_a_kind_is_named(preset):
    rng = np.random.default_rng(0)
    p = rng.random(400)
    label = (rng.random(400) < 0.3 + 0.2 * p).astype(np.int64)
    prob, who = np.stack([1 - p, p], axis=1), np.arange(400).astype(str)
    kinds = {}
    for words in ({}, {"evidence": PLATT}):
        for name in ("default", preset):
            made = calibrate(label, prob, who, make_experiment(preset=name, **words))
            kinds[name, bool(words)] = made.calibrator.kind
            assert made.prob == pytest.approx(made.calibrator.apply(prob))
    assert kinds[preset, False] == "none"
    assert kinds["default", False] != "none"
    assert kinds[preset, True] == kinds["default", True] == "platt"
    why = calibrate(label, prob, who, make_experiment(preset=preset)).found["calibration"]["why"]
    assert preset in why


def test_coverage_is_a_setting():
    rows = {
        c: split(run_method("a-large", problem(evidence={"coverage": c})), "test")
        for c in (0.5, 0.95)
    }
    size = {c: r[Predictions.SET].list.len().sum() for c, r in rows.items()}
    assert size[0.5] < size[0.95]


# ---- runs ---------------------------------------------------------------------------------------
def save(folder, p, result):
    folder.mkdir()
    save_run(
        folder,
        result.trained,
        experiment=p.experiment,
        card=CARD,
        task="task",
        classes=p.inputs.classes,
        method="m",
        encoders={},
    )
    return folder


def predicted(trained, inputs):
    output = forward(trained, inputs)
    prob = probabilities(output, trained)
    about = {"task": "task", "method": "m", "split": "new", "threshold": trained.threshold}
    return prediction_frame(inputs, prob, output=output, sets=trained.sets, **about)


@pytest.mark.parametrize("kind", ["none", "temperature", "platt", "isotonic"])
@pytest.mark.parametrize("name", ["adacomed", "average"])
def test_a_loaded_run_calibrates_bit_for_bit_the_same(name, kind, tmp_path):
    p = problem(3, evidence={"calibration": kind})
    result = run_method(name, p)
    run = load_run(save(tmp_path / "run", p, result))
    assert run.trained.calibrator == result.trained.calibrator
    assert run.trained.sets == result.trained.sets
    before, after = predicted(result.trained, p.inputs), predicted(run.trained, p.inputs)
    assert before.equals(after)
    test = p.inputs.take(p.fold.test)
    own = split(result, "test")
    assert prob_of(predicted(run.trained, test), 3) == pytest.approx(prob_of(own, 3), abs=1e-9)


def test_a_run_of_before_there_were_these_is_read_as_it_was(tmp_path):
    p = problem(evidence=PLATT)
    result = run_method("a-large", p)
    folder = save(tmp_path / "run", p, result)
    meta = json.loads((folder / RunFiles.INPUTS).read_text())
    for new in ("calibrator", "sets"):
        del meta[new]
    (folder / RunFiles.INPUTS).write_text(json.dumps(meta))
    old = load_run(folder).trained
    assert (old.calibrator, old.sets) == (None, None)
    output = forward(old, p.inputs)
    assert np.array_equal(probabilities(output, old), probabilities(output))
    frame = predicted(old, p.inputs)
    assert frame[Predictions.SET].null_count() == len(p.inputs)
    assert frame.schema[Predictions.SET] == pl.List(pl.Int64)


def test_a_fold_without_enough_of_a_class_says_so():
    """Four events: no calibration is tried, and that class stays in every set."""
    rng = np.random.default_rng(0)
    label = np.array([1] * 4 + [0] * 196)
    p = rng.random(200)
    who = np.arange(200).astype(str)
    made = calibrate(label, np.stack([1 - p, p], axis=1), who, make_experiment())
    assert made.calibrator == Calibrator()
    assert "4 validation subjects" in made.found["calibration"]["why"]
    assert "class 1: 4 calibration patients" in made.found["sets"]["notes"][0]
    assert made.sets.sets(made.prob)[:, 1].all()
