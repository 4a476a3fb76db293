"""Classical methods of one fold: what two of them share, and what that may not change."""

from dataclasses import replace

import numpy as np
import pytest

from adacomed.models.baselines import classical, kinds
from adacomed.schema import Predictions
from adacomed.training.methods import Problem, Trainers, run_method

from .conftest import make_experiment, make_fold, make_inputs

FUSED = ("late-fusion", "weighted-late-fusion")


@pytest.fixture
def fits(monkeypatch):
    """Kinds that are fitted, in their order; small forests, ridges of one size."""
    done, plain = [], classical.fit_kind

    def forest(seed):
        model, grid = kinds.forest(seed)
        few = {f"{model.steps[-1][0]}__n_estimators": 10}
        return model.set_params(**few), {name: [3] for name in grid}

    def counted(kind, *args):
        done.append(kind)
        return plain(kind, *args)

    small = {
        "forest": forest,
        "logistic": lambda seed: (kinds.logistic(seed)[0], {"logisticregression__C": [0.1]}),
    }
    monkeypatch.setattr(classical, "KINDS", small)
    monkeypatch.setattr(classical, "fit_kind", counted)
    return done


def problem(seed=0, **settings):
    inputs = make_inputs(90)
    experiment = make_experiment(training={"inner_folds": 2}, **settings)
    return Problem(experiment, inputs, make_fold(90), "task", seed)


def prob(name, given):
    return run_method(name, given).predictions[Predictions.PROB].to_numpy()


def test_the_late_fusions_of_a_fold_share_their_members(fits):
    given = problem()
    alone = {name: prob(name, replace(given, trainers=Trainers())) for name in FUSED}
    assert len(fits) == 6  # two vectors and a table, twice
    for order in (FUSED, FUSED[::-1]):
        fits.clear()
        together = replace(given, trainers=Trainers())
        for name in order:
            np.testing.assert_array_equal(prob(name, together), alone[name])
        assert sorted(fits) == ["forest", "logistic", "logistic"]


def test_other_settings_and_seeds_have_members_of_their_own(fits):
    given = problem()
    prob("late-fusion", given)
    for name, other in (
        ("weighted-late-fusion?inputs.pca=2", given),
        ("weighted-late-fusion", replace(problem(seed=1), trainers=given.trainers)),
        ("weighted-late-fusion?training.inner_folds=3", given),
    ):
        fits.clear()
        found = prob(name, other)
        assert fits, name
        np.testing.assert_array_equal(found, prob(name, replace(other, trainers=Trainers())))
