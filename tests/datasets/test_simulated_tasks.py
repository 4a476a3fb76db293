"""The other questions about simulated patients: the drawn numbers keep to what the text says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.stats import kstest
from sklearn.linear_model import LogisticRegression
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.util import Surv

from adacomed.cohort.check import check
from adacomed.cohort.cohort import load_cohort
from adacomed.datasets.simulated import build, simulate
from adacomed.datasets.simulated_tasks import (
    FINDINGS,
    FIRST,
    HORIZON,
    LAST,
    TASKS,
    UNLABELLED,
    findings,
    survival,
)
from adacomed.errors import InputError

N = 6000


@pytest.fixture(scope="module")
def people():
    return simulate(N, 3, seed=0)


# ---- cohorts ------------------------------------------------------------------------------------
@pytest.mark.parametrize("task", TASKS)
def test_a_sound_cohort_of_the_same_patients(tmp_path: Path, task: str) -> None:
    build(tmp_path / "outcome", samples=200, seed=3)
    card = build(tmp_path / "other", samples=200, seed=3, task=task)
    report = check(tmp_path / "other")
    assert report.errors == []
    cohort = load_cohort(tmp_path / "other")
    assert cohort.card == card
    assert list(card.tasks) == [task]
    assert card.simulated
    assert card.labels is None  # in the cohort's table, so that nobody reads the other task's
    inside = {p.relative_to(tmp_path / "other") for p in (tmp_path / "other").rglob("*.parquet")}
    assert Path("vectors/m1.parquet") in inside
    for name in ("m1", "m2", "m3"):
        files = [tmp_path / c / "vectors" / f"{name}.parquet" for c in ("outcome", "other")]
        assert files[0].read_bytes() == files[1].read_bytes()
    base = load_cohort(tmp_path / "outcome").table("clinical")
    assert cohort.table("clinical").equals(base)
    read = {c for m in card.modalities.values() for c in getattr(m, "columns", [])}
    assert not read & {*FINDINGS, "died", "months"}


@pytest.mark.parametrize("task", TASKS)
def test_one_seed_one_cohort(tmp_path: Path, task: str) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        build(tmp_path / name, samples=80, seed=seed, task=task)
    one, two, other = (tmp_path / name / "samples.parquet" for name in "abc")
    assert one.read_bytes() == two.read_bytes()
    assert not pl.read_parquet(one).equals(pl.read_parquet(other))


def test_the_split_keeps_the_rarest_finding_and_the_events(tmp_path: Path) -> None:
    for task, column in (("findings", "nodule"), ("survival", "died")):
        build(tmp_path / task, samples=400, seed=1, task=task)
        frame = pl.read_parquet(tmp_path / task / "samples.parquet")
        happened = frame.select("split", (pl.col(column).cast(pl.String).is_in(["1", "yes"])))
        share = dict(happened.group_by("split").agg(pl.col(column).mean()).iter_rows())
        assert share["train"] == pytest.approx(share["test"], abs=0.01)


def test_an_unknown_task_is_said(tmp_path: Path, cli) -> None:
    with pytest.raises(InputError, match="no task 'survial'; did you mean 'survival'"):
        build(tmp_path / "x", task="survial")
    ran = cli("cohort", "build", "simulated", "--task", "finding", "--out", tmp_path / "x")
    assert ran.exit_code == 2
    assert "did you mean 'findings'" in ran.stderr
    assert not (tmp_path / "x").exists()


# ---- what was drawn -----------------------------------------------------------------------------
def test_findings_are_drawn_with_the_chances_that_are_written(people) -> None:
    drawn = findings(people.severity, people.a, people.b, seed=0)
    u, a, b = people.severity, people.a, people.b
    terms = {"infiltrate": [a], "effusion": [u, a * b], "nodule": [u, b]}
    written = {"infiltrate": [-0.5, 1.5], "effusion": [-1.4, 1.2, 1.2], "nodule": [-2, 1.2, 0.8]}
    for j, name in enumerate(FINDINGS):
        column = drawn.columns[name]
        known = column.is_not_null().to_numpy()
        x = np.stack(terms[name], axis=1)[known]
        fitted = LogisticRegression(C=1e6).fit(x, column.drop_nulls().to_numpy())
        found = [fitted.intercept_[0], *fitted.coef_[0]]
        assert found == pytest.approx(written[name], abs=0.15)
        odds = np.log(drawn.truth[:, j] / (1 - drawn.truth[:, j]))
        assert odds == pytest.approx(
            written[name][0] + np.stack(terms[name], 1) @ written[name][1:]
        )


def test_a_share_of_one_finding_is_not_labelled_whatever_it_was(people) -> None:
    drawn = findings(people.severity, people.a, people.b, seed=0)
    missing = {name: column.null_count() for name, column in drawn.columns.items()}
    assert missing["infiltrate"] == missing["nodule"] == 0
    assert missing["effusion"] / N == pytest.approx(UNLABELLED, abs=4 * np.sqrt(0.15 * 0.85 / N))
    gone = drawn.columns["effusion"].is_null().to_numpy()
    chance = drawn.truth[:, FINDINGS.index("effusion")]
    spread = chance.std() * np.sqrt(1 / gone.sum() + 1 / (~gone).sum())
    assert abs(chance[gone].mean() - chance[~gone].mean()) < 4 * spread
    assert drawn.label.tolist() == drawn.columns["nodule"].to_list()


def test_events_come_at_the_rate_that_is_written(people) -> None:
    u, ab = people.severity, people.a * people.b
    drawn = survival(u, people.a, people.b, seed=0)
    time, died = drawn.columns["months"].to_numpy(), drawn.columns["died"].to_numpy() == "yes"
    assert drawn.truth == pytest.approx(np.exp(-3.4 + 0.8 * u + 0.5 * ab))
    assert drawn.label.tolist() == died.astype(int).tolist()
    cox = CoxPHSurvivalAnalysis().fit(np.stack([u, ab], axis=1), Surv.from_arrays(died, time))
    assert cox.coef_ == pytest.approx([0.8, 0.5], abs=0.08)
    # deaths are as many as the cumulative hazard promises, overall and in the halves of severity
    for half in (np.ones(N, bool), u < 0, u >= 0):
        expected = (drawn.truth * time)[half].sum()
        assert abs(died[half].sum() - expected) < 4 * np.sqrt(expected)


def test_patients_are_lost_between_the_two_times_whatever_their_risk(people) -> None:
    drawn = survival(people.severity, people.a, people.b, seed=0)
    time, died = drawn.columns["months"].to_numpy(), drawn.columns["died"].to_numpy() == "yes"
    assert time.min() > 0
    assert FIRST <= time[~died].min() < time[~died].max() <= LAST
    assert (time[died] < FIRST).any()  # nobody is lost before, though some die
    safe = ~died & (drawn.truth < np.quantile(drawn.truth, 0.02))
    uniform = (time[safe] - FIRST) / (LAST - FIRST)
    assert kstest(uniform, "uniform").pvalue > 0.01
    assert drawn.card.horizon == HORIZON
    assert ((time <= HORIZON) & died).mean() > 0.2
