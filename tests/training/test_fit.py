"""The one loop: early stopping keeps the best epoch, seeds decide all, nothing is skipped."""

from dataclasses import replace

import pytest
import torch

from adacomed.models.small.shallow import ShallowSmall
from adacomed.training.fit import Recipe, batches, fit
from adacomed.training.objective import Objective
from adacomed.training.seed import seed_everything
from adacomed.training.selection import positive_score
from tests.models.conftest import make_batch


def small():
    seed_everything(3)
    return ShallowSmall({"clinical": 4}, width=8, classes=2, dropout=0.2)


def test_early_stopping_returns_the_best_epochs_weights():
    model, scores = small(), iter([0.5, 0.7, 0.9, 0.6, 0.5, 0.4])
    states = []

    def score(logits, target):
        states.append({k: v.clone() for k, v in model.state_dict().items()})
        return next(scores)

    result = fit(
        model,
        make_batch(40),
        objective=Objective(),
        recipe=Recipe(epochs=6, lr=0.05, patience=2),
        seed=0,
        val=make_batch(20, seed=1),
        score=score,
    )
    assert result.best_epoch == 3
    assert len(states) == 5  # two epochs without improvement, then it stopped
    assert all(torch.equal(v, states[2][k]) for k, v in model.state_dict().items())


def test_one_seed_one_model_another_seed_another():
    def trained(seed):
        model = small()
        fit(model, make_batch(40), objective=Objective(), recipe=Recipe(epochs=2), seed=seed)
        return model.state_dict()

    a, b, c = trained(0), trained(0), trained(1)
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert any(not torch.equal(a[k], c[k]) for k in a)


def test_the_schedule_does_not_change_when_training_stops_earlier():
    """A refit for 3 of 6 epochs walks the same path as the first 3 of 6."""
    recipe = Recipe(epochs=6, lr=0.01, patience=None)
    long, short = small(), small()
    seen = []
    fit(
        long,
        make_batch(40),
        objective=Objective(),
        recipe=recipe,
        seed=0,
        on_epoch=lambda *_: seen.append({k: v.clone() for k, v in long.state_dict().items()}),
    )
    fit(short, make_batch(40), objective=Objective(), recipe=replace(recipe, stop_after=3), seed=0)
    assert all(torch.equal(v, seen[2][k]) for k, v in short.state_dict().items())


def test_a_loss_that_is_not_finite_is_an_error():
    batch = make_batch(20)
    broken = replace(batch, small={"clinical": torch.full((20, 4), torch.inf)})
    with pytest.raises(FloatingPointError, match="loss"):
        fit(small(), broken, objective=Objective(), recipe=Recipe(epochs=1), seed=0)


def test_no_batch_of_one():
    for n in (1, 2, 63, 64, 65, 128, 129):
        parts = batches(n, 64, torch.Generator().manual_seed(0))
        assert sorted(torch.cat(parts).tolist()) == list(range(n))
        assert n == 1 or min(len(p) for p in parts) > 1


def test_training_learns():
    batch = make_batch(200)
    table = torch.nan_to_num(batch.small["clinical"])
    batch = replace(batch, target=(table[:, 0] > 0).long())
    model = small()
    before = positive_score(model(batch).logits.detach(), batch.target)
    fit(model, batch, objective=Objective(), recipe=Recipe(epochs=30, lr=0.01), seed=0)
    assert positive_score(model(batch).logits.detach(), batch.target) > max(before, 0.9)
