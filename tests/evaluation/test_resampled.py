"""The corrected resampled t-test: by hand, against scipy's plain test, and under the null."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from adacomed.errors import InputError
from adacomed.evaluation.resampled import corrected_resampled, corrected_resampled_p

FIVE = [0.02, 0.01, 0.03, 0.0, 0.04]  # mean .02, variance .00025


def test_by_hand() -> None:
    """t² = .0004 / ((1/5 + 100/400) · .00025) = 32/9; Student's F with 4 degrees in closed form."""
    F = 0.5 + 3 / 8 * math.sqrt(32 / 17) * (1 - 32 / 204)
    assert round(2 * (1 - F), 4) == 0.1324
    assert corrected_resampled_p(FIVE, 400, 100) == pytest.approx(2 * (1 - F), rel=1e-9)
    assert corrected_resampled_p([-x for x in FIVE], 400, 100) == pytest.approx(2 * (1 - F))
    # 2 degrees: p = 1 − t / √(2 + t²); mean .02, variance .0001, 1/3 + 1/2
    t = 0.02 / math.sqrt(5 / 6 * 0.0001)
    expected = 1 - t / math.sqrt(2 + t**2)
    assert corrected_resampled_p([0.01, 0.02, 0.03], 20, 10) == pytest.approx(expected, rel=1e-9)


def test_without_correction_it_is_scipys_t_test() -> None:
    values = np.random.default_rng(0).normal(0.01, 0.02, 15)
    assert corrected_resampled_p(values, 100, 0) == pytest.approx(
        stats.ttest_1samp(values, 0).pvalue, rel=1e-9
    )
    assert corrected_resampled_p(values, 100, 25) > stats.ttest_1samp(values, 0).pvalue


def test_edges() -> None:
    assert corrected_resampled_p([*FIVE, math.nan], 400, 100) == corrected_resampled_p(
        FIVE, 400, 100
    )
    assert corrected_resampled_p([0.0, 0.0, 0.0], 4, 1) == 1
    assert math.isnan(corrected_resampled_p([0.1, 0.1, 0.1], 4, 1))
    assert math.isnan(corrected_resampled_p([0.1, math.nan], 4, 1))
    for train, test in ((0, 1), (1, -1), (math.nan, 1)):
        with pytest.raises(ValueError, match="train > 0"):
            corrected_resampled_p(FIVE, train, test)


@pytest.fixture
def folds() -> pl.DataFrame:
    """90 patients, 3 repeats of 3 folds, 2 seeds; one method ranks better than the others."""
    rng = np.random.default_rng(1)
    label = rng.integers(0, 2, 90)
    parts = []
    for method, signal in (("adacomed", 1.2), ("forest", 0.4), ("small", 1.1)):
        for repeat in range(3):
            fold = np.random.default_rng(repeat).permutation(90) % 3
            for seed in range(2):
                prob = 1 / (1 + np.exp(-signal * label - rng.normal(size=90)))
                ids = [f"p{i}" for i in range(90)]
                rows = {"sample_id": ids, "subject_id": ids, "fold": fold, "label": label}
                parts.append(
                    pl.DataFrame(rows | {"prob": prob}).with_columns(
                        split=pl.lit("test"),
                        task=pl.lit("t"),
                        method=pl.lit(method),
                        repeat=repeat,
                        seed=seed,
                    )
                )
    return pl.concat(parts).with_columns(pl.col("fold", "repeat", "seed").cast(pl.Int64))


@pytest.mark.parametrize(
    ("metric", "oracle"), [("auroc", roc_auc_score), ("auprc", average_precision_score)]
)
def test_over_folds_against_scikit_learn_and_scipy(folds, metric, oracle) -> None:
    validation = folds.with_columns(split=pl.lit("val"), prob=1 - pl.col("prob"))  # not looked at
    given = pl.concat([folds, validation])
    found = corrected_resampled(given, train=60, test=0, metric=metric)
    values: dict[str, list[float]] = {}
    keys = ["method", "repeat", "fold"]
    for (method, *_), rows in sorted(folds.partition_by(keys, as_dict=True).items()):
        both = [oracle(s["label"], s["prob"]) for s in rows.partition_by("seed")]
        values.setdefault(str(method), []).append(float(np.mean(both)))
    assert found["method"].to_list() == ["forest", "small"]
    assert found["folds"].to_list() == [9, 9]
    plain = []
    for row in found.iter_rows(named=True):
        differences = np.subtract(values["adacomed"], values[row["method"]])
        assert row["difference"] == pytest.approx(differences.mean(), abs=1e-12)
        plain.append(stats.ttest_1samp(differences, 0).pvalue)
        assert row["p_resampled"] == pytest.approx(plain[-1], rel=1e-6)
    holm = [min(1.0, p * (2 if p == min(plain) else 1)) for p in plain]
    assert found["p_resampled_holm"].to_list() == pytest.approx(
        np.maximum(holm, min(holm)), rel=1e-6
    )
    corrected = corrected_resampled(given, train=60, test=30, metric=metric)
    assert (corrected["p_resampled"] > found["p_resampled"]).all()


def test_mistakes_are_named(folds) -> None:
    with pytest.raises(InputError, match=r"'aurok'.*'auroc'"):
        corrected_resampled(folds, train=2, test=1, metric="aurok")
    with pytest.raises(InputError, match="'adacomet'"):
        corrected_resampled(folds, train=2, test=1, reference="adacomet")
    with pytest.raises(InputError, match="'fold'"):
        corrected_resampled(folds.drop("fold"), train=2, test=1)


def test_it_keeps_its_level_where_the_plain_test_does_not() -> None:
    """No difference, 100 patients in three repeats: the plain test takes them for 300."""
    rng, runs = np.random.default_rng(3), 400
    folds = [np.random.default_rng(repeat).permutation(100) % 5 for repeat in range(3)]
    plain = corrected = 0
    for _ in range(runs):
        gain = rng.normal(size=100)  # of one rule over the other, per patient
        differences = [gain[fold == f].mean() for fold in folds for f in range(5)]
        plain += stats.ttest_1samp(differences, 0).pvalue < 0.05
        corrected += corrected_resampled_p(differences, 80, 20) < 0.05
    assert plain / runs > 0.15
    assert corrected / runs < 0.05
