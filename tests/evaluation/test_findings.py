"""The mean over several findings: against scikit-learn, with gaps, repeats and clusters."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from adacomed.errors import InputError
from adacomed.evaluation.findings import mean_auroc, paired_findings, summarise_findings

NAMES = ["oedema", "effusion", "nodule"]


def drawn(n: int = 120, seed: int = 0):
    """Labels with gaps and scores of three findings, (N, 3) each."""
    rng = np.random.default_rng(seed)
    y = (rng.random((n, 3)) < [0.5, 0.3, 0.15]).astype(float)
    p = np.round(1 / (1 + np.exp(-(1.2 * y + rng.normal(size=(n, 3)) - 0.6))), 2)  # with ties
    y[rng.random((n, 3)) < [0, 0.2, 0.1]] = np.nan
    return y, p


def rows(y, p, method: str = "adacomed", **same) -> pl.DataFrame:
    """A predictions table; an unlabelled finding has a row with a null label."""
    n = len(y)
    parts = []
    for j, name in enumerate(NAMES):
        columns = {
            "sample_id": [f"p{i:03d}" for i in range(n)],
            "subject_id": [f"p{i:03d}" for i in range(n)],
            "split": "test",
            "task": f"chest: {name}",
            "label": pl.Series([None if np.isnan(v) else int(v) for v in y[:, j]], dtype=pl.Int64),
            "prob": p[:, j],
            "threshold": 0.5,
            "method": method,
        }
        parts.append(pl.DataFrame(columns | same))
    return pl.concat(parts)


def oracle(score, y, p) -> float:
    known = ~np.isnan(y)
    return float(np.mean([score(y[k, j], p[k, j]) for j, k in enumerate(known.T)]))


def one(frame: pl.DataFrame) -> dict:
    [row] = frame.iter_rows(named=True)
    return row


# ---- arrays -------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(4))
def test_the_mean_auroc_is_scikit_learns(seed):
    y, p = drawn(seed=seed)
    assert mean_auroc(y, p) == pytest.approx([oracle(roc_auc_score, y, p)])


def test_a_weight_is_a_patient_drawn_again():
    y, p = drawn()
    counts = np.random.default_rng(1).integers(0, 3, size=(3, len(y)))
    again = [np.repeat(np.arange(len(y)), row) for row in counts]
    expected = [oracle(roc_auc_score, y[i], p[i]) for i in again]
    assert mean_auroc(y, p, counts) == pytest.approx(expected)


def test_a_finding_of_one_class_is_left_out_of_the_mean():
    y, p = drawn()
    y[:, 1] = np.where(np.isnan(y[:, 1]), np.nan, 0)
    known = ~np.isnan(y[:, 2])
    expected = [roc_auc_score(y[:, 0], p[:, 0]), roc_auc_score(y[known, 2], p[known, 2])]
    assert mean_auroc(y, p) == pytest.approx([np.mean(expected)])
    assert np.isnan(mean_auroc(np.zeros((4, 2)), np.ones((4, 2)))).all()
    assert np.isnan(mean_auroc(np.full((4, 2), np.nan), np.ones((4, 2)))).all()
    with pytest.raises(ValueError, match=r"one shape \(N, J\)"):
        mean_auroc(y, p[:, :2])


# ---- the summary --------------------------------------------------------------------------------
def test_the_summary_is_scikit_learns():
    y, p = drawn()
    found = one(summarise_findings(rows(y, p), "chest", NAMES, n=100))
    for name, score in (
        ("auroc", roc_auc_score),
        ("auprc", average_precision_score),
        ("brier", brier_score_loss),
    ):
        assert found[name] == pytest.approx(oracle(score, y, p))
        assert found[f"{name}_low"] < found[name] < found[f"{name}_high"]
    assert (found["task"], found["method"]) == ("chest", "adacomed")
    assert (found["findings"], found["n"], found["note"]) == (3, len(y), "")


def test_a_metric_at_the_threshold_uses_each_findings_own():
    y, p = drawn()
    cuts = pl.Series([0.3] * 120 + [0.5] * 120 + [0.7] * 120)
    frame = rows(y, p).with_columns(threshold=cuts)
    found = one(summarise_findings(frame, "chest", NAMES, metrics=["sensitivity"], n=10))
    shares = [(p[y[:, j] == 1, j] >= cut).mean() for j, cut in enumerate((0.3, 0.5, 0.7))]
    assert found["sensitivity"] == pytest.approx(np.mean(shares))
    halves = one(
        summarise_findings(rows(y, p).drop("threshold"), "chest", NAMES, metrics=["acc"], n=10)
    )
    known = ~np.isnan(y)
    right = [((p[k, j] >= 0.5) == y[k, j]).mean() for j, k in enumerate(known.T)]
    assert halves["acc"] == pytest.approx(np.mean(right))


def test_repeats_are_averaged():
    (y, p), (_, q) = drawn(), drawn(seed=5)
    both = pl.concat([rows(y, p, repeat=0, seed=0), rows(y, q, repeat=1, seed=0)])
    found = one(summarise_findings(both, "chest", NAMES, n=20))
    means = [oracle(roc_auc_score, y, x) for x in (p, q)]
    assert found["auroc"] == pytest.approx(np.mean(means))
    assert found["n"] == len(y)
    with pytest.raises(InputError, match="twice"):
        summarise_findings(both.drop("repeat"), "chest", NAMES, n=20)


def test_a_patients_rows_are_drawn_together():
    y, p = drawn(60)
    frame = rows(y, p)
    twice = pl.concat([frame, frame.with_columns(sample_id=pl.col("sample_id") + "b")])
    single, double = (one(summarise_findings(f, "chest", NAMES, n=100)) for f in (frame, twice))
    assert double["n"] == 2 * single["n"]
    for limit in ("auroc_low", "auroc_high"):
        assert double[limit] == pytest.approx(single[limit])


def test_what_is_left_out_is_named_and_what_is_unknown_is_an_error():
    y, p = drawn()
    y[:, 2] = 0
    found = one(summarise_findings(rows(y, p), "chest", NAMES, n=20))
    assert found["findings"] == 2
    assert found["note"] == "left out of AUROC, of one class only: nodule"
    with pytest.raises(InputError, match="no metric 'auroc2'; did you mean 'auroc'"):
        summarise_findings(rows(y, p), "chest", NAMES, metrics=["auroc2"])
    with pytest.raises(InputError, match="no labelled row of split 'val' is of a finding"):
        summarise_findings(rows(y, p), "chest", NAMES, split="val")


def test_the_order_of_rows_and_a_seed_decide_nothing_else():
    y, p = drawn()
    frame = rows(y, p)
    first = summarise_findings(frame, "chest", NAMES, n=40, seed=2)
    mixed = frame.sample(fraction=1, shuffle=True, seed=1)
    assert summarise_findings(mixed, "chest", NAMES, n=40, seed=2).equals(first)
    assert not summarise_findings(frame, "chest", NAMES, n=40, seed=3).equals(first)


# ---- pairs --------------------------------------------------------------------------------------
def test_a_difference_is_between_the_two_means():
    y, p = drawn()
    worse = np.random.default_rng(9).random(p.shape)
    frame = pl.concat([rows(y, p), rows(y, worse, "small"), rows(y, p, "copy")])
    found = paired_findings(frame, "chest", NAMES, n=200)
    small, copy = (one(found.filter(method=m)) for m in ("small", "copy"))
    gap = oracle(roc_auc_score, y, p) - oracle(roc_auc_score, y, worse)
    assert small["difference"] == pytest.approx(gap)
    assert 0 < small["low"] < gap < small["high"]
    assert small["p"] == pytest.approx(2 / 201)
    assert small["p_holm"] == pytest.approx(2 * small["p"])
    assert (copy["difference"], copy["low"], copy["high"], copy["p"]) == (0, 0, 0, 1)
    assert small["n"] == len(y)
    # the variance of a paired difference: below that of two cohorts
    apart = summarise_findings(frame, "chest", NAMES, n=200)
    width = sum(
        (r["auroc_high"] - r["auroc_low"]) ** 2
        for r in (one(apart.filter(method=m)) for m in ("adacomed", "copy"))
    )
    assert width > 0 == copy["high"] - copy["low"]


def test_only_the_same_patients_can_be_paired():
    y, p = drawn()
    frame = pl.concat([rows(y, p), rows(y, p, "small").filter(pl.col("sample_id") != "p003")])
    with pytest.raises(InputError, match=r"1 samples are in one only \(p003"):
        paired_findings(frame, "chest", NAMES)
    with pytest.raises(InputError, match="no method 'smal' to compare with; did you mean 'small'"):
        paired_findings(frame, "chest", NAMES, reference="smal")
    assert paired_findings(rows(y, p), "chest", NAMES).is_empty()
