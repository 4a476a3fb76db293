"""The stack for findings and survival: the question that is asked, the answers, and the head."""

from __future__ import annotations

import functools
from unittest.mock import patch

import numpy as np
import pytest
import torch
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from adacomed.models.batch import Batch
from adacomed.models.small.scores import ScoreSmall, sources_of
from adacomed.training.outcome import Findings, Survival
from adacomed.training.questions import intercepts, questions
from adacomed.training.scores import FIXED, fit_scores

N, P = 240, 4
FEW = {"forest": {"randomforestclassifier__n_estimators": 10}}  # trees, to be quick
KINDS = ("findings", "survival")


def drawn(n, seed=0):
    """Cells (n, P), an event at odds of the hazard in proportion to exp(x β), and its intervals."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, P)).astype(np.float32)
    beta, base = np.array([0.8, -0.5, 0.0, 0.0]), np.array([-2.5, -1.8, -1.2, -0.5])
    hazard = expit(base + (x @ beta)[:, None])
    happens = rng.random((n, len(base))) < hazard
    first = np.where(happens.any(axis=1), happens.argmax(axis=1), len(base))
    lost = rng.integers(1, len(base) + 1, n)  # intervals that are watched
    time = np.minimum(first + 0.5, lost)
    truth = np.stack([time, (first < lost)], axis=1).astype(float)
    return x, truth, beta, base


@functools.cache
def fitted(kind, sources="stack"):
    """A stack on a table and on a vector that a third of the patients lack."""
    x, truth, _, _ = drawn(N)
    if kind == "survival":
        outcome = Survival(("no", "yes"), horizon=4.0, intervals=4).fit(truth)
    else:
        rng = np.random.default_rng(9)
        truth = (rng.random((N, 2)) < expit(x[:, :2] * 1.5)).astype(float)
        truth[rng.random(N) < 0.3, 1] = np.nan
        outcome = Findings(("a", "b")).fit(truth)
    cells = torch.from_numpy(x)
    lacks = torch.arange(N) % 3 == 0
    noise = torch.randn(N, P, generator=torch.Generator().manual_seed(1)) * 0.3
    vector = torch.where(lacks[:, None], torch.nan, cells * 2 + noise)
    batch = Batch(
        {"v": vector}, ~lacks[:, None], {"t": cells}, outcome.target(truth), torch.arange(N)
    )
    model = ScoreSmall(
        sources_of(sources, ["t"], ["v"]), {"t": P}, classes=outcome.width, asked=kind
    )
    subjects = np.arange(N).astype(str)
    with patch.dict(FIXED, FEW):
        e_small = fit_scores(model, batch, subjects, base=outcome.base, seed=0)
    return model.eval().requires_grad_(False), batch, e_small, outcome, truth


# ---- the question -------------------------------------------------------------------------------
def test_a_finding_is_asked_of_those_labelled_for_it():
    target = torch.tensor([[1.0, torch.nan], [0, 1], [1, 0]])
    first, second = questions(target, "findings")
    assert (first.who.tolist(), first.y.tolist(), first.weight) == ([0, 1, 2], [1, 0, 1], None)
    assert (second.who.tolist(), second.y.tolist()) == ([1, 2], [1, 0])
    assert second.log_share(2).exp().tolist() == pytest.approx([0.5, 0.5])
    assert second.rows(np.array([True, False, True])).tolist() == [1]


def test_survival_is_events_against_expected_events():
    nan = torch.nan
    target = torch.tensor([[1.0, nan], [0, 1], [0, 0], [nan, nan]])
    [asked] = questions(target, "survival")
    first, second = 1.5 / 2.5, 1.5 / 1.5  # half a patient on each side
    assert asked.who.tolist() == [0, 1, 1, 2]  # of the last nothing was seen
    assert asked.y.tolist() == [1, 0, 1, 0]
    assert asked.weight == pytest.approx([1, first, 1, first + second])
    assert asked.strata.tolist() == [1, 1, 0, 0]


def test_its_slopes_are_those_of_the_pooled_person_interval_model():
    """The oracle writes every patient and interval out, with an intercept for each interval."""
    x, truth, beta, _ = drawn(6000)
    outcome = Survival(("no", "yes"), horizon=4.0, intervals=4).fit(truth)
    target = outcome.target(truth).numpy()
    who, j = np.nonzero(~np.isnan(target))
    written_out = np.concatenate([x[who], np.eye(outcome.width)[j]], axis=1)
    pooled = LogisticRegression(C=1e6, fit_intercept=False, max_iter=1000)
    oracle = pooled.fit(written_out, target[who, j]).coef_[0, :P]
    [asked] = questions(torch.from_numpy(target), "survival")
    model = LogisticRegression(C=1e6).fit(x[asked.who], asked.y, sample_weight=asked.weight)
    assert model.coef_[0] == pytest.approx(oracle, abs=0.05)
    assert oracle == pytest.approx(beta, abs=0.15)


def test_intercepts_are_those_of_a_logistic_model_with_an_offset():
    _, truth, _, _ = drawn(2000)
    outcome = Survival(("no", "yes"), horizon=4.0, intervals=4).fit(truth)
    target = outcome.target(truth).double().numpy()
    z = np.random.default_rng(1).normal(size=(2000, 1))
    a = intercepts(z, target, outcome.base, penalty=0.0)
    said, known = expit(np.array(outcome.base) + a + z), ~np.isnan(target)
    assert (known * said).sum(axis=0) == pytest.approx(np.nansum(target, axis=0), rel=1e-3)
    nothing = np.full_like(target, np.nan)
    assert intercepts(z, nothing, outcome.base, penalty=0.1) == pytest.approx(0.0)


# ---- the answers --------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_width_and_head_are_one_column_for_a_sigmoid(kind):
    model, batch, e_small, outcome, _ = fitted(kind)
    columns = 1 if kind == "survival" else 2
    assert model.width == e_small.shape[1] == 3 * columns + P
    assert model.head.weight.shape == (outcome.width, model.width)
    assert model(batch).logits.shape == (N, outcome.width)
    told = model.head.weight[:, : 3 * columns].detach()
    assert (told >= 0).all()
    if kind == "survival":  # odds in proportion: every hazard hears the same
        assert (told == told[0]).all()
    else:  # a finding hears what was asked about it
        assert (told.view(2, 3, 2) * (1 - torch.eye(2))[:, None, :] == 0).all()
    assert (model.head.weight[:, 3 * columns :] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_who_lacks_an_input_hears_nothing_of_it(kind):
    model, batch, e_small, _, _ = fitted(kind)
    columns = 1 if kind == "survival" else 2
    vector = slice(2 * columns, 3 * columns)  # after the table's two models
    lacks = ~batch.present[:, 0]
    for told in (e_small, model.embed(batch)):
        assert (told[lacks, vector] == 0).all()
        assert (told[~lacks, vector] != 0).all()
        assert torch.isfinite(told).all()


def test_a_finding_is_what_a_classifier_says_of_it():
    model, batch, _, outcome, truth = fitted("findings", "logistic")
    known = ~np.isnan(truth[:, 1])
    x, y = batch.small["t"].double().numpy(), truth[known, 1]
    best = model.scorers[1].affine.weight[1]  # of the second finding, yes
    grid = [LogisticRegression(C=c, max_iter=2000) for c in (1e-4, 1e-3, 1e-2, 1e-1, 1.0)]
    z = (x[known] - x[known].mean(axis=0)) / x[known].std(axis=0)
    slopes = [g.fit(z, y).coef_[0] / x[known].std(axis=0) for g in grid]
    assert min(np.abs(best.numpy() - s).max() for s in slopes) < 1e-3
    prob = outcome.probabilities(model(batch).logits + torch.tensor(outcome.base)).mean(axis=0)
    assert prob == pytest.approx(np.nanmean(truth, axis=0), abs=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_patient_is_scored_without_himself(kind):
    """A forest knows its own patients by heart; e_small of a training patient must not."""
    model, batch, e_small, _, _ = fitted(kind)
    forest = 1 if kind == "survival" else 2  # its first column, after the logistic model's
    [first, *_] = questions(batch.target, kind)
    yes = np.isin(np.arange(N), first.who[first.y == 1])
    honest, by_heart = (
        float(e[yes, forest].mean() - e[~yes, forest].mean()) for e in (e_small, model.embed(batch))
    )
    assert honest < by_heart - 0.3


@pytest.mark.parametrize("sources", ["stack", "boosting"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_loaded_bit_for_bit(kind, sources):
    model, batch, _, outcome, truth = fitted(kind, sources)
    prob = outcome.probabilities(model(batch).logits + torch.tensor(outcome.base))
    assert outcome.score(prob, truth) > 0.6  # there is something to be loaded
    empty = ScoreSmall(model.sources, {"t": P}, classes=outcome.width, asked=kind).eval()
    empty.load_state_dict({k: v.clone() for k, v in model.state_dict().items()})
    assert torch.equal(empty(batch).logits, model(batch).logits)


def test_what_has_no_answers_is_silent():
    """A finding that nobody has, one that nobody is labelled for: the base, and no NaN."""
    truth = np.stack([np.arange(60) % 2, np.zeros(60), np.full(60, np.nan)], axis=1)
    outcome = Findings(("a", "b", "c")).fit(truth)
    x = torch.randn(60, P, generator=torch.Generator().manual_seed(2))
    target = outcome.target(truth)
    batch = Batch({}, torch.ones(60, 0, dtype=torch.bool), {"t": x}, target, torch.arange(60))
    model = ScoreSmall([("t", "logistic")], {"t": P}, classes=3, asked="findings")
    e_small = fit_scores(model, batch, np.arange(60).astype(str), base=outcome.base, seed=0)
    assert model.speaks.tolist() == [True, False, False]
    assert torch.isfinite(e_small).all()
    logits = model.eval()(batch).logits.detach()
    said = outcome.probabilities(logits + torch.tensor(outcome.base))
    assert said[:, 1] == pytest.approx(expit(outcome.base[1]), abs=0.02)
    assert logit(said[:, 2]) == pytest.approx(outcome.base[2])
