from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score

from adacomed.evaluation.discrimination import METRICS
from adacomed.evaluation.intervals import (
    bootstrap,
    bootstrap_p,
    delong,
    delong_covariance,
    holm,
    paired_delong,
    percentile,
    wilson,
)
from adacomed.evaluation.scored import Scored


def scores(n=80, ties=False, seed=0):
    rng = np.random.default_rng(seed)
    y = (np.arange(n) % 3 == 0).astype(int)
    a = 1.2 * y + rng.normal(size=n)
    b = 0.7 * a + rng.normal(size=n)
    return (y, np.round(a), np.round(b)) if ties else (y, a, b)


def placements(y, p):
    """DeLong's structural components by comparing every positive with every negative."""
    pos, neg = p[y == 1][:, None], p[y == 0][None, :]
    kernel = (pos > neg) + 0.5 * (pos == neg)
    return kernel.mean(axis=1), kernel.mean(axis=0)


@pytest.mark.parametrize("ties", [False, True])
def test_delong_against_explicit_placement_values(ties):
    y, a, b = scores(ties=ties)
    area, covariance = delong_covariance(y, np.stack([a, b]))
    first, second = placements(y, a), placements(y, b)
    assert area == pytest.approx([roc_auc_score(y, a), roc_auc_score(y, b)])
    oracle = sum(np.cov(u, v) / len(u) for u, v in zip(first, second, strict=True))
    np.testing.assert_allclose(covariance, oracle, atol=1e-14)


def test_delong_interval_is_the_normal_one():
    y, a, _ = scores()
    area, covariance = delong_covariance(y, a[None])
    error = np.sqrt(covariance[0, 0])
    z = norm.ppf(0.975)
    assert delong(y, a) == pytest.approx((area[0], area[0] - z * error, area[0] + z * error))
    value, low, high = delong(y, a, logit_scale=True)
    assert 0 < low < value < high < 1
    assert np.log(high / (1 - high)) + np.log(low / (1 - low)) == pytest.approx(
        2 * np.log(value / (1 - value))
    )


def test_delong_has_no_limits_where_there_is_no_variance():
    assert np.isnan(delong([0, 0], [0.1, 0.2])).all()
    for y, p in (([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9]), ([0, 1], [0.1, 0.2])):
        value, low, high = delong(y, p)
        assert value == 1
        assert np.isnan([low, high]).all()
    assert delong([0, 0, 1, 1, 1], [0.1, 0.7, 0.6, 0.8, 0.9]).high == 1.0
    with pytest.raises(ValueError, match="need label"):
        delong([0, 2], [0.1, 0.2])


def test_paired_delong_by_its_formula():
    y, a, b = scores()
    area, c = delong_covariance(y, np.stack([a, b]))
    found = paired_delong(y, a, b)
    z = (area[0] - area[1]) / np.sqrt(c[0, 0] + c[1, 1] - 2 * c[0, 1])
    assert found.difference == pytest.approx(area[0] - area[1])
    assert found.p == pytest.approx(2 * norm.sf(abs(z)))
    assert (found.low > 0) == (z > norm.ppf(0.975))
    back = paired_delong(y, b, a)
    assert back == pytest.approx((-found.difference, -found.high, -found.low, found.p))


def test_paired_delong_of_equal_ranks_and_of_no_variance():
    y, a, _ = scores()
    assert paired_delong(y, a, np.exp(a)) == (0, 0, 0, 1)
    found = paired_delong([0, 0, 1, 1], [1, 2, 3, 4], [4, 3, 2, 1])
    assert found.difference == 1
    assert np.isnan(found.p)
    assert np.isnan(paired_delong([0, 0], [1, 2], [2, 1])).all()


def test_delong_covers_the_truth():
    rng = np.random.default_rng(0)
    truth = norm.cdf(1 / np.sqrt(2))
    y = np.repeat([0, 1], [70, 30])
    found = [delong(y, y + rng.normal(size=100)) for _ in range(600)]
    covered = np.mean([low <= truth <= high for _, low, high in found])
    assert 0.92 < covered < 0.975


def ranking(columns, weight):
    scored = Scored.of(columns["label"], columns["prob"], weight=weight)
    return np.stack([METRICS[m].function(scored) for m in ("auroc", "auprc")], axis=1)


def test_resamples_against_scikit_learn_on_repeated_rows():
    y, a, _ = scores(60, ties=True)
    seen = []

    def both(columns, weight):
        seen.append(weight)
        return ranking(columns, weight)

    values = bootstrap(both, {"label": y, "prob": a}, np.arange(60), n=25, seed=3)
    assert values.shape == (25, 2)
    for count, found in zip(np.concatenate(seen).astype(int), values, strict=True):
        rows = np.repeat(np.arange(60), count)
        assert len(rows) == 60
        oracle = (roc_auc_score(y[rows], a[rows]), average_precision_score(y[rows], a[rows]))
        assert found == pytest.approx(oracle)


