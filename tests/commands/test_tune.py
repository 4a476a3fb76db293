"""`adacomed tune`: killed at any point it goes on; what it leaves is what `train` takes next."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import polars as pl
import pytest
import yaml

from tests.conftest import without
from tests.forked import kill_while

from .conftest import TINY, adacomed

TRIALS = 5
WORDS = [*TINY, "--trials", TRIALS]


@pytest.fixture(scope="module")
def searched(experiment: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that ran through, and was tracked."""
    out = tmp_path_factory.mktemp("tune") / "runs" / "whole"
    adacomed("tune", experiment, *WORDS, "--out", out, "--track")
    return out


def trials(out: Path) -> list[dict[str, Any]]:
    return pl.read_csv(out / "trials.csv").drop("seconds").to_dicts()


def states(out: Path) -> list[str]:
    """Of every trial in the study, read beside whoever is writing."""
    try:
        with closing(sqlite3.connect(f"file:{out / 'study.db'}?mode=ro", uri=True)) as database:
            return [row[0] for row in database.execute("select state from trials order by number")]
    except sqlite3.OperationalError:  # not there yet
        return []


def test_a_search_leaves_a_study_an_experiment_a_table_and_a_page(searched: Path) -> None:
    names = {p.name for p in searched.iterdir() if not p.name.startswith(".")}
    assert names == {
        *("study.db", "best.yaml", "trials.csv", "search.html", "search.json", "validation"),
    }
    rows = trials(searched)
    assert [row["trial"] for row in rows] == list(range(TRIALS))
    said = json.loads((searched / "search.json").read_text())
    assert "imulated" in said["title"]
    assert said["default"]["trial"] == 0
    assert said["best"]["score"] == max(r["score"] for r in rows if r["score"] is not None)
    study = optuna.load_study(study_name="adacomed", storage=f"sqlite:///{searched / 'study.db'}")
    assert study.best_value == said["best"]["score"]


