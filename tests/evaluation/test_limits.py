"""Which interval a figure gets, Newcombe's interval, and a reason beside every NaN."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from scipy.special import expit, logit
from scipy.stats import binomtest, norm
from scipy.stats import t as student

from adacomed.evaluation.compare import summarise
from adacomed.evaluation.discrimination import METRICS
from adacomed.evaluation.intervals import delong, delong_covariance
from adacomed.evaluation.limits import bootstrap_limits
from adacomed.evaluation.newcombe import newcombe

# Hanley & McNeil, Radiology 1982, Table I: ratings 1 … 5 of 58 normal and 51 abnormal CT images
NORMAL, ABNORMAL = (33, 6, 6, 11, 2), (3, 2, 2, 11, 33)


def hanley():
    ratings = np.repeat(np.tile(np.arange(5), 2), [*NORMAL, *ABNORMAL])
    return np.repeat([0, 1], [58, 51]), ratings


def test_delong_gives_the_published_figures():
    """Stata's manual, `roctab` (DeLong by default): 0.8932, SE 0.0307, 0.83295 to 0.95339."""
    y, rating = hanley()
    area, covariance = delong_covariance(y, rating[None])
    assert area[0] == pytest.approx(0.8932, abs=5e-5)
    assert math.sqrt(covariance[0, 0]) == pytest.approx(0.0307, abs=1e-4)
    assert delong(y, rating)[1:] == pytest.approx((0.83295, 0.95339), abs=5e-5)


def test_students_degrees_by_satterthwaites_formula():
    y, rating = hanley()
    above = rating[y == 1][:, None] > rating[y == 0]
    kernel = above + 0.5 * (rating[y == 1][:, None] == rating[y == 0])
    parts = [kernel.mean(axis=1 - axis) for axis in (0, 1)]
    s = [v.var(ddof=1) / len(v) for v in parts]
    degrees = sum(s) ** 2 / sum(a**2 / (len(v) - 1) for a, v in zip(s, parts, strict=True))
    area, error = kernel.mean(), math.sqrt(sum(s))
    half = student.isf(0.025, degrees) * error
    found = delong(y, rating, student=True)
    assert found[1:] == pytest.approx((area - half, min(1, area + half)))
    scaled = half / (area * (1 - area))
    found = delong(y, rating, student=True, logit_scale=True)
    assert found[1:] == pytest.approx(tuple(expit(logit(area) + np.array([-scaled, scaled]))))


@pytest.mark.parametrize(("area", "m", "n"), [(0.7, 10, 90), (0.95, 40, 7), (1, 12, 30), (0, 1, 5)])
def test_newcombe_solves_its_equation_and_mirrors(area, m, n):
    value, low, high = newcombe(area, m, n)
    assert low <= value <= high
    z, N = norm.ppf(0.975), (m + n) / 2 - 1
    for A in {low, high} - {0.0, 1.0}:
        V = A * (1 - A) * (1 + N * ((1 - A) / (2 - A) + A / (1 + A))) / (m * n)
        assert (value - A) ** 2 == pytest.approx(z**2 * V, rel=1e-6)
    swapped = newcombe(1 - area, n, m)
    assert (swapped.low, swapped.high) == pytest.approx((1 - high, 1 - low), abs=1e-9)
    assert newcombe(area, 10 * m, 10 * n).low > low or area == 0


def test_newcombe_where_there_is_nothing_to_solve():
    assert np.isnan(newcombe(math.nan, 0, 3)).all()
    with pytest.raises(ValueError, match="both classes"):
        newcombe(0.7, 0, 3)
    with pytest.raises(ValueError, match="an area"):
        newcombe(1.1, 3, 3)


def test_bootstrap_limits_by_their_formulas():
    rng = np.random.default_rng(0)
    names = ["auroc", "brier", "net_benefit", "calibration_slope", "auprc", "mF1"]
    value = np.array([0.8, 0.2, -0.1, 0.9, 1.0, math.nan])
    draws = value + 0.05 * rng.normal(size=(400, 6))
    draws[:, 4] = 1.0
    low, high = bootstrap_limits(names, value, draws, 9)
    half = student.isf(0.025, 9) * draws.std(axis=0)
    assert (low[0], high[0]) == pytest.approx(
        tuple(expit(logit(0.8) + np.array([-1, 1]) * half[0] / 0.16))
    )
    assert (low[1], high[1]) == pytest.approx(
        tuple(0.2 * np.exp(np.array([-1, 1]) * half[1] / 0.2))
    )
    assert (low[2], high[2]) == pytest.approx((-0.1 - half[2], -0.1 + half[2]))
    assert (low[3], high[3]) == pytest.approx(tuple(np.quantile(draws[:, 3], [0.025, 0.975])))
    assert np.isnan([low[4:], high[4:]]).all()


def only(frame, **settings):
    return summarise(frame, n=60, **settings).row(0, named=True)


def scored(table, prob, events=30):
    return table(120, {"adacomed": 1.0}, events=events).with_columns(prob=prob)


