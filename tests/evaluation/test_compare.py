from __future__ import annotations

import time

import numpy as np
import polars as pl
import pytest
from scipy.special import expit, logit
from scipy.stats import norm
from scipy.stats import t as student
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from adacomed.errors import InputError
from adacomed.evaluation.compare import paired, summarise
from adacomed.evaluation.discrimination import METRICS
from adacomed.evaluation.intervals import delong, paired_delong


def one(frame, **where):
    [row] = frame.filter(**where).iter_rows(named=True)
    return row


def test_one_row_per_task_and_method_with_every_metric(table):
    both = pl.concat([table(), table(task="icu", seed=1, events=50)])
    found = summarise(both, n=50)
    assert found.select("task", "method").rows() == [
        ("death", "adacomed"),
        ("death", "small"),
        ("icu", "adacomed"),
        ("icu", "small"),
    ]
    assert found["n_events"].to_list() == [30, 30, 50, 50]
    expected = [f"{m}{end}" for m in METRICS for end in ("", "_low", "_high")]
    assert found.columns == [
        "task", "method", "n", "n_events", *expected, "auroc_interval", "note"
    ]  # fmt: skip
    for m in METRICS:
        assert (found[f"{m}_low"] <= found[m]).all()
        assert (found[m] <= found[f"{m}_high"]).all()


def test_values_against_scikit_learn_and_the_rows_own_threshold(table):
    frame = table()
    row = one(summarise(frame, n=20), method="small")
    y, p = frame.filter(method="small")["label"], frame.filter(method="small")["prob"]
    assert row["auprc"] == pytest.approx(average_precision_score(y, p))
    assert row["mF1"] == pytest.approx(f1_score(y, p >= 0.4, average="macro"))
    without = one(summarise(frame.drop("threshold"), n=20), method="small")
    assert without["mF1"] == pytest.approx(f1_score(y, p >= 0.5, average="macro"))


def test_delong_where_each_patient_has_one_row_else_the_bootstrap(table):
    frame = table(methods={"adacomed": 1.0})
    row = summarise(frame, n=20).row(0, named=True)
    assert row["auroc_interval"] == "DeLong"
    assert (row["auroc"], row["auroc_low"], row["auroc_high"]) == pytest.approx(
        tuple(delong(frame["label"], frame["prob"], logit_scale=True, student=True))
    )
    half = frame.with_columns(subject_id=pl.col("sample_id").str.head(3))
    assert summarise(half, n=20)["auroc_interval"][0] == "bootstrap"
    # on independent patients both say about the same
    wide = pl.concat([frame.with_columns(repeat=pl.lit(r, pl.Int64)) for r in range(2)])
    repeated = summarise(wide, n=1500).row(0, named=True)
    assert repeated["auroc_interval"] == "bootstrap"
    assert repeated["auroc"] == pytest.approx(row["auroc"])
    for end in ("auroc_low", "auroc_high"):
        assert repeated[end] == pytest.approx(row[end], abs=0.02)


def test_repeats_are_averaged_not_pooled_and_subjects_resampled_whole(table):
    """Against a plain loop: draw subjects per class, take their rows in every repeat."""
    frame = table(40, {"adacomed": 1.0}, repeats=3)
    row = summarise(frame, n=3000).row(0, named=True)
    y = frame.filter(repeat=0)["label"].to_numpy()
    p = np.stack([frame.filter(repeat=r)["prob"].to_numpy() for r in range(3)])
    assert row["auroc"] == pytest.approx(np.mean([roc_auc_score(y, q) for q in p]))
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(3000):
        who = [rng.choice(np.flatnonzero(y == k), (y == k).sum()) for k in (0, 1)]
        draws.append(np.mean([q[who[1]][:, None] > q[who[0]] for q in p]))
    # ten events: Student's t with 9 degrees, on the logit scale
    area = row["auroc"]
    half = student.isf(0.025, 9) * np.std(draws) / (area * (1 - area))
    assert (row["auroc_low"], row["auroc_high"]) == pytest.approx(
        tuple(expit(logit(area) + np.array([-half, half]))), abs=0.015
    )
    assert row["n"] == 40
    assert row["n_events"] == 10


