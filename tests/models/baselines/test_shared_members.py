"""Members of late fusion that were fitted before: taken where all is the same, and only there."""

import numpy as np
import pytest
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline

from adacomed.models.baselines import classical, kinds
from adacomed.models.baselines.classical import late_fusion, weighted_late_fusion
from adacomed.models.baselines.forests import Forest


def patients(n=80):
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=n)
    parts = {"a": rng.normal(size=(n, 3)) + y[:, None], "b": rng.normal(size=(n, 4))}
    parts["b"][rng.random(n) < 0.3] = np.nan
    return parts, y


def folds(y, seed=0):
    return list(StratifiedKFold(3, shuffle=True, random_state=seed).split(y, y))


@pytest.fixture
def fits(monkeypatch):
    """(kind, number of patients) of every member that is fitted; small forests, one ridge."""
    small = {
        "forest": lambda seed: (Pipeline([("trees", Forest(10, random_state=seed))]), {}),
        "logistic": lambda seed: (kinds.logistic(seed)[0], {"logisticregression__C": [0.1]}),
    }
    monkeypatch.setattr(classical, "KINDS", small)
    done, plain = [], classical.fit_kind

    def counted(kind, x, y, splits, seed):
        done.append((kind, len(x)))
        return plain(kind, x, y, splits, seed)

    monkeypatch.setattr(classical, "fit_kind", counted)
    return done


def test_both_fusions_fit_their_members_once_and_say_what_they_say_alone(fits):
    parts, y = patients()
    alone = [f(parts, [], y, folds(y), 0) for f in (late_fusion, weighted_late_fusion)]
    assert len(fits) == 4
    for order in (1, -1):
        fits.clear()
        made = {}
        pairs = list(zip((late_fusion, weighted_late_fusion), alone, strict=True))[::order]
        for fuse, expected in pairs:
            fitted = fuse(parts, [], y, folds(y), 0, made=made)
            np.testing.assert_array_equal(fitted.out_of_fold, expected.out_of_fold)
            np.testing.assert_array_equal(fitted.predict(parts), expected.predict(parts))
            assert fitted.choices == expected.choices
        assert len(fits) == 2


def test_whatever_a_member_depends_on_makes_it_another(fits):
    parts, y = patients()
    made = {}
    late_fusion(parts, [], y, folds(y), 0, made=made)
    moved = {**parts, "a": parts["a"] + 1e-9}
    flipped = np.where(np.arange(len(y)) == 5, 1 - y, y)
    others = [
        (moved, [], y, folds(y), 0, 1),
        (parts, [], flipped, folds(y), 0, 2),
        (parts, [], y, folds(y, seed=1), 0, 2),
        (parts, [], y, folds(y), 1, 2),
        (parts, ["b"], y, folds(y), 0, 1),
    ]
    for *problem, new in others:
        fits.clear()
        fitted = late_fusion(*problem, made=made)
        assert len(fits) == new, problem[1:]
        expected = late_fusion(*problem).out_of_fold
        np.testing.assert_array_equal(fitted.out_of_fold, expected)


def test_a_member_of_too_few_is_remembered_too(fits):
    parts, y = patients()
    parts["rare"] = np.full((len(y), 2), np.nan)
    parts["rare"][:2] = 1.0
    made = {}
    for fuse in (late_fusion, weighted_late_fusion):
        fuse(parts, [], y, folds(y), 0, made=made)
    assert len(fits) == 2
    assert list(made.values()).count(None) == 1
