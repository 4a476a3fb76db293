"""Vectors left on disk: the same numbers as in memory, copied once, in little memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from adacomed.cohort import matrix, stored
from adacomed.cohort.cohort import Cohort, load_cohort
from adacomed.errors import InputError

from .conftest import Make

N, D = 40, 5  # patients of the conftest
IDS = [f"{k:03d}" for k in range(N)]


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several pieces and chunks of a small cohort."""
    monkeypatch.setattr(stored, "FIRST", 3)
    monkeypatch.setattr(matrix, "AT_ONCE", 4 * D * 6)


def cohort_with(make: Make, root: str, **more: str) -> Cohort:
    return load_cohort(make(modalities={"ct": {"kind": "embedding", "root": root, **more}}))


def items(n: int = N) -> tuple[list[str], np.ndarray]:
    """Every third patient has two vectors, every seventh none; in no order."""
    rng = np.random.default_rng(0)
    owners = [i for k, i in enumerate(IDS[:n]) if k % 7 for _ in range(1 + (k % 3 == 0))]
    order = rng.permutation(len(owners))
    return [owners[k] for k in order], rng.normal(size=(len(owners), D)).astype(np.float32)


def write_table(path: Path, owners: list[str], x: np.ndarray, **how: int) -> None:
    rows = pl.Series("vector", x).cast(pl.List(pl.Float32))
    pl.DataFrame({"sample_id": owners, "vector": rows}).write_parquet(path, **how)


def check(cohort: Cohort, folder: Path) -> None:
    """On disk as in memory, whole and in part."""
    memory, disk = cohort.vectors("ct"), cohort.matrix("ct", folder)
    assert disk.shape == memory.shape
    assert np.array_equal(disk.loaded(), memory, equal_nan=True)
    rows = np.array([9, 0, 30])
    part = cohort.take(rows).matrix("ct", folder)
    assert np.array_equal(part.loaded(), memory[rows], equal_nan=True)


def test_a_parquet_table_with_several_vectors_and_strangers(make, tmp_path):
    owners, x = items()
    owners += ["nobody", "999"]
    x = np.concatenate([x, np.ones((2, D), np.float32)])
    write_table(tmp_path / "ct.parquet", owners, x)
    check(cohort_with(make, "ct.parquet"), tmp_path / "copies")


def test_a_parquet_table_in_the_tables_order(make, tmp_path):
    x = np.random.default_rng(1).normal(size=(N, D)).astype(np.float32)
    write_table(tmp_path / "ct.parquet", IDS, x)
    cohort = cohort_with(make, "ct.parquet")
    check(cohort, tmp_path / "copies")
    [copy] = (tmp_path / "copies").glob("*.npy")
    assert np.array_equal(np.load(copy), x)


def test_rows_without_a_vector_and_arrays_of_fixed_width(make, tmp_path):
    x = np.random.default_rng(1).normal(size=(N, D)).astype(np.float32)
    rows = pl.Series("vector", x)  # Array(Float32, 5)
    frame = pl.DataFrame({"sample_id": IDS, "vector": rows})
    gone = pl.col("sample_id").is_in(["004", "039"])
    frame = frame.with_columns(vector=pl.when(~gone).then("vector"))
    frame.write_parquet(tmp_path / "ct.parquet")
    cohort = cohort_with(make, "ct.parquet")
    found = cohort.matrix("ct", tmp_path / "copies")
    assert np.flatnonzero(~found.here).tolist() == [4, 39]
    assert np.array_equal(found.loaded()[found.here], x[found.here])


def test_a_folder_of_files(make, tmp_path):
    owners, x = items()
    (tmp_path / "ct").mkdir()
    for k, (owner, vector) in enumerate(zip(owners, x, strict=True)):
        np.savez(tmp_path / "ct" / f"{owner}-{k}.npz", vector)
    check(cohort_with(make, "ct"), tmp_path / "copies")


def test_a_matrix_in_the_tables_order_is_read_where_it_is(make, tmp_path):
    x = np.random.default_rng(1).normal(size=(N, D)).astype(np.float32)
    x[[2, 11]] = np.nan
    np.save(tmp_path / "ct.npy", x)
    cohort = cohort_with(make, "ct.npy")
    check(cohort, tmp_path / "copies")
    assert np.array_equal(cohort.vectors("ct"), x, equal_nan=True)
    assert not (tmp_path / "copies").exists()


def test_a_matrix_whose_rows_a_column_names(make, tmp_path):
    from .conftest import patients

    x = np.random.default_rng(1).normal(size=(N, D)).astype(np.float32)
    np.save(tmp_path / "ct.npy", x[::-1])
    rows = [None if k == 5 else N - 1 - k for k in range(N)]
    card = {"ct": {"kind": "embedding", "root": "ct.npy", "column": "row"}}
    cohort = load_cohort(make(patients().with_columns(row=pl.Series(rows)), modalities=card))
    check(cohort, tmp_path / "copies")
    x[5] = np.nan
    assert np.array_equal(cohort.vectors("ct"), x, equal_nan=True)
    worse = patients().with_columns(row=pl.Series([N + 3, *range(1, N)]))
    with pytest.raises(InputError, match=r"'row' must hold rows of ct.npy, 0 to 39"):
        load_cohort(make(worse, modalities=card)).matrix("ct", tmp_path)


