"""Several findings, and survival, through every verb: simulated cohorts and a user's own csv."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
import yaml
from sklearn.metrics import roc_auc_score
from sksurv.metrics import concordance_index_censored

from adacomed.schema import RunFiles

from .conftest import QUICK, adacomed

TASKS = ("findings", "survival")
NAMES = ("infiltrate", "effusion", "nodule")


class Made(NamedTuple):
    """A simulated cohort of a task, a run on it, and a comparison."""

    task: str
    cohort: Path
    run: Path
    cv: Path


@pytest.fixture(scope="module", params=TASKS)
def made(request, tmp_path_factory) -> Made:
    task, root = request.param, tmp_path_factory.mktemp(request.param)
    cohort, experiment = root / "cohort", root / "experiment.yaml"
    build = ("cohort", "build", "simulated", "--task", task, "--samples", 130, "--modalities", 2)
    adacomed(*build, "--out", cohort)
    experiment.write_text("cohort: cohort\n")
    adacomed("train", experiment, "--out", root / "run", *QUICK)
    folds = ("split.folds=2", "evidence.stress=false", "training.epochs=1")
    words = ("--methods", "adacomed,small", "--resamples", 20, "--jobs", 1)
    adacomed("compare", experiment, "--out", root / "cv", *QUICK, *folds, *words)
    return Made(task, cohort, root / "run", root / "cv")


def on_test(folder: Path) -> pl.DataFrame:
    rows = pl.read_parquet(folder / RunFiles.PREDICTIONS)
    return rows.filter(pl.col("split") == "test", pl.col("label").is_not_null())


def mean_auroc(rows: pl.DataFrame) -> float:
    parts = rows.partition_by("task")
    assert {p["task"][0] for p in parts} == {f"findings: {name}" for name in NAMES}
    return float(np.mean([roc_auc_score(p["label"], p["prob"]) for p in parts]))


def c_index(rows: pl.DataFrame) -> float:
    event = rows["label"] == 1
    return float(concordance_index_censored(event, rows["time"], rows["prob"], tied_tol=0)[0])


def test_a_runs_own_figures_are_the_oracles(made: Made) -> None:
    rows, metrics = on_test(made.run), json.loads((made.run / RunFiles.METRICS).read_text())
    [row] = metrics[made.task]
    if made.task == "findings":
        assert row["auroc"] == pytest.approx(mean_auroc(rows))
        assert len(metrics["test"]) == 3
    else:
        assert row["c_index"] == pytest.approx(c_index(rows))
        assert (row["horizon"], row["n"]) == (24.0, len(rows))
        assert metrics["test"][0]["n"] < len(rows)  # whoever was lost before the horizon


def test_new_patients_get_the_same_rows(made: Made, tmp_path: Path, cli) -> None:
    words = ("predict", made.run, made.cohort, "--out", tmp_path / "p.parquet")
    ran = cli(*words)
    assert ran.exit_code == 0, ran.output
    found, own = pl.read_parquet(tmp_path / "p.parquet"), on_test(made.run)
    both = own.join(found, on=["sample_id", "task"], how="left", maintain_order="left")
    assert (both["prob"] - both["prob_right"]).abs().max() <= 1e-9
    assert len(found) == 130 * (3 if made.task == "findings" else 1)
    some = ",".join(own["sample_id"].unique().sort()[:2])
    ran = cli(*words, "--samples", some)
    assert ran.exit_code == 0, ran.output
    few = pl.read_parquet(tmp_path / "p.parquet")
    same = few.join(found, on=["sample_id", "task"], how="left", maintain_order="left")
    assert (same["prob"] - same["prob_right"]).abs().max() <= 1e-6
    if made.task == "survival":
        assert few["survival"].list.len().to_list() == few["intervals"].list.len().to_list()


def test_evaluate_says_what_a_class_task_cannot(made: Made, tmp_path: Path, cli) -> None:
    asked = ("--resamples", 20, "--stress", "--by", "ward", "--calibrate", "platt")
    ran = cli("evaluate", made.run, *asked, "--coverage", 0.8, "--out", tmp_path)
    assert ran.exit_code == 0, ran.output
    heading = {"findings": "Mean over the findings", "survival": "event by the horizon"}
    assert heading[made.task] in ran.stdout
    assert "nan" not in ran.stdout.lower()
    assert (tmp_path / f"{made.task}.csv").is_file()
    ran = cli("evaluate", made.run, *asked, "--coverage", 0.8, "--json")
    found = json.loads(ran.stdout)
    # one number of patients in the metrics, the prediction sets and the stress table
    sizes = {row["task"]: row["n"] for row in found["table"]}
    assert {r["task"]: r["n"] for r in found["sets"] if r["class"] is None} == sizes
    assert {(r["task"], r["n"]) for r in found["stress"]} == set(sizes.items())
    plain = json.loads(cli("evaluate", made.run, "--resamples", 20, "--json").stdout)
    for row in plain["table"]:
        first = next(r for r in found["stress"] if r["task"] == row["task"])
        assert first["value"] == pytest.approx(row["auroc"])


def test_a_second_cohort_is_scored_by_the_same_event(made: Made, cli) -> None:
    ran = cli("evaluate", made.run, "--second", made.cohort, "--resamples", 20, "--json")
    assert ran.exit_code == 0, ran.output
    found = json.loads(ran.stdout)
    rows = [r for r in found["transfer"] if r["metric"] == "auroc"]
    assert {r["task"]: r["n_here"] for r in rows} == {r["task"]: r["n"] for r in found["table"]}
    if made.task == "survival":
        assert rows[0]["n_there"] < 130
    else:
        assert [r["n_there"] for r in rows if r["task"].endswith("nodule")] == [130]


def test_a_comparison_has_a_mean_or_a_c_index(made: Made, cli) -> None:
    rows = on_test(made.cv)
    metrics = json.loads((made.cv / RunFiles.METRICS).read_text())
    measure = {"findings": (mean_auroc, "auroc"), "survival": (c_index, "c_index")}
    score, name = measure[made.task]
    for row in metrics[made.task]:
        assert row[name] == pytest.approx(score(rows.filter(method=row["method"])))
    [pair] = metrics[f"{made.task} paired"]
    assert (pair["reference"], pair["method"]) == ("adacomed", "small")
    assert pair["low"] <= pair["difference"] <= pair["high"]
    ran = cli("evaluate", made.cv, "--reference", "small", "--resamples", 20)
    assert ran.exit_code == 0, ran.output
    assert "small − adacomed" in ran.stdout


def test_explanations_add_up_for_every_finding_or_the_risk(made: Made, tmp_path: Path, cli) -> None:
    ids = on_test(made.run)["sample_id"].unique().sort()[:6].to_list()
    words = ("explain", made.run, made.cohort, "--samples", ",".join(ids), "--out", tmp_path)
    ran = cli(*words)
    assert ran.exit_code == 0, ran.output
    data = json.loads((tmp_path / "explanations.json").read_text())
    own = pl.read_parquet(made.run / RunFiles.PREDICTIONS).filter(pl.col("split") == "test")
    for patient in data["patients"]:
        values = np.array([e["shapley"] for e in patient["modalities"].values()]).sum(axis=0)
        np.testing.assert_allclose(values, np.subtract(patient["prob"], patient["base"]), atol=1e-5)
        said = own.filter(sample_id=patient["sample_id"])["prob"].to_list()
        assert patient["prob"][-len(said) :] == pytest.approx(said, abs=1e-9)
    classes = pl.read_parquet(tmp_path / RunFiles.EXPLANATIONS).filter(level="modality")["class"]
    assert set(classes) == ({0, 1, 2} if made.task == "findings" else {1})
    names = NAMES if made.task == "findings" else ("yes by 24 months",)
    assert all(f"clinical, {name}: 6 have it" in ran.stdout for name in names)
    if made.task == "survival":
        assert "probability of yes by 24 months" in ran.stdout
        assert classes.len() == 6 * 3


def test_the_report_is_about_the_task(made: Made, tmp_path: Path, cli) -> None:
    for folder in (made.run, made.cv):
        ran = cli("report", folder, "--out", tmp_path / "page.html")
        assert ran.exit_code == 0, ran.output
        html = (tmp_path / "page.html").read_text()
        assert "nan" not in html.split("<main>")[1].split("</main>")[0].lower().split()
        if made.task == "findings":
            assert "mean over 3 findings" in html
        else:
            assert "reaches a C-index of" in html
            assert "Risk of the event by 24" in html
            assert f"{c_index(on_test(folder).filter(method='adacomed')):.3f}"[1:] in html
    if made.task == "findings":
        ran = cli("report", made.cv, "--task", "findings: effusion", "--out", tmp_path / "p.html")
        assert ran.exit_code == 0, ran.output
        ran = cli("report", made.cv, "--task", "findings: effusions")
        assert ran.exit_code == 2
        assert "did you mean 'findings: effusion'" in ran.stderr


# ---- a user's own table -------------------------------------------------------------------------
def patients(n: int = 120) -> pl.DataFrame:
    """Age tells both when the event comes and whether a finding is there; labels are missing."""
    rng = np.random.default_rng(0)
    age = np.round(rng.uniform(30, 90, n))
    happens = rng.exponential(400 * np.exp(-(age - 60) / 15))
    lost = rng.uniform(100, 900, n)
    seen = (rng.random((n, 2)) < 1 / (1 + np.exp(-(age - 60) / 8))[:, None]).astype(int)
    oedema = pl.Series(np.where(seen[:, 0], "yes", "no")).set(pl.Series(rng.random(n) < 0.3), None)
    days = pl.Series(np.round(np.minimum(happens, lost), 1))
    return pl.DataFrame(
        {
            "id": [f"{k:03d}" for k in range(n)],
            "age": age,
            "heart_rate": rng.normal(80, 10, n).round(),
            "oedema": oedema,
            "fluid": np.where(seen[:, 1], "yes", "no"),
            "dead": (happens <= lost).astype(int),
            "days": days.set((days > 700) & pl.Series(happens > lost), None),  # no label at all
        }
    )


OWN = {
    "chest": {
        "findings": {"oedema": "oedema", "effusion": "fluid"},
        "positive": "yes",
        "negative": "no",
    },
    "death": {"column": "dead", "time": "days", "horizon": 300, "unit": "days", "intervals": 5},
}


@pytest.mark.parametrize("task", OWN)
def test_a_users_own_csv_goes_through_every_verb(task: str, tmp_path: Path, cli) -> None:
    table = patients()
    table.write_csv(tmp_path / "t.csv")
    card = {
        "name": "mine",
        "table": "t.csv",
        "subject": "id",
        "tasks": {task: OWN[task]},
        "modalities": {"clinical": {"kind": "tabular", "columns": ["age", "heart_rate"]}},
    }
    cohort, run, out = (tmp_path / name for name in ("cohort.yaml", "run", "p.parquet"))
    cohort.write_text(yaml.safe_dump(card, sort_keys=False))
    (tmp_path / "e.yaml").write_text("cohort: cohort.yaml\n")
    quick = [*QUICK, "training.epochs=12", "training.lr=0.01"]
    for words in (
        ["cohort", "check", cohort],
        ["train", tmp_path / "e.yaml", *quick, "--out", run],
        ["predict", run, cohort, "--out", out],
        ["evaluate", run, "--resamples", 20],
        ["explain", run, cohort, "--samples", "000,001", "--out", tmp_path / "why"],
        ["report", run],
    ):
        ran = cli(*words)
        assert ran.exit_code == 0, ran.output
    found, own = pl.read_parquet(out), pl.read_parquet(run / RunFiles.PREDICTIONS)
    assert found["prob"].is_between(0, 1).all()
    if task == "death":
        unlabelled = table.filter(pl.col("days").is_null())["id"].to_list()
        assert unlabelled
        assert not set(unlabelled) & set(own["sample_id"])  # neither trained on nor tested
        assert found.filter(pl.col("sample_id").is_in(unlabelled))["label"].null_count() == len(
            unlabelled
        )
        assert 300 in found["intervals"][0].to_list()
        whole = found.filter(pl.col("label").is_not_null())
        assert c_index(whole) > 0.6
        return
    gone = table.filter(pl.col("oedema").is_null())["id"].to_list()
    rows = found.filter(task="chest: oedema")
    assert set(rows.filter(pl.col("label").is_null())["sample_id"]) == set(gone)
    assert found.filter(task="chest: effusion")["label"].null_count() == 0
    for name in ("oedema", "effusion"):
        part = found.filter(pl.col("label").is_not_null(), task=f"chest: {name}")
        assert roc_auc_score(part["label"], part["prob"]) > 0.6
