from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from adacomed.cohort.items import Item, text_item
from adacomed.errors import InputError
from adacomed.schema import Vectors
from adacomed.store import EmbeddingStore, store_folder

CARD: dict[str, Any] = {"name": "toy", "width": 3, "golden": [1.0, 0.0, 0.5], "libraries": {}}
ITEMS = [text_item(f"P{i}", f"text of {i}") for i in range(10)]
VECTORS = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)


def open_store(root: Path, fingerprint: str = "f1", **card: Any) -> EmbeddingStore:
    folder = store_folder(root, "note", "toy", fingerprint)
    return EmbeddingStore(folder, card={**CARD, **card}, fingerprint=fingerprint)


@pytest.fixture
def filled(tmp_path: Path) -> EmbeddingStore:
    store = open_store(tmp_path)
    with store.writing():
        store.add(ITEMS[:6], VECTORS[:6])
        store.add(ITEMS[6:], VECTORS[6:])
    return store


def shards(store: EmbeddingStore) -> list[Path]:
    return sorted(store.folder.glob("shard-*"))


@pytest.mark.parametrize("index", ["kept", "gone", "garbage", "of the first shard only"])
def test_reopened_bit_equal(tmp_path: Path, index: str) -> None:
    store = open_store(tmp_path)
    with store.writing():
        store.add(ITEMS[:6], VECTORS[:6])
    if index == "gone":
        (store.folder / "index.parquet").unlink()
    store.add(ITEMS[6:], VECTORS[6:])
    if index == "kept":
        with store.writing():
            pass
    if index == "garbage":
        (store.folder / "index.parquet").write_bytes(b"PAR1 half a file")
    again = open_store(tmp_path)
    assert len(again) == 10
    assert again.missing(ITEMS) == []
    order = [7, 0, 9, 3]
    assert np.array_equal(again.load([ITEMS[i] for i in order]), VECTORS[order])


def test_a_changed_text_is_another_item(filled: EmbeddingStore) -> None:
    asked = [ITEMS[0], text_item("P0", "text of 0, corrected"), text_item("P1", "text of 0")]
    assert filled.missing(asked) == [1, 2]
    with pytest.raises(InputError, match=r"2 of 3 items have no vector \(first: sample P0\)"):
        filled.load(asked)


def test_layout_is_the_contract(filled: EmbeddingStore, tmp_path: Path) -> None:
    assert filled.folder == tmp_path / "note" / "toy@f1"
    frame = pl.read_parquet(shards(filled))
    assert frame.columns == [Vectors.SAMPLE_ID, Vectors.ITEM, "content", Vectors.VECTOR, "reason"]
    assert frame.schema[Vectors.VECTOR] == pl.List(pl.Float32)
    assert json.loads((filled.folder / "card.json").read_text()) == {**CARD, "fingerprint": "f1"}
    assert not list(filled.folder.glob(".*.tmp"))


@pytest.mark.parametrize("where", [5, 200, -5])
@pytest.mark.parametrize("indexed", [True, False])
def test_one_flipped_bit_names_the_shard(filled: EmbeddingStore, where: int, indexed: bool) -> None:
    victim = shards(filled)[1]
    content = bytearray(victim.read_bytes())
    content[where] ^= 1
    victim.write_bytes(bytes(content))
    if not indexed:
        (filled.folder / "index.parquet").unlink()
    with pytest.raises(InputError, match=victim.name):
        open_store(filled.folder.parents[1]).load(ITEMS)


def test_half_a_shard(filled: EmbeddingStore) -> None:
    victim = shards(filled)[0]
    victim.write_bytes(victim.read_bytes()[:100])
    with pytest.raises(InputError, match=rf"{victim.name}: damaged.*delete this file"):
        filled.load(ITEMS)
    victim.unlink()  # what the message says
    again = open_store(filled.folder.parents[1])
    assert again.missing(ITEMS) == list(range(6))
    again.add(ITEMS[:6], VECTORS[:6])
    assert np.array_equal(again.load(ITEMS), VECTORS)


def test_a_shard_of_another_encoder(filled: EmbeddingStore, tmp_path: Path) -> None:
    other = open_store(tmp_path, "f2")
    stranger = shards(filled)[0]
    (other.folder / stranger.name).write_bytes(stranger.read_bytes())
    with pytest.raises(InputError, match=rf"{stranger.name}.*made by another encoder"):
        open_store(tmp_path, "f2")


def test_golden_vector(filled: EmbeddingStore, tmp_path: Path) -> None:
    near = [1.000001, 0.0, 0.5]
    assert len(open_store(tmp_path, golden=near)) == 10
    with pytest.raises(InputError, match="golden vector 10% away"):
        open_store(tmp_path, golden=[1.0, 0.1118, 0.5])
    with pytest.raises(InputError, match="golden"):
        open_store(tmp_path, golden=[float("nan")] * 3)


def test_damaged_card(filled: EmbeddingStore, tmp_path: Path) -> None:
    (filled.folder / "card.json").write_text('{"name": "toy"')
    with pytest.raises(InputError, match=r"card\.json: damaged"):
        open_store(tmp_path)


