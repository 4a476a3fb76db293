"""The space: ranges that hold the start, constants where they are read, words of the user's."""

from __future__ import annotations

from typing import Any

import optuna
import pytest

from adacomed.config import Experiment
from adacomed.errors import InputError
from adacomed.search.space import (
    STRATEGY,
    Parameter,
    applied,
    described,
    search_space,
    start_values,
    suggest,
)
from adacomed.training.recipes import resolve_preset
from tests.training.conftest import make_experiment


def space_of(experiment: Experiment, *words: str) -> dict[str, Parameter]:
    return {p.name: p for p in search_space(experiment, words)[1]}


def drawn(space: list[Parameter], n: int = 60) -> list[dict[str, Any]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [suggest(study.ask(), space, "auto") for _ in range(n)]


@pytest.mark.parametrize("preset", ["default", "paper", "authors"])
def test_a_range_holds_the_presets_own_value_and_every_value_drawn_can_be_trained(preset) -> None:
    experiment, space = search_space(make_experiment(preset=preset))
    resolved = resolve_preset(experiment)
    assert resolve_preset(applied(experiment, start_values(space))) == resolved
    for p in space:
        inside = p.start in p.choices if p.choices else p.low <= p.start <= p.high
        assert inside, p
    for values in drawn(space, 20):
        changed = resolve_preset(applied(experiment, values))
        assert changed.strategy == values[STRATEGY]
        assert changed.lambda_ == values["model.lambda"]
        assert changed.lr == values["training.lr"]


def test_a_start_of_zero_is_reached_without_a_logarithm() -> None:
    found = space_of(make_experiment(model={"lambda": 0.0}))["model.lambda"]
    assert (found.low, found.start, found.log) == (0.0, 0.0, False)
    wide = space_of(make_experiment(model={"lambda": 9.0}))["model.lambda"]
    assert (wide.high, wide.log) == (9.0, True)


def test_constants_are_drawn_only_under_the_strategy_that_reads_them() -> None:
    seen = set()
    for values in drawn(search_space(make_experiment())[1]):
        strategy = values[STRATEGY]
        seen.add(strategy)
        assert ("model.sigma" in values) == (strategy == "gaussian")
        assert ("model.t" in values) == ("model.k" in values) == (strategy == "threshold")
    assert seen == {"auto", "ensemble", "learnable", "inverse", "gaussian", "threshold"}


def test_the_users_words_give_ranges_choices_and_fixed_values() -> None:
    words = [
        "model.tau=0.05:0.2:log",
        "model.H=32,64",
        f"{STRATEGY}=gaussian",
        "training.epochs=1:9",
    ]
    words.append("training.weight_decay=0:0.1")
    experiment, space = search_space(make_experiment(), words)
    found = {p.name: p for p in space}
    assert experiment.model.strategy == "gaussian"
    assert STRATEGY not in found
    assert found["model.tau"].text() == "0.05 to 0.2 (log)"
    assert found["model.H"].choices == (32, 64)
    assert found["training.epochs"].whole
    assert found["training.weight_decay"].low == 0
    for values in drawn(space, 5):
        assert 0.05 <= values["model.tau"] <= 0.2
        assert isinstance(values["training.epochs"], int)
    study = optuna.create_study()
    assert "model.sigma" in suggest(study.ask(), space, "gaussian")
    assert "model.k" not in suggest(study.ask(), space, "gaussian")


def test_a_step_size_of_the_users_is_read_as_a_number_and_never_above_one() -> None:
    found = space_of(make_experiment(training={"lr": 0.5}))["training.lr"]
    assert (found.low, found.high) == (0.05, 1.0)
    chosen = space_of(make_experiment(), "training.lr=1e-4,1e-3")["training.lr"]
    assert chosen.choices == (1e-4, 1e-3)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("model.tau", "NAME=LOW:HIGH"),
        ("model.tau=", "NAME=LOW:HIGH"),
        ("model.tau=0.5:0.1", "LOW < HIGH"),
        ("model.tau=0:0.1:log", "0 < LOW"),
        ("model.tau=a:b", "NAME=LOW:HIGH"),
        ("model.tau=0.1:0.2:linear", "NAME=LOW:HIGH"),
        ("model.tau=0.1:inf", "NAME=LOW:HIGH"),
        ("model.tau=-1:1", "model.tau"),
        ("model.tua=0.1:0.2", "'tau'"),
        ("model.strategy=0:1", "a choice, not a number"),
        ("model.strategy=gauss", "model.strategy"),
        ("model.H=64,65", "heads"),
        ("training.inner_folds=2:5", "cannot be searched"),
        ("split.folds=2:5", "cannot be searched"),
        ("seed=1:5", "cannot be searched"),
        ("small.epochs=2:5", "no value to start from"),
    ],
)
def test_what_cannot_be_searched_is_said(word: str, says: str) -> None:
    with pytest.raises(InputError) as error:
        search_space(make_experiment(small={"kind": "stack"}), [word])
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_name_twice_and_nothing_left_are_errors() -> None:
    with pytest.raises(InputError, match="once"):
        search_space(make_experiment(), ["model.tau=0.1", "model.tau=0.2"])
    names = [p.name for p in search_space(make_experiment())[1]]
    fixed = [f"{n}={'auto' if n == STRATEGY else 32 if n == 'model.d' else 0.1}" for n in names]
    with pytest.raises(InputError, match="nothing is left"):
        search_space(make_experiment(), fixed)


def test_the_description_tells_spaces_apart() -> None:
    plain = described(search_space(make_experiment())[1])
    assert plain == described(search_space(make_experiment())[1])
    other = described(search_space(make_experiment(), ["model.tau=0.02:0.4:log"])[1])
    assert plain != other
