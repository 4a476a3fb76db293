"""Cohorts with several findings, or with the time of an event."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from adacomed.cohort.check import check
from adacomed.cohort.cohort import load_cohort
from adacomed.cohort.tasks import horizon_of, strata
from adacomed.errors import InputError
from adacomed.schema import TaskCard


def findings(n: int = 40, **columns) -> pl.DataFrame:
    base = {
        "patient": [f"{k:03d}" for k in range(n)],
        "age": [50.0 + k for k in range(n)],
        "sex": (["F", "M"] * n)[:n],
        "oedema": ([1, 0, None, 0] * n)[:n],
        "effusion": ([0, 0, 1, 0, 1] * n)[:n],
    }
    return pl.DataFrame(base | columns)


def survival(n: int = 40, **columns) -> pl.DataFrame:
    base = {
        "died": (["yes", "no"] * n)[:n],
        "months": [float(k + 1) for k in range(n)],
    }
    return (
        findings(n)
        .drop("oedema", "effusion")
        .with_columns(**{k: pl.Series(v) for k, v in (base | columns).items()})
    )


TWO = {"chest": {"findings": ["oedema", "effusion"]}}
DEATH = {"column": "died", "positive": "yes", "time": "months", "horizon": 20}


def test_findings_are_columns_with_gaps(make):
    cohort = load_cohort(make(findings(), tasks=TWO))
    truth = cohort.truth("chest")
    assert cohort.classes("chest") == ("oedema", "effusion")
    assert truth[:4, 1].tolist() == [0, 0, 1, 0]
    assert truth[[0, 1, 3], 0].tolist() == [1, 0, 0]
    assert np.isnan(truth[2, 0])
    named = {"chest": {"findings": {"fluid": "effusion"}, "positive": 1}}
    other = load_cohort(make(findings(), tasks=named))
    assert other.classes("chest") == ("fluid",)
    assert other.truth("chest")[:, 0].tolist() == truth[:, 1].tolist()


def test_what_a_split_keeps_is_the_rarest_finding():
    ids = np.array([str(i) for i in range(60)])
    truth = np.zeros((60, 3))
    truth[:30, 0] = 1
    truth[:12, 1] = 1
    truth[:4, 2] = 1  # too few to be kept in proportion
    truth[50:55] = np.nan
    found = strata(truth, "findings", ids)
    assert found[:4].tolist() == [0] * 4
    assert found[4:12].tolist() == [0] * 8  # eight are left for it: joined to 0
    assert found[12:30].tolist() == [1] * 18
    assert found[50:55].tolist() == [-1] * 5
    truth[:14, 1] = 1
    assert strata(truth, "findings", ids)[4:14].tolist() == [2] * 10
    everyone = np.stack([np.ones(60), np.arange(60) % 2], axis=1)
    assert np.unique(strata(everyone, "findings", ids), return_counts=True)[1].tolist() == [30, 30]
    seldom = np.zeros((60, 2))
    seldom[:3, 1] = 1  # too few of anything: the finding itself, so that a split can say so
    assert np.bincount(strata(seldom, "findings", ids)).tolist() == [57, 3]


def test_survival_is_an_event_and_a_time(make):
    cohort = load_cohort(make(survival(), tasks={"os": DEATH}))
    assert cohort.truth("os")[:3].tolist() == [[1, 1], [2, 0], [3, 1]]
    assert cohort.target("os")[:3].tolist() == [1, 0, 1]
    assert cohort.classes("os") == ("no", "yes")
    lost = survival(months=[None if k == 1 else float(k + 1) for k in range(40)])
    cohort = load_cohort(make(lost, tasks={"os": DEATH}))
    assert cohort.target("os")[1] == -1  # without the event and without a time: unlabelled
    assert np.isnan(cohort.truth("os")[1]).all()


def test_everyone_may_have_had_the_event(make):
    cohort = load_cohort(make(survival(died=["yes"] * 40), tasks={"os": DEATH}))
    assert np.bincount(cohort.target("os")).tolist() == [20, 20]  # early and late


@pytest.mark.parametrize(
    ("columns", "task", "message"),
    [
        ({"months": [-1.0] + [5.0] * 39}, {}, "'months' is below 0 at row 1 "),
        ({"months": [None] + [5.0] * 39}, {}, "missing though the event happened at row 1 "),
        ({"months": ["soon"] + ["5"] * 39}, {}, "column 'months' is no number at row 1 "),
        ({"died": ["yes", "no", "?", "no"] * 10}, {}, "holds 2 values beside 'yes'"),
        ({"died": ["yes", "no", "?", "no"] * 10}, {"positive": None}, "not coded 0/1"),
        ({}, {"time": "month"}, "no column 'month'; did you mean 'months'"),
        ({}, {"column": "dead"}, "no column 'dead'; did you mean 'died'"),
        ({}, {"horizon": 0.5}, "nobody has the event by horizon: 0.5; the first is at 1"),
        ({"died": ["no"] * 39 + ["yes"], "months": [None] * 31 + [5.0] * 9}, {}, "9 labelled"),
        ({}, {"findings": ["x"]}, "leave out column:, time: and classes:"),
        ({}, {"column": None}, "time: makes a survival task; write column:"),
        ({}, {"time": None}, "need time:, a survival task"),
        ({}, {"intervals": 0}, "intervals"),
    ],
)
def test_a_wrong_survival_task_is_said(make, columns, task, message):
    with pytest.raises(InputError, match=message) as error:
        load_cohort(make(survival(**columns), tasks={"os": {**DEATH, **task}}))
    assert "soon" not in str(error.value)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"findings": ["oedema", "efusion"]}, "no column 'efusion'; did you mean 'effusion'"),
        ({"findings": ["oedema", "oedema"]}, "none twice"),
        ({"findings": []}, "at least one column"),
        ({"findings": ["oedema", "none"]}, "'chest: none'.* one class"),
        ({"findings": ["oedema", "seldom"]}, "'chest: seldom': 9 labelled"),
        ({"findings": ["oedema"], "positive": 7}, "'chest: oedema': no row .* '7'"),
    ],
)
def test_a_wrong_finding_is_said(make, task, message):
    frame = findings(none=[0] * 40, seldom=[1, 0, 1, 0, 1, 0, 1, 0, 1] + [None] * 31)
    with pytest.raises(InputError, match=message):
        load_cohort(make(frame, tasks={"chest": task}))


@pytest.mark.parametrize("column", ["oedema", "effusion"])
def test_a_finding_is_no_input(make, column):
    inputs = {"c": {"kind": "tabular", "columns": ["age", column]}}
    with pytest.raises(InputError, match=f"{column!r} is the label of task 'chest'"):
        load_cohort(make(findings(), tasks=TWO, modalities=inputs))


@pytest.mark.parametrize("column", ["died", "months"])
def test_a_time_is_no_input(make, column):
    inputs = {"c": {"kind": "tabular", "columns": ["age", column]}}
    with pytest.raises(InputError, match=f"{column!r} is the label of task 'os'"):
        load_cohort(make(survival(), tasks={"os": DEATH}, modalities=inputs))


def test_new_patients_need_no_label(make):
    for frame, tasks in ((findings(), TWO), (survival(), {"os": DEATH})):
        bare = frame.select("patient", "age", "sex")
        cohort = load_cohort(make(bare, tasks=tasks), labels=False)
        [task] = tasks
        assert np.isnan(cohort.truth(task)).all()
        assert (cohort.target(task) == -1).all()
    assert cohort.classes("os") == ("not yes", "yes")


def test_the_check_counts_each_finding_and_the_events(make):
    report = check(make(findings(), tasks=TWO))
    counted = {(r["task"], r["class"]): r["samples"] for r in report.tasks}
    assert counted[("chest: oedema", "present")] == 10
    assert counted[("chest: effusion", "absent")] == 24
    assert any("'chest: oedema': 10 of 40 samples have no label" in w for w in report.warnings)
    report = check(make(survival(died=["yes"] * 40), tasks={"os": DEATH}))
    assert not [e for e in report.errors if "task" in e]
    report = check(make(survival(died=["no"] * 39 + ["yes"]), tasks={"os": DEATH}))
    assert report.errors == ["task 'os': nobody has the event by horizon: 20; the first is at 40"]


def test_the_horizon_is_the_median_follow_up_without_the_event():
    card = TaskCard(column="died", time="months")
    truth = np.array([[1, 1], [4, 0], [6, 0], [9, 0], [np.nan, np.nan]])
    assert horizon_of(card, truth) == 6
    assert horizon_of(card, truth[:1]) == 1
    assert horizon_of(card.model_copy(update={"horizon": 3.0}), truth) == 3
