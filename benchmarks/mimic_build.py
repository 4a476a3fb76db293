"""Rows per second and peak memory of building MIMIC-IV-MM, beside a plain count of the same files.

    adacomed cohort build simulated-mimic --stays 400 --rows 20000000 --out runs/mimic-release
    python benchmarks/mimic_build.py runs/mimic-release [--repeats 3] [--engine duckdb]

The count is `polars.scan_csv(file).select(pl.len())` of chartevents, labevents and
procedureevents; the build does everything from the files to the cohort. Both run in a process of
their own, in turn, and the least time of each is kept. `--engine duckdb` measures the filter of
chartevents alone, by DuckDB too, if it is installed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import polars as pl

from adacomed.datasets.mimic.build import build
from adacomed.datasets.mimic.release import COLUMNS, find_files
from adacomed.datasets.mimic.variables import CHARTED

TABLES = ("chartevents", "labevents", "procedureevents")
FOLDERS = ("mimic-iv", "mimic-cxr-jpg", "mimic-iv-note")


def count(release: Path) -> int:
    """Rows of the event tables."""
    paths = find_files(*(release / f for f in FOLDERS)).paths
    return sum(pl.scan_csv(paths[t]).select(pl.len()).collect().item() for t in TABLES)


def whole_build(release: Path) -> int:
    """Events of the cohort that is built."""
    with tempfile.TemporaryDirectory() as folder:
        document = build(*(release / f for f in FOLDERS), Path(folder) / "cohort")
    return sum(document["kept"].values())


def scan_polars(release: Path) -> int:
    """Rows of chartevents that are of the nine items, through the builder's own scan."""
    from adacomed.datasets.mimic.scan import CsvTables

    tables = CsvTables(find_files(*(release / f for f in FOLDERS)))
    wanted = [item for v in CHARTED for item in v.ids]
    with tempfile.TemporaryDirectory() as folder:
        found = tables.read("chartevents", Path(folder), among={"itemid": wanted})
        return int(found.select(pl.len()).collect().item())


def scan_duckdb(release: Path) -> int:
    """The same rows through DuckDB, into a Parquet file too."""
    import duckdb

    path = find_files(*(release / f for f in FOLDERS)).paths["chartevents"]
    items = ", ".join(str(item) for v in CHARTED for item in v.ids)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "kept.parquet"
        database = duckdb.connect()
        database.execute("SET threads = 2; SET memory_limit = '1500MB'")
        database.execute("SET preserve_insertion_order = false")
        columns = ", ".join(COLUMNS["chartevents"])
        database.execute(
            f"COPY (SELECT {columns} FROM read_csv('{path}', header = true) "
            f"WHERE itemid IN ({items})) TO '{out}'"
        )
        return int(pl.scan_parquet(out).select(pl.len()).collect().item())


WORK = {
    "count": count,
    "build": whole_build,
    "scan-polars": scan_polars,
    "scan-duckdb": scan_duckdb,
}


def work(what: str, release: Path) -> None:
    """Do one of WORK in this process and print what it took."""
    started, cpu = time.perf_counter(), time.process_time()
    found = WORK[what](release)
    took = {"s": time.perf_counter() - started, "cpu": time.process_time() - cpu, "found": found}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3  # KB on Linux
    print(json.dumps({**took, "mb": peak}))


def measure(what: str, release: Path) -> dict[str, Any]:
    """One of WORK in a process of its own: s, cpu (s), mb (peak), found."""
    words = [sys.executable, __file__, str(release), "--work", what]
    environment = {**os.environ, "POLARS_MAX_THREADS": "2", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Print a line per kind of work, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("release", type=Path, help="what simulated-mimic wrote")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--engine", choices=["duckdb"])
    parser.add_argument("--work", choices=list(WORK), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.work:
        work(asked.work, asked.release)
        return
    kinds = ["count", "scan-polars", "scan-duckdb"] if asked.engine else ["count", "build"]
    runs = [{k: measure(k, asked.release) for k in kinds} for _ in range(asked.repeats)]
    rows = runs[0]["count"]["found"]
    for kind in kinds:
        s, cpu = (min(run[kind][unit] for run in runs) for unit in ("s", "cpu"))
        peak = max(run[kind]["mb"] for run in runs)
        speed = f"{rows / s / 1e6:6.2f} M rows/s"
        print(f"{kind:12} {speed}  {s:7.1f} s  cpu {cpu:6.1f} s  {peak:6.0f} MB")
    least = {k: min(run[k]["s"] for run in runs) for k in kinds}
    processor = {k: min(run[k]["cpu"] for run in runs) for k in kinds}
    for kind in kinds[1:]:
        by = least["count"] / least[kind], processor["count"] / processor[kind]
        print(
            f"ratio of {kind} to the count: {by[0]:.2f} by the clock, {by[1]:.2f} by the processor"
        )


if __name__ == "__main__":
    main()
