from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logit
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import label_binarize

from adacomed.evaluation.discrimination import METRICS, auprc, auroc, choose_threshold, metrics

ONE_CLASS = (([1, 1], [0.2, 0.9]), ([0, 0], [0.2, 0.9]))


def both(function):
    """The oracle where both classes occur, else NaN."""
    return lambda y, p: function(y, p) if 0 < y.sum() < len(y) else np.nan


def having(label, function):
    """The oracle where `label` occurs in y, else NaN."""
    return lambda y, p: function(y, p) if (y == label).any() else np.nan


def deciding(decision, function):
    """The oracle where something is decided `decision`, else NaN."""
    return lambda y, p: function(y, p) if ((p >= 0.5) == decision).any() else np.nan


def macro(score):
    return both(lambda y, p: score(y, p >= 0.5, average="macro", zero_division=0))


def line(y, p):
    """Slope and intercept by scikit-learn's unpenalised regression; NaN where classes part."""
    x = logit(np.clip(p, 1e-12, 1 - 1e-12))
    one, zero = x[y == 1], x[y == 0]
    if not len(one) or not len(zero) or zero.max() <= one.min() or one.max() <= zero.min():
        return np.nan, np.nan
    centre, scale = x.mean(), x.std()
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-12, max_iter=500)
    model.fit(((x - centre) / scale)[:, None], y)
    slope = model.coef_[0, 0] / scale
    return slope, model.intercept_[0] - slope * centre


def point(tpr_at_fpr):
    """The best of one axis of scikit-learn's ROC curve while the other keeps its 90 %."""

    def function(y, p):
        fpr, tpr, _ = sk.roc_curve(y, p, drop_intermediate=False)
        if tpr_at_fpr:
            return tpr[fpr <= 0.1 + 1e-9].max()
        return (1 - fpr[tpr >= 0.9 - 1e-9]).max()

    return both(function)


def loop_ece(y, p):
    inside = [(p >= i / 15) & ((p < (i + 1) / 15) | (i == 14)) for i in range(15)]
    return sum(abs((y[i] - p[i]).sum()) for i in inside) / len(y)


CONTRACT = {
    "calibration_slope": (lambda y, p: line(y, p)[0], ONE_CLASS, np.nan, 1e-5),
    "calibration_intercept": (lambda y, p: line(y, p)[1], ONE_CLASS, np.nan, 1e-5),
    "ece": (loop_ece, ()),
    "sensitivity_at_90_specificity": (point(True), ONE_CLASS),
    "specificity_at_90_sensitivity": (point(False), ONE_CLASS),
    # at the default threshold of 0.5 a false positive costs a true one
    "net_benefit": (lambda y, p: ((p >= 0.5) * (2 * y - 1)).mean(), (), 3 / 5),
    "acc": (lambda y, p: sk.accuracy_score(y, p >= 0.5), ()),
    "auroc": (both(sk.roc_auc_score), ONE_CLASS),
    "auprc": (both(sk.average_precision_score), ONE_CLASS),
    "auprc_negative": (both(lambda y, p: sk.average_precision_score(1 - y, 1 - p)), ONE_CLASS),
    "mAP": (macro(sk.precision_score), ONE_CLASS),
    "mAR": (macro(sk.recall_score), ONE_CLASS),
    "mF1": (macro(sk.f1_score), ONE_CLASS),
    "brier": (lambda y, p: sk.brier_score_loss(y, p, pos_label=1), ()),
    "log_loss": (lambda y, p: sk.log_loss(y, p, labels=[0, 1]), ()),
    "sensitivity": (having(1, lambda y, p: sk.recall_score(y, p >= 0.5)), ONE_CLASS[1:]),
    "specificity": (
        having(0, lambda y, p: sk.recall_score(y, p >= 0.5, pos_label=0)),
        ONE_CLASS[:1],
    ),
    "ppv": (
        deciding(True, lambda y, p: sk.precision_score(y, p >= 0.5)),
        (([0, 1], [0.1, 0.2]),),
    ),
    "npv": (
        deciding(False, lambda y, p: sk.precision_score(y, p >= 0.5, pos_label=0)),
        (([0, 1], [0.8, 0.9]),),
    ),
}


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_keeps_the_contract(name, check_metric):
    check_metric(name, *CONTRACT[name])


def test_macro_names_are_precision_recall_and_f1_not_average_precision():
    # decisions 0 0 1 1 0 1 for labels 0 0 0 1 1 1: precision 2/3 and 2/3, recall 2/3 and 2/3
    found = metrics([0, 0, 0, 1, 1, 1], [0.1, 0.2, 0.7, 0.8, 0.3, 0.9])
    assert [found[m] for m in ("mAP", "mAR", "mF1")] == pytest.approx([2 / 3] * 3)
    assert found["auprc"] == pytest.approx((1 + 1 + 3 / 4) / 3)


def test_a_threshold_decides_by_greater_or_equal_and_may_differ_by_row():
    y, p = np.array([0, 1, 1, 0]), np.array([0.3, 0.3, 0.6, 0.6])
    assert metrics(y, p, 0.3)["sensitivity"] == 1
    assert metrics(y, p, 0.31)["sensitivity"] == 0.5
    assert metrics(y, p, np.array([0.4, 0.2, 0.5, 0.7]))["acc"] == 1
    assert metrics(y, p)["acc"] == metrics(y, p, 0.5)["acc"]


def test_two_columns_are_the_same_as_one():
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 2, 50), rng.random(50)
    assert metrics(y, np.stack([1 - p, p], axis=1)) == pytest.approx(metrics(y, p))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(st.tuples(*[st.integers(1, 4)] * 3, st.integers(0, 2)), min_size=1, max_size=25))
