"""Eq. 3–5 against a loop, and the head's start against the pretrained logits."""

import math

import pytest
import torch

from adacomed.models.alignment import (
    contrastive_loss,
    head_isometry,
    log_similarity,
    mean_negative_similarity,
)


def cosine(a, b):
    return float(a @ b / (a.norm() * b.norm()))


def vectors(n, d, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g), torch.randn(n, d, generator=g)


@pytest.mark.parametrize("tau", [0.07, 1.0])
def test_similarity_within_the_batch_is_eq_4(tau):
    large, small = vectors(6, 5)
    s = log_similarity(large, small, temperature=tau).exp()
    for i in range(6):
        scores = [math.exp(cosine(large[i], small[k]) / tau) for k in range(6)]
        assert s[i].item() == pytest.approx(scores[i] / sum(scores), rel=1e-5)


def test_similarity_against_a_bank_counts_the_patient_once():
    large, small = vectors(3, 5)
    bank = torch.cat([vectors(4, 5, seed=1)[0], small[:1]])  # the last row is patient 0 itself
    exclude = torch.zeros(3, 5, dtype=torch.bool)
    exclude[0, 4] = True
    s = log_similarity(large, small, temperature=0.5, bank=bank, exclude=exclude).exp()
    for i in range(3):
        own = math.exp(cosine(large[i], small[i]) / 0.5)
        rows = range(4) if i == 0 else range(5)
        others = sum(math.exp(cosine(large[i], bank[k]) / 0.5) for k in rows)
        assert s[i].item() == pytest.approx(own / (own + others), rel=1e-5)


def test_contrastive_loss_is_minus_log_s():
    large, small = vectors(6, 5)
    loss = contrastive_loss(large, small, 0.07)
    s = log_similarity(large, small, temperature=0.07).exp()
    assert torch.allclose(loss, -s.log(), rtol=1e-4)
    assert loss.shape == (6,)


def test_contrastive_loss_refuses_a_lonely_patient_and_unequal_shapes():
    large, small = vectors(2, 5)
    with pytest.raises(ValueError, match="two patients"):
        contrastive_loss(large[:1], small[:1])
    with pytest.raises(ValueError, match="differ"):
        contrastive_loss(large, small[:, :3])


def test_released_score_is_the_mean_of_negatives():
    """Random vectors at B = 128: about one half, where Eq. 4 gives about 1 / 128."""
    large, small = vectors(128, 4096)
    theirs = mean_negative_similarity(large, small, temperature=0.07)
    assert theirs.mean().item() == pytest.approx(0.5, abs=0.03)
    ours = log_similarity(large, small, temperature=0.07).exp()
    assert ours.mean().item() == pytest.approx(1 / 128, abs=0.004)


@pytest.mark.parametrize(("E", "d"), [(8, 2), (8, 5), (8, 8), (8, 20), (3, 64)])
def test_head_does_not_notice_the_detour_through_d(E, d):
    weight = torch.randn(2, E, generator=torch.Generator().manual_seed(0))
    Q = head_isometry(weight, d)
    assert Q.shape == (d, E)
    assert torch.allclose(weight @ Q.T @ Q, weight, atol=1e-5)


def test_d_below_the_number_of_classes_is_an_error():
    with pytest.raises(ValueError, match="classes"):
        head_isometry(torch.randn(4, 8), 3)
