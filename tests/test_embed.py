from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from adacomed.cohort.cohort import load_cohort
from adacomed.cohort.sources import modality_source
from adacomed.embed import SHARDS, embed_modality, fill_store
from adacomed.encoders.base import fingerprint
from adacomed.encoders.choice import choose_encoder, embeddable
from adacomed.encoders.text_encoder import TextEncoder, text_encoder
from adacomed.errors import InputError
from tests.encoders.conftest import WORDS, save_tiny

N = 24
CARD = """
name: toy
table: patients.csv
subject: patient_id
tasks: {icu: {column: icu, positive: Y}}
modalities:
  note: {kind: text, column: note}
  clinical: {kind: tabular, columns: [age, sex], prompt: generic-v1}
  labs: {kind: tabular, columns: [age]}
  vectors: {kind: embedding, root: vectors}
"""


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    return text_encoder(str(save_tiny(tmp_path_factory.mktemp("model"))))


def write_cohort(folder: Path, n: int = N, card: str = CARD) -> Path:
    """n patients; every fifth has no note, patient 3 has neither age nor sex."""
    rng = np.random.default_rng(0)
    notes = [" ".join(rng.choice(WORDS, size=int(rng.integers(3, 60)))) for _ in range(n)]
    pl.DataFrame(
        {
            "patient_id": [f"P{i}" for i in range(n)],
            "icu": ["Y" if i % 3 == 0 else "N" for i in range(n)],
            "age": [None if i == 3 else 40 + i for i in range(n)],
            "sex": [None if i == 3 else "FM"[i % 2] for i in range(n)],
            "note": [(None, "  ")[i % 2] if i % 5 == 0 else notes[i] for i in range(n)],
        }
    ).write_csv(folder / "patients.csv")
    (folder / "cohort.yaml").write_text(card)
    return folder / "cohort.yaml"


def test_store_equals_memory_equals_encode(tmp_path: Path, encoder: TextEncoder) -> None:
    cohort = load_cohort(write_cohort(tmp_path))
    stored = embed_modality(cohort, "note", encoder, tmp_path / "store")
    assert stored.shape == (N, 32)
    assert stored.dtype == np.float32
    absent = np.arange(N) % 5 == 0
    assert np.array_equal(np.isnan(stored).all(axis=1), absent)
    assert np.isfinite(stored[~absent]).all()
    texts = [text for [text] in filter(None, cohort.cells("note"))]
    assert np.array_equal(stored[~absent], encoder.encode(texts))
    memory = embed_modality(cohort, "note", encoder, None)
    assert np.array_equal(memory, stored, equal_nan=True)
    one = embed_modality(cohort.take(np.array([7])), "note", encoder, None)
    assert np.array_equal(one[0], stored[7])


def test_table_through_its_prompt(tmp_path: Path, encoder: TextEncoder) -> None:
    cohort = load_cohort(write_cohort(tmp_path))
    source = modality_source(cohort, "clinical")
    assert [item.sample_id for item in source.items[2:4]] == ["P2", "P4"]
    assert source.read([2, 3]) == ["age: 42; sex: F", "age: 44; sex: F"]
    vectors = embed_modality(cohort, "clinical", encoder, tmp_path / "store")
    assert np.flatnonzero(np.isnan(vectors).any(axis=1)).tolist() == [3]
    assert modality_source(cohort, "labs").read([2]) == ["age: 42"]  # no prompt: generic


def test_only_what_changed_is_embedded_again(tmp_path: Path, encoder: TextEncoder) -> None:
    card = write_cohort(tmp_path)
    totals: list[int] = []

    def embed() -> np.ndarray:
        return embed_modality(
            load_cohort(card),
            "note",
            encoder,
            tmp_path / "store",
            lambda done, total: totals.append(total) if done == 0 else None,
        )

    before = embed()
    embed()
    table = pl.read_csv(tmp_path / "patients.csv")
    changed = pl.when(pl.col("patient_id") == "P7").then(pl.lit("fever")).otherwise("note")
    table.with_columns(changed.alias("note")).write_csv(tmp_path / "patients.csv")
    after = embed()
    assert totals == [19, 0, 1]
    assert np.array_equal(after[7], encoder.encode(["fever"])[0])
    rest = np.arange(N) != 7
    assert np.array_equal(after[rest], before[rest], equal_nan=True)


