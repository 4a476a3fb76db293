"""Tasks beyond classes where tables are made, calibrated, given sets and carried elsewhere."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from adacomed.evaluation.compare import summarise
from adacomed.evaluation.findings import summarise_findings
from adacomed.evaluation.other_tasks import (
    findings_of,
    multi_label_tasks,
    other_tables,
    text_other,
)
from adacomed.evaluation.refit import coverage_table, recalibrated, with_sets
from adacomed.evaluation.robustness import stress_table
from adacomed.evaluation.survival_tables import at_horizon, summarise_survival
from adacomed.evaluation.tables import notes
from adacomed.evaluation.transfer import transfer

HORIZON = 10.0


def survival(n: int = 400, method: str = "adacomed", seed: int = 0) -> pl.DataFrame:
    """Half of validation, half of test; `prob` is overconfident, and a third are lost early."""
    rng = np.random.default_rng(seed)
    risk = rng.normal(size=n)
    happens, lost = rng.exponential(12 * np.exp(-0.8 * risk)), rng.uniform(1, 30, n)
    columns = {
        "sample_id": [f"{seed}-{i}" for i in range(n)],
        "subject_id": [f"{seed}-{i}" for i in range(n)],
        "split": ["val", "test"] * (n // 2),
        "task": "death",
        "label": (happens <= lost).astype(int),
        "prob": 1 / (1 + np.exp(-4 * risk - (method == "small") * rng.normal(size=n))),
        "method": method,
        "time": np.minimum(happens, lost),
        "horizon": HORIZON,
    }
    return pl.DataFrame(columns)


def chest(table, *, methods=("adacomed", "small")) -> pl.DataFrame:
    strengths = dict.fromkeys(methods, 1.0)
    return pl.concat(
        table(methods=strengths, task=f"chest: {name}", seed=k)
        for k, name in enumerate(("oedema", "nodule"))
    )


# ---- which tables -------------------------------------------------------------------------------
def test_findings_are_those_of_the_task_that_is_named(table):
    frame = pl.concat([chest(table), table(task="chest pain"), table(task="icu: day 1")])
    assert findings_of(frame, "chest") == ["oedema", "nodule"]
    assert findings_of(frame, "death") == []
    assert multi_label_tasks(frame) == ["chest"]  # one task with a colon is no family
    assert multi_label_tasks(table()) == []


def test_a_class_task_has_no_further_table(table):
    found = other_tables(table(), "death", reference="adacomed", n=20)
    assert found == {}
    assert text_other(found) == ""


def test_findings_have_a_mean_and_pairs(table):
    frame = chest(table)
    found = other_tables(frame, "chest", reference="adacomed", n=20)
    assert list(found) == ["findings", "findings paired"]
    assert found["findings"].equals(summarise_findings(frame, "chest", ["oedema", "nodule"], n=20))
    lines = text_other(found).splitlines()
    assert lines[1].startswith("Mean over the findings")
    assert "(2 findings, n 120)" in lines[2]
    assert lines[-1].startswith("adacomed − small, mean AUROC: ")
    assert list(other_tables(frame, "chest", n=20)) == ["findings"]
    alone = frame.filter(method="small")
    assert list(other_tables(alone, "chest", reference="small", n=20)) == ["findings"]


def test_survival_has_a_table_and_pairs():
    frame = pl.concat([survival(), survival(method="small")])
    found = other_tables(frame, "death", reference="adacomed", n=20)
    assert list(found) == ["survival", "survival paired"]
    assert found["survival"].equals(summarise_survival(frame, n=20))
    text = text_other(found)
    assert "of the event by the horizon, of whom that is known" in text
    assert "C-index" in text
    assert "adacomed − small" in text


def test_a_note_says_whose_it_is(table):
    def said(frame):
        return notes(summarise(frame, metrics=["auroc"], n=20))

    few = [table(events=5, task="chest: nodule"), table(task="chest: oedema")]
    assert said(pl.concat(few)) == [
        "adacomed (chest: nodule), small (chest: nodule): 5 events: the interval is wide"
    ]
    one = [f.filter(method="small") for f in few]
    assert said(pl.concat(one)) == ["chest: nodule: 5 events: the interval is wide"]
    assert said(few[0]) == said(one[0]) == ["5 events: the interval is wide"]


# ---- what reads classes reads survival at its horizon -------------------------------------------
def known(frame: pl.DataFrame, split: str) -> pl.DataFrame:
    """Rows of whom it is known whether the event had come by the horizon."""
    event, time = pl.col("label") == 1, pl.col("time")
    seen = (event & (time <= HORIZON)) | (time > HORIZON)
    mine = frame.filter(seen, pl.col("split") == split)
    return mine.with_columns(label=(event & (time <= HORIZON)).cast(pl.Int64))


def test_calibration_is_fitted_on_the_event_by_the_horizon():
    frame = survival(1000)
    found = recalibrated(frame, "platt")
    val, test = known(frame, "val"), known(frame, "test")
    assert len(val) < 500
    mine = test.select("sample_id").join(found, on="sample_id", maintain_order="left")["prob"]
    ever = frame.filter(pl.col("split") == "val")  # whether the event was seen at all
    right, wrong = (np.abs(_line(fit, test) - mine.to_numpy()).max() for fit in (val, ever))
    assert right < 0.01  # ours has a weak prior, scikit-learn's line has none
    assert wrong > 0.04
    assert found.select("label", "time").equals(frame.select("label", "time"))
    before, after = (
        summarise(at_horizon(f), metrics=["brier", "auroc"], n=10).row(0, named=True)
        for f in (frame, found)
    )
    assert after["brier"] < before["brier"]
    assert after["auroc"] == pytest.approx(before["auroc"])
    assert after["auroc"] == pytest.approx(roc_auc_score(test["label"], test["prob"]))


def _line(val: pl.DataFrame, test: pl.DataFrame) -> np.ndarray:
    """scikit-learn's logistic line on the log-odds, fitted on one table, of another."""
    x, new = (np.log(f["prob"] / (1 - f["prob"])).to_numpy()[:, None] for f in (val, test))
    return LogisticRegression(C=1e9).fit(x, val["label"]).predict_proba(new)[:, 1]