def test_several_classes_against_scikit_learn(rows):
    table = np.array(rows)
    p, y = table[:, :3] / table[:, :3].sum(axis=1, keepdims=True), table[:, 3]
    found = metrics(y, p)
    decided = p.argmax(axis=1)
    one_hot = label_binarize(y, classes=[0, 1, 2])
    assert found["acc"] == pytest.approx(sk.accuracy_score(y, decided))
    assert found["brier"] == pytest.approx(((p - one_hot) ** 2).sum(axis=1).mean())
    assert found["log_loss"] == pytest.approx(sk.log_loss(y, p, labels=[0, 1, 2]))
    assert np.isnan(found["net_benefit"])
    rest = [loop_ece(one_hot[:, k], p[:, k]) for k in range(3)]
    assert found["ece"] == pytest.approx(np.mean(rest))
    if len(set(y)) < 3:
        assert np.isnan([found[m] for m in ("sensitivity", "npv", "auprc_negative")]).all()
        assert all(np.isnan(found[m]) for m in ("auroc", "auprc", "mAP", "mAR", "mF1"))
        return
    assert found["auroc"] == pytest.approx(sk.roc_auc_score(y, p, multi_class="ovr"))
    assert found["auprc"] == pytest.approx(sk.average_precision_score(one_hot, p, average="macro"))
    against_rest = {
        "specificity": lambda y, d, p: sk.recall_score(y, d, pos_label=0),
        "sensitivity": lambda y, d, p: sk.recall_score(y, d),
        "ppv": lambda y, d, p: sk.precision_score(y, d, zero_division=np.nan),
        "npv": lambda y, d, p: sk.precision_score(y, d, pos_label=0, zero_division=np.nan),
        "auprc_negative": lambda y, d, p: sk.average_precision_score(1 - y, -p),
        "sensitivity_at_90_specificity": lambda y, d, p: point(True)(y, p),
        "calibration_slope": lambda y, d, p: line(y, p)[0],
    }
    for name, score in against_rest.items():
        columns = ((one_hot[:, k], (decided == k).astype(int), p[:, k]) for k in range(3))
        oracle = np.mean([score(*column) for column in columns])
        assert found[name] == pytest.approx(oracle, nan_ok=True, rel=1e-5, abs=1e-8)
    scores = {"mAP": sk.precision_score, "mAR": sk.recall_score, "mF1": sk.f1_score}
    for name, score in scores.items():
        oracle = score(y, decided, labels=[0, 1, 2], average="macro", zero_division=0)
        assert found[name] == pytest.approx(oracle)


def test_scores_of_any_scale_can_be_ranked():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 200)
    logit = 40 * rng.normal(size=200) + 3 * y
    assert auroc(y, logit) == pytest.approx(sk.roc_auc_score(y, logit))
    assert auprc(y, logit) == pytest.approx(sk.average_precision_score(y, logit))


def test_auroc_of_a_million_is_fast():
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 2, 10**6), rng.random(10**6)
    started = time.perf_counter()
    assert auroc(y, p) == pytest.approx(0.5, abs=0.01)
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize(
    ("label", "prob", "says"),
    [
        ([0, 1], [0.1, 0.2, 0.3], "need"),
        ([0, 1], [[0.1], [0.2]], "need"),
        ([0, 1], [0.1, float("nan")], "NaN for 1 of 2"),
        ([0, 2], [0.1, 0.2], "0 … 1"),
        ([0, -1], [0.1, 0.2], "0 … 1"),
        ([0, 0.5], [0.1, 0.2], "0 … 1"),
        ([0, 1], [0.1, 1.2], "outside"),
    ],
)
def test_wrong_arrays_are_said_so(label, prob, says):
    with pytest.raises(ValueError, match=says):
        metrics(label, prob)


def test_no_samples_have_no_metrics():
    assert all(np.isnan(v) for v in metrics(np.empty(0, int), np.empty(0)).values())


@pytest.mark.parametrize("criterion", ["f1", "youden"])
@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 8)), min_size=1, max_size=30))
def test_the_threshold_is_the_best_of_all(criterion, rows):
    y, p = np.array(rows).T
    p = p / 8
    t = choose_threshold(y, p, criterion)
    if len(set(y)) == 1:
        assert t == 0.5
        return

    def score(t):
        if criterion == "f1":
            return sk.f1_score(y, p >= t, average="macro", zero_division=0)
        return sk.balanced_accuracy_score(y, p >= t)

    # every cut but the one that decides for nobody
    assert score(t) == pytest.approx(max(score(other) for other in np.unique(p)))


def test_equally_good_thresholds_give_the_one_nearest_to_a_half():
    assert choose_threshold([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.9]) == pytest.approx(0.4)
    # J is 0.5 at 0.2 and at 0.85, 0 between them
    assert choose_threshold([0, 1, 0, 1], [0.1, 0.3, 0.8, 0.9], "youden") == pytest.approx(0.2)


def test_neighbouring_floats_are_told_apart():
    low = 0.3
    high = np.nextafter(low, 1)
    assert choose_threshold([0, 0, 1], [low, low, high]) == high


@pytest.mark.parametrize(
    ("prob", "criterion", "says"),
    [([0.1, 0.2], "j", "'youden'"), ([[0.1, 0.2, 0.7]] * 2, "f1", "2 classes")],
)
def test_a_threshold_that_cannot_be_chosen(prob, criterion, says):
    with pytest.raises(ValueError, match=says):
        choose_threshold([0, 1], prob, criterion)
