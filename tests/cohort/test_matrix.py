"""Matrices of vectors on disk: the rows asked for, and only files that hold what they should."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from adacomed.cohort import matrix
from adacomed.cohort.matrix import Mapped, has_vector, in_memory, open_matrix
from adacomed.errors import InputError

N, D = 50, 7
ABSENT = [3, 4, 20, 49]


def vectors(kind: str = "<f4") -> np.ndarray:
    x = np.random.default_rng(0).normal(size=(N, D)).astype(kind)
    x[ABSENT] = np.nan
    return x


def saved(folder: Path, x: np.ndarray) -> Path:
    np.save(folder / "x.npy", x)
    return folder / "x.npy"


@pytest.mark.parametrize("kind", ["<f2", "<f4", "<f8"])
def test_rows_in_any_order_are_those_of_the_array(tmp_path, kind):
    x = vectors(kind)
    found = open_matrix(saved(tmp_path, x), "m")
    x = x.astype(np.float32)
    assert found.shape == x.shape
    assert np.array_equal(found.here, ~np.isnan(x).any(axis=1))
    assert np.array_equal(found.loaded(), x, equal_nan=True)
    rng = np.random.default_rng(1)
    for rows in (rng.permutation(N), np.array([49, 0, 0, 3]), np.array([], int), np.arange(5, 9)):
        taken = found.take(rows)
        assert len(taken) == len(rows)
        assert taken.loaded().dtype == np.float32
        assert np.array_equal(taken.loaded(), x[rows], equal_nan=True)
        again = np.arange(len(rows))[::-1]
        assert np.array_equal(taken.take(again).loaded(), x[rows][again], equal_nan=True)


def test_chunks_are_all_rows_in_order(tmp_path, monkeypatch):
    x = vectors()
    monkeypatch.setattr(matrix, "AT_ONCE", 8 * 4 * D)
    parts = [*open_matrix(saved(tmp_path, x), "m").chunks()]
    assert [len(part) for part in parts] == [8, 8, 8, 8, 8, 8, 2]
    assert np.array_equal(np.concatenate(parts), x, equal_nan=True)


def test_another_process_opens_the_file_itself(tmp_path):
    x = vectors()
    found = open_matrix(saved(tmp_path, x), "m")
    found.loaded()
    sent = pickle.loads(pickle.dumps(found.take(np.arange(10))))  # as multiprocessing sends it
    assert np.array_equal(sent.loaded(), x[:10], equal_nan=True)


def test_an_index_says_whose_rows_they_are(tmp_path):
    x = vectors()
    index = np.array([10, -1, 3, 10, 49])
    found = open_matrix(saved(tmp_path, x), "m", index)
    assert found.here.tolist() == [True, False, False, True, False]
    wanted = np.where(found.here[:, None], x[index], np.nan)
    assert np.array_equal(found.loaded(), wanted, equal_nan=True)


def test_arrays_and_files_are_asked_alike(tmp_path):
    x = vectors()
    found = open_matrix(saved(tmp_path, x), "m")
    assert np.array_equal(has_vector(x), has_vector(found))
    assert in_memory(x) is x
    assert np.array_equal(in_memory(found), x, equal_nan=True)


def test_a_row_that_is_half_there_is_named_without_its_values(tmp_path):
    x = vectors()
    x[7, 2], x[7, 3] = np.inf, 123.25
    with pytest.raises(InputError, match=r"modality 'm': x.npy, row 7") as error:
        open_matrix(saved(tmp_path, x), "modality 'm'")
    assert "123" not in str(error.value)


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (np.zeros(5, np.float32), r"\(5,\)"),
        (np.zeros((5, 2), np.int64), "int64"),
        (np.asfortranarray(np.zeros((5, 2), np.float32)), "column order"),
        (np.zeros((5, 0), np.float32), r"\(5, 0\)"),
    ],
)
def test_another_array_is_refused_with_what_would_work(tmp_path, x, said):
    with pytest.raises(InputError, match=f"{said}.*np.save"):
        open_matrix(saved(tmp_path, x), "m")


def test_a_file_that_is_cut_short(tmp_path):
    path = saved(tmp_path, vectors())
    found = open_matrix(path, "m")
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 4 * D)
    with pytest.raises(InputError, match="cut short"):
        open_matrix(path, "m")
    assert isinstance(found, Mapped)
    assert len(found.take(np.array([47])).loaded()) == 1
    whole = Mapped(found.file, found.offset, found.kind, D, np.ones(N, bool))
    with pytest.raises(InputError, match="become shorter"):
        whole.loaded()


def test_no_npy_file_at_all(tmp_path):
    (tmp_path / "x.npy").write_text("hello")
    with pytest.raises(InputError, match="not a readable"):
        open_matrix(tmp_path / "x.npy", "m")
