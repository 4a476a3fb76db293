"""Prediction sets against MAPIE, what they promise held-out patients, and the table that checks."""

import json
import math

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import beta, binomtest
from sklearn.base import BaseEstimator, ClassifierMixin

from adacomed.evaluation.conformal import Sets, as_lists, as_mask, fit_sets, set_coverage


def patients(n, K=3, seed=0):
    """Labels drawn from their own probabilities; class 0 is common, the last one rare."""
    rng = np.random.default_rng(seed)
    p = softmax(1.5 * rng.normal(size=(n, K)) - np.arange(K), axis=1)
    return (rng.random(n)[:, None] > p.cumsum(axis=1)).sum(axis=1).clip(max=K - 1), p


class Given(ClassifierMixin, BaseEstimator):
    """A "trained" classifier whose inputs are its probabilities."""

    def __init__(self, K=3):
        self.K = K
        self.classes_ = np.arange(K)
        self.n_features_in_ = K
        self.is_fitted_ = True

    def fit(self, x, y):
        return self

    def predict_proba(self, x):
        return np.asarray(x)

    def predict(self, x):
        return np.asarray(x).argmax(axis=1)


def mapie_sets(y, p, new, coverage):
    mapie = pytest.importorskip("mapie.classification")
    K = p.shape[1]
    model = mapie.SplitConformalClassifier(
        estimator=Given(K), confidence_level=coverage, conformity_score="lac", prefit=True
    )
    return model.conformalize(p, y).predict_set(new)[1][:, :, 0]


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
@pytest.mark.parametrize("n", [99, 100, 357])
@pytest.mark.parametrize("K", [2, 3])
def test_marginal_sets_are_mapies(K, n, coverage):
    y, p = patients(n, K)
    new = patients(2000, K, seed=1)[1]
    ours = fit_sets(y, p, coverage, by_class=False).sets(new)
    assert np.array_equal(ours, mapie_sets(y, p, new, coverage))


def test_the_rank_is_exact_where_floating_point_is_not():
    """.55 · 100 is 55.00000000000001 to a computer: MAPIE takes the 56th score, we the 55th."""
    y, p = patients(99)
    scores = np.sort(1 - p[np.arange(99), y])
    assert fit_sets(y, p, 0.55, by_class=False).limits == (scores[54],) * 3


@pytest.mark.filterwarnings("ignore:WARNING. your conformalization dataset")
@pytest.mark.parametrize("K", [2, 3])
def test_class_conditional_sets_are_mapies_on_each_class(K):
    y, p = patients(500, K)
    new = patients(2000, K, seed=1)[1]
    ours = fit_sets(y, p, 0.9).sets(new)
    for k in range(K):
        theirs = mapie_sets(y[y == k], p[y == k], new, 0.9)
        assert np.array_equal(ours[:, k], theirs[:, k])


def test_group_conditional_sets_are_those_of_the_group_alone():
    y, p = patients(900)
    group = np.where(np.arange(900) % 3 == 0, "F", "M")
    new = patients(50, seed=1)[1]
    both = fit_sets(y, p, 0.9, group)
    assert not both.notes
    for name in "FM":
        alone = fit_sets(y[group == name], p[group == name], 0.9)
        assert both.groups[name] == alone.limits
        assert np.array_equal(both.sets(new, [name] * 50), alone.sets(new))
    everyone = fit_sets(y, p, 0.9)
    assert both.limits == everyone.limits
    for unknown in ("X", None, float("nan")):
        assert np.array_equal(both.sets(new, [unknown] * 50), everyone.sets(new))


def test_a_small_group_borrows_everyones_limit_and_says_so():
    y, p = patients(600)
    group = np.array(["large"] * 560 + ["small"] * 40, dtype=object)
    fitted = fit_sets(y, p, 0.9, group)
    counts = [int(((group == "small") & (y == k)).sum()) for k in range(3)]
    assert min(counts) < 30
    for k, count in enumerate(counts):
        assert (fitted.groups["small"][k] == fitted.limits[k]) == (count < 30)
        said = f"group small, class {k}: {count} patients, everyone's limit is used"
        assert (said in fitted.notes) == (count < 30)


@pytest.mark.parametrize(
    ("n", "coverage", "always"),
    [(0, 0.9, True), (8, 0.9, True), (9, 0.9, False), (18, 0.95, True), (19, 0.95, False)],
)
def test_too_few_patients_leave_the_class_in_every_set(n, coverage, always):
    y = np.array([0] * 200 + [1] * n)
    p = np.random.default_rng(0).dirichlet([1, 1], len(y))
    fitted = fit_sets(y, p, coverage)
    assert math.isinf(fitted.limits[1]) == always
    assert bool(fitted.notes) == always
    if always:
        assert f"class 1: {n} calibration patients" in fitted.notes[0]
        assert fitted.sets([[1.0, 0.0]]).tolist() == [[True, True]]
    else:  # the largest score of so few
        assert fitted.limits[1] == (1 - p[y == 1, 1]).max()


