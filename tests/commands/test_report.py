from __future__ import annotations

import json

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


def _table(n: int = 60) -> pl.DataFrame:
    rng = np.random.default_rng(1)
    label = rng.integers(0, 2, n)
    ids = [f"p{i}" for i in range(n)]
    columns = {"sample_id": ids, "subject_id": ids, "label": label}
    prob = np.clip(0.3 * label + rng.random(n) * 0.7, 0, 1)
    return pl.DataFrame(columns | {"prob": prob}).with_columns(
        split=pl.lit("test"), task=pl.lit("death"), method=pl.lit("adacomed")
    )


def test_json_goes_to_stdout_and_csv_to_a_folder(tmp_path, capsys):
    _table().write_parquet(tmp_path / "predictions.parquet")
    report(tmp_path, json=True, csv=tmp_path / "tables", title="Mine")
    printed = json.loads(capsys.readouterr().out)
    assert printed["title"] == "Mine"
    assert len(printed["tables"]) == len(list((tmp_path / "tables").glob("*.csv")))
    assert "<h1>Mine</h1>" in (tmp_path / "report.html").read_text()[:20_000]
    assert (tmp_path / "model_card.md").is_file()
    assert (tmp_path / "tripod_ai.md").is_file()


def test_wrong_targets_and_tasks_are_one_sentence(tmp_path):
    _table().write_parquet(tmp_path / "predictions.parquet")
    with pytest.raises(InputError, match="--out takes a file"):
        report(tmp_path, tmp_path)
    with pytest.raises(InputError, match="--csv takes a folder"):
        report(tmp_path, csv=tmp_path / "predictions.parquet")
    with pytest.raises(InputError, match="did you mean 'death'"):
        report(tmp_path, task="deth")
