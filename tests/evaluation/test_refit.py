"""A table recalibrated, or given sets, from its own validation rows: each model on its own."""

import numpy as np
import polars as pl
import pytest
from scipy.special import expit, logit

from adacomed.errors import InputError
from adacomed.evaluation.discrimination import choose_threshold
from adacomed.evaluation.recalibration import fit_calibrator
from adacomed.evaluation.refit import coverage_table, recalibrated, with_sets


def table(seed=0, n=400, methods=("a", "b")):
    """Two methods; b's log-odds are twice too large."""
    rng = np.random.default_rng(seed)
    p = rng.beta(1.5, 3, n)
    y = (rng.random(n) < p).astype(int)
    parts = []
    for method in methods:
        prob = p if method == "a" else expit(2 * logit(p))
        parts.append(
            pl.DataFrame(
                {
                    "sample_id": [f"s{i}" for i in range(n)],
                    "subject_id": [f"s{i}" for i in range(n)],
                    "split": ["val" if i % 2 else "test" for i in range(n)],
                    "task": "t",
                    "label": y,
                    "prob": prob,
                    "method": method,
                    "fold": [0] * n,
                }
            )
        )
    return pl.concat(parts)


def test_each_method_is_calibrated_on_its_own_validation_rows():
    before = table()
    after = recalibrated(before, "temperature")
    assert after["sample_id"].to_list() == before["sample_id"].to_list()
    for method in ("a", "b"):
        rows = before.filter(pl.col("method") == method)
        val = rows.filter(pl.col("split") == "val")
        p = val["prob"].to_numpy()
        own = fit_calibrator("temperature", val["label"].to_numpy(), np.stack([1 - p, p], 1))
        new = after.filter(pl.col("method") == method)
        every = rows["prob"].to_numpy()
        expected = own.apply(np.stack([1 - every, every], axis=1))[:, 1]
        np.testing.assert_allclose(new["prob"], expected, atol=1e-12)
        cut = choose_threshold(val["label"], own.apply(np.stack([1 - p, p], 1))[:, 1])
        assert new["threshold"].unique().to_list() == [cut]
    # b said twice what a says of the log-odds: calibrated, they agree
    a, b = (after.filter(pl.col("method") == m)["prob"].to_numpy() for m in ("a", "b"))
    np.testing.assert_allclose(a, b, atol=0.03)


def test_labels_of_test_rows_change_nothing():
    one = table()
    hidden = pl.when(pl.col("split") == "test").then(None).otherwise(pl.col("label"))
    blind = one.with_columns(hidden.alias("label"))
    kept = ["prob", "threshold"]
    assert recalibrated(one, "platt").select(kept).equals(recalibrated(blind, "platt").select(kept))
    first, second = with_sets(one, 0.9), with_sets(blind, 0.9)
    assert first["prediction_set"].equals(second["prediction_set"])


def test_sets_cover_and_are_counted():
    found = coverage_table(with_sets(table(n=6000, methods=("a",)), 0.9))
    assert found["method"].to_list() == ["a"] * 3
    assert found["class"].to_list() == [None, 0, 1]
    assert found["coverage"].to_list() == pytest.approx([0.9] * 3, abs=0.02)
    assert coverage_table(table()).is_empty()


def test_the_ceiling_of_a_simulation_is_fitted_on_nobody():
    bayes = table(methods=("a",)).filter(pl.col("split") == "test")
    both = pl.concat([table(), bayes.with_columns(pl.lit("bayes").alias("method"))])
    for changed in (recalibrated(both, "platt"), with_sets(both, 0.9)):
        assert len(changed) == len(both)
        kept = changed.filter(pl.col("method") == "bayes")
        assert kept["prob"].equals(bayes["prob"])


def test_three_classes():
    rng = np.random.default_rng(3)
    prob = rng.dirichlet([1, 1, 1], 300)
    y = np.array([rng.choice(3, p=p) for p in prob])
    rows = pl.DataFrame(
        {
            "sample_id": [f"s{i}" for i in range(300)],
            "subject_id": [f"s{i}" for i in range(300)],
            "split": ["val", "test"] * 150,
            "task": "t",
            "label": y,
            "prob": prob.max(axis=1),
            **{f"prob_{k}": prob[:, k] for k in range(3)},
            "method": "a",
        }
    )
    after = recalibrated(rows, "platt")
    total = after.select(pl.sum_horizontal("prob_0", "prob_1", "prob_2")).to_series()
    np.testing.assert_allclose(total, 1, atol=1e-12)
    assert after["prob"].equals(after.select(pl.max_horizontal("^prob_.$")).to_series())
    assert coverage_table(with_sets(after, 0.8))["coverage"][0] > 0.7


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (lambda t: recalibrated(t, "plat"), "no calibration 'plat'; did you mean 'platt'"),
        (
            lambda t: recalibrated(t.filter(pl.col("split") == "test"), "platt"),
            "'a' has no labelled rows of split 'val'",
        ),
        (lambda t: with_sets(t, 90), "coverage 90: expected a share between 0 and 1"),
    ],
)
def test_wrong_input_is_one_sentence(do, message):
    with pytest.raises(InputError, match=message):
        do(table())
