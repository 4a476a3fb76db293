from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.model_selection import RepeatedStratifiedKFold, train_test_split

from adacomed.cohort.cohort import load_cohort
from adacomed.cohort.split import Fold, assert_disjoint, holdout, kfold, official
from adacomed.errors import InputError

Make = Callable[..., Path]
RNG = np.random.default_rng(0)
TARGET = RNG.choice([-1, 0, 1], 200, p=[0.1, 0.7, 0.2])
ALONE = np.array([f"s{k}" for k in range(200)])
GROUPED = np.array([f"s{k // 3}" for k in range(200)])


def test_kfold_is_scikit_learns_over_the_labelled_rows() -> None:
    rows = np.flatnonzero(TARGET >= 0)
    oracle = RepeatedStratifiedKFold(n_splits=5, n_repeats=3, random_state=7)
    folds = kfold(TARGET, ALONE, folds=5, repeats=3, seed=7)
    assert len(folds) == 15
    for number, (fold, (train, test)) in enumerate(
        zip(folds, oracle.split(rows, TARGET[rows]), strict=True)
    ):
        assert (fold.repeat, fold.fold) == divmod(number, 5)
        np.testing.assert_array_equal(fold.train, rows[train])
        np.testing.assert_array_equal(fold.test, rows[test])


def test_kfold_keeps_a_subject_on_one_side() -> None:
    folds = kfold(TARGET, GROUPED, folds=4, repeats=2, seed=0)
    for repeat in (0, 1):
        mine = [f for f in folds if f.repeat == repeat]
        tested = np.sort(np.concatenate([f.test for f in mine]))
        np.testing.assert_array_equal(tested, np.flatnonzero(TARGET >= 0))
        for fold in mine:
            assert not set(GROUPED[fold.train]) & set(GROUPED[fold.test])
            share = (TARGET[fold.test] == 1).mean()
            assert abs(share - (TARGET[tested] == 1).mean()) < 0.1
    assert not np.array_equal(folds[0].test, folds[4].test)


def test_too_few_of_a_class_for_the_folds() -> None:
    target = np.array([1] * 3 + [0] * 30)
    with pytest.raises(InputError, match="class 1 has 3 patients; at most 3 folds would work"):
        kfold(target, ALONE[:33], folds=5, repeats=1, seed=0)
    one_patient = np.array(["a"] * 3 + [f"p{k}" for k in range(30)])
    with pytest.raises(InputError, match="has 1 patients; no number"):
        kfold(target, one_patient, folds=2, repeats=1, seed=0)


def test_holdout_is_train_test_split_where_subjects_have_one_row() -> None:
    rows = np.flatnonzero(TARGET >= 0)
    train, held = holdout(TARGET, np.arange(200), fraction=0.2, seed=3)
    expected = train_test_split(
        rows, test_size=round(0.2 * len(rows)), stratify=TARGET[rows], random_state=3
    )
    np.testing.assert_array_equal(train, np.sort(expected[0]))
    np.testing.assert_array_equal(held, np.sort(expected[1]))


def test_holdout_is_grouped_stratified_and_inside_rows() -> None:
    rows = np.arange(150)
    train, held = holdout(TARGET, GROUPED, fraction=0.25, seed=0, rows=rows)
    assert not set(GROUPED[train]) & set(GROUPED[held])
    union = np.sort(np.r_[train, held])
    np.testing.assert_array_equal(union, rows[TARGET[rows] >= 0])
    assert abs(len(held) / len(union) - 0.25) < 0.05
    with pytest.raises(InputError, match="class 1: 1"):
        holdout(np.array([0, 0, 0, 1]), ALONE[:4], fraction=0.5, seed=0)


def cohort_with(make: Make, split: list[str | None], patient: list[str]) -> Path:
    n = len(split)
    table = {"patient": patient, "row": range(n), "split": split, "age": range(n)}
    frame = pl.DataFrame(table | {"went_icu": (["Y", "N"] * n)[:n], "sex": ["F"] * n})
    return make(frame, split="split", sample="row")


def test_official_split(make: Make) -> None:
    patient = [f"p{k}" for k in range(20)]
    cohort = load_cohort(
        cohort_with(make, ["train"] * 12 + ["val"] * 3 + ["test"] * 4 + [None], patient)
    )
    target = cohort.target("icu").copy()
    target[0] = -1
    fold = official(cohort, target)
    assert fold.train.tolist() == list(range(1, 12))
    assert fold.val is not None
    assert fold.val.tolist() == [12, 13, 14]
    assert fold.test.tolist() == [15, 16, 17, 18]
    file = cohort_with(make, ["train"] * 20, patient)
    with pytest.raises(InputError, match="no labelled test row"):
        official(load_cohort(file), target)
    with pytest.raises(InputError, match="no official split"):
        official(load_cohort(cohort_with(make, [None] * 20, patient)), target)


def test_a_subject_in_two_splits_is_named(make: Make) -> None:
    patient = ["p0"] + [f"p{k}" for k in range(18)] + ["p5"]
    cohort = load_cohort(cohort_with(make, ["train"] * 15 + ["test"] * 5, patient))
    with pytest.raises(InputError, match="'p5' is in two splits, train and test"):
        official(cohort, cohort.target("icu"))
    fold = Fold(0, 0, np.array([0]), np.array([2]), np.array([1]))
    with pytest.raises(InputError, match="train and val"):
        assert_disjoint(fold, np.array(["a", "a", "b"]))
    assert_disjoint(fold, np.array(["a", "b", "c"]))
