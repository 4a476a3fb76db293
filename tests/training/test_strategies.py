"""Strategies judged and fitted on validation patients, and what `reliable` learns there."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from adacomed.models.batch import Output
from adacomed.models.presets import PRESETS
from adacomed.models.weighting import STRATEGIES
from adacomed.training.strategies import Judged, cross_weighed, fitted_weighting

PRESET = PRESETS["default"]


def judged(n=900, *, trust="nobody", seed=0) -> Judged:
    """Two noisy branches; where `trust` says so, the large one is the better for some patients."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    truth = np.where(y == 1, 1.0, -1.0)
    s = rng.random(n)
    present = rng.random((n, 2)) < 0.7
    present[:, 0] |= ~present[:, 1]
    better = {"nobody": 0.5 * np.ones(n), "similar": s, "present": present[:, 1]}[trust] > 0.5
    large = truth * np.where(better, 1.0, 0.1) + rng.normal(size=n)
    small = truth * np.where(better, 0.1, 1.0) + rng.normal(size=n)
    if trust == "nobody":
        large, small = truth + rng.normal(size=n), truth + rng.normal(size=n)
    logits = [
        torch.tensor(np.stack([-z, z], 1)).float() for z in ((large + small) / 2, large, small)
    ]
    half = torch.full((n,), 0.5)
    output = Output(*logits, s=torch.tensor(s).float() * 1e-3, w_large=half, w_small=half)
    return Judged(
        output,
        torch.tensor(present),
        y,
        np.arange(n) // (n // 3),
        torch.full((n,), 257),
        torch.zeros(2),
    )


def auc(output: Output, patients: Judged) -> float:
    return roc_auc_score(patients.target, output.logits[:, 1] - output.logits[:, 0])


@pytest.mark.parametrize("trust", ["similar", "present"])
def test_reliable_trusts_the_large_branch_where_it_is_right(trust):
    patients = judged(trust=trust)
    output = cross_weighed("reliable", PRESET, patients)
    better = (patients.output.s > 5e-4) if trust == "similar" else patients.present[:, 1]
    assert output.w_large[better].mean() > output.w_large[~better].mean() + 0.2
    assert auc(output, patients) > auc(patients.output, patients) + 0.01


def test_reliable_stays_near_the_ensemble_where_nothing_is_to_be_learnt():
    patients = judged(120)
    output = cross_weighed("reliable", PRESET, patients)
    assert (output.w_large - 0.5).abs().mean() < 0.15


def test_reliable_is_not_moved_by_overconfidence_of_both():
    """Ten times the logits is a matter of calibration: which branch to trust has not changed."""
    patients = judged()
    o = patients.output
    loud = replace(o, logits_large=10 * o.logits_large, logits_small=10 * o.logits_small)
    weights = [
        fitted_weighting("reliable", PRESET, replace(patients, output=out)).theta[0].item()
        for out in (o, loud)
    ]
    assert weights[1] == pytest.approx(weights[0], abs=0.3)


def test_a_branch_that_knows_nothing_is_left_out():
    patients = judged()
    noise = torch.randn(900, generator=torch.Generator().manual_seed(1))
    o = replace(patients.output, logits_large=torch.stack([-noise, noise], 1))
    for strategy in ("learnable", "reliable"):
        output = cross_weighed(strategy, PRESET, replace(patients, output=o))
        assert output.w_large.mean() < 0.25


def test_a_part_is_weighed_by_what_the_others_taught():
    """One part's labels turned around change the others' weights, never its own."""
    patients = judged(trust="similar")
    turned = patients.target.copy()
    turned[:300] = 1 - turned[:300]
    before = cross_weighed("reliable", PRESET, patients)
    after = cross_weighed("reliable", PRESET, replace(patients, target=turned))
    assert torch.equal(before.w_large[:300], after.w_large[:300])
    assert not torch.allclose(before.w_large[300:], after.w_large[300:])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_can_be_tried_afterwards(strategy):
    patients = judged()
    output = cross_weighed(strategy, PRESET, patients)
    assert torch.allclose(output.w_large + output.w_small, torch.ones(900))
    assert output.s is patients.output.s
    if strategy == "threshold":  # level at the median, whatever the size of s
        rank = patients.output.s.argsort().argsort() / 899
        expected = expit(2 * PRESET.k * (rank.numpy() - 0.5))
        assert np.abs(output.w_large.numpy() - expected).max() < 0.02


def test_banks_of_different_sizes_agree():
    """s falls as 1 / candidates; a part with half of the patients must not look less similar."""
    patients = judged()
    half = torch.where(torch.arange(900) < 300, 129, 257)
    s = torch.where(torch.arange(900) < 300, 257 / 129, 1.0) * patients.output.s
    other = replace(patients, output=replace(patients.output, s=s), candidates=half)
    for strategy in ("threshold", "gaussian", "reliable"):
        before, after = (cross_weighed(strategy, PRESET, p) for p in (patients, other))
        assert torch.allclose(before.w_large, after.w_large, atol=1e-4)


def test_who_has_no_large_modality_takes_no_part():
    patients = judged()
    present = patients.present.clone()
    present[:100] = False
    output = cross_weighed("reliable", PRESET, replace(patients, present=present))
    assert (output.w_small[:100] == 1).all()
    assert torch.allclose(output.logits[:100], patients.output.logits_small[:100])


def test_nobody_with_a_large_modality_leaves_the_plain_ensemble():
    patients = judged(60)
    nobody = replace(patients, present=torch.zeros_like(patients.present))
    for strategy in STRATEGIES:
        weighting = fitted_weighting(strategy, PRESET, nobody)
        assert not weighting.ranks.isnan().any()
        output = cross_weighed(strategy, PRESET, nobody)
        assert (output.w_small == 1).all()
    assert (fitted_weighting("reliable", PRESET, nobody).theta == 0).all()
