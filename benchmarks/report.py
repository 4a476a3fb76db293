"""Seconds and megabytes of a report: 2,000 test patients, 6 methods, 4 modalities under stress.

    .venv/bin/python benchmarks/report.py [--patients 2000] [--out build/benchmark-report]

The predictions are drawn, no model is run: the report reads tables only.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import polars as pl

from adacomed.report.report import write_report
from adacomed.schema import RunFiles
from adacomed.training.perturb import subsets

METHODS = ("adacomed", "small", "large-ensemble", "average", "forest", "logistic")
NAMES = ("ct", "wsi", "labs", "notes")
NOISE = (0.5, 1.0, 2.0)


def main() -> None:
    """Write the folder, then the report; print what that took."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--patients", type=int, default=2000)
    arguments.add_argument("--out", type=Path, default=Path("build/benchmark-report"))
    given = arguments.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    frame, stress = draw(given.patients)
    frame.write_parquet(given.out / RunFiles.PREDICTIONS)
    stress.write_parquet(given.out / RunFiles.STRESS)
    started, worked = time.perf_counter(), time.process_time()
    page = write_report(given.out, title="Benchmark: drawn, no model (simulated)")
    seconds, busy = time.perf_counter() - started, time.process_time() - worked
    size = page.stat().st_size / 1e6
    print(f"{given.patients} test patients × {len(METHODS)} methods, M = {len(NAMES)} modalities")
    print(
        f"{len(stress):,} rows of stress; {seconds:.1f} s ({busy:.1f} s processor), {size:.2f} MB"
    )


def draw(n: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Predictions of n test patients and the same under every subset of the modalities."""
    rng = np.random.default_rng(0)
    label = (rng.random(n) < 0.2).astype(int)
    here = rng.random((n, len(NAMES))) < (0.95, 0.8, 0.7, 0.5)
    part = (rng.normal(size=(n, len(NAMES))) + 0.7 * label[:, None]) * here
    ids = {
        "sample_id": [f"s{i:05d}" for i in range(n)],
        "subject_id": [f"p{i:05d}" for i in range(n)],
    }
    same = {"split": "test", "task": "death", "threshold": 0.25, "repeat": 0, "fold": 0, "seed": 0}
    tables, stressed = [], []
    for method in METHODS:
        bias = rng.normal(size=n) * 0.5 - 2
        base = pl.DataFrame(ids | {"label": label}).with_columns(
            *(pl.lit(value).alias(name) for name, value in same.items()),
            pl.lit(method).alias("method"),
            group_sex=pl.Series(np.where(rng.random(n) < 0.5, "F", "M")),
            group_age=pl.Series(rng.integers(20, 95, n)),
        )
        states = [(kept, 0.0) for kept in subsets(NAMES)] + [(NAMES, x) for x in NOISE]
        for kept, noise in states:
            inside = np.array([name in kept for name in NAMES])
            logit = bias + (part * inside).sum(axis=1) + noise * rng.normal(size=n)
            left = [[m for m, k in zip(NAMES, row & inside, strict=True) if k] for row in here]
            rows = base.with_columns(
                prob=pl.Series(1 / (1 + np.exp(-logit))),
                present=pl.Series(left, dtype=pl.List(pl.String)),
            )
            if kept == NAMES and noise == 0:
                tables.append(rows.with_columns(_fusion(method, logit, rng)))
            kept_of_all = pl.Series([list(kept)] * n, dtype=pl.List(pl.String))
            stressed.append(rows.with_columns(kept=kept_of_all, noise=pl.lit(noise)))
    return pl.concat(tables), pl.concat(stressed)


def _fusion(method: str, logit: np.ndarray, rng: np.random.Generator) -> list[pl.Series]:
    """What the fused model alone leaves; nulls for the others."""
    n, fused = len(logit), method == "adacomed"
    w = rng.beta(4, 4, n)
    values = {
        "logit_large": logit + rng.normal(size=n),
        "logit_small": logit + rng.normal(size=n),
        "s": rng.beta(4, 3, n),
        "w_large": w,
        "w_small": 1 - w,
    }
    found = [pl.Series(k, v if fused else [None] * n, dtype=pl.Float64) for k, v in values.items()]
    weights = rng.dirichlet(np.ones(15), n).tolist() if fused else [None] * n
    sets = [[k for k, keep in enumerate((x < 0, x > -1.5)) if keep] for x in logit]
    router = pl.Series("router", weights, dtype=pl.List(pl.Float64))
    return [*found, router, pl.Series("prediction_set", sets, dtype=pl.List(pl.Int64))]


if __name__ == "__main__":
    main()
