"""Large cohorts: peak memory and seconds per epoch of `adacomed train` at two sizes.

    python benchmarks/stream.py --root /data/stream --samples 100000 1000000

Makes cohorts of four modalities with 256 numbers each under `--root` (a million patients take
4 GB, twice that with `--source parquet`, whose vectors are copied into matrices), trains on each in
a process of its own, and prints what each took and the ratio of the last to the first. Memory is
the peak of the process's resident set (VmHWM), read after every epoch and at the end. The cohorts
are deleted afterwards, unless `--keep`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

MODALITIES, WIDTH, CHUNK = 4, 256, 10_000
ABSENT = 0.1  # of each modality but the first
PHASES = ("imported", "prepared", "predicted", "done")
MB = 1024  # of the kilobytes that the system counts in


# ---- the cohort ---------------------------------------------------------------------------------
def make_cohort(folder: Path, samples: int, source: str) -> None:
    """Write a cohort, a chunk of patients at a time; every modality tells a part of the label."""
    import polars as pl  # here: in the measured process the command itself is the first to do so

    folder.mkdir(parents=True)
    rng = np.random.default_rng(samples)
    severity = rng.standard_normal((samples, MODALITIES)).astype(np.float32)
    chance = 1 / (1 + np.exp(-(severity.sum(axis=1) - 1)))
    ids = pl.Series("patient", np.arange(samples)).cast(pl.String).str.zfill(8)
    label = pl.Series("died", (rng.random(samples) < chance).astype(np.int64))
    pl.DataFrame([ids, label]).write_parquet(folder / "patients.parquet")
    for m in range(MODALITIES):
        parts = (
            _vectors(rng, severity[start : start + CHUNK, m], ABSENT if m else 0.0)
            for start in range(0, samples, CHUNK)
        )
        write = _write_matrix if source == "npy" else _write_table
        write(folder / f"m{m}.{source}", parts, ids, samples)
    modalities = {f"m{m}": {"kind": "embedding", "root": f"m{m}.{source}"} for m in range(4)}
    card = {
        "name": f"stream-{samples}",
        "simulated": True,
        "table": "patients.parquet",
        "subject": "patient",
        "tasks": {"death": {"column": "died"}},
        "modalities": modalities,
    }
    (folder / "cohort.yaml").write_text(json.dumps(card))  # JSON is YAML


def _vectors(rng: np.random.Generator, severity: np.ndarray, absent: float) -> np.ndarray:
    x = rng.standard_normal((len(severity), WIDTH), np.float32)
    x[:, 0] += severity
    x[rng.random(len(x)) < absent] = np.nan
    return x


def _write_matrix(path: Path, parts: object, ids: object, samples: int) -> None:
    about = {"descr": "<f4", "fortran_order": False, "shape": (samples, WIDTH)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, about)
        for part in parts:  # type: ignore[attr-defined]
            file.write(part.data)


def _write_table(path: Path, parts: object, ids: object, samples: int) -> None:
    """In row groups of `CHUNK` patients, through frames on disk: polars appends to no file."""
    import polars as pl

    folder = path.with_suffix(".parts")
    folder.mkdir()
    for i, part in enumerate(parts):  # type: ignore[arg-type, var-annotated]
        here = ~np.isnan(part[:, 0])
        own = ids[i * CHUNK : i * CHUNK + len(part)].filter(pl.Series(here))  # type: ignore[index]
        rows = pl.Series("vector", part[here]).cast(pl.List(pl.Float32))
        frame = pl.DataFrame([own.alias("sample_id"), rows])
        frame.write_parquet(folder / f"{i:06d}.parquet", compression="uncompressed")
    every = pl.scan_parquet(folder / "*.parquet")
    every.sink_parquet(path, row_group_size=CHUNK, compression="uncompressed")
    shutil.rmtree(folder)


# ---- one training, in a process of its own ------------------------------------------------------
def memory() -> dict[str, int]:
    """MB of this process: the most so far, and now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith("Vm")}
    return {"peak": found["VmHWM"] // MB, "now": found["VmRSS"] // MB}


def train(words: list[str], log: Path) -> None:
    """`adacomed train` with a note of the time and the memory after every epoch."""
    from adacomed.cli import main
    from adacomed.commands import train as command

    started, noted = time.perf_counter(), []
    run = command.run_method  # type: ignore[attr-defined]

    def note(what: str) -> None:
        noted.append({"what": what, "s": time.perf_counter() - started, **memory()})

    def watched(name, problem, tick):  # type: ignore[no-untyped-def]
        note("prepared")

        def ticked(stage: str) -> None:
            note(stage)
            tick(stage)

        result = run(name, problem, ticked)
        note("predicted")
        return result

    command.run_method = watched  # type: ignore[attr-defined, assignment]
    note("imported")
    try:
        main(["train", *words])
    except SystemExit as end:
        if end.code:
            raise
    note("done")
    log.write_text(json.dumps(noted))


def measure(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Train on a cohort; what it took."""
    experiment, log = folder / "experiment.yaml", folder / "log.json"
    experiment.write_text(json.dumps({"cohort": "cohort.yaml"}))
    words = [str(experiment), "--out", str(folder / "run"), "--force", *options.set]
    words += [f"training.epochs={options.epochs}", f"training.batch_size={options.batch}"]
    words += [f"training.stream={options.stream}"]
    command = [sys.executable, __file__, "--log", str(log), "--", *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    noted = json.loads(log.read_text())
    found: dict[str, float] = {}
    epochs = [n for n in noted if n["what"] not in PHASES]
    for name, stages in itertools.groupby(epochs, lambda n: n["what"]):
        found[f"s_per_epoch_{name}"] = statistics.median(np.diff([n["s"] for n in stages]))
    for what in PHASES:
        [one] = [n for n in noted if n["what"] == what]
        found[f"peak_mb_{what}"], found[f"s_{what}"] = one["peak"], one["s"]
    found["peak_mb_trained"], found["now_mb_trained"] = epochs[-1]["peak"], epochs[-1]["now"]
    return found


def main() -> None:
    """Make, train, compare, delete."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path("stream-benchmark"))
    parser.add_argument("--samples", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--source", choices=("npy", "parquet"), default="npy")
    parser.add_argument("--stream", default="yes")
    parser.add_argument("--set", nargs="*", default=[], help="more settings")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    found = {}
    try:
        for samples in options.samples:
            folder = options.root / f"{options.source}-{samples}"
            if not (folder / "cohort.yaml").exists():
                make_cohort(folder, samples, options.source)
            found[samples] = measure(folder, options)
            print(samples, json.dumps({k: round(v, 1) for k, v in found[samples].items()}))
    finally:
        if not options.keep:
            shutil.rmtree(options.root, ignore_errors=True)
    first, last = found[options.samples[0]], found[options.samples[-1]]
    for name in first:
        print(f"{name}: {last[name] / max(first[name], 1e-9):.3f} x")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--log"]:
        train(sys.argv[4:], Path(sys.argv[2]))
    else:
        main()