def test_label_never_reaches_a_prompt(tmp_path: Path, encoder: TextEncoder) -> None:
    (tmp_path / "leak.txt").write_text("age {age}, intensive care {icu}")
    cohort = load_cohort(write_cohort(tmp_path, card=CARD.replace("generic-v1", "leak.txt")))
    with pytest.raises(InputError, match="'icu', which holds a label"):
        embed_modality(cohort, "clinical", encoder, None)


@pytest.mark.parametrize(
    ("modality", "message"),
    [
        ("vectors", "its vectors are ready"),
        ("notes", "did you mean 'note'"),
    ],
)
def test_kinds_that_cannot_be_embedded(
    tmp_path: Path, encoder: TextEncoder, modality: str, message: str
) -> None:
    cohort = load_cohort(write_cohort(tmp_path))
    for call in (
        lambda: embed_modality(cohort, modality, encoder, None),
        lambda: choose_encoder(cohort, modality),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_what_is_embedded_by_default(tmp_path: Path) -> None:
    card = CARD.replace("columns: [age]}", "columns: [age], encoder: 'text-encoder:me/tiny'}")
    cohort = load_cohort(write_cohort(tmp_path, card=card))
    assert embeddable(cohort) == ["note", "clinical", "labs"]
    assert choose_encoder(cohort, "note") == "minilm"
    assert choose_encoder(cohort, "labs") == "text-encoder:me/tiny"


class Logged:
    """The encoder, with every text that it was asked for."""

    def __init__(self, encoder: TextEncoder) -> None:
        self.card, self.encoder, self.log = encoder.card, encoder, list[str]()

    def encode(self, items: Sequence[str]) -> np.ndarray:
        self.log += items
        return self.encoder.encode(items)


# every call of the encoder is logged before it computes; a real model, made slow enough to be hit
JOB = """
import sys, time
from pathlib import Path
from adacomed import embed
from adacomed.cohort.cohort import load_cohort
from adacomed.encoders.text_encoder import text_encoder
cohort, model, store, log = map(Path, sys.argv[1:])
encoder = text_encoder(str(model))
plain = encoder.encode
def encode(items):
    with log.open("a") as file:
        file.writelines(item + "\\n" for item in items)
    time.sleep(0.06)
    return plain(items)
encoder.encode = encode
embed.SHARDS["text"] = 8
embed.fill_store(load_cohort(cohort), "note", encoder, store)
"""


def test_killed_and_resumed(
    tmp_path: Path, encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL at three moments: nothing is lost, at most a shard is redone each time, and the
    store is the same to the byte as one that was never stopped."""
    card = write_cohort(tmp_path, 320)
    model = Path(encoder.card.id)
    store, log = tmp_path / "store", tmp_path / "log"
    command = [sys.executable, "-c", JOB, str(card), str(model), str(store), str(log)]
    folder = store / "note" / f"text-encoder@{fingerprint(encoder.card)}"
    kept = 0
    for shards in (1, 5, 11):
        job = subprocess.Popen(command, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        until = time.monotonic() + 60
        while len(list(folder.glob("shard-*"))) < shards and time.monotonic() < until:
            time.sleep(0.005)
        time.sleep(0.03)
        job.send_signal(signal.SIGKILL)
        assert job.wait() == -signal.SIGKILL
        kept = pl.read_parquet(list(folder.glob("shard-*"))).height
        assert kept >= 8 * shards
    texts = [text for [text] in filter(None, load_cohort(card).cells("note"))]
    assert kept < len(texts)
    monkeypatch.setattr("adacomed.embed.SHARDS", {**SHARDS, "text": 8})
    again = Logged(encoder)
    fill_store(load_cohort(card), "note", again, store)

    calls = Counter([*log.read_text().splitlines(), *again.log])
    assert set(calls) == set(texts)
    assert sum(calls.values()) - len(texts) <= 3 * 8  # what was being computed at each kill
    other = tmp_path / "other"
    fill_store(load_cohort(card), "note", encoder, other)
    assert content(other) == content(store)


def content(root: Path) -> dict[str, bytes]:
    """Every file of a store but its locks."""
    files = [p for p in root.rglob("*") if p.is_file() and p.name != ".lock"]
    return {str(p.relative_to(root)): p.read_bytes() for p in files}


def test_equal_texts_are_computed_once(tmp_path: Path, encoder: TextEncoder) -> None:
    card = write_cohort(tmp_path)
    table = pl.read_csv(tmp_path / "patients.csv")
    table.with_columns(pl.lit("fever cough").alias("note")).write_csv(tmp_path / "patients.csv")
    logged = Logged(encoder)
    vectors = embed_modality(load_cohort(card), "note", logged, tmp_path / "store")
    assert logged.log == ["fever cough"]
    assert np.array_equal(vectors, np.repeat(encoder.encode(["fever cough"]), N, axis=0))


def test_several_texts_of_a_sample(tmp_path: Path, encoder: TextEncoder) -> None:
    """A table of notes of their own: their mean is the sample's vector."""
    card = CARD.replace("{kind: text, column: note}", "{kind: text, column: x, table: n.csv}")
    rows = {"patient_id": ["P4", "P2", "P4"], "x": ["fever", "cough", "pain in the left lung"]}
    pl.DataFrame(rows).write_csv(tmp_path / "n.csv")
    cohort = load_cohort(write_cohort(tmp_path, card=card))
    vectors = embed_modality(cohort, "note", encoder, tmp_path / "store")
    assert np.flatnonzero(~np.isnan(vectors).any(axis=1)).tolist() == [2, 4]
    expected = encoder.encode(["fever", "pain in the left lung"]).mean(axis=0)
    assert np.allclose(vectors[4], expected, atol=1e-7)


def test_texts_in_files(tmp_path: Path, encoder: TextEncoder) -> None:
    """A column of file names below a root; one that is not UTF-8 names its patient."""
    card = CARD.replace("{kind: text, column: note}", "{kind: text, column: file, root: notes}")
    path = write_cohort(tmp_path, card=card)
    (tmp_path / "notes").mkdir()
    table = pl.read_csv(tmp_path / "patients.csv", infer_schema=False)
    named = [f"{row['patient_id']}.txt" if row["note"] else None for row in table.to_dicts()]
    table.with_columns(pl.Series("file", named)).write_csv(tmp_path / "patients.csv")
    for row in table.filter(pl.col("note").is_not_null()).to_dicts():
        (tmp_path / "notes" / f"{row['patient_id']}.txt").write_text(row["note"] or "x")
    blank = [i for i in range(N) if i % 10 == 5]  # two blanks: a file with nothing in it
    with pytest.raises(InputError, match=r"modality 'note', sample P5: .*P5\.txt: is empty"):
        fill_store(load_cohort(path), "note", encoder, tmp_path / "store")
    done = fill_store(load_cohort(path), "note", encoder, tmp_path / "store", skip_broken=True)
    assert {done.source.items[i].sample_id for i in done.absent} == {f"P{i}" for i in blank}
    from_files = embed_modality(load_cohort(path), "note", encoder, tmp_path / "store")
    inline = load_cohort(write_cohort(tmp_path))
    assert np.array_equal(from_files, embed_modality(inline, "note", encoder, None), equal_nan=True)