def test_separated_classes_have_newcombes_interval(table):
    perfect = scored(table, pl.col("label") * 0.5 + 0.2)
    row = only(perfect)
    assert row["auroc"] == 1
    assert row["auroc_interval"] == "Newcombe"
    assert (row["auroc_low"], row["auroc_high"]) == pytest.approx(newcombe(1, 30, 90)[1:])
    assert "the scores separate the classes completely, so no Calibration slope" in row["note"]
    assert "no interval, as the resamples agree" in row["note"]
    # three rows a subject count once: 10 and 30 subjects
    clustered = perfect.with_columns(subject_id=(pl.int_range(pl.len()) // 3).cast(pl.String))
    row = only(clustered)
    assert row["auroc_interval"] == "Newcombe"
    assert row["auroc_low"] == pytest.approx(newcombe(1, 10, 30).low)
    assert row["sensitivity_low"] == pytest.approx(
        binomtest(10, 10).proportion_ci(method="wilson").low
    )


def test_one_event_has_newcombes_interval(table):
    row = only(table(events=1))
    assert row["auroc_interval"] == "Newcombe"
    assert row["auroc_low"] < row["auroc"] < row["auroc_high"]
    assert row["note"].startswith("1 event: the interval is wide")


def test_constant_scores_are_a_half_with_the_reason(table):
    row = only(scored(table, pl.lit(0.3)))
    assert (row["auroc"], row["auroc_low"], row["auroc_high"]) == (0.5, 0.5, 0.5)
    assert row["auroc_interval"] == "constant scores"
    assert row["note"].startswith("every patient has the same score")
    assert "there is one score only, so no Calibration slope" in row["note"]
    assert "no patient is decided positive, so no PPV" in row["note"]


def test_shares_of_independent_patients_have_wilsons_interval(table):
    frame = table(120, {"adacomed": 1.0})
    row = only(frame)
    decided = frame["prob"] >= 0.4
    for name, hit, among in (
        ("sensitivity", decided, frame["label"] == 1),
        ("npv", frame["label"] == 0, ~decided),
        ("acc", decided == (frame["label"] == 1), pl.Series([True] * 120)),
    ):
        oracle = binomtest(int((hit & among).sum()), int(among.sum())).proportion_ci(
            method="wilson"
        )
        assert (row[f"{name}_low"], row[f"{name}_high"]) == pytest.approx((oracle.low, oracle.high))


def five(table, n=120, K=5):
    rng = np.random.default_rng(0)
    y = rng.integers(0, K, n)
    prob = np.eye(K)[y] + rng.exponential(size=(n, K))
    prob /= prob.sum(axis=1, keepdims=True)
    frame = table(n, {"adacomed": 1.0}).with_columns(label=pl.Series(y))
    return frame.with_columns(**{f"prob_{k}": prob[:, k] for k in range(K)})


CASES = {
    "usual": lambda t: t(methods={"adacomed": 1.0}),
    "random": lambda t: t(methods={"adacomed": 0.0}),
    "perfect": lambda t: scored(t, pl.col("label") * 0.5 + 0.2),
    "reversed": lambda t: scored(t, 0.7 - pl.col("label") * 0.5),
    "constant": lambda t: scored(t, pl.lit(0.3)),
    "no events": lambda t: t(events=0),
    "no non-events": lambda t: t(events=120),
    "one event": lambda t: t(events=1),
    "two events": lambda t: t(events=2),
    "threshold 1": lambda t: t().with_columns(threshold=pl.lit(1.0)),
    "threshold 0": lambda t: t().with_columns(threshold=pl.lit(0.0)),
    "one patient": lambda t: t().head(1),
    "repeats": lambda t: t(40, {"adacomed": 1.0}, repeats=3),
    "a repeat without events": lambda t: t(40, {"adacomed": 1.0}, repeats=2).filter(
        (pl.col("repeat") == 0) | (pl.col("label") == 0)
    ),
    "five classes": five,
    "five classes, one not seen": lambda t: five(t).filter(pl.col("label") < 4),
    "five classes, one never decided": lambda t: five(t).with_columns(prob_3=0.0),
}


@pytest.mark.parametrize("name", CASES)
def test_every_nan_has_its_reason_and_every_interval_holds_its_value(name, table):
    row = only(CASES[name](table))
    for metric, m in METRICS.items():
        value, low, high = (row[f"{metric}{end}"] for end in ("", "_low", "_high"))
        if np.isnan([value, low, high]).any():
            assert m.label in row["note"], metric
        if not np.isnan(value):
            assert np.isnan([low, high]).all() or low <= value + 1e-12, metric
            assert np.isnan([low, high]).all() or value <= high + 1e-12, metric
        assert np.isnan(low) == np.isnan(high)


def test_a_reason_names_the_repeat(table):
    row = only(CASES["a repeat without events"](table))
    assert "no events in a repeat or fold, so no AUROC, AUPRC" in row["note"]