def test_a_matrix_of_another_length_says_what_would_work(make, tmp_path):
    np.save(tmp_path / "ct.npy", np.zeros((N + 1, D), np.float32))
    cohort = cohort_with(make, "ct.npy")
    for read in (lambda: cohort.vectors("ct"), lambda: cohort.matrix("ct", tmp_path)):
        with pytest.raises(InputError, match=r"ct.npy has 41 rows, the table 40.*column:"):
            read()


def test_the_copy_is_made_once_and_again_where_its_source_changes(make, tmp_path):
    owners, x = items()
    write_table(tmp_path / "ct.parquet", owners, x)
    folder = tmp_path / "copies"
    cohort_with(make, "ct.parquet").matrix("ct", folder)
    [copy] = folder.glob("*.npy")
    before = copy.stat()
    cohort_with(make, "ct.parquet").matrix("ct", folder)
    assert copy.stat().st_mtime_ns == before.st_mtime_ns
    write_table(tmp_path / "ct.parquet", owners, x + 1)
    os.utime(tmp_path / "ct.parquet", ns=(0, before.st_mtime_ns + 1))
    again = cohort_with(make, "ct.parquet")
    check(again, folder)
    [now] = folder.glob("*.npy")  # the stale one is gone
    assert now != copy


def test_a_damaged_copy_and_what_a_killed_process_left_are_mended(make, tmp_path):
    owners, x = items()
    write_table(tmp_path / "ct.parquet", owners, x)
    folder = tmp_path / "copies"
    cohort_with(make, "ct.parquet").matrix("ct", folder)
    [copy] = folder.glob("*.npy")
    content = bytearray(copy.read_bytes())
    content[-3] ^= 1
    copy.write_bytes(content)
    (folder / f".{copy.name}.123.1.tmp").write_bytes(b"half")
    check(cohort_with(make, "ct.parquet"), folder)
    assert not [*folder.glob("*.tmp"), *folder.glob(".*.tmp")]


def test_mistakes_are_named_without_values(make, tmp_path):
    owners, x = items()
    x[3, 1] = np.nan
    write_table(tmp_path / "ct.parquet", owners, x)
    with pytest.raises(InputError, match=f"the vector of {owners[3]} has values"):
        cohort_with(make, "ct.parquet").matrix("ct", tmp_path)
    lists = [[1.0] * (D + (k == 9)) for k in range(N)]
    pl.DataFrame({"sample_id": IDS, "vector": lists}).write_parquet(tmp_path / "w.parquet")
    with pytest.raises(InputError, match="width 6, the others have 5"):
        cohort_with(make, "w.parquet").matrix("ct", tmp_path)
    pl.DataFrame({"sample_id": IDS, "vector": IDS}).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(InputError, match="must hold lists of numbers"):
        cohort_with(make, "t.parquet").matrix("ct", tmp_path)
    write_table(tmp_path / "s.parquet", ["x"] * 3, np.ones((3, D), np.float32))
    with pytest.raises(InputError, match="no vector of any sample"):
        cohort_with(make, "s.parquet").matrix("ct", tmp_path)
    with pytest.raises(InputError, match="no such file"):
        cohort_with(make, "nothing").matrix("ct", tmp_path)


BIG, WIDE = 60_000, 512
SCRIPT = f"""
import sys
from pathlib import Path
import numpy as np
import polars as pl
from adacomed.cohort.stored import stored_vectors
from adacomed.schema import EmbeddingCard

def peak():
    text = Path("/proc/self/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) / 1024

folder = Path(sys.argv[1])
samples = pl.DataFrame({{"sample_id": [f"{{k:06d}}" for k in range({BIG})]}})
card = EmbeddingCard(kind="embedding", root=Path("x.parquet"))
small = samples[:1000]
def read(rows):
    return stored_vectors(card, folder / "x.parquet", rows, folder=folder / "c", modality="x")
read(small)
before = peak()
found = read(samples)
assert found.here.all()
print(peak() - before)
"""


def test_a_copy_is_made_in_little_memory(tmp_path):
    """120 MB of vectors, read out of a parquet file in another process."""
    ids = [f"{k:06d}" for k in np.random.default_rng(0).permutation(BIG)]
    x = np.random.default_rng(0).normal(size=(BIG, WIDE)).astype(np.float32)
    write_table(tmp_path / "x.parquet", ids, x, row_group_size=4000)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 50
    [copy] = (tmp_path / "c").glob("*.npy")
    assert copy.stat().st_size > 4 * BIG * WIDE
