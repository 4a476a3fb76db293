"""Every method by name: trained on a fold, choices on validation only, test read once."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from adacomed.cohort.split import Fold
from adacomed.errors import InputError
from adacomed.evaluation.discrimination import auroc
from adacomed.models.weighting import STRATEGIES
from adacomed.schema import Predictions
from adacomed.training.methods import Problem, run_method
from adacomed.training.names import method_names
from adacomed.training.plan import plan
from adacomed.training.selection import clearly_better

from .conftest import make_experiment, make_fold, make_inputs

ALL = [
    *("adacomed", "small", "large-ensemble", "average", "a-large", "b-large"),
    *("logistic", "forest", "boosting", "logistic-all", "forest-all", "boosting-all"),
    *("late-fusion", "weighted-late-fusion"),
]
NAMED = [
    *("meta-transformer", "onellm", "multimodal-pred", "gru", "flex-moe", "healnet", "haim"),
    *("extra-trees", "extra-trees-all", "lightgbm", "lightgbm-all"),
]
SERIES = ["gru"]  # what needs one: tests/training/test_series_rivals.py
NEURAL = [
    *("adacomed", "small", "large-ensemble", "average", "a-large"),
    *("meta-transformer", "onellm", "multimodal-pred", "flex-moe", "healnet"),
]
VARIANTS = [
    "adacomed?model.strategy=gaussian",
    "adacomed?preset=authors&training.epochs=1",
    "adacomed?model.attention=patients&model.masks=false",
    "adacomed?model.bank_size=batch&model.score=mean_negative",
    "adacomed?small.kind=multimodal-pred",
    "small?small.kind=multimodal-pred&small.recipe=authors&small.epochs=1",
]
QUICK = {
    "training": {"epochs": 2, "inner_folds": 2, "members": 1},
    "model": {"strategy": "threshold"},
    "baselines": {"size": "tiny"},
}


def problem(inputs=None, fold=None, **settings) -> Problem:
    inputs = inputs or make_inputs()
    experiment = make_experiment(**{**QUICK, **settings})
    return Problem(experiment, inputs, fold or make_fold(len(inputs)), "task", 0)


def test_names():
    assert method_names(make_inputs()) == [*ALL, *NAMED]
    assert method_names(make_inputs(), all_=False) == ALL
    ceiling = replace(make_inputs(), bayes_prob=np.full(120, 0.3))
    assert method_names(ceiling) == [*ALL, *NAMED, "bayes"]


@pytest.mark.parametrize("name", [n for n in [*ALL, *NAMED, *VARIANTS] if n not in SERIES])
def test_each_method_predicts_the_test_patients(name):
    p = problem()
    rows = run_method(name, p).predictions
    test = rows.filter(pl.col("split") == "test")
    assert test[Predictions.SAMPLE_ID].to_list() == p.inputs.sample_id[p.fold.test].tolist()
    val = rows.filter(pl.col("split") == "val")
    assert set(val[Predictions.SAMPLE_ID]) == set(p.inputs.sample_id[p.fold.train])
    assert rows[Predictions.PROB].is_between(0, 1).all()
    assert rows[Predictions.THRESHOLD].n_unique() == 1


@pytest.mark.parametrize("name", [*NEURAL, *VARIANTS])
def test_half_precision_trains_nearly_the_same(name):
    """What a card does by default, on the processor's own bfloat16."""
    found = []
    for precision in ("float32", "bfloat16"):
        rows = run_method(name, problem(training={**QUICK["training"], "precision": precision}))
        found.append(rows.predictions[Predictions.PROB].to_numpy())
    assert 0 < np.abs(found[0] - found[1]).max() < 0.1


@pytest.mark.parametrize("name", ["adacomed", "average", "late-fusion", "forest"])
def test_three_classes(name):
    inputs = make_inputs(classes=3)
    rows = run_method(name, problem(inputs)).predictions
    prob = rows.select("prob_0", "prob_1", "prob_2").to_numpy()
    assert prob.sum(1) == pytest.approx(1)


@pytest.mark.parametrize("name", ["adacomed", "logistic-all", "late-fusion"])
def test_test_labels_change_nothing(name):
    """Flip the test patients' labels: no prediction and no threshold may move."""
    p = problem()
    y = p.inputs.target.copy()
    y[p.fold.test] = 1 - y[p.fold.test]
    flipped = replace(p, inputs=replace(p.inputs, target=y))
    columns = [Predictions.SAMPLE_ID, Predictions.PROB, Predictions.THRESHOLD]
    ours = run_method(name, p).predictions.select(columns)
    assert ours.equals(run_method(name, flipped).predictions.select(columns))


