from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from adacomed.commands.report import report
from adacomed.errors import InputError


def test_writes_the_page_and_returns_its_path(tmp_path):
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 40)
    pl.DataFrame(
        {
            "sample_id": [f"p{i}" for i in range(40)],
            "subject_id": [f"p{i}" for i in range(40)],
            "split": ["test"] * 40,
            "task": ["death"] * 40,
            "label": label,
            "prob": np.clip(0.3 * label + rng.random(40) * 0.7, 0, 1),
            "method": ["adacomed"] * 40,
        }
    ).write_parquet(tmp_path / "predictions.parquet")
    assert report(tmp_path) == tmp_path / "report.html"
    assert "<h1>" in (tmp_path / "report.html").read_text()[:20_000]
    assert report(tmp_path, tmp_path / "b.html").is_file()


def test_a_missing_run_is_the_users_error(tmp_path):
    with pytest.raises(InputError, match="no such run folder"):
        report(tmp_path / "nothing")


def test_the_docstring_is_help_with_an_example():
    assert "Example:" in report.__doc__
    assert "adacomed report" in report.__doc__