def test_sets_hold_the_event_by_the_horizon():
    frame = survival(3000)
    found = coverage_table(with_sets(frame, 0.8))
    counts = dict(known(frame, "test").group_by("label").len().iter_rows())
    for row in found.iter_rows(named=True):
        expected = sum(counts.values()) if row["class"] is None else counts[row["class"]]
        assert row["n"] == expected
        assert row["coverage"] == pytest.approx(0.8, abs=0.06)


def test_a_second_cohort_and_stress_are_scored_at_the_horizon():
    here, there = survival(), survival(300, seed=1)
    found = transfer(here, there, metrics=["auroc"], n=20)
    auroc = found.row(by_predicate=pl.col("metric") == "auroc", named=True)
    second = pl.concat([known(there, s) for s in ("val", "test")])
    first = known(here, "test")
    assert (auroc["n_here"], auroc["n_there"]) == (len(first), len(second))
    assert auroc["there"] == pytest.approx(roc_auc_score(second["label"], second["prob"]))
    assert found.equals(transfer(at_horizon(here), at_horizon(there), metrics=["auroc"], n=20))
    lists = pl.List(pl.String)
    stress = here.with_columns(
        pl.lit(["a"], dtype=lists).alias("kept"),
        pl.lit(["a"], dtype=lists).alias("present"),
        pl.lit(0.0).alias("noise"),
    )
    [row] = stress_table(stress, n=20).iter_rows(named=True)
    assert row["n"] == len(first)
    assert row["value"] == pytest.approx(roc_auc_score(first["label"], first["prob"]))