@pytest.mark.parametrize("name", ["adacomed", "late-fusion"])
def test_test_inputs_of_others_change_nothing(name):
    """A test patient's numbers stay when the other test patients' inputs change."""
    p = problem()
    vectors = {m: x.copy() for m, x in p.inputs.vectors.items()}
    vectors["a"][p.fold.test[1:]] += 3
    moved = replace(p, inputs=replace(p.inputs, vectors=vectors))

    def first(problem):
        rows = run_method(name, problem).predictions.filter(pl.col("split") == "test")
        return rows[Predictions.PROB][0]

    assert first(p) == pytest.approx(first(moved), abs=1e-9)


def test_the_small_method_is_the_one_that_adacomed_starts_from():
    """With no fusion epoch that moves anything, the small branch is the small method."""
    p = problem()
    own = run_method("small", p)
    fused = run_method("adacomed", p)
    assert fused.choices["small_epochs"] == own.choices["epochs"]
    body = {k: v for k, v in own.trained.model.state_dict().items() if not k.startswith("head")}
    inside = fused.trained.model.small.state_dict()
    assert all((inside[k] == v).all() for k, v in body.items())


def test_holdout_validation_with_a_given_validation_split():
    rows = np.arange(120)
    fold = Fold(0, 0, train=rows[:60], val=rows[60:90], test=rows[90:])
    result = run_method("adacomed", problem(fold=fold))
    val = result.predictions.filter(pl.col("split") == "val")
    assert set(val["sample_id"]) == {f"p{i:03d}" for i in range(60, 90)}


def test_strategies_are_chosen_on_validation():
    result = run_method("adacomed", problem(model={"strategy": "auto"}))
    said = result.choices["strategy_auroc_on_validation"]
    assert tuple(said) == STRATEGIES
    assert result.choices["strategy"] in ("ensemble", max(said, key=said.get))


def test_a_challenger_must_beat_the_incumbent_by_more_than_noise():
    p = problem()
    layout = plan(p.inputs, p.fold, p.experiment)
    y = torch.tensor(layout.val_target)
    noise = torch.randn(len(y), generator=torch.Generator().manual_seed(0))
    good = torch.stack([torch.zeros(len(y)), y + 0.5 * noise], dim=1)
    a_little = good.clone()
    a_little[y.argmax(), 1] += 0.3
    assert clearly_better(good, torch.stack([torch.zeros(len(y)), noise], 1), layout)
    assert not clearly_better(a_little, good, layout)
    assert not clearly_better(good, good, layout)


def test_a_named_seed_repeats_and_another_differs():
    a, b = (run_method("adacomed", problem()).predictions for _ in range(2))
    assert a.equals(b)
    other = run_method("adacomed", replace(problem(), seed=1)).predictions
    assert not a[Predictions.PROB].equals(other[Predictions.PROB])


def test_probabilities_mean_what_they_say_in_spite_of_class_weights():
    """Prior correction: the mean predicted risk is near the prevalence, not near one half."""
    inputs = make_inputs(400, seed=1)
    y = np.zeros(400, np.int64)
    y[np.argsort(inputs.vectors["a"].sum(1))[-60:]] = 1
    p = problem(replace(inputs, target=y), make_fold(400), training={"epochs": 15})
    test = run_method("small", p).predictions.filter(pl.col("split") == "test")
    assert test[Predictions.PROB].mean() == pytest.approx(test["label"].mean(), abs=0.08)


def test_methods_learn_what_there_is_to_learn():
    inputs = make_inputs(300)
    for name in ("adacomed", "large-ensemble", "logistic-all"):
        p = problem(
            inputs,
            make_fold(300),
            training={"epochs": 12, "inner_folds": 2},
            small={"kind": "stack"},
        )
        test = run_method(name, p).predictions.filter(pl.col("split") == "test")
        assert auroc(test["label"], test["prob"]) > 0.9, name


def test_a_cohort_without_tables_and_one_with_nothing_else():
    inputs = make_inputs()
    bare = replace(inputs, tables={}, small=["a", "b"])
    assert not {"logistic-all", "lightgbm-all"} & set(method_names(bare))
    for name in ("adacomed", "logistic", "late-fusion"):
        run_method(name, problem(bare))


def test_members_are_averaged_and_differ_by_their_seed():
    p = problem(training={"epochs": 2, "inner_folds": 2, "members": 2})
    result = run_method("adacomed", p)
    first, second = result.trained.model.members
    assert not torch.equal(first.f.weight, second.f.weight)
    assert not torch.equal(first.small.head.weight, second.small.head.weight)
    test = p.inputs.take(p.fold.test)
    batch = result.trained.fitted.batch(test)
    mean = (first(batch).logits + second(batch).logits) / 2
    assert torch.allclose(result.trained.model(batch).logits, mean, atol=1e-6)
    alone = run_method("adacomed", problem()).trained.model  # the first member is the only one
    assert torch.equal(alone.f.weight, first.f.weight)


def test_unknown_method_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'adacomed'"):
        run_method("adacomd", problem())