def test_more_than_two_classes(table):
    rng = np.random.default_rng(0)
    frame = table(90, {"adacomed": 1.0}).with_columns(label=pl.int_range(pl.len()) % 3)
    score = np.eye(3)[frame["label"]] + rng.exponential(size=(90, 3))
    prob = score / score.sum(axis=1, keepdims=True)
    frame = frame.with_columns(**{f"prob_{k}": prob[:, k] for k in range(3)})
    row = summarise(frame, n=50).row(0, named=True)
    assert row["auroc"] == pytest.approx(roc_auc_score(frame["label"], prob, multi_class="ovr"))
    assert row["n_events"] is None
    assert row["auroc_interval"] == "bootstrap"
    assert row["auroc_low"] < row["auroc"] < row["auroc_high"]
    assert row["sensitivity"] == pytest.approx(row["mAR"])
    assert row["sensitivity_low"] < row["sensitivity"] < row["sensitivity_high"]
    assert np.isnan(row["net_benefit"])
    assert row["note"] == "there are more than two classes, so no Net benefit"
    few = frame.filter((pl.col("label") < 2) | (pl.int_range(pl.len()) < 12))
    assert summarise(few, n=5)["note"][0].startswith("4 samples of class 2: the interval is wide")


@pytest.mark.parametrize(
    ("events", "note"),
    [
        (4, "4 events: the interval is wide"),
        (1, "1 event: the interval is wide"),
        (0, "no events, so no AUROC, AUPRC, mAP, mAR, mF1"),
        (119, "1 non-event: the interval is wide"),
        (120, "no non-events, so no AUROC, AUPRC, mAP, mAR, mF1"),
        (20, ""),
    ],
)
def test_few_events_are_noted(table, events, note):
    names = ("auroc", "auprc", "mAP", "mAR", "mF1", "brier")
    row = summarise(table(events=events), metrics=names, n=20).row(0, named=True)
    assert row["note"] == note
    assert np.isnan([row["auroc"], row["auroc_low"]]).all() == (events in (0, 120))
    assert row["auroc_interval"] == ("DeLong" if events in (4, 20) else row["auroc_interval"])
    assert np.isfinite(row["brier"])


def test_only_labelled_rows_of_the_split_count(table):
    frame = table()
    other = frame.with_columns(split=pl.lit("val"), prob=pl.lit(0.5))
    unknown = frame.with_columns(label=pl.lit(None, pl.Int64), sample_id="x" + pl.col("sample_id"))
    found = summarise(pl.concat([frame, other, unknown]), n=20)
    assert found.equals(summarise(frame, n=20))
    assert summarise(pl.concat([frame, other]), split="val", n=20)["auroc"].to_list() == [0.5, 0.5]
    empty = summarise(frame, split="train")
    assert empty.is_empty()
    assert empty.columns == found.columns


def test_the_same_seed_gives_the_same_table(table):
    frame = table(repeats=2)
    first = summarise(frame, n=30)
    assert first.equals(summarise(frame, n=30))
    shuffled = summarise(frame.sample(fraction=1, shuffle=True, seed=1), n=30).sort("method")
    for column in ("auroc_low", "mF1_high"):
        assert shuffled[column].to_list() == pytest.approx(first.sort("method")[column].to_list())
    assert not first["auroc_low"].equals(summarise(frame, n=30, seed=1)["auroc_low"])


