"""HEALNet: the contract, updates that are skipped and not merely masked, XOR."""

import pytest
import torch
from torch.nn import functional as F

from adacomed.models.baselines.healnet import Attention, Patches, build_healnet
from adacomed.models.batch import Batch

from .check_model import check_model, prob
from .conftest import WIDTHS, make_batch
from .test_flex_moe import accuracy, every_pattern, learn, xor_batch


def make(widths=WIDTHS, **settings):
    torch.manual_seed(0)
    return build_healnet(widths, **{"classes": 2, "H": 16, **settings})


@pytest.mark.parametrize("settings", [{}, {"depth": 3, "latents": 3, "patches": 1}])
def test_it_keeps_the_contract_of_a_model_on_every_pattern(settings):
    check_model(make(**settings), every_pattern(), make_batch(30, seed=5))


def test_training_has_finite_gradients_for_every_parameter():
    model = make().train()
    batch = every_pattern()
    F.cross_entropy(model(batch).logits, batch.target).backward()
    for name, p in model.named_parameters():
        assert torch.isfinite(p.grad).all(), name
        assert p.grad.abs().sum() > 0, name


def test_a_seed_repeats_and_the_meta_device_counts_the_same():
    assert torch.equal(prob(make(), make_batch()), prob(make(), make_batch()))
    with torch.device("meta"):
        meta = build_healnet(WIDTHS, classes=2, H=16)
    assert sum(p.numel() for p in meta.parameters()) == sum(p.numel() for p in make().parameters())
    deeper = make(depth=5)  # iterations share their weights
    assert sum(p.numel() for p in deeper.parameters()) == sum(
        p.numel() for p in make().parameters()
    )


@pytest.mark.parametrize("gone", range(3))
def test_a_skipped_modality_equals_a_model_that_never_had_it(gone):
    batch = make_batch(16, complete=True)
    batch.present[:, gone] = False
    model = make().double().eval()
    kept = [m for m in range(3) if m != gone]
    names = list(WIDTHS)
    without = make({names[m]: WIDTHS[names[m]] for m in kept}).double().eval()
    for part in ("patches", "cross", "cross_feed_forward"):
        for i, m in enumerate(kept):
            getattr(without, part)[i].load_state_dict(getattr(model, part)[m].state_dict())
    for part in ("attention", "feed_forward", "head"):
        getattr(without, part).load_state_dict(getattr(model, part).state_dict())
    without.latents.data.copy_(model.latents)
    fewer = Batch({names[m]: batch.embeddings[names[m]] for m in kept}, batch.present[:, kept])
    with torch.no_grad():
        a = model(batch.to("cpu", torch.float64)).logits
        b = without(fewer.to("cpu", torch.float64)).logits
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    present = batch.present.clone()
    present[:, gone] = True
    with_it = Batch(batch.embeddings, present).to("cpu", torch.float64)
    assert (model(with_it).logits - a).abs().max() > 1e-3


@pytest.mark.parametrize(("D", "number", "size"), [(5, 5, 1), (11, 6, 2), (16, 8, 2), (1, 1, 1)])
def test_patches_hold_every_number_once(D, number, size):
    patches = Patches(D, 4, patches=8)
    assert (patches.number, patches.size) == (number, size)
    x = torch.randn(3, D)
    tokens = patches(x) - patches.position
    assert tokens.shape == (3, number, 4)
    own = torch.zeros(3, number * size)
    own[:, :D] = x
    for i in range(number):
        expected = patches.linear(own[:, i * size : (i + 1) * size])
        torch.testing.assert_close(tokens[:, i], expected)


def test_attention_equals_softmax_at_half_temperature():
    torch.manual_seed(0)
    attention = Attention(6, heads=1, dropout=0.5).eval()
    x, context = torch.randn(2, 3, 6), torch.randn(2, 5, 6)
    q = attention.q(attention.norm(x))
    k, v = attention.kv(attention.norm_context(context)).chunk(2, -1)
    weights = torch.softmax(q @ k.transpose(1, 2) / 6**0.5 / 0.5, -1)
    torch.testing.assert_close(attention(x, context), attention.out(weights @ v))
    with pytest.raises(ValueError, match="multiple of heads"):
        Attention(6, heads=4, dropout=0.0)


def test_it_learns_xor_of_two_modalities():
    model = make({"a": 4, "b": 3}, latents=4, dropout=0.1)
    learn(model, xor_batch(1024, seed=1), steps=180)
    assert accuracy(model, xor_batch(1000, seed=2)) > 0.9
