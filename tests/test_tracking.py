"""Tracking in a real MLflow store on disk: what is there is what the run's files say, no more."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from adacomed.config import Experiment
from adacomed.errors import InputError
from adacomed.schema import RunFiles
from adacomed.tracking.contents import Sent, settings_of
from adacomed.tracking.tracker import Tracker, resolve_uri, tracker
from tests.commands.conftest import QUICK, adacomed
from tests.conftest import without

DATA = "0123456789abcdef"


def never(message: str) -> None:
    raise AssertionError(message)


@pytest.fixture(autouse=True)
def nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run, a comparison, and the MLflow store that both went to."""
    root = tmp_path_factory.mktemp("tracked") / "with space"
    root.mkdir()
    adacomed("cohort", "build", "simulated", "--samples", 120, "--out", root / "cohort")
    (root / "e.yaml").write_text("cohort: cohort\n")
    run, compared = root / "runs" / "first", root / "runs" / "both"
    adacomed("train", root / "e.yaml", "--out", run, *QUICK)
    words = ["--methods", "small,logistic", "--resamples", 50, "--jobs", 1, "split.kind=holdout"]
    adacomed("compare", root / "e.yaml", "--out", compared, *QUICK, *words)
    return {"run": run, "compared": compared, "cohort": root / "cohort"}


@pytest.fixture(scope="module")
def store(folders: dict[str, Path]) -> Tracker:
    return tracker(None, folders["run"], on_fail=never)


@pytest.fixture(scope="module")
def tracked(folders: dict[str, Path], store: Tracker) -> dict[str, str]:
    """MLflow's ids."""
    one = store.log_run(folders["run"], data=DATA)
    many = store.log_comparison(folders["compared"], cohort="simulated", task="outcome", data=DATA)
    assert one is not None
    assert many is not None
    return {"run": one, "compared": many}


def client(store: Tracker) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=store.uri)


def test_a_run_is_there_with_settings_metrics_and_tags(folders, store, tracked) -> None:
    run, folder = client(store).get_run(tracked["run"]), folders["run"]
    assert run.info.status == "FINISHED"
    [row] = json.loads((folder / RunFiles.METRICS).read_text())["test"]
    for name in ("auroc", "auroc_low", "auroc_high", "brier", "n"):
        assert run.data.metrics[f"test/{name}"] == pytest.approx(row[name], abs=1e-12)
    written = yaml.safe_load((folder / RunFiles.CONFIG).read_text())
    assert run.data.params["training.epochs"] == str(written["training"]["epochs"]) == "2"
    assert run.data.params["model.lambda"] == "0.5"  # of the preset, not of the file
    assert "cohort" not in run.data.params
    changed = run.data.tags["changed"].split(", ")
    assert sorted(changed) == sorted(QUICK)
    said = {k: run.data.tags[k] for k in ("cohort", "simulated", "task", "method", "data")}
    assert said["data"] == DATA
    assert said["simulated"] == "true"
    assert (said["method"], said["task"]) == ("adacomed", "outcome")
    assert len(run.data.tags["model_hash"]) == 64


def test_the_curves_are_the_history_epoch_by_epoch(folders, store, tracked) -> None:
    history = pl.read_parquet(folders["run"] / RunFiles.HISTORY)
    keys = ["stage", "part", "metric"]
    for (stage, part, metric), rows in history.group_by(keys):
        found = client(store).get_metric_history(tracked["run"], f"{stage}/{part}/{metric}")
        assert [(m.step, m.value) for m in found] == list(rows.select("epoch", "value").rows())


def test_a_comparison_is_one_run_with_one_nested_for_each_method(folders, store, tracked) -> None:
    api, key = client(store), tracked["compared"]
    inner = api.search_runs([store.experiment], f"tags.`mlflow.parentRunId` = '{key}'")
    table = {
        row["method"]: row for row in pl.read_csv(folders["compared"] / "table.csv").to_dicts()
    }
    assert {run.info.run_name for run in inner} == set(table) == {"small", "logistic"}
    for run in inner:
        row = table[run.info.run_name]
        for name in ("auroc", "auroc_low", "auroc_high"):
            assert run.data.metrics[f"test/{name}"] == pytest.approx(row[name], abs=1e-12)
        assert run.data.metrics["seconds"] > 0
    [pair] = pl.read_csv(folders["compared"] / "paired.csv").filter(metric="auroc").to_dicts()
    parent = api.get_run(key).data.metrics
    assert parent["difference/logistic/auroc"] == pytest.approx(pair["difference"], abs=1e-12)
    assert parent["difference/logistic/auroc_low"] == pytest.approx(pair["low"], abs=1e-12)


