"""Table 1 against values worked out by hand (and those of reference/released-code.md)."""

import math

import pytest
import torch

from adacomed.models import weighting
from adacomed.models.presets import PRESETS, build_weighting
from adacomed.models.weighting import Weighting

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


def weigh(module: Weighting, s: torch.Tensor) -> weighting.Weights:
    """The weights of patients about whom nothing but s is known."""
    level = torch.zeros(len(s), 2)
    return module(s, level, level, torch.ones(len(s), 1, dtype=torch.bool))


@pytest.mark.parametrize("strategy", [*weighting.STRATEGIES, "inverse_authors"])
def test_weights_are_a_mixture(strategy):
    s = torch.linspace(0, 1, 101)
    large, small = weigh(Weighting(strategy), s)
    assert torch.allclose(large + small, torch.ones(101))
    assert (large >= 0).all()
    assert (small >= 0).all()
    if strategy not in ("ensemble", "learnable", "reliable"):
        assert (large.diff() >= 0).all()  # more similar → more trust in the large branch


@pytest.mark.parametrize("strategy", ["inverse", "gaussian", "threshold"])
@pytest.mark.parametrize("scale", [1e-6, 1e-2, 1.0])
def test_on_the_quantile_scale_every_strategy_is_level_at_the_median(strategy, scale):
    """Whatever the size of s, half of the patients lean to each branch, and far enough."""
    s = scale * torch.linspace(0, 1, 201) ** 3
    module = build_weighting(PRESETS["default"], strategy, modalities=1)
    module.train()
    large, _ = weigh(module, s)
    assert large[100].item() == pytest.approx(0.5, abs=0.02)
    assert large[0] < 0.05
    assert large[-1] > 0.69
    assert (large.diff() >= -1e-6).all()


def test_s_is_read_as_its_quantile():
    seen = torch.tensor([3.0, 1.0, 2.0, 5.0, 4.0])
    module = Weighting("threshold", scale="quantile").eval()
    module.rest(seen)
    ranks = weighting.to_ranks(torch.tensor([0.0, 1.0, 2.0, 3.5, 5.0, 9.0]), module.ranks)
    assert ranks.tolist() == pytest.approx([0, 0, 0.25, 0.625, 1, 1], abs=1e-6)


def test_tied_similarities_have_a_rank():
    module = Weighting("threshold", scale="quantile").eval()
    module.rest(torch.full((9,), 0.3))
    assert torch.isfinite(weighting.to_ranks(torch.tensor([0.1, 0.3, 0.5]), module.ranks)).all()


def test_the_scale_follows_s_while_training_and_rests_afterwards():
    module = Weighting("gaussian", scale="quantile")
    weigh(module.train(), torch.tensor([0.0, 1.0]))
    assert module.ranks[50].item() == pytest.approx(0.5)
    weigh(module, torch.tensor([0.0, 2.0]))
    assert module.ranks[50].item() == pytest.approx(0.55)
    weigh(module.eval(), torch.tensor([0.0, 9.0]))
    assert module.ranks[50].item() == pytest.approx(0.55)


def test_gradient_through_s_only_where_the_preset_keeps_it():
    for detach in (True, False):
        s = torch.tensor([0.3, 0.6], requires_grad=True)
        large, _ = weigh(Weighting("gaussian", detach=detach), s)
        assert large.requires_grad is not detach


def test_who_has_no_large_modality_is_left_to_the_small_model():
    level = torch.zeros(2, 2)
    for strategy in weighting.STRATEGIES:
        module = Weighting(strategy, modalities=2)
        present = torch.tensor([[False, False], [False, True]])
        large, small = module(torch.tensor([0.5, 0.5]), level, level, present)
        assert (large[0].item(), small[0].item()) == (0, 1)
        assert large[1] > 0


def test_reliable_follows_its_cues():
    """σ of θ times: one, 2 s − 1, how much surer the large branch is, who is present."""
    module = Weighting("reliable", modalities=2)
    module.theta.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4, 0.0]))
    large, small = torch.tensor([[0.0, math.log(3)]]), torch.tensor([[math.log(4), 0.0]])
    present = torch.tensor([[True, False]])
    got, _ = module(torch.tensor([0.75]), large, small, present)
    z = 0.1 + 0.2 * 0.5 + 0.3 * (0.75 - 0.8) + 0.4
    assert got.item() == pytest.approx(1 / (1 + math.exp(-z)), abs=1e-6)


def test_mixtures_of_logits_and_of_probabilities():
    large, small = torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 0.0]])
    weights = (torch.tensor([0.25]), torch.tensor([0.75]))
    assert weighting.mixture(large, small, weights, "logits").tolist() == [[0.75, 0.5]]
    p = weighting.mixture(large, small, weights, "probabilities").softmax(-1)
    expected = 0.25 * large.softmax(-1) + 0.75 * small.softmax(-1)
    assert torch.allclose(p, expected)