def test_the_best_experiment_is_what_train_takes_from_anywhere(
    searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli
) -> None:
    said = json.loads((searched / "search.json").read_text())
    best = yaml.safe_load((searched / "best.yaml").read_text())
    assert best["model"]["tau"] == said["best"]["values"]["model.tau"]
    assert best["training"]["epochs"] == 2  # what was overridden is in it
    moved = tmp_path / "elsewhere.yaml"
    moved.write_text((searched / "best.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    ran = cli("train", moved, "--out", tmp_path / "run")
    assert ran.exit_code == 0, ran.output
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["choices"]["auroc_on_validation"] == round(said["best"]["score"], 4)


def test_killed_in_the_middle_of_a_trial_it_goes_on(
    searched: Path, experiment: Path, tmp_path: Path, cli
) -> None:
    out = tmp_path / "killed"
    words = ["tune", str(experiment), *(str(w) for w in WORDS), "--out", str(out)]
    child = subprocess.Popen(
        [sys.executable, "-m", "adacomed", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    kill_while(
        child, lambda: states(out)[-1:] == ["RUNNING"] and states(out).count("COMPLETE") >= 2
    )
    before = states(out)
    assert before[-1] == "RUNNING"
    assert not (out / "best.yaml").exists()
    ran = cli(*words)
    assert ran.exit_code == 0, ran.output
    assert "trials of before are kept" in ran.stderr
    after = states(out)
    assert len(after) == TRIALS + 1  # one was tried twice
    assert after[len(before) - 1] == "FAIL"
    assert after[: len(before) - 1] == before[:-1]
    assert trials(out) == trials(searched)
    assert (out / "best.yaml").read_bytes() == (searched / "best.yaml").read_bytes()


def test_the_page_is_whole_and_loads_nothing(searched: Path) -> None:
    page = (searched / "search.html").read_text()
    own = re.sub(r"<script>.*?</script>", "", page, flags=re.S)  # plotly names its own addresses
    assert "http" not in own.replace("http-equiv", "")
    specs = json.loads(re.search(r'id="specs">(.*?)</script>', page, re.S).group(1))  # type: ignore[union-attr]
    said = json.loads((searched / "search.json").read_text())
    marks, curve, default = specs["history"]["data"]
    assert max(y for y in marks["y"]) == pytest.approx(said["best"]["score"], abs=1e-4)
    assert curve["y"][-1] == max(marks["y"])
    assert default["y"][0] == pytest.approx(said["default"]["score"], abs=1e-4)
    charts = [k for k in specs if k.startswith("slice")]
    assert len(charts) >= 5
    for name in [*charts, "history"]:
        assert f'<figure id="{name}">' in page
    assert said["notes"][0].split(":")[0] in page


def test_json_is_one_object_and_a_finished_search_is_not_done_again(
    searched: Path, experiment: Path, cli
) -> None:
    before = states(searched)
    ran = cli("tune", experiment, *WORDS, "--out", searched, "--json")
    assert ran.exit_code == 0, ran.output
    said = json.loads(ran.stdout)
    assert said["trials"] == TRIALS
    assert said["out"] == str(searched)
    assert states(searched) == before
    if said["difference"] is None:
        assert said["best"]["trial"] == 0
    else:
        assert said["clearly_better"] == (said["difference"]["low"] > 0)
        assert "optimistic" in said["notes"][-1]
        assert ("noise" in said["notes"][0]) != said["clearly_better"]


def test_the_table_says_what_is_searched_and_what_it_means(
    searched: Path, experiment: Path, cli
) -> None:
    ran = cli("tune", experiment, *WORDS, "--out", searched)
    assert ran.exit_code == 0, ran.output
    assert "imulated" in ran.stdout.splitlines()[0]
    assert "training.lr: 0.0001 to 0.01 (log)" in ran.stderr
    assert "model.sigma: 0.1 to 2 (log) [only gaussian]" in ran.stderr
    assert re.search(r"^auroc +\.\d{4} +\.\d{4}$", ran.stdout, re.M)
    assert "best.yaml" in ran.stdout


def test_a_search_is_tracked_as_a_run_with_one_nested_for_each_trial(searched: Path) -> None:
    from mlflow.tracking import MlflowClient

    api = MlflowClient(tracking_uri=f"sqlite:///{searched.parent / 'mlflow.db'}")
    key = api.get_experiment_by_name("adacomed").experiment_id
    runs = api.search_runs([key])
    [parent] = [
        run
        for run in runs
        if run.data.tags["mlflow.source.name"] == "adacomed tune"
        and "mlflow.parentRunId" not in run.data.tags
    ]
    said = json.loads((searched / "search.json").read_text())
    assert parent.data.metrics["val/auroc_best"] == said["best"]["score"]
    assert parent.data.params["search.model.tau"] == "0.02 to 0.5 (log)"
    inner = {run.info.run_name: run for run in runs if run is not parent}
    assert set(inner) == {f"trial {i}" for i in range(TRIALS)}
    for row in trials(searched):
        run = inner[f"trial {row['trial']}"]
        assert float(run.data.params["model.tau"]) == row["model.tau"]
        assert run.data.metrics.get("val/auroc") == row["score"]
    kept = {p.name for p in (searched.parent / "mlartifacts").rglob("*") if p.is_file()}
    assert kept == {"best.yaml", "trials.csv", "search.html"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--trials", "0"], "--trials 0"),
        (["--jobs", "0"], "--jobs 0"),
        (["--timeout", "-1"], "--timeout -1"),
        (["--search", "model.tua=0.1:0.2"], "did you mean 'tau'"),
        (["--tracking-uri", "foo://x"], "cannot track at foo://x"),
        (["split.kind=kfold"], "split.kind kfold"),
    ],
)
def test_a_wrong_word_is_one_sentence_before_anything_is_trained(
    words: list[str], says: str, experiment: Path, tmp_path: Path, cli
) -> None:
    ran = cli("tune", experiment, *TINY, "--out", tmp_path / "out", *words)
    assert ran.exit_code == 2, ran.output
    assert says in ran.stderr
    assert not (tmp_path / "out" / "study.db").exists()


def test_another_search_in_the_same_folder_is_refused(
    searched: Path, experiment: Path, cli
) -> None:
    ran = cli("tune", experiment, *WORDS, "--out", searched, "--seed", "1", "model.H=32")
    assert ran.exit_code == 2
    assert "another experiment and search space and seed" in ran.stderr or (
        "another experiment and seed" in ran.stderr
    )


def test_without_optuna_the_extra_is_named(experiment: Path, tmp_path: Path) -> None:
    program = (
        "from adacomed.commands.tune import tune\n"
        "from pathlib import Path\n"
        f"tune(Path({str(experiment)!r}), out=Path({str(tmp_path / 'out')!r}))"
    )
    assert "pip install 'adacomed[search]'" in without("optuna", program).stderr
    assert list(tmp_path.iterdir()) == []