def test_coverage_follows_its_beta_distribution():
    """Of a class's n calibration patients: Beta(r, n + 1 − r), by theory; 400 draws."""
    y, p = patients(40_000, 2, seed=5)
    pool = np.flatnonzero(y == 1)
    rng = np.random.default_rng(0)
    found = []
    for _ in range(400):
        drawn = rng.choice(pool, 60, replace=False)
        limit = fit_sets(y[drawn], p[drawn], 0.9).limits[1]
        found.append((1 - p[pool, 1] <= limit).mean())
    theory = beta(math.ceil(61 * 0.9), 61 - math.ceil(61 * 0.9))
    assert np.mean(found) == pytest.approx(theory.mean(), abs=0.006)
    assert np.std(found) == pytest.approx(theory.std(), abs=0.005)


def test_each_class_is_covered_and_by_the_marginal_sets_the_rare_one_is_not():
    y, p = patients(3000, seed=1)
    new_y, new = patients(30_000, seed=2)
    by_class = set_coverage(new_y, fit_sets(y, p, 0.9).sets(new))
    assert by_class["coverage"].to_numpy() == pytest.approx(0.9, abs=0.03)
    together = set_coverage(new_y, fit_sets(y, p, 0.9, by_class=False).sets(new))
    assert together["coverage"][0] == pytest.approx(0.9, abs=0.02)
    assert together["coverage"][3] < 0.85


def test_a_rising_map_of_a_binary_probability_changes_no_set():
    y, p = patients(400, 2)
    new = patients(1000, 2, seed=1)[1]

    def bent(prob):
        return np.stack([1 - prob[:, 1] ** 3, prob[:, 1] ** 3], axis=1)

    before = fit_sets(y, p, 0.9).sets(new)
    assert np.array_equal(fit_sets(y, bent(p), 0.9).sets(bent(new)), before)


def test_saved_as_json_the_limits_are_the_same_bits():
    y, p = patients(300)
    group = np.where(np.arange(300) < 10, "few", "many")
    fitted = fit_sets(y[y < 2], p[y < 2], 0.9, group[y < 2])  # nobody of class 2: ∞
    text = json.dumps(fitted.to_dict(), allow_nan=False)
    assert Sets.from_dict(json.loads(text)) == fitted


def test_the_table_by_hand_and_by_scipy():
    label = [0, 0, 0, 1, 1]
    sets = [[1, 0], [1, 1], [0, 1], [0, 0], [0, 1]]
    table = set_coverage(label, np.array(sets, bool), ["a", "a", "b", "b", None])
    assert table["group"].to_list() == [None] * 3 + ["a"] * 3 + ["b"] * 3
    assert table["class"].to_list() == [None, 0, 1] * 3
    everyone = table.row(0, named=True)
    assert (everyone["n"], everyone["covered"]) == (5, 3)
    assert everyone["coverage"] == pytest.approx(0.6)
    assert everyone["size"] == pytest.approx(1.0)
    assert everyone["abstain"] == pytest.approx(0.4)
    assert everyone["empty"] == pytest.approx(0.2)
    oracle = binomtest(3, 5).proportion_ci(method="wilson")
    assert (everyone["low"], everyone["high"]) == pytest.approx((oracle.low, oracle.high))
    assert "5 patients" in everyone["note"]
    nobody = table.row(5, named=True)  # class 1 in group a
    assert (nobody["n"], nobody["coverage"], nobody["note"]) == (0, None, "no patient")


def test_lists_and_masks():
    mask = np.array([[True, False, True], [False, False, False], [False, True, False]])
    assert as_lists(mask) == [[0, 2], [], [1]]
    assert np.array_equal(as_mask(as_lists(mask), 3), mask)
    with pytest.raises(ValueError, match="class 3"):
        as_mask([[3]], 3)


@pytest.mark.parametrize(
    ("y", "p", "coverage", "says"),
    [
        ([0, 1], [[0.5, 0.5], [0.5, 0.5]], 1.0, "coverage"),
        ([0, 2], [[0.5, 0.5], [0.5, 0.5]], 0.9, "classes 0"),
        ([0], [[0.5, 0.5], [0.5, 0.5]], 0.9, "need"),
        ([0, 1], [[0.5, np.nan], [0.5, 0.5]], 0.9, "1 of 2 samples"),
    ],
)
def test_wrong_arrays_are_said_so(y, p, coverage, says):
    with pytest.raises(ValueError, match=says):
        fit_sets(y, p, coverage)


def test_wrong_shapes_afterwards_are_said_so():
    fitted = fit_sets(*patients(100))
    with pytest.raises(ValueError, match="expected"):
        fitted.sets([[0.5, 0.5]])
    with pytest.raises(ValueError, match="groups"):
        fitted.sets([[0.2, 0.3, 0.5]], ["a", "b"])
    with pytest.raises(ValueError, match="classes 0"):
        set_coverage([3], [[True, True, True]])
    with pytest.raises(ValueError, match="need"):
        set_coverage([0, 1], [[True, True]])
