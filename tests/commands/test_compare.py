"""`adacomed compare`: killed at any point it goes on; processes change no number."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from tests.forked import kill_while

from .conftest import QUICK, adacomed

GRID = ["--methods", "small,logistic", "--resamples", "50", *QUICK, "split.folds=3"]


def cells(out: Path) -> dict[Path, int]:
    """Finished cells and when they were written."""
    found = (out / "cells").glob("*/*.parquet")
    return {f: f.stat().st_mtime_ns for f in found if not f.name.startswith(".")}


@pytest.fixture(scope="module")
def whole(experiment: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison that ran through, in one process."""
    out = tmp_path_factory.mktemp("compare") / "whole"
    adacomed("compare", experiment, *GRID, "--jobs", 1, "--out", out)
    return out


def predictions(out: Path) -> pl.DataFrame:
    return pl.read_parquet(out / "predictions.parquet")


def test_everyone_is_tested_once_by_every_method(whole: Path) -> None:
    assert {p.name for p in whole.iterdir()} == {
        *("cells", "history.parquet", "metrics.json", "paired.csv"),
        *("predictions.parquet", "report.html", "stress.parquet", "table.csv"),
        *("model_card.md", "tripod_ai.md", "flow.json"),
    }
    tested = predictions(whole).filter(pl.col("split") == "test")
    assert len(tested) == tested.select("method", "sample_id").n_unique() == 2 * 120
    table = pl.read_csv(whole / "table.csv")
    assert set(table["method"]) == {"small", "logistic"}
    assert (table["auroc_low"] <= table["auroc"]).all()
    pairs = pl.read_csv(whole / "paired.csv").rows(named=True)
    assert [pair["metric"] for pair in pairs] == ["auroc", "auprc"]
    for pair in pairs:
        assert (pair["method"], pair["reference"]) == ("logistic", "small")
        value = dict(table.select("method", pair["metric"]).rows())
        assert pair["difference"] == pytest.approx(value["small"] - value["logistic"], abs=1e-9)


def test_killed_midway_it_goes_on(whole: Path, experiment: Path, tmp_path: Path, cli) -> None:
    out = tmp_path / "killed"
    words = ["compare", str(experiment), *GRID, "--jobs", "1", "--out", str(out)]
    child = subprocess.Popen(
        [sys.executable, "-m", "adacomed", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    beside = (".history.parquet", ".stress.parquet")  # written before the predictions

    def midway() -> bool:
        found = cells(out)
        done = any("~" in f.name and not f.name.endswith(beside) for f in found)
        return done and len(found) < len(cells(whole))

    kill_while(child, midway)
    before = cells(out)
    assert not (out / "table.csv").exists()
    assert 0 < len(before) < len(cells(whole))
    assert cli(*words).exit_code == 0
    done = {f for f in before if f.with_name(f"{f.name.split('.')[0]}.parquet") in before}
    assert done
    assert {f: cells(out)[f] for f in done} == {f: before[f] for f in done}
    assert predictions(out).equals(predictions(whole))
    assert (out / "table.csv").read_bytes() == (whole / "table.csv").read_bytes()
    assert (out / "paired.csv").read_bytes() == (whole / "paired.csv").read_bytes()
    finished = cells(out)
    assert cli(*words).exit_code == 0  # and once more: nothing is left to do
    assert cells(out) == finished


def test_another_setting_is_another_result(whole: Path, experiment: Path, cli) -> None:
    before = cells(whole)
    words = ["compare", experiment, *GRID, "small.width=8", "--jobs", "1", "--out", whole]
    old = predictions(whole)
    assert cli(*words, "--methods", "small").exit_code == 0
    after = cells(whole)
    assert {f: after[f] for f in before} == before
    assert len(after) > len(before)
    mine = old.filter(pl.col("method") == "small")
    assert not predictions(whole)["prob"].equals(mine["prob"])
    assert not (whole / "paired.csv").exists()  # the old pairs are not of this comparison
    back = cli("compare", experiment, *GRID, "--jobs", "1", "--out", whole)
    assert back.exit_code == 0
    assert predictions(whole).equals(old)
    assert cells(whole) == after


def test_processes_change_no_number(whole: Path, experiment: Path, tmp_path: Path, cli) -> None:
    out = tmp_path / "parallel"
    ran = cli("compare", experiment, *GRID, "--jobs", "2", "--out", out)
    assert ran.exit_code == 0, ran.output
    assert predictions(out).equals(predictions(whole))


def test_adacomed_is_the_reference_and_a_method_named_twice_runs_once(
    experiment: Path, tmp_path: Path, cli
) -> None:
    words = [*QUICK, "split.kind=holdout", "--jobs", "1", "--resamples", "50"]
    methods = "small,adacomed,small,bayes"
    ran = cli("compare", experiment, *words, "--methods", methods, "--out", tmp_path / "o")
    assert ran.exit_code == 0, ran.output
    pairs = pl.read_csv(tmp_path / "o" / "paired.csv")
    who = set(pairs.select("method", "reference").rows())
    assert who == {("small", "adacomed")}  # no ceiling
    assert set(pl.read_csv(tmp_path / "o" / "table.csv")["method"]) == {
        "small",
        "adacomed",
        "bayes",
    }
    assert "imulated" in ran.stdout