def test_what_cannot_be_added(filled: EmbeddingStore) -> None:
    new = [Item("P99", "text", "00")]
    with pytest.raises(InputError, match="sample P99 is not finite"):
        filled.add(new, np.array([[0, np.nan, 1]], np.float32))
    with pytest.raises(ValueError, match="expected float32"):
        filled.add(new, np.zeros((1, 4), np.float32))
    with pytest.raises(ValueError, match="expected float32"):
        filled.add(new, np.zeros((1, 3)))
    assert filled.missing(new) == [0]


def test_skipped_items(tmp_path: Path) -> None:
    """A skipped item is a row without a vector, until it is tried again."""
    store = open_store(tmp_path)
    vectors = VECTORS.copy()
    vectors[2] = np.nan
    with store.writing():
        store.add(ITEMS, vectors, {2: "truncated"})
    for index in ("kept", "gone"):
        if index == "gone":
            (store.folder / "index.parquet").unlink()
        again = open_store(tmp_path)
        assert again.missing(ITEMS) == []
        assert again.absent(ITEMS) == {2: "truncated"}
        assert np.array_equal(again.load(ITEMS), vectors, equal_nan=True)
    with again.writing():
        again.forget_absent()
        assert again.missing(ITEMS) == [2]
        again.add([ITEMS[2]], VECTORS[2:3])
    mended = open_store(tmp_path)
    assert mended.absent(ITEMS) == {}
    assert np.array_equal(mended.load(ITEMS), VECTORS)


def test_two_writers(tmp_path: Path) -> None:
    """The second waits, says so, and then sees what the first has written."""
    first = open_store(tmp_path)
    waiter = textwrap.dedent("""
        import sys
        from pathlib import Path
        from adacomed.cohort.items import text_item
        from adacomed.store import EmbeddingStore
        card = {"name": "toy", "width": 3, "golden": [1.0, 0.0, 0.5]}
        store = EmbeddingStore(Path(sys.argv[1], "note", "toy@f1"), card=card, fingerprint="f1")
        with store.writing(lambda message: print(message, flush=True)):
            print(store.missing([text_item(f"P{i}", f"text of {i}") for i in range(10)]))
        """)
    with first.writing():
        command = [sys.executable, "-c", waiter, str(tmp_path)]
        second = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert second.stdout is not None
        assert "another process is writing here; waiting" in second.stdout.readline()
        first.add(ITEMS[:6], VECTORS[:6])
        time.sleep(0.2)
        assert second.poll() is None
    assert second.stdout.read().strip() == "[6, 7, 8, 9]"
    assert second.wait() == 0
    second.stdout.close()


def test_full_disk_loses_nothing(filled: EmbeddingStore) -> None:
    """A file that cannot be written is an error; what was finished still opens."""
    code = textwrap.dedent("""
        import resource, sys
        from pathlib import Path
        import numpy as np
        from adacomed.cohort.items import text_item
        from adacomed.errors import InputError
        from adacomed.store import EmbeddingStore
        card = {"name": "toy", "width": 3, "golden": [1.0, 0.0, 0.5]}
        store = EmbeddingStore(Path(sys.argv[1]), card=card, fingerprint="f1")
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            with store.writing():
                store.add([text_item("P77", "x")], np.zeros((1, 3), np.float32))
        except InputError as error:
            print(error)
        """)
    command = [sys.executable, "-c", code, str(filled.folder)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "cannot be written (File too large); what was finished is kept" in said
    assert not list(filled.folder.glob(".*.tmp"))
    assert np.array_equal(open_store(filled.folder.parents[1]).load(ITEMS), VECTORS)


def test_root_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        open_store(tmp_path / "file")


WRITER = """
import sys
from pathlib import Path
import numpy as np
from adacomed.cohort.items import text_item
from adacomed.store import EmbeddingStore
card = {"name": "toy", "width": 3, "golden": [1.0, 0.0, 0.5]}
store = EmbeddingStore(Path(sys.argv[1], "note", "toy@f1"), card=card, fingerprint="f1")
for i in range(int(sys.argv[2]), 100000):
    vectors = np.full((2, 3), i, np.float32)
    store.add([text_item(f"P{i}-{j}", "x") for j in range(2)], vectors)
    if i % 5 == 0:
        store._write_index()
    print(i, flush=True)
"""


def test_killed_while_writing_loses_nothing_that_was_added(tmp_path: Path) -> None:
    """SIGKILL at six different moments of a writer that does nothing but write."""
    acknowledged = 0
    for round_ in range(6):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(acknowledged)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(0.01 + 0.013 * round_)
        writer.send_signal(signal.SIGKILL)
        said = writer.stdout.read().split()
        writer.wait()
        writer.stdout.close()
        acknowledged = int(said[-1]) + 1 if said else acknowledged + 1
        store = open_store(tmp_path)
        items = [text_item(f"P{i}-{j}", "x") for i in range(acknowledged) for j in range(2)]
        assert np.array_equal(store.load(items)[:, 0], np.repeat(np.arange(acknowledged), 2))
    assert acknowledged > 10