def test_paired_agrees_with_delong_on_independent_patients(table):
    frame = table(300, {"adacomed": 1.2, "small": 0.6, "forest": 1.1})
    found = paired(frame)
    assert found["method"].to_list() == ["small", "forest"]
    for row in found.iter_rows(named=True):
        rows = [frame.filter(method=m) for m in ("adacomed", row["method"])]
        oracle = paired_delong(rows[0]["label"], rows[0]["prob"], rows[1]["prob"])
        assert row["difference"] == pytest.approx(oracle.difference)
        assert (row["low"], row["high"]) == pytest.approx((oracle.low, oracle.high), abs=0.01)
        assert norm.isf(row["p"] / 2) == pytest.approx(norm.isf(oracle.p / 2), abs=0.35)
        assert row["n"] == 300
        assert (row["reference"], row["metric"]) == ("adacomed", "auroc")
    ordered = found.sort("p")
    assert ordered["p_holm"][0] == pytest.approx(min(1, 2 * ordered["p"][0]))
    assert ordered["p_holm"][1] == pytest.approx(max(ordered["p_holm"][0], ordered["p"][1]))


def test_pairing_is_narrower_than_two_intervals(table):
    frame = table(200, {"adacomed": 1.0})
    close = frame.with_columns(method=pl.lit("near"), prob=pl.col("prob") ** 1.5 * 0.9)
    near = paired(pl.concat([frame, close]), n=200).row(0, named=True)
    assert (near["difference"], near["low"], near["high"], near["p"]) == (0, 0, 0, 1)
    brier = paired(pl.concat([frame, close]), metric="brier", n=200).row(0, named=True)
    summary = summarise(pl.concat([frame, close]), n=200)
    alone = summary["brier_high"] - summary["brier_low"]
    assert brier["high"] - brier["low"] < alone.min()
    assert brier["difference"] == pytest.approx(summary["brier"][0] - summary["brier"][1])


def test_another_order_of_rows_changes_nothing(table):
    frame = table(100, repeats=2)
    moved = frame.sample(fraction=1, shuffle=True, seed=3)
    first, second = paired(frame, n=100), paired(moved, n=100)
    for column in ("difference", "low", "high", "p"):
        assert first[column][0] == pytest.approx(second[column][0], abs=1e-12)


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f.filter((pl.col("method") != "small") | (pl.col("sample_id") > "p002")),
        lambda f: f.filter((pl.col("method") != "adacomed") | (pl.col("sample_id") > "p002")),
        lambda f: f.with_columns(
            label=pl.when((pl.col("method") == "small") & (pl.col("sample_id") < "p003"))
            .then(0)
            .otherwise("label")
        ),
        lambda f: f.with_columns(
            seed=pl.when((pl.col("method") == "small") & (pl.col("sample_id") < "p003"))
            .then(1)
            .otherwise("seed")
        ),
    ],
)
def test_methods_on_other_samples_cannot_be_paired(table, change):
    with pytest.raises(InputError, match=r"'adacomed' and 'small' .* 3 samples .*p000, p001, p002"):
        paired(change(table()))


def test_tasks_without_the_reference_are_left_out(table):
    other = table(task="icu", methods={"small": 1.0, "forest": 1.0})
    assert paired(pl.concat([table(), other]), n=20)["task"].to_list() == ["death"]
    assert paired(table(methods={"adacomed": 1.0}), n=20).is_empty()
    assert paired(table(), split="val").columns == paired(table(), n=20).columns


def test_wrong_names_are_the_users_error(table):
    frame = table()
    with pytest.raises(InputError, match="no metric 'auc'; did you mean 'auroc'"):
        paired(frame, metric="auc")
    with pytest.raises(InputError, match="no metric 'f1'"):
        summarise(frame, metrics=["f1"])
    with pytest.raises(InputError, match=r"no method 'adacomd' .*did you mean 'adacomed'"):
        paired(frame, reference="adacomd")
    with pytest.raises(InputError, match="0 resamples"):
        summarise(frame, n=0)
    with pytest.raises(InputError, match=r"p000, p001, .* twice"):
        summarise(pl.concat([frame, frame]))


def test_a_repeated_cross_validation_of_fifteen_methods_takes_seconds(table):
    frame = table(618, {f"m{i}": i / 10 for i in range(15)}, repeats=3, events=75)
    started = time.process_time()
    summarise(frame, n=1000)
    assert time.process_time() - started < 25  # about 8 s alone on one core