def test_a_subject_is_drawn_with_all_its_rows_and_within_its_stratum():
    subject = np.repeat(np.arange(40), 3)
    label = np.repeat(np.arange(40) < 6, 3).astype(int)
    [weight] = [bootstrap(lambda _, w: w, {}, subject, label, n=200)]
    by_subject = weight.reshape(200, 40, 3)
    assert (by_subject == by_subject[:, :, :1]).all()
    assert (by_subject[:, :6, 0].sum(axis=1) == 6).all()
    assert (by_subject[:, 6:, 0].sum(axis=1) == 34).all()
    assert len(np.unique(by_subject[:, :6, 0], axis=0)) > 50
    # a subject drawn with probability 1/n: counts are binomial
    assert by_subject[:, 6:, 0].var() == pytest.approx(1 - 1 / 34, abs=0.05)


def test_a_subject_whose_rows_differ_is_in_the_highest_stratum():
    weight = bootstrap(lambda _, w: w, {}, ["a", "a", "b", "c"], [0, 1, 0, 1], n=100)
    assert set((weight[:, 0] + weight[:, 3]).tolist()) == {2.0}
    assert (weight[:, 2] == 1).all()


def test_resamples_depend_on_the_seed_and_not_on_the_order_of_rows():
    y, a, _ = scores(50)
    who = np.array([f"p{i}" for i in range(50)])
    order = np.random.default_rng(1).permutation(50)
    columns = {"label": y, "prob": a}
    moved = {"label": y[order], "prob": a[order]}
    first = bootstrap(ranking, columns, who, y, n=40)
    np.testing.assert_allclose(first, bootstrap(ranking, moved, who[order], y[order], n=40))
    assert not np.allclose(first, bootstrap(ranking, columns, who, y, n=40, seed=1))


def test_resamples_in_chunks_are_the_same(monkeypatch):
    y, a, _ = scores(50)
    whole = bootstrap(ranking, {"label": y, "prob": a}, np.arange(50), y, n=30)
    monkeypatch.setattr("adacomed.evaluation.intervals.CHUNK", 350)
    parts = bootstrap(ranking, {"label": y, "prob": a}, np.arange(50), y, n=30)
    np.testing.assert_array_equal(whole, parts)


def test_the_bootstrap_covers_the_truth_and_clustering_matters():
    """Each patient four times with one score: ignoring that, the interval is half as wide."""
    rng = np.random.default_rng(0)
    truth = norm.cdf(1 / np.sqrt(2))
    subject = np.repeat(np.arange(80), 4)
    y = np.repeat(np.arange(80) < 30, 4).astype(int)
    hit, naive = 0, 0
    for _ in range(120):
        p = y + np.repeat(rng.normal(size=80), 4)
        columns = {"label": y, "prob": p}
        low, high = percentile(bootstrap(ranking, columns, subject, y, n=200))
        hit += low[0] <= truth <= high[0]
        low, high = percentile(bootstrap(ranking, columns, np.arange(320), y, n=200))
        naive += low[0] <= truth <= high[0]
    assert hit / 120 > 0.88
    assert naive / 120 < 0.8


def test_percentile_leaves_undefined_resamples_out():
    values = np.arange(101.0)
    assert percentile(values) == pytest.approx((2.5, 97.5))
    some = np.where(values % 4 == 0, np.nan, values)
    assert percentile(some)[0] == pytest.approx(np.nanquantile(some, 0.025))
    mostly = np.where(values > 10, np.nan, values)
    assert np.isnan(percentile(mostly)).all()


def test_bootstrap_p_by_hand():
    values = np.concatenate([-np.ones(4), np.ones(95)])
    assert bootstrap_p(values) == pytest.approx(2 * 5 / 100)
    assert bootstrap_p(np.ones(99)) == pytest.approx(0.02)
    assert bootstrap_p(np.zeros(99)) == 1
    assert np.isnan(bootstrap_p(np.full(9, np.nan)))


def test_holm_by_hand():
    # 0.01·4, 0.02·3, max(0.03·2, 0.06), max(0.5, …)
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.9, 0.6]) == pytest.approx([1, 1])
    np.testing.assert_allclose(holm([np.nan, 0.01, 0.04]), [np.nan, 0.02, 0.04])
    assert holm([]).shape == (0,)


def test_wilson_at_the_ends():
    low, high = wilson([0, 5], [5, 5])
    assert low[0] == 0
    assert high[1] == pytest.approx(1)
    assert high[0] == pytest.approx(0.4345, abs=1e-4)  # Wilson 0 of 5
    assert 1 - low[1] == pytest.approx(high[0])
