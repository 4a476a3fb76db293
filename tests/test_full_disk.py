"""A disk that is full, for real: nothing finished is lost, and with room the rest follows.

Every test runs in a process of its own that mounts a small tmpfs where nobody else sees it.
"""

from __future__ import annotations

import ctypes
import io
import os
import subprocess
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from .forked import adacomed, ended, forked

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
QUICK = [
    *("training.epochs=3", "training.inner_folds=2", "training.members=1", "small.kind=shallow"),
    *("model.H=16", "model.d=16", "model.strategy=ensemble"),
]
ENCODER = """
import zlib
import numpy as np
def embed(texts):
    return np.stack([np.random.default_rng(zlib.crc32(t.encode())).random(100) for t in texts])
"""
CARD = """
name: toy
table: patients.csv
subject: patient_id
tasks: {icu: {column: icu, positive: Y}}
modalities: {note: {kind: text, column: note, encoder: "mine:embed"}}
"""


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("full")
    words = ("cohort", "build", "simulated", "--samples", 120, "--out", folder / "cohort")
    log = folder / "log"
    assert ended(forked(adacomed, *words, log=log), log) == 0, log.read_text()
    (folder / "experiment.yaml").write_text("cohort: cohort\n")
    return folder / "experiment.yaml"


def mounted(folder: Path, kilobytes: int) -> Path:
    """A tmpfs of that size that this process alone sees; in a user namespace where it is not root.

    Raises:
        OSError, CalledProcessError: neither is permitted here.
    """
    libc, uid, gid = ctypes.CDLL(None, use_errno=True), os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWNS) and libc.unshare(CLONE_NEWNS | CLONE_NEWUSER):
        raise OSError(ctypes.get_errno(), "neither root nor a user namespace: nothing to mount in")
    if os.getuid() != uid:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    folder.mkdir()
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    size = f"size={kilobytes}k"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], check=True)
    return folder


def enlarge(folder: Path, kilobytes: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(folder)], check=True)


def said(*words: object) -> tuple[int, str]:
    """Exit code of a command, and what it printed."""
    text = io.StringIO()
    with redirect_stdout(text), redirect_stderr(text):
        code = adacomed(*words)
    print(f"$ {' '.join(map(str, words))}\n{text.getvalue()}")
    return code, text.getvalue()


def refused(text: str, file: Path) -> bool:
    """Whether the last line is one sentence that names the file and says how to go on."""
    last = text.splitlines()[-1]
    named = last.startswith(f"error: {file}") and "what was finished is kept" in last
    return named and "the same command again" in last and "Traceback" not in text


def contents(folder: Path, pattern: str = "**/*") -> dict[str, tuple[bytes, int]]:
    files = [p for p in folder.glob(pattern) if p.is_file() and p.name != ".lock"]
    return {str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns) for p in files}


def bytes_of(folder: Path, *names: str) -> list[bytes]:
    return [(folder / name).read_bytes() for name in names]


def partial(folder: Path) -> list[Path]:
    return [p for p in folder.rglob(".*") if p.name.endswith((".partial", ".tmp", ".old"))]


def passes(test: object, *args: object, folder: Path) -> None:
    log = folder / "log"
    code = ended(forked(test, *args, folder, log=log), log)  # type: ignore[arg-type]
    assert code == 0, log.read_text()


def _embed(folder: Path) -> None:
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("abcdef"), 12)) for _ in range(700)]
    columns = {"patient_id": [f"P{i}" for i in range(700)], "icu": ["Y", "N"] * 350, "note": texts}
    pl.DataFrame(columns).write_csv(folder / "patients.csv")
    (folder / "cohort.yaml").write_text(CARD)
    (folder / "mine.py").write_text(ENCODER)
    disk = mounted(folder / "disk", 200)
    words = ("embed", folder / "cohort.yaml", "--workers", 0, "--out")
    assert said(*words, folder / "whole")[0] == 0
    code, text = said(*words, disk / "store")
    [store] = (disk / "store" / "note").glob("*@*")
    finished = contents(store, "shard-*")
    assert code == 2, text
    assert refused(text, store / "shard-"), text
    assert 0 < len(finished) < 3
    assert not partial(disk)
    enlarge(disk, 10_000)
    assert said(*words, disk / "store")[0] == 0
    assert finished.items() <= contents(store, "shard-*").items()
    whole = contents(folder / "whole" / "note", "*@*/*.parquet")
    assert {k: v for k, (v, _) in whole.items()} == {
        k: v for k, (v, _) in contents(store.parent, "*@*/*.parquet").items()
    }


def test_embed(tmp_path: Path) -> None:
    passes(_embed, folder=tmp_path)


def _train(experiment: Path, folder: Path) -> None:
    disk = mounted(folder / "disk", 150)
    out, kept = disk / "run", disk / ".run.unfinished"
    words = ("train", experiment, *QUICK, "--out")
    assert said(*words, folder / "whole")[0] == 0
    code, text = said(*words, out)
    finished = contents(kept, "small*")
    assert code == 2, text
    assert refused(text, kept / "adacomed"), text
    assert text.endswith("with --resume\n")
    assert len(finished) == 2
    assert not partial(disk)
    enlarge(disk, 3000)  # enough for the snapshots, not for the run
    code, text = said(*words, out, "--resume")
    assert code == 2, text
    assert refused(text, out), text
    assert not out.exists()
    assert not partial(disk)
    assert finished.items() <= contents(kept).items()
    every = contents(kept)
    assert len(every) > len(finished) + 2
    code, text = said(*words, out, "--resume")  # still no room: nothing is lost either
    assert (code, contents(kept)) == (2, every), text
    enlarge(disk, 30_000)
    code, text = said(*words, out, "--resume")
    assert code == 0, text
    names = ("model.safetensors", "predictions.parquet", "history.parquet", "stress.parquet")
    assert bytes_of(out, *names) == bytes_of(folder / "whole", *names)
    assert [p.name for p in disk.iterdir()] == ["run"]


def test_train(experiment: Path, tmp_path: Path) -> None:
    passes(_train, experiment, folder=tmp_path)


def _compare(experiment: Path, folder: Path) -> None:
    disk = mounted(folder / "disk", 60)
    settings = (*QUICK, "split.folds=3", "evidence.stress=false", "baselines.full_grid=false")
    words = ("compare", experiment, *settings, "--methods", "small,large-ensemble", "--jobs", 1)
    words = (*words, "--resamples", 50, "--out")
    assert said(*words, folder / "whole")[0] == 0
    out = disk / "out"
    code, text = said(*words, out)
    assert code == 2, text
    assert refused(text, out / "cells"), text
    finished = contents(out, "cells/*/*[0-9].parquet")
    assert 0 < len(finished) < 6
    assert not partial(disk)
    enlarge(disk, 1500)  # enough for the cells, not for the report
    code, text = said(*words, out)
    assert code == 2, text
    assert refused(text, out / "report.html"), text
    every = contents(out, "cells/*/*[0-9].parquet")
    assert finished.items() <= every.items()
    assert len(every) == 6
    assert not (out / "report.html").exists()
    assert not partial(disk)
    enlarge(disk, 30_000)
    assert said(*words, out)[0] == 0
    assert contents(out, "cells/*/*[0-9].parquet") == every
    names = ("predictions.parquet", "history.parquet", "table.csv", "paired.csv")
    assert bytes_of(out, *names) == bytes_of(folder / "whole", *names)


def test_compare(experiment: Path, tmp_path: Path) -> None:
    passes(_compare, experiment, folder=tmp_path)
