"""Survival predictions as tables: against scikit-survival, and what is said beside the figures."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from sksurv.metrics import (
    concordance_index_censored,
    cumulative_dynamic_auc,
    integrated_brier_score,
)
from sksurv.nonparametric import kaplan_meier_estimator
from sksurv.util import Surv

from adacomed.errors import InputError
from adacomed.evaluation.ipcw import GRID
from adacomed.evaluation.survival import status_at
from adacomed.evaluation.survival_tables import (
    at_horizon,
    calibration_at_horizon,
    is_survival,
    paired_survival,
    summarise_survival,
    text_paired_survival,
    text_survival,
)

ENDS = (4.0, 8.0, 12.0, 20.0)
HORIZON = 12.0


def truth(n: int = 150, seed: int = 0):
    rng = np.random.default_rng(seed)
    risk = rng.normal(size=n)
    happens, lost = rng.exponential(14 * np.exp(-risk)), rng.uniform(3, 30, n)
    # ties, and someone at time 0: scikit-survival scores nothing before the first time it sees
    return risk, np.floor(np.minimum(happens, lost)), happens <= lost


def table(n: int = 150, methods=(("adacomed", 0.3), ("small", 1.5)), ends=ENDS, **same):
    """Rows of methods that see the risk through noise; `same` replaces or adds columns."""
    risk, time, event = truth(n)
    parts = []
    for k, (method, noise) in enumerate(methods):
        seen = risk + noise * np.random.default_rng(k + 1).normal(size=n)
        curve = np.exp(-np.array(ends) / 14 * np.exp(seen)[:, None])
        columns = {
            "sample_id": [f"p{i:03d}" for i in range(n)],
            "subject_id": [f"p{i:03d}" for i in range(n)],
            "split": "test",
            "task": "death",
            "label": event.astype(int),
            "prob": 1 - curve[:, list(ends).index(HORIZON)],
            "method": method,
            "time": time,
            "horizon": HORIZON,
            "survival": curve.tolist(),
            "intervals": [list(ends)] * n,
        }
        parts.append(pl.DataFrame(columns | same))
    return pl.concat(parts)


def of(found: pl.DataFrame, method: str = "adacomed") -> dict:
    return found.row(by_predicate=pl.col("method") == method, named=True)


# ---- the event by the horizon -------------------------------------------------------------------
def test_at_the_horizon_the_label_is_what_is_known_by_then():
    frame = table()
    found = at_horizon(frame)
    expected = status_at(frame["time"], frame["label"] == 1, HORIZON)
    assert found["label"].to_list() == [None if np.isnan(x) else int(x) for x in expected]
    assert 0 < found["label"].null_count() < len(found)
    assert found.drop("label").equals(frame.drop("label"))
    assert at_horizon(found).equals(found)


def test_tables_of_classes_stay_as_they_are():
    classes = table().drop("time", "horizon")
    assert at_horizon(classes) is classes
    assert not is_survival(classes)
    both = pl.concat([table(40), classes.head(5)], how="diagonal")
    assert is_survival(both)
    assert at_horizon(both).tail(5)["label"].to_list() == classes.head(5)["label"].to_list()
    nothing = table(time=pl.Series([None] * 150, dtype=pl.Float64))
    assert not is_survival(nothing)
    assert at_horizon(nothing) is nothing


# ---- the summary --------------------------------------------------------------------------------
def test_the_summary_is_scikit_survivals():
    frame = table()
    found = of(summarise_survival(frame, n=100))
    rows = frame.filter(method="adacomed")
    time, event = rows["time"].to_numpy(), rows["label"].to_numpy() == 1
    y = Surv.from_arrays(event, time)
    assert found["c_index"] == pytest.approx(
        concordance_index_censored(event, time, rows["prob"])[0]
    )
    [area], _ = cumulative_dynamic_auc(y, y, rows["prob"].to_numpy(), HORIZON)
    assert found["auroc_at"] == pytest.approx(area)
    # scikit-survival takes no time after the last that was seen
    assert time.max() > ENDS[-1]
    grid = np.linspace(0, ENDS[-1], GRID + 1)[1:]
    curves = [np.interp(grid, [0, *ENDS], [1, *S]) for S in rows["survival"].to_list()]
    assert found["ibs"] == pytest.approx(integrated_brier_score(y, y, np.array(curves), grid))
    for metric in ("c_index", "auroc_at", "ibs"):
        assert found[f"{metric}_low"] < found[metric] < found[f"{metric}_high"]
    assert (found["n"], found["n_events"], found["horizon"]) == (150, int(event.sum()), HORIZON)
    assert found["note"] == ""


def test_a_seed_gives_the_same_limits_and_another_gives_others():
    frame = table()
    one, two, other = (summarise_survival(frame, n=50, seed=s) for s in (3, 3, 4))
    assert one.equals(two)
    assert of(one)["c_index_low"] != of(other)["c_index_low"]


def test_repeats_are_averaged_and_patients_counted_once():
    first = table(methods=[("adacomed", 0.3)], repeat=0)
    second = table(methods=[("adacomed", 1.5)], repeat=1)
    each = [of(summarise_survival(f, n=20))["c_index"] for f in (first, second)]
    both = of(summarise_survival(pl.concat([first, second]), n=20))
    assert both["c_index"] == pytest.approx(np.mean(each))
    assert both["n"] == 150
    with pytest.raises(InputError, match="p000, p001, p002, p003, p004 and 145 more twice"):
        summarise_survival(pl.concat([first, second]).drop("repeat"), n=20)


def test_every_fold_may_have_intervals_of_its_own():
    """The score goes up to the last end that all share, and reads each curve at its own ends."""
    short = table(methods=[("adacomed", 0.3)], ends=(3.0, 6.0, 12.0, 16.0), fold=0)
    long = table(methods=[("adacomed", 0.3)], fold=1)
    mixed = pl.concat([short[:70], long[70:]])
    time, event = mixed["time"].to_numpy(), mixed["label"].to_numpy() == 1
    y, grid = Surv.from_arrays(event, time), np.linspace(0, 16.0, GRID + 1)[1:]
    curves = [
        np.interp(grid, [0, *ends], [1, *S]) for S, ends in mixed["survival", "intervals"].rows()
    ]
    expected = integrated_brier_score(y, y, np.array(curves), grid)
    assert of(summarise_survival(mixed, n=20))["ibs"] == pytest.approx(expected)


def test_intervals_resample_patients_not_rows():
    frame = table(60)
    twice = pl.concat([frame, frame.with_columns(sample_id=pl.col("sample_id") + "b")])
    one, two = (of(summarise_survival(f, n=200)) for f in (frame, twice))
    assert two["n"] == 2 * one["n"]
    assert two["c_index"] == pytest.approx(one["c_index"])
    widths = [r["c_index_high"] - r["c_index_low"] for r in (one, two)]
    assert widths[1] == pytest.approx(widths[0])  # the copies tell nothing new


def test_what_is_not_there_is_null_and_few_events_are_said():
    bare = table().drop("survival", "intervals", "horizon")
    found = of(summarise_survival(bare, n=20))
    assert found["c_index"] is not None
    assert [found[m] for m in ("ibs", "ibs_low", "auroc_at", "auroc_at_high")] == [None] * 4
    few = table().filter((pl.col("label") == 0) | (pl.col("time") < 1))
    events = few.filter(method="adacomed")["label"].sum()
    assert 1 < events < 20
    assert of(summarise_survival(few, n=20))["note"] == f"{events} events: the intervals are wide"


def test_a_table_without_times_or_labels_is_said():
    with pytest.raises(InputError, match="no row has a 'time': these are no survival predictions"):
        summarise_survival(table().drop("time"))
    with pytest.raises(InputError, match="no row of split 'val' has a label and a time"):
        summarise_survival(table(), split="val")


# ---- pairs --------------------------------------------------------------------------------------
def test_a_difference_is_between_the_two_c_indices():
    frame = table(methods=[("adacomed", 0.3), ("small", 1.5), ("copy", 0.3)])
    same = frame.filter(method="adacomed")["prob"]
    frame = frame.with_columns(
        prob=pl.when(method="copy").then(pl.concat([same] * 3)).otherwise("prob")
    )
    alone = summarise_survival(frame, n=20)
    found = paired_survival(frame, n=200)
    small, copy = of(found, "small"), of(found, "copy")
    gap = of(alone)["c_index"] - of(alone, "small")["c_index"]
    assert small["difference"] == pytest.approx(gap)
    assert 0 < small["low"] < gap < small["high"]
    assert small["p"] == pytest.approx(2 / 201)
    assert (copy["difference"], copy["low"], copy["high"], copy["p"]) == (0, 0, 0, 1)
    assert small["p_holm"] == pytest.approx(2 * small["p"])
    assert set(found["reference"]) == {"adacomed"}
    # the same resamples whatever the order of the rows
    assert paired_survival(frame.sort("prob"), n=200).sort("method").equals(found.sort("method"))


def test_only_the_same_patients_can_be_paired():
    frame = table()
    apart = frame.filter((pl.col("method") == "adacomed") | (pl.col("sample_id") != "p007"))
    with pytest.raises(InputError, match=r"cannot be paired: 1 rows are of one only \(p007\)"):
        paired_survival(apart)
    with pytest.raises(InputError, match="no method 'smal' to compare with; did you mean 'small'"):
        paired_survival(frame, reference="smal")
    assert paired_survival(frame.filter(method="adacomed")).is_empty()


# ---- calibration --------------------------------------------------------------------------------
def test_observed_risk_is_kaplan_and_meiers():
    rows = table().filter(method="adacomed")
    found = calibration_at_horizon(rows, groups=4)
    assert [n for n, _, _ in found] == [38, 38, 37, 37]
    order = rows.sort("prob")
    start = 0
    for n, predicted, observed in found:
        group = order[start : start + n]
        assert predicted == pytest.approx(group["prob"].mean())
        when, S, (low, high) = kaplan_meier_estimator(
            group["label"].to_numpy() == 1, group["time"], conf_type="log-log"
        )
        at = np.searchsorted(when, HORIZON, side="right") - 1
        expected = 1 - np.array([S[at], high[at], low[at]])
        assert list(observed) == pytest.approx(expected.tolist())
        start += n
    assert [p for _, p, _ in found] == sorted(p for _, p, _ in found)


# ---- text ---------------------------------------------------------------------------------------
def test_the_best_is_on_top_and_the_columns_are_aligned():
    frame = table()
    lines = text_survival(summarise_survival(frame, n=20)).splitlines()
    head = ["task", "method", "n", "events", "C-index"]
    assert lines[0].split()[:5] == head
    assert [line.split()[1] for line in lines[1:]] == ["adacomed", "small"]
    assert len({len(line) for line in lines}) == 1
    bare = text_survival(summarise_survival(frame.drop("survival", "intervals"), n=20))
    assert bare.splitlines()[1].endswith("–")
    few = frame.filter((pl.col("label") == 0) | (pl.col("time") < 1))
    assert "small: " in text_survival(summarise_survival(few, n=20)).splitlines()[-1]
    pairs = text_paired_survival(paired_survival(frame, n=20)).splitlines()
    assert pairs[0].startswith("task   comparison")
    assert "adacomed − small" in pairs[1]
    assert " to " in pairs[1]
