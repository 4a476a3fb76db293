"""Two cohorts told apart, and a model's figures on both."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy.stats import norm
from sklearn.metrics import brier_score_loss, roc_auc_score

from adacomed.errors import InputError
from adacomed.evaluation.shift import Shift, shift
from adacomed.evaluation.transfer import transfer

P = 6
NAMES = [f"x{j}" for j in range(P)]


def cohort(n: int, seed: int, moved: float = 0.0, missing: float = 0.1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, P))
    x[:, 2] += moved
    x[rng.random((n, P)) < 0.05] = np.nan
    x[rng.random(n) < missing, 4] = np.nan
    return x


def compared(a: np.ndarray, b: np.ndarray, n: int = 100, seed: int = 0) -> Shift:
    return shift(a, b, NAMES, np.arange(len(a)), 5000 + np.arange(len(b)), n=n, seed=seed)


# ---- the classifier -----------------------------------------------------------------------------
def test_alike_cohorts_are_not_told_apart_more_often_than_promised():
    """60 pairs of the same distribution: p is uniform, the interval holds one half."""
    found = [compared(cohort(80, s), cohort(60, 1000 + s), seed=s) for s in range(60)]
    p = np.array([f.p for f in found])
    assert (p <= 0.05).sum() <= 8  # 3 expected; more than 8 has probability 0.004
    assert 0.35 < p.mean() < 0.65
    covered = sum(f.low <= 0.5 <= f.high for f in found)
    assert covered >= 53


def test_a_moved_mean_is_found_and_named_first():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(800, P)), rng.normal(size=(600, P)) + np.eye(P)[2]
    found = compared(a, b)
    ideal = norm.cdf(1 / np.sqrt(2))  # AUROC of a mean that moved by one deviation
    assert found.auroc == pytest.approx(ideal, abs=0.03)
    assert 0.5 < found.low < found.auroc < found.high < 1
    assert found.p == pytest.approx(1 / 500)
    assert (found.n_a, found.n_b) == (800, 600)
    assert found.inputs["input"][0] == "x2"


def test_more_missing_values_are_found_too():
    found = compared(cohort(200, 0), cohort(200, 1, missing=0.6))
    assert found.p < 0.01
    first = found.inputs.row(0, named=True)
    assert first["input"] == "x4"
    assert first["missing_difference"] > first["missing_low"] > 0.2


def test_many_more_inputs_than_patients():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(40, 300)), rng.normal(size=(40, 300))
    names = [str(j) for j in range(300)]
    ids = np.arange(40)
    alike = shift(a, b, names, ids, 100 + ids, n=20)
    apart = shift(a, b + 0.5, names, ids, 100 + ids, n=20)
    assert alike.p > 0.05
    assert apart.p < 0.01
    assert apart.auroc > 0.95


def test_rows_of_one_patient_are_on_one_side():
    """20 patients a cohort with 10 rows each, each patient far from the others: without folds by
    subject the rows would know their own patient."""
    rng = np.random.default_rng(0)
    centre = rng.normal(size=(40, P)) * 5
    x = np.repeat(centre, 10, axis=0) + rng.normal(size=(400, P)) * 0.1
    who = np.repeat(np.arange(40), 10)
    found = shift(x[:200], x[200:], NAMES, who[:200], who[200:], n=50)
    assert found.p > 0.02
    assert found.low < 0.6
    same_ids = shift(x[:200], x[200:], NAMES, who[:200], who[:200], n=50)
    assert 0 <= same_ids.auroc <= 1


# ---- input by input -----------------------------------------------------------------------------
def test_differences_are_those_of_the_textbook():
    a, b = cohort(300, 0), cohort(200, 1, moved=0.4)
    found = compared(a, b, n=400).inputs
    for row in found.iter_rows(named=True):
        j = NAMES.index(row["input"])
        pooled = np.sqrt((np.nanvar(a[:, j]) + np.nanvar(b[:, j])) / 2)
        smd = (np.nanmean(b[:, j]) - np.nanmean(a[:, j])) / pooled
        assert row["smd"] == pytest.approx(smd)
        assert row["mean_a"] == pytest.approx(np.nanmean(a[:, j]))
        assert row["missing_b"] == pytest.approx(np.isnan(b[:, j]).mean())
        m, n = (~np.isnan(a[:, j])).sum(), (~np.isnan(b[:, j])).sum()
        error = np.sqrt((m + n) / (m * n) + smd**2 / (2 * (m + n)))  # Hedges & Olkin
        assert (row["smd_high"] - row["smd_low"]) / 3.92 == pytest.approx(error, rel=0.2)
        assert row["note"] == ""
    far = np.maximum(found["smd"].abs(), found["missing_difference"].abs())
    assert far.to_list() == sorted(far, reverse=True)


def test_an_input_without_a_difference_to_tell_has_a_reason():
    a, b = cohort(60, 0), cohort(60, 1)
    a[:, 0], b[:, 0] = 1.0, 2.0  # a constant that changes: another machine, another code
    a[:, 1], b[:, 1] = 3.0, 3.0
    b[:, 3] = np.nan
    rows = {r["input"]: r for r in compared(a, b, n=50).inputs.iter_rows(named=True)}
    assert next(iter(rows)) == "x0"
    assert rows["x0"]["smd"] is None
    assert rows["x0"]["note"] == "one value in each cohort, and not the same"
    assert (rows["x1"]["smd"], rows["x1"]["note"]) == (0, "")
    assert rows["x3"]["smd"] is None
    assert rows["x3"]["note"] == "never recorded in b"
    assert rows["x3"]["missing_b"] == 1


def test_the_same_seed_gives_the_same_shift():
    a, b = cohort(50, 0), cohort(50, 1)
    one, two, other = (compared(a, b, seed=s) for s in (0, 0, 1))
    assert (one.auroc, one.low, one.high, one.p) == (two.auroc, two.low, two.high, two.p)
    assert one.inputs.equals(two.inputs)
    assert one.auroc != other.auroc


def test_what_does_not_fit_is_said():
    a = cohort(40, 0)
    ids = np.arange(40)
    with pytest.raises(InputError, match=r"second cohort's inputs are \(40, 5\) .* 6 columns"):
        shift(a, a[:, :5], NAMES, ids, ids)
    with pytest.raises(InputError, match=r"first cohort's inputs are .* with 39 subjects"):
        shift(a, a, NAMES, ids[1:], ids)
    with pytest.raises(InputError, match="second cohort has 9 subjects, a comparison needs 10"):
        shift(a, a, NAMES, ids, ids % 9)


# ---- a model here and there ---------------------------------------------------------------------
def test_figures_of_both_tables_and_their_difference(table):
    here, there = table(200, repeats=2), table(300, {"adacomed": 0.5}, events=150, seed=9)
    there = there.with_columns(split=pl.lit("new"), sample_id="b" + pl.col("sample_id"))
    found = transfer(here, there, metrics=["auroc", "brier"], n=300)
    assert found["metric"].to_list() == ["auroc", "brier", "prevalence"]
    assert set(found["method"]) == {"adacomed"}  # small is only here
    rows = {r["metric"]: r for r in found.iter_rows(named=True)}
    assert (rows["auroc"]["n_here"], rows["auroc"]["n_there"]) == (200, 300)
    mine = [here.filter(method="adacomed", repeat=r) for r in (0, 1)]
    area = np.mean([roc_auc_score(m["label"], m["prob"]) for m in mine])
    assert rows["auroc"]["here"] == pytest.approx(area)
    assert rows["auroc"]["there"] == pytest.approx(roc_auc_score(there["label"], there["prob"]))
    assert rows["brier"]["there"] == pytest.approx(brier_score_loss(there["label"], there["prob"]))
    for row in rows.values():
        assert row["difference"] == pytest.approx(row["there"] - row["here"])
        assert row["low"] < row["difference"] < row["high"]
        assert row["p_holm"] >= row["p"]
    assert rows["auroc"]["high"] < 0
    assert (rows["prevalence"]["here"], rows["prevalence"]["there"]) == (0.25, 0.5)
    error = np.sqrt(0.25 * 0.75 / 200 + 0.5 * 0.5 / 300)  # both cohorts' share is uncertain
    width = rows["prevalence"]["high"] - rows["prevalence"]["low"]
    assert width == pytest.approx(3.92 * error, rel=0.15)
    assert found.equals(transfer(here, there, metrics=["auroc", "brier"], n=300))


def test_cohorts_are_resampled_independently(table):
    """The same table twice: a paired difference would be exactly 0 in every resample."""
    frame = table(150, {"a": 1.0})
    [row] = transfer(frame, frame, metrics=["auroc"], n=200).filter(metric="auroc").rows(named=True)
    assert row["difference"] == 0
    assert row["low"] < -0.03
    assert row["high"] > 0.03
    assert row["p"] > 0.5


def test_an_undefined_figure_has_a_reason(table):
    here, there = table(100, {"a": 1.0}), table(100, {"a": 1.0}, events=0)
    found = transfer(here, there, n=50)
    row = found.filter(metric="auroc").row(0, named=True)
    assert row["there"] is None
    assert row["difference"] is None
    assert row["p"] is None
    assert row["note"] == "not defined there: a class has no patient"
    assert found.filter(metric="brier")["note"].to_list() == [""]


def test_tables_that_cannot_be_compared(table):
    frame = table(60)
    with pytest.raises(InputError, match="nothing to compare: death/adacomed, death/small here"):
        transfer(frame, frame.with_columns(task=pl.lit("icu")))
    with pytest.raises(InputError, match="no labelled row there"):
        transfer(frame, frame.with_columns(label=pl.lit(None, pl.Int64)))
    with pytest.raises(InputError, match="no metric 'auc'; did you mean 'auroc'"):
        transfer(frame, frame, metrics=["auc"])
    with pytest.raises(InputError, match="0 resamples"):
        transfer(frame, frame, n=0)
