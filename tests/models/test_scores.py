"""Classical models as tensors against scikit-learn, and a small model made of them."""

import numpy as np
import pytest
import torch
from sklearn.datasets import make_classification
from sklearn.metrics import log_loss

from adacomed.models.baselines.kinds import KINDS
from adacomed.models.batch import Batch
from adacomed.models.presets import PRESETS, build_adacomed
from adacomed.models.small.scores import ScoreSmall, sources_of
from adacomed.models.small.trees import FROZEN
from adacomed.training.fit import evaluate
from adacomed.training.neural import fill_bank
from adacomed.training.questions import questions
from adacomed.training.scores import cross_fit, fit_scores, inner_splits, stack_weights

from .check_model import check_model
from .conftest import WIDTHS, make_batch


def table(n=200, K=2, seed=0, missing=0.1):
    x, y = make_classification(
        n, 8, n_informative=5, n_classes=K, n_clusters_per_class=1, random_state=seed
    )
    x = x.astype(np.float32)
    x[np.random.default_rng(seed).random(x.shape) < missing] = np.nan
    return x, y


@pytest.mark.parametrize("kind", FROZEN)
@pytest.mark.parametrize("K", [2, 3])
@pytest.mark.parametrize("missing", [0.0, 0.1])
def test_a_frozen_model_says_what_scikit_learn_says(kind, K, missing):
    x, y = table(K=K, missing=missing)
    new, _ = table(seed=1, K=K, missing=0.2)  # cells missing that never were in training
    new[0] = np.nan
    fitted = KINDS[kind](0)[0].fit(x.astype(float), y)
    twin = FROZEN[kind](K)
    twin.fill(fitted)
    expected = fitted.predict_proba(new.astype(float))
    got = twin(torch.from_numpy(new).double()).exp().numpy()
    assert np.abs(got - expected).max() <= 1e-9
    empty = FROZEN[kind](K)
    empty.load_state_dict(twin.state_dict())  # shapes come with the weights
    assert torch.equal(empty(torch.from_numpy(new)), twin(torch.from_numpy(new)))


def patients(n=120, seed=0, K=2):
    """Patients whose table and ct know the class, beside a note that knows nothing."""
    batch = make_batch(n, seed=seed)
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, K, (n,), generator=g)
    cells = batch.small["clinical"] + y[:, None].float()
    embeddings = {**batch.embeddings, "ct": batch.embeddings["ct"] + y[:, None].float()}
    return Batch(embeddings, batch.present, {"clinical": cells}, y, torch.arange(n))


def fitted(kind="stack", n=120, K=2, weights=None):
    batch = patients(n, K=K)
    model = ScoreSmall(sources_of(kind, ["clinical"], list(WIDTHS)), {"clinical": 4}, classes=K)
    e_small = fit_scores(model, batch, np.arange(n).astype(str), weights=weights, seed=0)
    return model.eval(), batch, e_small


def test_sources():
    assert sources_of("forest", ["t"], ["v"]) == [("t", "forest")]
    assert sources_of("forest", [], ["v", "w"]) == [("v", "forest"), ("w", "forest")]
    stack = [("t", "logistic"), ("t", "forest"), ("v", "logistic")]
    assert sources_of("stack", ["t"], ["v"]) == stack


@pytest.mark.parametrize("K", [2, 3])
def test_logits_are_the_prior_and_the_weighted_evidence(K):
    model, batch, _ = fitted(K=K)
    own = model(batch).logits.log_softmax(-1)
    total = model.log_prior.clone()
    weights = [model.head.weight[0, i * K].item() for i in range(len(model.sources))]
    for (name, _), scorer, w in zip(model.sources, model.scorers, weights, strict=True):
        x = batch.small.get(name, batch.embeddings.get(name))
        here = ~x.isnan().all(1)
        sure = scorer(torch.where(here[:, None], x, 0.0)).clamp(np.log(1e-4), np.log(1 - 1e-4))
        told = sure - model.log_prior
        total = total + w * torch.where(here[:, None], told, 0.0)
    assert torch.allclose(own, total.log_softmax(-1).float(), atol=1e-4)


def test_under_class_weights_the_head_has_no_prior():
    weights = torch.tensor([0.7, 2.0])
    plain, _, _ = fitted()
    weighted, _, _ = fitted(weights=weights)
    difference = weighted.head.bias - plain.head.bias
    assert torch.allclose(difference, weights.log(), atol=1e-6)


