from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write a small cohort of 40 patients as csv, vectors and YAML; keywords change the YAML."""

    def write(frame: pl.DataFrame | None = None, **changes: Any) -> Path:
        frame = patients() if frame is None else frame
        frame.write_csv(tmp_path / "patients.csv")
        card: dict[str, Any] = {
            "name": "mine",
            "table": "patients.csv",
            "subject": "patient",
            "tasks": {"icu": {"column": "went_icu", "positive": "Y"}},
            "modalities": {"clinical": {"kind": "tabular", "columns": ["age", "sex"]}},
        }
        (tmp_path / "cohort.yaml").write_text(yaml.safe_dump(card | changes))
        return tmp_path / "cohort.yaml"

    return write


def patients(n: int = 40) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    return pl.DataFrame(
        {
            "patient": [f"{k:03d}" for k in range(n)],
            "age": rng.normal(60, 10, n).round(1),
            "sex": ["F", "M"] * (n // 2),
            "went_icu": (["Y", "N", "N", "Y"] * n)[:n],
        }
    )
