"""stress.parquet and the cohort's groups reach the folders of train, compare and predict."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from adacomed.evaluation.robustness import stress_table
from adacomed.evaluation.subgroups import gaps, subgroups

from .conftest import QUICK, adacomed

COHORT = """
name: ward
table: patients.csv
subject: patient
tasks: {death: {column: died, positive: yes}}
groups: [sex, age]
modalities:
  bedside: {kind: tabular, columns: [age, pulse]}
  lab: {kind: tabular, columns: [lactate]}
"""
GRID = ["--methods", "logistic,small", *QUICK, "split.folds=2", "--resamples", 20, "--jobs", 1]


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table, a cohort of two tables and an experiment."""
    folder = tmp_path_factory.mktemp("ward")
    rng = np.random.default_rng(0)
    n = 120
    died = rng.random(n) < 0.4
    lactate = (rng.normal(2, 1, n) + died).round(2).astype(object)
    lactate[rng.random(n) < 0.3] = None
    columns = {
        "patient": [f"p{i:03d}" for i in range(n)],
        "sex": rng.choice(["F", "M"], n),
        "age": rng.integers(20, 95, n),
        "pulse": (rng.normal(80, 10, n) + 5 * died).round(),
        "lactate": pl.Series(lactate.tolist(), dtype=pl.Float64),
        "died": np.where(died, "yes", "no"),
    }
    pl.DataFrame(columns).write_csv(folder / "patients.csv")
    (folder / "cohort.yaml").write_text(COHORT)
    (folder / "experiment.yaml").write_text("cohort: cohort.yaml\n")
    return folder


@pytest.fixture(scope="module")
def compared(ward: Path) -> Path:
    """A comparison of two methods in two folds."""
    adacomed("compare", ward / "experiment.yaml", *GRID, "--out", ward / "cv")
    return ward / "cv"


def groups_are_right(frame: pl.DataFrame, ward: Path) -> None:
    table = pl.read_csv(ward / "patients.csv").rename({"patient": "sample_id"})
    both = frame.join(table, on="sample_id")
    assert len(both) == len(frame)
    assert both["group_sex"].equals(both["sex"], check_names=False)
    assert both["group_age"].equals(both["age"], check_names=False)


def test_a_comparison_keeps_stress_and_groups(compared: Path, ward: Path) -> None:
    predictions, stress = (
        pl.read_parquet(compared / f"{name}.parquet") for name in ("predictions", "stress")
    )
    groups_are_right(predictions, ward)
    groups_are_right(stress, ward)
    assert len(stress) == 2 * 120 * (4 + 3)  # methods, patients, sets and noise
    table = stress_table(stress, n=20)
    assert set(table["n"]) == {120}
    headline = pl.read_csv(compared / "table.csv")
    intact = table.filter((pl.col("kept").list.len() == 2) & (pl.col("noise") == 0))
    assert dict(intact.select("method", "value").rows()) == pytest.approx(
        dict(headline.select("method", "auroc").rows()), abs=1e-9
    )
    lab = table.filter((pl.col("kept").list.join("+") == "lab") & (pl.col("method") == "small"))
    lacking = pl.read_csv(ward / "patients.csv")["lactate"].null_count()
    assert lab["n_nothing"].to_list() == [lacking]
    found = subgroups(predictions, by=["sex", "age"], n=20)
    assert set(found["level"]) >= {"F", "M", "40–64"}
    assert gaps(predictions, by="sex", n=20)["value"].is_not_null().all()


def test_cells_of_an_older_store_are_read(compared: Path, ward: Path, cli) -> None:
    """Without stress files nothing is trained again, and the comparison has none."""
    before = (compared / "predictions.parquet").read_bytes()
    for file in (compared / "cells").glob("*/*.stress.parquet"):
        file.unlink()
    ran = cli("compare", ward / "experiment.yaml", *GRID, "--out", compared)
    assert ran.exit_code == 0, ran.output
    assert not (compared / "stress.parquet").exists()
    assert not list((compared / "cells").glob("*/*.stress.parquet"))
    assert (compared / "predictions.parquet").read_bytes() == before


def test_a_run_and_its_predictions_have_them_too(ward: Path, cli) -> None:
    run = ward / "run"
    words = ["--method", "small", "--out", run, *QUICK]
    ran = cli("train", ward / "experiment.yaml", *words)
    assert ran.exit_code == 0, ran.output
    stress = pl.read_parquet(run / "stress.parquet")
    groups_are_right(stress, ward)
    groups_are_right(pl.read_parquet(run / "predictions.parquet"), ward)
    assert stress["noise"].unique().sort().to_list() == [0, 0.5, 1, 2]
    new = cli("predict", run, ward / "cohort.yaml", "--out", ward / "new.parquet")
    assert new.exit_code == 0, new.output
    groups_are_right(pl.read_parquet(ward / "new.parquet"), ward)
    bare = pl.read_csv(ward / "patients.csv").drop("sex", "died")
    (ward / "later").mkdir()
    bare.write_csv(ward / "later" / "patients.csv")
    (ward / "later" / "cohort.yaml").write_text(COHORT)
    later = cli("predict", run, ward / "later", "--out", ward / "later.parquet")
    assert later.exit_code == 0, later.output  # new patients need no groups
    frame = pl.read_parquet(ward / "later.parquet")
    assert "group_age" in frame.columns
    assert "group_sex" not in frame.columns


def test_without_stress_there_is_no_file(ward: Path, cli) -> None:
    words = ["--method", "small", "--out", ward / "quiet", *QUICK, "evidence.stress=false"]
    ran = cli("train", ward / "experiment.yaml", *words)
    assert ran.exit_code == 0, ran.output
    assert not (ward / "quiet" / "stress.parquet").exists()
