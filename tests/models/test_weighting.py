"""Table 1 against values worked out by hand (and those of reference/released-code.md)."""

import math

import pytest
import torch

from adacomed.models import weighting
from adacomed.models.adacomed import Weighting

S = torch.tensor([0.0, 0.25, 0.5, 1.0])


def test_inverse_is_table_1_divided_by_the_sum():
    w, _ = weighting.inverse(S)
    # s = 0: [.5, 1e6] → 5e-7; s = .5: .62246 / (.62246 + 2) ; s = 1: .73106 / 1.73106
    expected = [0.5 / (0.5 + 1e6), 0.562177 / (0.562177 + 3.999984), 0.237357, 0.422319]
    assert w.tolist() == pytest.approx(expected, abs=2e-6)


def test_inverse_of_the_released_code():
    w, _ = weighting.inverse_authors(torch.tensor([0.0, 0.5, 1.0]))
    assert w.tolist() == pytest.approx([0.333, 0.483, 0.594], abs=5e-4)


def test_gaussian():
    w, _ = weighting.gaussian(S)
    assert w.tolist() == pytest.approx([0.0, 0.0307668, 0.1175031, 0.3934693], abs=1e-6)
    narrow, _ = weighting.gaussian(S, sigma=0.5)
    assert narrow.tolist() == pytest.approx([0, 0.1175031, 0.3934693, 0.8646647], abs=1e-6)


def test_threshold():
    w, _ = weighting.threshold(S, t=0.5, k=10)
    half_tanh = 0.5 * math.tanh(2.5)  # .4933071
    assert w.tolist() == pytest.approx(
        [0.5 - 0.5 * math.tanh(5), 0.5 - half_tanh, 0.5, 0.5 + 0.5 * math.tanh(5)], abs=1e-6
    )
    assert w[1].item() == pytest.approx(0.0066929, abs=1e-6)


def test_learnable_starts_level_and_follows_theta():
    w, v = weighting.learnable(S, torch.tensor([0.0, math.log(3)]))
    assert w.tolist() == pytest.approx([0.25] * 4)
    assert v.tolist() == pytest.approx([0.75] * 4)


@pytest.mark.parametrize("strategy", [*weighting.STRATEGIES, "inverse_authors"])
def test_weights_are_a_mixture(strategy):
    s = torch.linspace(0, 1, 101)
    large, small = Weighting(strategy)(s)
    assert torch.allclose(large + small, torch.ones(101))
    assert (large >= 0).all()
    assert (small >= 0).all()
    if strategy not in ("ensemble", "learnable"):
        assert (large.diff() >= 0).all()  # more similar → more trust in the large branch


def test_gradient_through_s_only_where_the_preset_keeps_it():
    for detach in (True, False):
        s = torch.tensor([0.3, 0.6], requires_grad=True)
        large, _ = Weighting("gaussian", detach=detach)(s)
        assert large.requires_grad is not detach


def test_median_threshold_follows_s_while_training_and_rests_afterwards():
    module = Weighting("threshold", t="median")
    module.train()(torch.tensor([0.1, 0.2, 0.9]))
    assert module.t.item() == pytest.approx(0.2)
    module(torch.tensor([0.4]))
    assert module.t.item() == pytest.approx(0.22)
    module.eval()(torch.tensor([0.9]))
    assert module.t.item() == pytest.approx(0.22)
