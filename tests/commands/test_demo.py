"""The main job, end to end: simulated with every method, and the real MMIST release."""

from __future__ import annotations

import polars as pl
import pytest

from adacomed.schema import Predictions, RunFiles

from ..conftest import shared

QUICK = ["training.epochs=1", "training.inner_folds=2", "model.strategy=ensemble"]


def test_simulated_demo(tmp_path, cli):
    out = tmp_path / "demo"
    words = ["demo", *QUICK, "--samples", 150, "--out", out, "--jobs", 1, "--resamples", 50]
    ran = cli(*words)
    assert ran.exit_code == 0, ran.output
    assert "Simulated" in ran.stderr
    table = pl.read_csv(out / RunFiles.TABLE)
    wanted = {"adacomed", "small", "large-ensemble", "average", "bayes"}
    wanted |= {"late-fusion", "weighted-late-fusion"}
    wanted |= {f"{m}-large" for m in ("m1", "m2", "m3")}
    wanted |= {f"{k}{e}" for k in ("logistic", "forest", "boosting") for e in ("", "-all")}
    assert set(table["method"]) == wanted
    assert (table["auroc_low"] <= table["auroc"]).all()
    assert (table["auroc"] <= table["auroc_high"]).all()
    predictions = pl.read_parquet(out / RunFiles.PREDICTIONS)
    assert set(predictions[Predictions.METHOD]) == wanted
    page = (out / RunFiles.REPORT).read_text()
    assert "imulated" in page.split("</h1>")[0]
    for name in (RunFiles.MODEL, RunFiles.CONFIG, RunFiles.INPUTS, RunFiles.REPORT):
        assert (out / "run" / name).is_file()
    ceiling = table.filter(pl.col("method") == "bayes")["auroc"][0]
    assert ceiling > 0.6

    new = cli("predict", out / "run", out / "cohort", "--out", tmp_path / "p.parquet")
    assert new.exit_code == 0, new.output
    again = pl.read_parquet(tmp_path / "p.parquet").filter(pl.col("split") == "test")
    ours = predictions.filter(
        (pl.col(Predictions.METHOD) == "adacomed") & (pl.col(Predictions.SPLIT) == "test")
    )
    both = ours.join(again, on=Predictions.SAMPLE_ID)
    assert len(both) == len(ours)
    assert both["prob"].to_numpy() == pytest.approx(both["prob_right"].to_numpy(), abs=1e-9)

    times = {p: p.stat().st_mtime_ns for p in (out / "cells").rglob("*.parquet")}
    assert cli(*words).exit_code == 0  # the same command goes on where it was: nothing to do
    assert times == {p: p.stat().st_mtime_ns for p in (out / "cells").rglob("*.parquet")}


def test_mmist_demo_beside_the_paper(tmp_path, cli):
    source = shared("mmist-ccrcc")
    out = tmp_path / "mmist"
    ran = cli(
        *("demo", *QUICK, "methods=[adacomed,small,logistic]", "--cohort", "mmist-ccrcc"),
        *("--source", source, "--out", out, "--jobs", 1, "--resamples", 50),
    )
    assert ran.exit_code == 0, ran.output
    assert "121" in ran.stdout
    assert "58" in ran.stdout
    assert "0.898" in ran.stdout  # the paper's AdaCoMed
    page = (out / RunFiles.REPORT).read_text()
    assert "Table 4" in page
    assert "imulated" not in page.split("</h1>")[0]


def test_an_unknown_cohort(tmp_path, cli):
    ran = cli("demo", "--cohort", "mmist", "--out", tmp_path)
    assert ran.exit_code == 2
    assert "did you mean 'mmist-ccrcc'" in ran.stderr
    ran = cli("demo", "--cohort", "mmist-ccrcc", "--out", tmp_path)
    assert ran.exit_code == 2
    assert "--source" in ran.stderr
