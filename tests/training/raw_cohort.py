"""A cohort of raw files for tests: X-rays of several sizes, notes, a long series, a table."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml
from PIL import Image

WORDS = ["chest", "clear", "effusion", "fever", "lungs", "opacity", "pain", "pleural", "stable"]
VARIABLES = ("heart", "lactate", "pressure")
NOWHERE = "no_such_module_here:embed"  # an encoder whose every use is an error
ENCODERS = """
import numpy as np

def image(items):
    return [[i.mean(), i.std(), i.max()] for i in items]

def text(items):
    return [[len(t), t.count("a"), t.count("e")] for t in items]

def series(items):
    return [[s.value.mean(), len(s.hours), s.value.max()] for s in items]
"""


@dataclass
class Files:
    """What is written: rows of the four tables and pixels by file name. Tests may change any."""

    patients: list[dict[str, Any]] = field(default_factory=list)
    xrays: list[dict[str, Any]] = field(default_factory=list)
    notes: list[dict[str, Any]] = field(default_factory=list)
    labs: list[dict[str, Any]] = field(default_factory=list)
    pixels: dict[str, np.ndarray] = field(default_factory=dict)  # (H, W) uint8
    vectors: dict[str, np.ndarray] = field(default_factory=dict)

    def copy(self) -> Files:
        return copy.deepcopy(self)


def random_files(n: int = 28, *, seed: int = 0) -> Files:
    """n patients, "p00" first; every fifth or so lacks X-rays, notes or laboratory values."""
    rng = np.random.default_rng(seed)
    files = Files()
    for i in range(n):
        p = f"p{i:02d}"
        ill = i % 2
        age = None if i % 7 == 3 else round(50 + rng.normal() + 8 * ill, 2)
        files.patients.append({"patient": p, "icu": "NY"[ill], "age": age, "sex": "FM"[i % 3 > 0]})
        files.vectors[p] = (rng.normal(size=5) + ill).astype(np.float32)
        for k in range(0 if i % 5 == 1 else int(rng.integers(1, 3))):
            name, shape = f"{p}_{k}.png", rng.integers(16, 40, 2)
            files.pixels[name] = rng.integers(0, 160 + 80 * ill, shape).astype(np.uint8)
            hours = None if (i + k) % 6 == 5 else round(float(rng.uniform(0, 48)), 2)
            row = {
                "patient": p,
                "file": name,
                "taken": hours,
                "view": ("AP", "PA", None)[(i + k) % 3],
            }
            files.xrays.append(row)
        for _ in range(0 if i % 4 == 2 else int(rng.integers(1, 5))):
            text = " ".join(rng.choice(WORDS, int(rng.integers(3, 12))))
            files.notes.append({"patient": p, "text": text, "at": round(rng.uniform(0, 48), 2)})
        hours = np.sort(rng.uniform(0, 48, 0 if i % 6 == 3 else int(rng.integers(2, 9)))).round(2)
        for k, hour in enumerate(hours):
            variable = VARIABLES[(i + k) % 3]
            value = round(float(rng.normal(70 + 20 * ill, 5)), 3)
            row = {"sample_id": p, "hours": hour, "variable": variable, "value": value}
            files.labs.append(row)
    return files


def modalities(encoders: dict[str, str]) -> dict[str, dict[str, Any]]:
    xray = {"kind": "image", "table": "xrays.csv", "column": "file", "root": "images"}
    cards: dict[str, dict[str, Any]] = {
        "xray": {**xray, "time": "taken", "view": "view"},
        "note": {"kind": "text", "table": "notes.csv", "column": "text", "time": "at"},
        "labs": {"kind": "series", "table": "labs.csv"},
        "clinical": {"kind": "tabular", "columns": ["age", "sex"]},
        "vectors": {"kind": "embedding", "root": "vectors"},
    }
    return {
        m: card | ({"encoder": encoders[m]} if m in encoders else {}) for m, card in cards.items()
    }


def write(
    folder: Path,
    files: Files,
    *,
    names: tuple[str, ...] = ("xray", "note", "labs", "clinical"),
    encoders: dict[str, str] | None = None,
    task: str = "icu",
    **changes: dict[str, Any],
) -> Path:
    """Write the files and a YAML; the path of the latter.

    Args:
        names: of the modalities that the YAML lists.
        encoders: modality → its encoder; the default's use is an error.
        changes: modality → keys that differ in its card.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "vectors").mkdir(exist_ok=True)
    for table in ("patients", "xrays", "notes", "labs"):
        rows = getattr(files, table)
        pl.DataFrame(rows, infer_schema_length=None).write_csv(folder / f"{table}.csv")
    for name, pixels in files.pixels.items():
        Image.fromarray(pixels).save(folder / "images" / name)
    for patient, vector in files.vectors.items():
        np.save(folder / "vectors" / f"{patient}.npy", vector)
    (folder / "raw_test_encoders.py").write_text(ENCODERS)
    cards = modalities(dict.fromkeys(("xray", "note", "labs"), NOWHERE) | (encoders or {}))
    card = {
        "name": "raw",
        "table": "patients.csv",
        "subject": "patient",
        "tasks": {task: {"column": "icu", "positive": "Y"}},
        "modalities": {m: cards[m] | changes.get(m, {}) for m in names},
    }
    (folder / "cohort.yaml").write_text(yaml.safe_dump(card, sort_keys=False))
    return folder / "cohort.yaml"


OWN_ENCODERS = {
    "xray": "raw_test_encoders:image",
    "note": "raw_test_encoders:text",
    "labs": "raw_test_encoders:series",
}