def test_training_patients_are_scored_without_themselves():
    """A forest knows its own patients by heart; e_small of a training patient must not."""
    n = 150
    g = torch.Generator().manual_seed(3)
    noise = torch.randn(n, 6, generator=g)
    y = torch.randint(0, 2, (n,), generator=g)  # nothing to learn
    batch = Batch({}, torch.ones(n, 0, dtype=torch.bool), {"t": noise}, y, torch.arange(n))
    model = ScoreSmall([("t", "forest")], {"t": 6}, classes=2)
    e_small = fit_scores(model, batch, np.arange(n).astype(str), weights=None, seed=0)
    by_heart = model.embed(batch)[:, 1]
    honest = e_small[:, 1]
    assert torch.corrcoef(torch.stack([by_heart, y.float()]))[0, 1] > 0.7
    assert abs(torch.corrcoef(torch.stack([honest, y.float()]))[0, 1]) < 0.25


def test_a_subject_with_several_samples_is_left_out_whole():
    subjects = np.repeat(np.arange(40), 3).astype(str)
    y = np.repeat(np.arange(40) % 2, 3)
    for train, test in inner_splits(y, subjects, 0):
        assert not set(subjects[train]) & set(subjects[test])


def test_fewer_folds_where_a_class_is_rare_and_where_patients_are_many():
    def count(n, events):
        y = (np.arange(n) < events).astype(np.int64)
        return len(inner_splits(y, np.arange(n).astype(str), 0))

    assert [count(60, 30), count(60, 3), count(10_000, 99), count(10_001, 99)] == [5, 3, 5, 2]


def test_a_class_of_one_subject_leaves_the_prior():
    batch = patients(60)
    target = torch.zeros(60, dtype=torch.int64)
    target[0] = 1
    model = ScoreSmall(sources_of("stack", ["clinical"], list(WIDTHS)), {"clinical": 4}, classes=2)
    alone = Batch(batch.embeddings, batch.present, batch.small, target, batch.index)
    e_small = fit_scores(model, alone, np.arange(60).astype(str), weights=None, seed=0)
    assert not model.speaks.any()
    prob = model.eval()(alone).logits.softmax(-1)[:, 1]
    assert torch.allclose(prob, torch.full((60,), 1 / 60))
    assert torch.isfinite(e_small).all()


def test_few_patients_of_a_class_leave_a_source_silent():
    x, y = table(40)
    here = np.ones(40, bool)
    here[np.flatnonzero(y == 1)[4:]] = False
    splits = inner_splits(y, np.arange(40).astype(str), 0)
    [asked] = questions(torch.from_numpy(y), "classes")
    assert cross_fit("logistic", x.astype(float), asked, here, splits, 2, 0) is None


def test_stack_weights_find_the_source_that_knows():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 2000)
    knows = np.where(y == 1, 1.0, -1.0) + rng.normal(size=2000)
    evidence = np.stack([np.stack([-s, s], 1) for s in (knows, rng.normal(size=2000))])
    w = stack_weights(evidence, y, np.log([0.5, 0.5]), np.ones(2))
    # log-odds of two unit normals at ±1 are 2x; each evidence counts twice in a difference
    assert w == pytest.approx([1.0, 0.0], abs=0.1)
    prior, few = np.log([0.5, 0.5]), slice(0, 10)
    held = stack_weights(evidence[:, few], y[few], prior, np.ones(2), penalty=1e6)
    alone = [
        stack_weights(one[None, few], y[few], prior, np.ones(1), penalty=1e6)[0] for one in evidence
    ]
    assert held == pytest.approx(alone, rel=0.01)  # each counts once, as it would by itself
    z = np.log(0.5) + np.tensordot(w, evidence, 1)
    better = log_loss(y, np.exp(z)[:, 1] / np.exp(z).sum(1))
    level = np.log(0.5) + evidence.sum(0)
    assert better < log_loss(y, np.exp(level)[:, 1] / np.exp(level).sum(1))


def test_adacomed_around_it_keeps_the_contract_of_a_model():
    small, batch, e_small = fitted()
    model = build_adacomed(PRESETS["default"], WIDTHS, small, strategy="threshold")
    known = Batch(
        batch.embeddings, batch.present, batch.small, batch.target, batch.index, e_small=e_small
    )
    fill_bank(model, known, seed=0)
    assert torch.equal(model.bank.e_small, e_small[model.bank.index])
    model.train()
    model(known)
    start = evaluate(model, batch).logits_small
    assert torch.allclose(start, small(batch).logits, atol=1e-4)
    check_model(model, make_batch(40, seed=4), make_batch(20, seed=5))
