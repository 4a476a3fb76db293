"""Survival metrics against scikit-survival, with ties in time and in risk."""

import numpy as np
import pytest
from sksurv.compare import compare_survival
from sksurv.metrics import brier_score as sksurv_brier
from sksurv.metrics import (
    concordance_index_censored,
    cumulative_dynamic_auc,
    integrated_brier_score,
)
from sksurv.nonparametric import kaplan_meier_estimator
from sksurv.util import Surv

from adacomed.evaluation.ipcw import auroc_at, brier, integrated_brier, interpolated
from adacomed.evaluation.survival import concordance, kaplan_meier, log_rank, status_at

SEEDS = range(6)


def patients(seed, n=120, *, ties=True):
    rng = np.random.default_rng(seed)
    risk = rng.normal(size=n)
    happens = rng.exponential(10 * np.exp(-risk))
    lost = rng.exponential(15, n)
    time, event = np.minimum(happens, lost), happens <= lost
    if ties:
        time, risk = np.ceil(time), np.round(risk, 1)
    return time, event, risk


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("seed", SEEDS)
def test_concordance_is_scikit_survivals(seed, ties):
    time, event, risk = patients(seed, ties=ties)
    [found] = concordance(time, event, risk)
    assert found == pytest.approx(concordance_index_censored(event, time, risk)[0], abs=1e-12)


def test_weights_are_patients_drawn_again_in_any_block(monkeypatch):
    time, event, risk = patients(0)
    counts = np.random.default_rng(1).integers(0, 3, size=(4, len(time)))
    found = concordance(time, event, risk, counts)
    for row, value in zip(counts, found, strict=True):
        again = np.repeat(np.arange(len(time)), row)
        assert value == pytest.approx(concordance(time[again], event[again], risk[again])[0])
    monkeypatch.setattr("adacomed.evaluation.survival.BLOCK", 7 * len(time))
    assert concordance(time, event, risk, counts) == pytest.approx(found, abs=1e-12)


def test_concordance_orientation_and_what_is_not_defined():
    assert concordance([1, 2, 3], [1, 1, 1], [3, 2, 1])[0] == 1  # the riskier one was first
    assert concordance([1, 2, 3], [1, 1, 1], [1, 2, 3])[0] == 0
    assert concordance([1, 2, 3], [1, 1, 1], [5, 5, 5])[0] == 0.5
    assert np.isnan(concordance([1, 2, 3], [0, 0, 0], [1, 2, 3])[0])
    with pytest.raises(ValueError, match="NaN"):
        concordance([1, 2], [1, 0], [np.nan, 0])
    with pytest.raises(ValueError, match="need"):
        concordance([1, 2], [1, 0], [1])


@pytest.mark.parametrize("seed", SEEDS)
def test_kaplan_meier_and_its_band_are_scikit_survivals(seed):
    time, event, _ = patients(seed)
    when, survival, (low, high) = kaplan_meier_estimator(event, time, conf_type="log-log")
    found = kaplan_meier(time, event)
    assert np.array_equal(found.time, when)
    assert found.survival == pytest.approx(survival, abs=1e-12)
    inside = (survival > 0) & (survival < 1)
    assert found.low[inside] == pytest.approx(low[inside], abs=1e-12)
    assert found.high[inside] == pytest.approx(high[inside], abs=1e-12)
    middle = float(when[len(when) // 2])
    assert found.at(middle + 0.25)[0] == pytest.approx(survival[len(when) // 2])
    assert found.at(-1) == (1.0, 1.0, 1.0)


def test_the_band_has_an_end_where_everyone_had_the_event():
    curve = kaplan_meier([1, 2, 3], [1, 1, 1])
    assert curve.survival[-1] == 0
    assert (curve.low[-1], curve.high[-1]) == (0, curve.high[-2])
    assert kaplan_meier([1.0], [1]).high.tolist() == [1.0]
    assert kaplan_meier([1, 2], [0, 0]).low.tolist() == [1, 1]
    with pytest.raises(ValueError, match="needs a patient"):
        kaplan_meier([], [])


@pytest.mark.parametrize("groups", [2, 3])
@pytest.mark.parametrize("seed", SEEDS)
def test_log_rank_is_scikit_survivals(seed, groups):
    time, event, risk = patients(seed)
    group = np.digitize(risk, np.quantile(risk, np.arange(1, groups) / groups))
    statistic, p = compare_survival(Surv.from_arrays(event, time), group)
    found = log_rank(time, event, group)
    assert found.statistic == pytest.approx(statistic)
    assert found.p == pytest.approx(p)
    assert found.df == groups - 1


def test_log_rank_of_one_group_or_without_events_is_no_test():
    assert np.isnan(log_rank([1, 2], [1, 1], [0, 0]).p)
    assert np.isnan(log_rank([1, 2], [0, 0], [0, 1]).p)


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("seed", SEEDS)
def test_brier_and_auroc_at_a_time_are_scikit_survivals(seed, ties):
    time, event, risk = patients(seed, ties=ties)
    y = Surv.from_arrays(event, time)
    when = np.quantile(time, [0.2, 0.4, 0.6, 0.8]) + 0.5
    S = np.exp(-np.exp(risk)[:, None] * when / 10)
    assert brier(time, event, S, when)[0] == pytest.approx(sksurv_brier(y, y, S, when)[1])
    [whole] = integrated_brier(time, event, S, when)
    assert whole == pytest.approx(integrated_brier_score(y, y, S, when))
    for t in when:
        area = cumulative_dynamic_auc(y, y, risk, t)[0][0]
        assert auroc_at(time, event, risk, float(t))[0] == pytest.approx(area)


def test_weighted_brier_and_auroc_are_of_patients_drawn_again():
    time, event, risk = patients(3)
    when = np.array([2.5, 5.5, 8.5])
    S = np.exp(-np.exp(risk)[:, None] * when / 10)
    counts = np.random.default_rng(1).integers(0, 3, size=(3, len(time)))
    found = integrated_brier(time, event, S, when, counts)
    areas = auroc_at(time, event, risk, 5.5, counts)
    for row, score, area in zip(counts, found, areas, strict=True):
        i = np.repeat(np.arange(len(time)), row)
        assert score == pytest.approx(integrated_brier(time[i], event[i], S[i], when)[0])
        assert area == pytest.approx(auroc_at(time[i], event[i], risk[i], 5.5)[0])


def test_a_score_that_nobody_was_there_for_is_not_defined():
    assert np.isnan(auroc_at([1, 2], [0, 0], [1, 2], 5)[0])
    assert np.isnan(auroc_at([9, 9], [1, 1], [1, 2], 5)[0])


def test_status_is_unknown_of_whom_was_lost_before():
    known = status_at([1, 1, 5, 5, 6], [1, 0, 1, 0, 1], 5)
    assert known[[0, 2, 3, 4]].tolist() == [1, 1, 0, 0]
    assert np.isnan(known[1])


def test_between_two_ends_survival_is_a_straight_line():
    found = interpolated([[0.8, 0.4]], [2, 6], [0, 1, 2, 4, 6, 9])
    assert found[0].tolist() == pytest.approx([1.0, 0.9, 0.8, 0.6, 0.4, 0.4])
