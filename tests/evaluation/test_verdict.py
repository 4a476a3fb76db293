"""The tests beside the bootstrap's, and who may be called a winner."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from adacomed.evaluation.compare import paired
from adacomed.evaluation.intervals import holm, paired_delong
from adacomed.evaluation.resampled import corrected_resampled
from adacomed.evaluation.verdict import best, judged


def judge(difference, low, high, p, delong=None, corrected=None, metric="auroc"):
    row = {
        "task": "t",
        "method": "b",
        "reference": "a",
        "metric": metric,
        "n": 9,
        "difference": difference,
        "low": low,
        "high": high,
        "p": p,
        "p_delong": delong,
        "p_corrected": corrected,
    }
    optional = {"p_delong": pl.Float64, "p_corrected": pl.Float64}
    return judged(pl.DataFrame([row], schema_overrides=optional))["winner"][0]


@pytest.mark.parametrize(
    ("numbers", "winner"),
    [
        ((0.1, 0.02, 0.2, 0.01), "a"),
        ((-0.1, -0.2, -0.02, 0.01), "b"),
        ((0.1, -0.01, 0.2, 0.01), ""),  # the interval holds 0
        ((0.1, 0.02, 0.2, 0.06), ""),
        ((0.1, 0.02, 0.2, 0.01, 0.06), ""),  # DeLong says no
        ((0.1, 0.02, 0.2, 0.01, 0.04), "a"),
        ((0.1, 0.02, 0.2, 0.01, 0.04, 0.3), ""),  # over the folds it is no more
        ((-0.1, -0.2, -0.02, 0.01, None, None, "brier"), "a"),  # less is better
        ((0.1, 0.02, 0.2, 0.01, None, None, "calibration_slope"), ""),
        ((np.nan, np.nan, np.nan, np.nan), ""),
    ],
)
def test_a_winner_needs_a_clear_interval_and_every_test(numbers, winner):
    assert judge(*numbers) == winner


def test_columns_keep_their_order_and_new_ones_follow(table):
    found = paired(table(), n=50)
    assert found.columns == [
        "task", "method", "reference", "metric", "n", "difference", "low", "high", "p", "p_holm",
        "p_delong", "p_delong_holm", "p_corrected", "p_corrected_holm", "winner",
    ]  # fmt: skip
    assert paired(table(), split="val").columns == found.columns


def test_delong_where_it_applies_else_nothing(table):
    methods = {"adacomed": 1.5, "small": 0.5, "forest": 1.4}
    frame = table(200, methods).sample(fraction=1, shuffle=True, seed=1)
    found = paired(frame, n=50)
    for row in found.iter_rows(named=True):
        a, b = (frame.filter(method=m).sort("sample_id") for m in ("adacomed", row["method"]))
        assert row["p_delong"] == pytest.approx(paired_delong(a["label"], a["prob"], b["prob"]).p)
    assert found["p_delong_holm"].to_list() == pytest.approx(holm(found["p_delong"]).tolist())
    assert paired(frame, metric="auprc", n=50)["p_delong"].null_count() == 2
    clustered = frame.with_columns(subject_id=pl.col("sample_id").str.head(3))
    assert paired(clustered, n=50)["p_delong"].null_count() == 2


def test_the_test_over_folds_where_there_are_folds(table):
    frame = table(120, {"adacomed": 1.5, "small": 0.5, "forest": 1.4}, repeats=2)
    found = paired(frame, n=50, metric="auprc")
    oracle = corrected_resampled(frame, train=96, test=24, metric="auprc")
    assert found["p_corrected"].to_list() == pytest.approx(oracle["p_resampled"].to_list())
    assert found["p_corrected_holm"].to_list() == pytest.approx(
        oracle["p_resampled_holm"].to_list()
    )
    # a table that has no repeats, and names for its folds
    one = frame.filter(repeat=0).drop("repeat").with_columns(fold="f" + pl.col("fold").cast(str))
    assert paired(one, n=20)["p_corrected"].null_count() == 0
    for without in (frame.filter(fold=0), frame.drop("fold"), frame.with_columns(fold=None)):
        assert paired(without, n=20)["p_corrected"].null_count() == 2


def test_folds_of_one_task_are_not_those_of_another(table):
    both = pl.concat([table(), table(80, task="icu", seed=3)])
    found = paired(both, n=20)
    alone = paired(table(80, task="icu", seed=3), n=20)
    assert found.filter(task="icu")["p_corrected"][0] == pytest.approx(alone["p_corrected"][0])


def test_under_the_null_there_is_rarely_a_winner(table):
    won = 0
    for seed in range(40):
        frame = table(60, {"adacomed": 1.0, "b": 1.0, "c": 1.0}, seed=seed)
        won += (paired(frame, n=200)["winner"] != "").any()
    assert won <= 5


def test_the_best_wins_every_row(table):
    frame = table(300, {"adacomed": 2.5, "small": 0.3, "forest": 0.2})
    [row] = best(paired(frame, n=500)).to_dicts()
    assert row == {
        "task": "death",
        "metric": "auroc",
        "reference": "adacomed",
        "wins": 2,
        "rivals": 2,
        "best": True,
    }
    level = pl.concat([frame, frame.filter(method="adacomed").with_columns(method=pl.lit("twin"))])
    [row] = best(paired(level, n=500)).to_dicts()
    assert (row["wins"], row["rivals"], row["best"]) == (2, 3, False)
