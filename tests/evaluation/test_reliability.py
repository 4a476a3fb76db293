from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy.special import expit
from scipy.stats import bernoulli, binomtest, spearmanr

from adacomed.errors import InputError
from adacomed.evaluation.reliability import (
    CORRELATIONS,
    SAME,
    branches,
    reliability_table,
    weight_reliability,
)

CUT = 0.25


def weighted(n=120, seed=0, *, noise=1.2, prevalence=0.25, method="adacomed"):
    """Two branches of equal worth, right or wrong on their own, with random weights."""
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < prevalence).astype(int)
    large, small = 1.5 * y - 1.6 + noise * rng.normal(size=(2, n))
    ids = [f"p{i:03d}" for i in range(n)]
    columns = {"sample_id": ids, "subject_id": ids, "split": "test", "task": "death"}
    columns |= {"label": y, "prob": expit((large + small) / 2), "threshold": CUT}
    columns |= {"logit_large": large, "logit_small": small, "w_large": rng.random(n)}
    return pl.DataFrame(columns | {"repeat": 0, "fold": 0, "seed": 0, "method": method})


def planted(frame, weight):
    """w_large made of (large_right, small_right, gain)."""
    b = branches(frame)
    return frame.with_columns(w_large=pl.Series(weight(b.large_right, b.small_right, b.gain)))


def by_hand(frame):
    """sign, gain and w_large by plain comparisons and scipy's log-likelihood."""
    y, w = frame["label"].to_numpy(), frame["w_large"].to_numpy()
    p = [expit(frame[f"logit_{b}"].to_numpy()) for b in ("large", "small")]
    right = [(q >= frame["threshold"].to_numpy()) == y for q in p]
    gain = bernoulli.logpmf(y, p[0]) - bernoulli.logpmf(y, p[1])
    return right[0].astype(int) - right[1], gain.round(12), w  # rounded: ties are ties


def only(table):
    [row] = table.iter_rows(named=True)
    return row


@pytest.mark.parametrize("tied", [False, True])
def test_both_correlations_are_scipys(tied):
    frame = weighted()
    if tied:
        frame = frame.with_columns(pl.col("w_large").round(1), pl.col("^logit_.*$").round(0))
    row = only(weight_reliability(frame, n=50))
    sign, gain, w = by_hand(frame)
    one = sign != 0
    assert row["correlation"] == pytest.approx(spearmanr(w[one], sign[one]).statistic)
    assert row["loss_correlation"] == pytest.approx(spearmanr(w, gain).statistic)
    counts = (row["n"], row["n_discordant"], row["n_large_right"])
    assert counts == (120, one.sum(), (sign > 0).sum())
    assert row["n_discordant"] > 20
    assert row["note"] == ""


def test_the_interval_is_scipys_correlation_in_resampled_patients():
    """An outside bootstrap: rows drawn with replacement, scipy's correlation in each."""
    frame = weighted(200, 3)
    sign, gain, w = by_hand(frame)
    rng = np.random.default_rng(1)
    draws = []
    for _ in range(1000):
        i = rng.integers(0, len(w), len(w))
        one = i[sign[i] != 0]
        draws.append([spearmanr(w[one], sign[one]).statistic, spearmanr(w[i], gain[i]).statistic])
    row = only(weight_reliability(frame, n=3000))
    for name, limits in zip(
        CORRELATIONS, np.quantile(draws, [0.025, 0.975], axis=0).T, strict=True
    ):
        assert [row[f"{name}_low"], row[f"{name}_high"]] == pytest.approx(limits, abs=0.025)


def test_weights_that_are_exactly_right_and_exactly_wrong():
    sure = planted(weighted(), lambda large, small, gain: 0.5 + 0.2 * large - 0.2 * small)
    row = only(weight_reliability(sure, n=200))
    assert row["correlation"] == pytest.approx(1)
    assert row["correlation_low"] == pytest.approx(1)
    graded = planted(weighted(), lambda large, small, gain: expit(gain))
    row = only(weight_reliability(graded, n=200))
    assert row["loss_correlation"] == pytest.approx(1)
    assert row["correlation_low"] > 0.7
    wrong = planted(weighted(), lambda large, small, gain: expit(-gain))
    assert only(weight_reliability(wrong, n=20))["loss_correlation"] == pytest.approx(-1)


def test_random_weights_hold_zero_in_the_interval_19_times_of_20():
    held = np.zeros(2)
    for seed in range(200):
        row = only(weight_reliability(weighted(80, seed), n=200, seed=seed))
        held += [row[f"{c}_low"] <= 0 <= row[f"{c}_high"] for c in CORRELATIONS]
    # 200 draws of an interval that holds 0 in 95 %: fewer than 180 has a chance of .001
    assert (held >= 180).all()
    assert (held < 200).any()


