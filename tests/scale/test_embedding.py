"""Embedding on a Ray cluster gives the local engine's store, to the byte, whatever dies."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from adacomed.cohort.cohort import load_cohort
from adacomed.cohort.items import Item
from adacomed.embed import SHARDS, fill_store, fill_with
from adacomed.encoders.choice import load_for
from adacomed.scale.cluster import DEATHS, Devices
from adacomed.scale.embedding import open_encoder
from adacomed.scale.worker import Carried, Work
from tests.encoders.conftest import save_tiny
from tests.test_embed import content, write_cohort

from .conftest import CARD, SPEC, logged, slow_cohort, workers

PLAIN = "import numpy as np\ndef embed(items): return np.ones((len(items), 2))\n"


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adacomed.embed.SHARDS", {**SHARDS, "text": 8})


def test_a_killed_worker_changes_nothing(tmp_path: Path, cluster: Devices) -> None:
    card = slow_cohort(tmp_path, 200)
    cohort, killed, root = load_cohort(card), list[int](), tmp_path / "store"
    encoder = open_encoder(cohort, "note", SPEC, root=root, devices=cluster)
    assert (encoder.workers, encoder.gpu) == (2, False)
    (tmp_path / "log").unlink()  # of measuring

    def kill(done: int, total: int) -> None:
        if done and not killed:
            busy = {process for process, _ in logged(card)}
            pids = [p.pid for p in workers("MapWorker") if str(p.pid) in busy]
            os.kill(pids[0], signal.SIGKILL)
            killed.append(pids[0])

    done = fill_with(encoder.pieces, cohort, "note", encoder.card, root, kill)
    assert killed
    assert done.new == 160
    log = logged(card)
    last = max(i for i, (process, _) in enumerate(log) if process == str(killed[0]))
    assert last < len(log) - 8  # it was in the middle of it
    other = tmp_path / "other"
    fill_store(cohort, "note", load_for(cohort, "note", SPEC), other)
    assert content(other) == content(root)


def test_broken_files_are_skipped_as_by_the_local_engine(tmp_path: Path, cluster: Devices) -> None:
    """Files are read by the workers; one is not there, one is empty, one lies elsewhere."""
    (tmp_path / "plain.py").write_text(PLAIN)
    notes = CARD.replace("{kind: text, column: note}", "{kind: text, column: file, root: notes}")
    card = write_cohort(tmp_path, 20, notes)
    (tmp_path / "notes").mkdir()
    table = pl.read_csv(tmp_path / "patients.csv", infer_schema=False)
    files = [f"{name}.txt" for name in table["patient_id"]]
    files[5] = "../patients.csv"
    table.with_columns(pl.Series("file", files)).write_csv(tmp_path / "patients.csv")
    for file in [*files[:5], *files[6:10], *files[11:]]:
        (tmp_path / "notes" / file).write_text(f"fever of {file}" if file != "P3.txt" else "")
    cohort = load_cohort(card)
    encoder = open_encoder(cohort, "note", "plain:embed", root=tmp_path, devices=cluster)
    there, here = tmp_path / "there", tmp_path / "here"
    ours = fill_with(encoder.pieces, cohort, "note", encoder.card, there, skip_broken=True)
    local = load_for(cohort, "note", "plain:embed")
    theirs = fill_store(cohort, "note", local, here, skip_broken=True)
    assert ours.absent == theirs.absent
    who = {ours.source.items[i].sample_id: reason for i, reason in ours.absent.items()}
    assert who.keys() == {"P3", "P5", "P10"}
    assert str(tmp_path / "notes" / "P10.txt") in who["P10"]
    assert content(here) == content(there)


def test_encode_is_the_local_encoder(tmp_path: Path, cluster: Devices) -> None:
    cohort = load_cohort(write_cohort(tmp_path, 10, CARD))
    spec = f"text-encoder:{save_tiny(tmp_path / 'model')}"
    encoder = open_encoder(cohort, "note", spec, root=tmp_path, devices=cluster, workers=1)
    local = load_for(cohort, "note", spec, "cpu")
    assert encoder.card == local.card
    texts = ["fever cough", "renal " * 70, "pain in the left lung"]
    assert np.array_equal(encoder.encode(texts), local.encode(texts))
    assert encoder.encode([]).shape == (0, 32)


def test_an_encoder_that_no_worker_can_load(tmp_path: Path, cluster: Devices, cli) -> None:
    card = write_cohort(tmp_path, 10, CARD)
    words = ["embed", card, "--encoder", f"text-encoder:{tmp_path / 'none'}"]
    here, there = cli(*words), cli(*words, "--engine", "ray")
    assert here.exit_code == there.exit_code == 2
    assert here.stderr == there.stderr
    for option, message in {
        ("--device", "cuda"): "the Ray cluster has no GPU",
        ("--device", "mps"): "Ray chooses which device",
        ("--overviews", tmp_path): "without --engine ray",
    }.items():
        refused = cli(*words, "--engine", "ray", *option)
        assert refused.exit_code == 2
        assert message in refused.stderr


def test_whose_items_killed_every_worker_is_said() -> None:
    items = [Item(f"P{i // 2}", f"text {i}", "x") for i in range(20)]
    work = Work.of(Carried(items, list(range(20))), [[4, 5, 6], [9]])
    assert work.rows == [4, 5, 6, 9]
    assert work.parts == [[0, 1, 2], [3]]
    assert work.source.read([0, 3]) == [4, 9]
    assert f"{DEATHS} processes died" in work.deadly()
    assert "of 3 samples (P2, P3, P4)" in work.deadly()
