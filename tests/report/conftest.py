"""Run folders for the report's tests: every value is drawn from numpy, no patient is behind it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from adacomed.schema import History, RunFiles

EXPERTS = ["ct", "wsi", "clinical", "ct + wsi", "ct + clinical", "wsi + clinical", "all three"]
STRENGTH = {
    "adacomed": 1.6,
    "small": 1.2,
    "large-ensemble": 1.1,
    "ct-large": 0.5,
    "wsi-large": 0.7,
    "average": 1.45,
    "logistic": 1.25,
    "forest": 1.3,
    "bayes": 2.2,
}


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def predictions(
    *, n: int = 240, methods: tuple[str, ...] = tuple(STRENGTH), repeats: int = 1, seed: int = 0
) -> pl.DataFrame:
    """Binary predictions of several methods on the same `n` patients, one in six of `val`."""
    rng = np.random.default_rng(seed)
    label = (rng.random(n) < 0.25).astype(int)
    truth = rng.normal(size=n) + 1.1 * label
    has_ct, has_wsi = rng.random(n) < 0.6, rng.random(n) < 0.9
    present = [
        [m for m, here in (("ct", c), ("wsi", w), ("clinical", True)) if here]
        for c, w in zip(has_ct, has_wsi, strict=True)
    ]
    parts = []
    for repeat in range(repeats):
        for method in methods:
            strength = STRENGTH.get(method, 1.0)
            logit = strength * truth + rng.normal(size=n) - 1.5
            columns = {
                "sample_id": [f"SECRET-{i:04d}" for i in range(n)],
                "subject_id": [f"SUBJECT-{i:04d}" for i in range(n)],
                "split": ["test" if i % 6 else "val" for i in range(n)],
                "task": ["death"] * n,
                "label": label,
                "prob": sigmoid(logit),
                "threshold": [0.3] * n,
                "present": present,
                "repeat": [repeat] * n,
                "fold": [i % 5 for i in range(n)],
                "seed": [0] * n,
                "method": [method] * n,
                "group_sex": [("F", "M")[i % 2] for i in range(n)],
                "group_age": [30 + (7 * i) % 60 for i in range(n)],
                "prediction_set": [_set(p) for p in sigmoid(logit)],
            }
            parts.append(pl.DataFrame(columns).with_columns(*_fusion(method, logit, has_ct, rng)))
    return pl.concat(parts)


def _set(p: float) -> list[int]:
    return [k for k, inside in ((0, p < 0.45), (1, p > 0.2)) if inside]


def stress(frame: pl.DataFrame, names: tuple[str, ...] = ("ct", "wsi", "clinical")) -> pl.DataFrame:
    """The test rows under every subset of the modalities, and with noise.

    A method's log-odds are a base and a part for each modality that is kept and present, so that
    the effect of taking one away is known.
    """
    rows = frame.filter(pl.col("split") == "test").drop("router", strict=False)
    logit = np.log(rows["prob"] / (1 - rows["prob"])).to_numpy()
    parts = np.array([0.5, 0.3, 0.2] + [0.1] * len(names))[: len(names)]
    here = np.array([[m in present for m in names] for present in rows["present"]])
    rng = np.random.default_rng(5)
    found = []
    for bits in range(2 ** len(names)):
        kept = np.array([bits >> m & 1 == 1 for m in range(len(names))])
        moved = -1.0 + ((logit + 1)[:, None] * (parts * here * kept)).sum(axis=1)
        for noise in (0.0, 0.5, 1.0, 2.0) if kept.all() else (0.0,):
            prob = sigmoid(moved + noise * rng.normal(size=len(rows)))
            left = [[m for m in names if m in p and kept[names.index(m)]] for p in rows["present"]]
            columns = [
                pl.Series("prob", prob),
                pl.Series("present", left, dtype=pl.List(pl.String)),
                pl.Series(
                    "kept",
                    [[m for m, k in zip(names, kept, strict=True) if k]] * len(rows),
                    dtype=pl.List(pl.String),
                ),
                pl.lit(noise).alias("noise"),
            ]
            found.append(rows.with_columns(columns))
    return pl.concat(found)


FLOW = {
    "cohort": "drawn",
    "steps": [
        {"what": "cohort", "subjects": 250, "samples": 250, "left_out": 0, "why": ""},
        {"what": "labelled", "subjects": 240, "samples": 240, "left_out": 10, "why": "no label"},
    ],
    "modalities": [
        {"name": "ct", "kind": "volume", "encoder": "merlin", "fingerprint": "ab12",
         "n_present": 144, "seen_datasets": [], "licence": "MIT"},
        {"name": "wsi", "kind": "slide", "encoder": "uni", "fingerprint": "cd34",
         "n_present": 216, "seen_datasets": ["Drawn-Numbers"], "licence": "CC-BY-NC-ND"},
        {"name": "clinical", "kind": "tabular", "encoder": None, "fingerprint": None,
         "n_present": 240, "seen_datasets": None, "licence": None},
    ],
}  # fmt: skip


def survival(n: int = 200, methods: tuple[str, ...] = ("adacomed", "small")) -> pl.DataFrame:
    """Times to an event with a known hazard, censored; each method sees the risk through noise."""
    rng = np.random.default_rng(2)
    risk = rng.normal(size=n)
    event_at = rng.exponential(24 * np.exp(-risk))
    lost_at = rng.uniform(5, 60, n)
    ends = np.array([6.0, 12.0, 24.0, 36.0, 48.0])
    parts = []
    for i, method in enumerate(methods):
        seen = risk + (0.3 + i) * rng.normal(size=n)
        curve = np.exp(-ends / 24 * np.exp(seen)[:, None])
        columns = {
            "sample_id": [f"SECRET-{i}" for i in range(n)],
            "subject_id": [f"SUBJECT-{i}" for i in range(n)],
            "split": ["test"] * n,
            "task": ["death"] * n,
            "label": (event_at <= lost_at).astype(int),
            "prob": 1 - curve[:, 2],
            "method": [method] * n,
            "time": np.minimum(event_at, lost_at),
            "survival": curve.tolist(),
            "intervals": [ends.tolist()] * n,
        }
        parts.append(pl.DataFrame(columns))
    return pl.concat(parts)


def _fusion(
    method: str, logit: np.ndarray, has_ct: np.ndarray, rng: np.random.Generator
) -> list[pl.Series]:
    """Columns that only a fused model fills; null for the others."""
    n, fused = len(logit), method == "adacomed"
    s = rng.beta(4, 3, n)
    w_large = 1 - np.exp(-(s**2) / 2)
    router = rng.dirichlet(np.ones(7), n) * np.where(has_ct[:, None], 1, [0, 1, 1, 0, 0, 1, 0])
    router /= router.sum(axis=1, keepdims=True)
    values: dict[str, list[float] | list[list[float]]] = {
        "logit_large": (logit + rng.normal(size=n)).tolist(),
        "logit_small": (logit + 0.5 * rng.normal(size=n)).tolist(),
        "s": s.tolist(),
        "w_large": w_large.tolist(),
        "w_small": (1 - w_large).tolist(),
        "router": router.tolist(),
    }
    types = dict.fromkeys(values, pl.Float64()) | {"router": pl.List(pl.Float64)}
    return [pl.Series(k, v if fused else [None] * n, dtype=types[k]) for k, v in values.items()]


def multiclass(n: int = 180, classes: int = 3) -> pl.DataFrame:
    """Three-class predictions of two methods: prob_0, prob_1, prob_2."""
    rng = np.random.default_rng(1)
    label = rng.integers(0, classes, n)
    parts = []
    for method in ("adacomed", "small"):
        logits = rng.normal(size=(n, classes)) + 1.5 * np.eye(classes)[label]
        prob = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        columns = {
            "sample_id": [f"SECRET-{i}" for i in range(n)],
            "subject_id": [f"SUBJECT-{i}" for i in range(n)],
            "split": ["test"] * n,
            "task": ["stage"] * n,
            "label": label,
            "prob": prob[:, 1],
            "method": [method] * n,
        }
        parts.append(pl.DataFrame(columns | {f"prob_{k}": prob[:, k] for k in range(classes)}))
    return pl.concat(parts)


def history(epochs: int = 12) -> pl.DataFrame:
    """Training curves of two stages."""
    rows = [
        {"stage": stage, "epoch": epoch, "part": part, "metric": metric, "value": value}
        for stage, start in (("small", 0.6), ("adacomed", 0.9))
        for epoch in range(epochs)
        for part, metric, value in (
            ("train", "loss", start * 0.9**epoch),
            ("val", "loss", start * 0.93**epoch + 0.1),
            ("train", "task", 0.6 * 0.9**epoch),
            ("val", "auroc", 0.75 + start / 9 - 0.3 * 0.7**epoch),
            ("val", "s", 0.2 + 0.03 * epoch),
            ("val", "w_large", 0.1 + 0.02 * epoch),
        )
        if stage == "adacomed" or metric in ("loss", "auroc")
    ]
    return pl.DataFrame(rows).select(
        History.STAGE, History.EPOCH, History.PART, History.METRIC, History.VALUE
    )


def write_run(folder: Path, frame: pl.DataFrame | None = None, *, everything: bool = True) -> Path:
    """A run folder; `everything` adds the optional files to predictions.parquet."""
    folder.mkdir(parents=True, exist_ok=True)
    frame = predictions() if frame is None else frame
    frame.write_parquet(folder / RunFiles.PREDICTIONS)
    if everything:
        if "present" in frame.columns:
            few = frame.filter(pl.col("method").is_in(["adacomed", "small", "forest"]))
            stress(few).write_parquet(folder / RunFiles.STRESS)
        history().write_parquet(folder / RunFiles.HISTORY)
        documents = {
            RunFiles.METRICS: {"title": "AdaCoMed on drawn numbers", "simulated": True},
            RunFiles.INPUTS: {"experts": EXPERTS},
            RunFiles.FLOW: FLOW,
            RunFiles.ENVIRONMENT: {"python": "3.11.7", "packages": {"torch": "2.13.0"}},
        }
        for name, document in documents.items():
            (folder / name).write_text(json.dumps(document))
        (folder / RunFiles.CONFIG).write_text(
            "preset: default\nseed: 7\ntask: death\nevidence: {coverage: 0.9}\n"
        )
    return folder


@pytest.fixture(scope="session")
def synthetic() -> SimpleNamespace:
    """The generators above, for tests (conftest cannot be imported)."""
    return SimpleNamespace(
        predictions=predictions,
        multiclass=multiclass,
        history=history,
        stress=stress,
        survival=survival,
        flow=FLOW,
        write_run=write_run,
        experts=EXPERTS,
    )