def test_a_branch_decides_at_the_rows_threshold_not_at_even_odds():
    """Rare events: a large branch that ranks perfectly but never passes 50 %."""
    frame = weighted(prevalence=0.1).with_columns(
        logit_large=pl.when(pl.col("label") == 1).then(-0.5).otherwise(-3.0)
    )
    found = branches(frame)
    assert found.large_right.all()
    assert not (found.sign < 0).any()
    at_half = branches(frame.drop("threshold"))  # without one: 0.5
    events = frame["label"].to_numpy() == 1
    assert (at_half.large_right == ~events).all()
    on_the_cut = branches(frame.with_columns(threshold=pl.lit(float(expit(-0.5)))))
    assert on_the_cut.large_right.all()  # prob ≥ threshold is positive, as everywhere


def test_log_losses_are_scipys():
    frame = weighted()
    np.testing.assert_allclose(branches(frame).gain, by_hand(frame)[1], atol=1e-12)
    far = frame.with_columns(logit_large=pl.lit(800.0))
    assert np.isfinite(branches(far).gain).all()


def test_constant_weights_give_none_and_the_reason():
    noise = np.random.default_rng(0).normal(size=120) * 1e-9  # float32's, after a softmax
    for w in (pl.lit(0.5), pl.Series(0.4223 + noise)):
        row = only(weight_reliability(weighted().with_columns(w_large=w), n=20))
        assert not row["adapts"]
        assert [row[c] for c in CORRELATIONS] == [None, None]
        assert row["correlation_low"] is None
        assert row["note"] == SAME
        assert row["n_discordant"] > 0


def test_weights_that_differ_between_folds_only_are_constant():
    """A learnt weight per fold says nothing of a patient, whichever fold has the better branch."""
    frame = planted(weighted(), lambda large, small, gain: gain)
    better = frame["w_large"] > 0
    frame = frame.with_columns(
        fold=better.cast(pl.Int64), w_large=pl.when(better).then(0.7).otherwise(0.3)
    )
    row = only(weight_reliability(frame, n=20))
    assert (row["adapts"], row["correlation"], row["note"]) == (False, None, SAME)
    assert len(reliability_table(branches(frame))) == 1


def test_a_shift_of_a_folds_weights_changes_nothing():
    frame = weighted(200).with_columns(fold=pl.int_range(200) % 2)
    moved = frame.with_columns(w_large=pl.col("w_large") / 10 + pl.col("fold") * 0.5)
    one, other = (only(weight_reliability(f, n=50)) for f in (frame, moved))
    assert one == other


def test_one_class_is_no_obstacle_and_one_side_is_named():
    frame = weighted(prevalence=0)
    row = only(weight_reliability(frame, n=50))
    assert row["correlation"] is not None
    never = frame.with_columns(logit_large=pl.lit(-9.0))
    row = only(weight_reliability(never, n=50))
    assert row["correlation"] is None
    assert row["loss_correlation"] is not None
    assert row["note"].endswith("on whom exactly one branch is right, always the large one")
    same = frame.with_columns(logit_small=pl.col("logit_large"))
    row = only(weight_reliability(same, n=50))
    assert [row[c] for c in CORRELATIONS] == [None, None]
    assert row["note"] == (
        "no patients on whom exactly one branch is right; the branches' log losses hardly differ"
    )


def test_few_discordant_patients_are_said():
    frame = weighted(40, noise=0.8)
    row = only(weight_reliability(frame, n=200))
    assert 2 < row["n_discordant"] < 20
    assert row["note"] == (
        f"{row['n_discordant']} patients on whom exactly one branch is right: the interval is wide"
    )
    found = branches(frame)
    first = [int(np.flatnonzero(found.sign == side)[0]) for side in (1, -1)]
    agreed = np.flatnonzero(found.sign == 0)[:10].tolist()
    row = only(weight_reliability(frame[first + agreed], n=200))
    assert abs(row["correlation"]) == pytest.approx(1)  # any two patients
    assert row["correlation_low"] is None
    assert row["note"] == (
        "2 patients on whom exactly one branch is right: too few for an interval"
    )