def test_nothing_in_the_store_is_about_one_patient(folders, store, tracked) -> None:
    root = folders["run"].parent
    kept = {p.name for p in (root / "mlartifacts").rglob("*") if p.is_file()}
    assert kept == {
        *("config.yaml", "metrics.json", "report.html", "model_card.md"),
        *("table.csv", "paired.csv"),
    }
    ids = set(pl.read_parquet(folders["run"] / RunFiles.PREDICTIONS)["sample_id"])
    readable = [p for p in (root / "mlartifacts").rglob("*") if p.suffix not in (".html", "")]
    with closing(sqlite3.connect(root / "mlflow.db")) as database:
        # As SQL: in the file's bytes a cell that ends in "s" may stand before digits of another.
        stored = "\n".join(database.iterdump())
    assert "test/auroc" in stored
    for text in [stored, *(file.read_text() for file in readable)]:
        assert not ids & set(re.findall(r"\w+", text))
    report = (folders["run"] / RunFiles.REPORT).read_text()
    assert ids & set(re.findall(r"\w+", report))  # why it stays on this disk
    far = Tracker("http://host:5000", "0", False, never)
    sent = Sent("x", {}, {}, {}, [folders["run"] / n for n in (RunFiles.REPORT, RunFiles.METRICS)])
    assert [file.name for file in far.files(sent)] == [RunFiles.METRICS]
    assert store.local


def test_settings_are_flat_and_say_what_differs(tmp_path: Path) -> None:
    flat, changed = settings_of(Experiment(cohort=tmp_path))
    assert changed == "nothing"
    assert flat["training.lr"] == 1e-3
    assert str(tmp_path) not in str(flat)
    flat, changed = settings_of(Experiment(cohort=tmp_path, preset="paper"))
    assert changed == "preset=paper"
    assert (flat["training.lr"], flat["model.H"]) == (1e-4, 512)


def test_the_address_given_goes_before_the_environment_and_that_before_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "runs" / "first"
    assert resolve_uri(None, out).endswith("/runs/mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://team:5000")
    assert resolve_uri(None, out) == "http://team:5000"
    assert resolve_uri("sqlite:///x.db", out) == "sqlite:///x.db"


def test_an_address_that_answers_nothing_is_said_at_once(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(InputError) as error:
        tracker("http://me:secret@127.0.0.1:9", tmp_path / "out", on_fail=never)
    assert time.monotonic() - started < 60
    assert "secret" not in str(error.value)
    assert "cannot track at http://127.0.0.1:9: nothing answers there" in str(error.value)
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


@pytest.mark.parametrize("uri", ["foo://host", "sqlite:////dev/null/x/m.db", "mlruns-folder"])
def test_an_address_that_cannot_work_is_one_sentence(uri: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot track at") as error:
        tracker(uri, tmp_path / "out", on_fail=never)
    assert "\n" not in str(error.value)


def test_a_store_that_breaks_after_the_check_loses_no_run(folders, tmp_path: Path) -> None:
    said: list[str] = []
    where = tmp_path / "broken"
    shutil.copytree(folders["run"].parent, where, ignore=shutil.ignore_patterns("cells"))
    one = tracker(f"sqlite:///{where / 'mlflow.db'}", where / "first", on_fail=said.append)
    far = Tracker(one.uri, "999999", one.local, said.append)
    assert far.log_run(where / "first", data=DATA) is None
    [sentence] = said
    assert "not tracked at" in sentence
    assert "results are complete" in sentence
    assert (where / "first" / RunFiles.METRICS).is_file()
    assert one.log_run(where / "nothing here", data=DATA) is None
    assert len(said) == 2


def test_without_mlflow_the_extra_is_named_and_nothing_else_is_done(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path\n"
        "from adacomed.tracking.tracker import tracker\n"
        f"tracker(None, Path({str(tmp_path / 'out')!r}), on_fail=print)"
    )
    assert "pip install 'adacomed[track]'" in without("mlflow", program).stderr
    assert list(tmp_path.iterdir()) == []
