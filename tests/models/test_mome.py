"""Eq. 1–2: subsets, masks, and the vectorised experts against a loop."""

import math
from itertools import combinations

import pytest
import torch
from torch.nn import functional as F

from adacomed.models.mome import (
    Experts,
    Router,
    TokenAttention,
    drop_modalities,
    modality_subsets,
)


@pytest.mark.parametrize("M", [1, 2, 3, 4, 6])
def test_there_is_an_expert_for_every_non_empty_subset(M):
    subsets = modality_subsets(M)
    assert len(subsets) == sum(math.comb(M, k) for k in range(1, M + 1)) == 2**M - 1
    assert set(subsets) == {c for k in range(1, M + 1) for c in combinations(range(M), k)}


def test_vectorised_experts_equal_a_loop_over_experts():
    subsets = modality_subsets(3)
    experts = Experts(8, subsets, dropout=0.0)
    h = torch.randn(5, 3, 8)
    out = experts(h)
    assert out.shape == (5, 7, 8)
    for i, subset in enumerate(subsets):
        size = experts.sizes.index(len(subset))
        n = [s for s in subsets if len(s) == len(subset)].index(subset)
        seen = torch.cat([h[:, m] for m in subset], dim=1)
        hidden = F.gelu(seen @ experts.w1[size][n].T + experts.b1[size][n])
        assert torch.allclose(
            out[:, i], hidden @ experts.w2[size][n] + experts.b2[size][n], atol=1e-5
        )


def test_an_expert_sees_only_the_tokens_of_its_subset():
    subsets = modality_subsets(3)
    experts = Experts(8, subsets, dropout=0.0)
    h = torch.randn(2, 3, 8)
    moved = h.clone()
    moved[:, 1] += 1
    changed = (experts(h) != experts(moved)).any(dim=(0, 2))
    assert changed.tolist() == [1 in s for s in subsets]


def test_router_gives_nothing_to_a_subset_with_an_absent_modality():
    subsets = modality_subsets(3)
    present = torch.tensor([[True, False, True], [False, True, False], [False] * 3])
    weights = Router(8, subsets)(torch.randn(3, 3, 8), present)
    for row in range(3):
        for i, subset in enumerate(subsets):
            allowed = all(present[row, m] for m in subset)
            assert (weights[row, i] > 0) == allowed
    assert weights.sum(1).tolist() == pytest.approx([1, 1, 0])


def test_attention_equals_a_loop_over_the_present_tokens():
    attention = TokenAttention(8, heads=1, dropout=0.0, residual=False).eval()
    tokens = torch.randn(1, 3, 8)
    present = torch.tensor([[True, False, True]])
    q, k, v = attention.qkv(tokens[0]).split(8, dim=-1)
    for i in (0, 2):
        scores = torch.stack([q[i] @ k[j] / math.sqrt(8) for j in (0, 2)]).softmax(0)
        expected = attention.out(scores[0] * v[0] + scores[1] * v[2])
        assert torch.allclose(attention(tokens, present)[0, i], expected, atol=1e-5)
    assert (attention(tokens, present)[0, 1] == 0).all()


def test_heads_must_divide_H():
    with pytest.raises(ValueError, match="multiple"):
        TokenAttention(10, heads=4, dropout=0.0)


def test_modality_dropout_leaves_a_part_of_what_was_there():
    torch.manual_seed(0)
    present = torch.rand(4000, 3) < 0.7
    kept = drop_modalities(present, 0.4)
    assert not (kept & ~present).any()
    assert torch.equal(kept.any(1), present.any(1))  # nobody loses everything
    several = present.all(1)
    # kept by chance .6, and by those who would have lost all three, .4³
    assert float(kept[several].float().mean()) == pytest.approx(0.6 + 0.4**3, abs=0.03)
    assert torch.equal(drop_modalities(present, 0.0), present)
