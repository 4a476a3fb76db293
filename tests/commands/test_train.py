"""`adacomed train`: a run folder that is whole, reproducible, and never lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
import yaml

from adacomed.schema import RunFiles

from .conftest import QUICK, TINY

# of a comparison, of `adacomed explain`, and of a bundle
NOT_HERE = {RunFiles.TABLE, RunFiles.EXPLANATIONS, RunFiles.CHECKSUMS}
FILES = {v for k, v in vars(RunFiles).items() if k.isupper()} - NOT_HERE


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def test_a_run_folder_has_every_file(run: Path) -> None:
    assert set(contents(run)) == FILES
    resolved = yaml.safe_load((run / RunFiles.CONFIG).read_text())
    assert resolved["training"]["epochs"] == 2  # the override is part of the record
    metrics = json.loads((run / RunFiles.METRICS).read_text())
    assert metrics["simulated"]
    assert "imulated" in metrics["title"]
    [row] = metrics["test"]
    assert 0 <= row["auroc_low"] <= row["auroc"] <= row["auroc_high"] <= 1
    frame = pl.read_parquet(run / RunFiles.PREDICTIONS)
    assert set(frame["split"]) == {"val", "test"}
    assert frame["sample_id"].n_unique() == len(frame) == 120
    assert list(run.parent.iterdir()) == [run]  # nothing temporary is left


def test_one_seed_one_file(run: Path, experiment: Path, tmp_path: Path, cli) -> None:
    for name, seed in (("same", 0), ("other", 1)):
        ran = cli("train", experiment, *QUICK, f"seed={seed}", "--out", tmp_path / name)
        assert ran.exit_code == 0, ran.output
    first, same, other = (contents(f) for f in (run, tmp_path / "same", tmp_path / "other"))
    for name in (RunFiles.PREDICTIONS, RunFiles.MODEL, RunFiles.HISTORY, RunFiles.INPUTS):
        assert first[name] == same[name]
    assert first[RunFiles.PREDICTIONS] != other[RunFiles.PREDICTIONS]
    assert first[RunFiles.MODEL] != other[RunFiles.MODEL]


def test_a_finished_run_is_never_lost(run: Path, experiment: Path, tmp_path: Path, cli) -> None:
    out = tmp_path / "run"
    shutil.copytree(run, out)
    (out / "notes.txt").write_text("mine")
    before = contents(out)
    refused = cli("train", experiment, *QUICK, "--out", out)
    assert refused.exit_code == 2
    assert "--force" in refused.stderr
    failed = cli("train", experiment, *QUICK, "training.inner_folds=60", "--out", out, "--force")
    assert failed.exit_code == 2
    assert "60 folds" in failed.stderr
    assert contents(out) == before
    replaced = cli("train", experiment, *QUICK, "seed=1", "--out", out, "--force")
    assert replaced.exit_code == 0, replaced.output
    assert set(contents(out)) == FILES
    assert contents(out)[RunFiles.MODEL] != before[RunFiles.MODEL]
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("method", ["small", "average", "large-ensemble", "m2-large"])
def test_a_neural_baseline_is_a_run_too(
    method: str, experiment: Path, simulated: Path, tmp_path: Path, cli
) -> None:
    out, new = tmp_path / "run", tmp_path / "new.parquet"
    assert cli("train", experiment, *TINY, "--method", method, "--out", out).exit_code == 0
    assert cli("predict", out, simulated, "--out", new).exit_code == 0
    own = pl.read_parquet(out / RunFiles.PREDICTIONS).filter(pl.col("split") == "test")
    both = own.join(pl.read_parquet(new), on="sample_id")
    assert len(both) == len(own) > 0
    assert (both["prob"] - both["prob_right"]).abs().max() <= 1e-9
    assert set(both["method_right"]) == {method}


def test_a_method_without_a_model_is_refused_at_once(experiment: Path, tmp_path: Path, cli) -> None:
    for method in ("logistic", "late-fusion", "bayes"):
        ran = cli("train", experiment, "--method", method, "--out", tmp_path / "run")
        assert ran.exit_code == 2
        assert "adacomed compare" in ran.stderr
        assert len(ran.stderr.splitlines()) == 1
