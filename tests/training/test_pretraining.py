"""Small models before the fusion: kinds, what is chosen, what a part's patients are told."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from adacomed.models.small.scores import ScoreSmall
from adacomed.models.small.shallow import ShallowSmall
from adacomed.schema import Predictions
from adacomed.training.methods import Problem, Trainers, run_method

from .conftest import make_experiment, make_fold, make_inputs


def problem(kind="stack", *, inputs=None, trainers=None, **settings) -> Problem:
    few = {"epochs": 2, "inner_folds": 2, "members": 1}
    made = make_experiment(
        training={**few, **settings.pop("training", {})},
        inputs=settings.pop("inputs_", {}),
        small={"kind": kind},
        **settings,
    )
    inputs = inputs or make_inputs()
    return Problem(made, inputs, make_fold(len(inputs)), "task", 0, trainers or Trainers())


def smalls(p: Problem):
    return p.trainer(p.experiment, raw=False).smalls


@pytest.mark.parametrize("validation", ["cv", "holdout"])
@pytest.mark.parametrize("kind", ["stack", "forest", "boosting", "logistic"])
def test_every_kind_of_small_model_works_whole(kind, validation):
    p = problem(kind, training={"validation": validation})
    for method in ("small", "adacomed", "average"):
        result = run_method(method, p)
        test = result.predictions.filter(pl.col(Predictions.SPLIT) == "test")
        assert test[Predictions.PROB].is_finite().all()
        assert len(test) == 30


def test_three_classes():
    result = run_method("adacomed", problem(inputs=make_inputs(classes=3)))
    prob = result.predictions.select("prob_0", "prob_1", "prob_2").to_numpy()
    assert np.allclose(prob.sum(axis=1), 1)


def test_a_fold_fits_its_small_models_once():
    p = problem()
    first = smalls(p)
    run_method("small", p)
    run_method("adacomed?model.lambda=0.5", p)
    again = p.trainers.smalls[first.key]
    assert again is first
    assert set(first._scored) == {"inner 0", "inner 1", "all"}


def test_training_patients_are_told_what_others_taught():
    """e_small of a training patient is not what the model that saw it says of it."""
    p = problem("forest")
    mine = smalls(p)
    for part in [*mine.plan.parts, *mine.plan.members]:
        told = mine.given(part).train.e_small
        by_heart = mine.of(part).embed(part.train)
        assert told.shape == by_heart.shape
        y = part.train.target == 1
        gap = [float(e[y, 1].mean() - e[~y, 1].mean()) for e in (told, by_heart)]
        assert gap[0] < gap[1] - 0.1


def test_validation_patients_took_no_part():
    """Other labels of the held-out patients change nothing of what a part's model is."""
    inputs = make_inputs()
    p = problem(inputs=inputs)
    part = smalls(p).plan.parts[0]
    target = inputs.target.copy()
    target[part.val_rows] = 1 - target[part.val_rows]
    other = smalls(p).plan.parts[0]
    changed = problem(inputs=replace(inputs, target=target))
    twin = replace(part, val=replace(part.val, target=torch.from_numpy(target[part.val_rows])))
    a, b = smalls(p).of(other), smalls(changed).of(twin)
    for name, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[name])


def test_named_modalities_are_all_that_it_reads():
    made = make_experiment(small={"kind": "stack", "modalities": ["clinical", "a"]})
    p = Problem(made, make_inputs(), make_fold(), "task", 0)
    model = smalls(p).of(smalls(p).plan.kept)
    assert {name for name, _ in model.sources} == {"clinical", "a"}
    assert {name for name, _ in _stack(problem()).sources} == {"clinical", "a", "b"}


@pytest.mark.parametrize("pca", [None, 2])
def test_a_table_of_the_large_side_alone_is_read_too(pca):
    """It comes as its own vector, perhaps shortened: only the small side's tables come as cells."""
    one = make_inputs()
    other = one.tables["clinical"].rename({"age": "height", "ward": "floor"})
    present = np.zeros((len(one), 1), np.float32)
    inputs = replace(
        one,
        vectors={**one.vectors, "body": present},
        tables={**one.tables, "body": other},
        own=["body"],
    )
    p = problem(inputs=inputs, inputs_={"pca": pca} if pca else {})
    assert ("body", "forest") in _stack(p).sources
    assert run_method("small", p).predictions["prob"].is_finite().all()


def _stack(p: Problem) -> ScoreSmall:
    model = smalls(p).of(smalls(p).plan.kept)
    assert isinstance(model, ScoreSmall)
    return model


def test_auto_takes_the_stack_unless_another_is_clearly_better():
    chosen = smalls(problem("auto"))
    assert chosen.experiment.small.kind == "stack"


def test_auto_takes_the_network_where_only_it_can_see():
    """Sign times sign: no classical model of one column each has it, a network and trees do."""
    rng = np.random.default_rng(0)
    inputs = make_inputs(400)
    x = rng.normal(size=(400, 6)).astype(np.float32)
    y = (x[:, 0] * x[:, 1] > 0).astype(np.int64)
    alone = replace(inputs, vectors={"a": x}, tables={}, small=["a"], target=y)
    p = problem("auto", inputs=alone, training={"epochs": 150})
    chosen = smalls(p)
    assert chosen.experiment.small.kind == "shallow"
    assert isinstance(chosen.of(chosen.plan.kept), ShallowSmall)
    assert run_method("adacomed", p).choices["small"] == "shallow"
    once = {"epochs": 2, "validation": "holdout"}  # it chose its epoch there: no judge of kinds
    held_out = problem("auto", inputs=alone, training=once)
    assert smalls(held_out).experiment.small.kind == "stack"


def test_a_run_with_a_stack_is_loaded_as_it_was(tmp_path):
    from adacomed.inference import forward
    from adacomed.training.build import build_from_spec, restore, stored

    p = problem("auto", model={"strategy": "reliable"}, training={"members": 2})
    trained = run_method("adacomed", p).trained
    assert trained is not None
    model = build_from_spec(trained.spec, trained.fitted, 2).eval()
    restore(model, {k: v.clone() for k, v in stored(trained.model).items()})
    test = p.inputs.take(p.fold.test)
    before, after = forward(trained, test), forward(replace(trained, model=model), test)
    assert torch.equal(before.logits, after.logits)
    assert torch.equal(before.w_large, after.w_large)
    assert (before.spread > 0).all()