def test_a_subjects_rows_are_resampled_together():
    """Every patient three times: the same correlation and interval, not one √3 narrower."""
    frame = weighted(80, 5)
    copies = [frame.with_columns(sample_id=pl.col("sample_id") + f"/{i}") for i in range(3)]
    once, thrice = (only(weight_reliability(f, n=400)) for f in (frame, pl.concat(copies)))
    assert once["n"] == thrice["n"] == 80
    assert once["n_discordant"] == thrice["n_discordant"]
    for name in CORRELATIONS:
        for end in ("", "_low", "_high"):
            assert thrice[name + end] == pytest.approx(once[name + end])
    tables = [reliability_table(branches(f)) for f in (frame, pl.concat(copies))]
    for column in tables[0].columns:
        np.testing.assert_allclose(*(t[column].to_numpy() for t in tables))


def test_bins_against_scipys_wilson():
    frame = weighted(300, 2)
    found = branches(frame)
    table = reliability_table(found)
    sign, gain, w = by_hand(frame)
    assert table["n"].to_list() == [60] * 5
    for i, row in enumerate(table.iter_rows(named=True)):
        here = np.argsort(w)[60 * i : 60 * (i + 1)]
        hits, n = int((sign[here] > 0).sum()), int((sign[here] != 0).sum())
        assert row["n_discordant"] == n
        limits = binomtest(hits, n).proportion_ci(method="wilson")
        assert row["large_right"] == pytest.approx(hits / n)
        assert row["large_right_low"] == pytest.approx(limits.low)
        assert row["large_right_high"] == pytest.approx(limits.high)
        assert row["w_large"] == pytest.approx(w[here].mean())
        assert row["gain"] == pytest.approx(gain[here].mean())


def test_equal_weights_share_a_bin_and_a_rare_high_one_has_its_own():
    w = np.where(np.arange(120) < 12, 0.7, 0.3)
    table = reliability_table(branches(weighted().with_columns(w_large=pl.Series(w))))
    assert table["w_large"].to_list() == pytest.approx([0.3, 0.7])
    assert table["n"].to_list() == [108, 12]
    agreed = weighted().with_columns(logit_small=pl.col("logit_large"))
    table = reliability_table(branches(agreed))
    assert table["large_right"].null_count() == len(table) == 5
    assert table["gain"].abs().max() == pytest.approx(0)


def test_one_row_per_task_and_method_with_weights():
    plain = weighted(method="small").with_columns(w_large=pl.lit(None, pl.Float64))
    new = weighted(30).with_columns(
        pl.col("sample_id") + "n", label=pl.lit(None, pl.Int64), split=pl.lit("test")
    )
    other = weighted(method="inverse").with_columns(split=pl.lit("val"))
    frame = pl.concat([weighted(), plain, new, weighted(method="gaussian"), other])
    table = weight_reliability(frame, n=20)
    assert table["method"].to_list() == ["adacomed", "gaussian"]
    assert table["n"].to_list() == [120, 120]
    assert weight_reliability(frame, split="val", n=20)["method"].to_list() == ["inverse"]
    nothing = weight_reliability(frame.drop("w_large"), n=20)
    assert nothing.is_empty()
    assert nothing.schema == table.schema


def test_three_classes_have_no_log_odds_and_say_so():
    three = weighted().with_columns(prob_0=0.2, prob_1=0.5, prob_2=0.3)
    row = only(weight_reliability(three, n=20))
    assert row["correlation"] is None
    assert row["note"] == "3 classes: a table keeps the log-odds of the branches for two only"
    with pytest.raises(InputError, match="'adacomed': 3 classes"):
        branches(three)


@pytest.mark.parametrize("logit_small", [None, "absent"])
def test_weights_without_log_odds(logit_small):
    frame = weighted().drop("logit_small")
    if logit_small is None:
        frame = frame.with_columns(logit_small=pl.lit(None, pl.Float64))
    assert "no row has all of label, w_large" in only(weight_reliability(frame, n=20))["note"]
    with pytest.raises(InputError, match="no row has all of"):
        branches(frame)


@pytest.mark.parametrize("wrong", [pl.lit(float("nan")), pl.lit("high")])
def test_what_is_not_a_number_is_an_error_that_names_the_rows(wrong):
    frame = weighted().with_columns(
        w_large=pl.when(pl.col("sample_id") == "p007").then(wrong).otherwise(pl.col("w_large"))
    )
    with pytest.raises(InputError, match="w_large of 1 rows is not a finite number: p007"):
        weight_reliability(frame, n=20)


def test_a_sample_twice_and_no_resamples():
    with pytest.raises(InputError, match="p000, p001"):
        weight_reliability(pl.concat([weighted(), weighted()]), n=20)
    with pytest.raises(InputError, match="0 resamples"):
        weight_reliability(weighted(), n=0)
