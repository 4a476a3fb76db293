"""Metrics by group: right numbers per level, guards for small ones, gaps as fairlearn has them."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from fairlearn.metrics import (
    MetricFrame,
    equalized_odds_difference,
    false_positive_rate,
    selection_rate,
    true_positive_rate,
)
from sklearn.metrics import roc_auc_score

from adacomed.errors import InputError
from adacomed.evaluation.compare import summarise
from adacomed.evaluation.gaps import GAPS
from adacomed.evaluation.levels import group_names, levels_of, with_groups
from adacomed.evaluation.subgroups import gaps, sentences, subgroups


def grouped(frame: pl.DataFrame, seed: int = 0) -> pl.DataFrame:
    """A table with sex, age and site; a sample's are the same in all its rows."""
    rng = np.random.default_rng(seed)
    ids = frame["sample_id"].unique().sort()
    who = pl.DataFrame(
        {
            "sample_id": ids,
            "sex": rng.choice(["F", "M"], len(ids)),
            "age": rng.integers(20, 95, len(ids)),
            "site": rng.integers(1, 4, len(ids)),
            "bmi": rng.normal(26, 4, len(ids)),
        }
    )
    return with_groups(frame, who, ["sex", "age", "site", "bmi"])


# ---- levels -------------------------------------------------------------------------------------
def test_numbers_are_banded_and_names_are_not(table):
    frame = grouped(table())
    assert group_names(frame) == ["sex", "age", "site", "bmi"]
    assert levels_of(frame, "sex").order == levels_of(frame, "group_sex").order == ["F", "M"]
    ages = levels_of(frame, "age")
    assert ages.order == ["< 40", "40–64", "65–79", "≥ 80"]
    for age, band in zip(frame["group_age"], ages.of_row, strict=True):
        expected = [b for b, c in zip(ages.order, (20, 40, 65, 80), strict=True) if age >= c][-1]
        assert band == expected
    assert levels_of(frame, "site").order == ["1", "2", "3"]  # few values: names
    bmi = levels_of(frame, "bmi")
    assert len(bmi.order) == 4
    counts = bmi.of_row.value_counts()["count"].to_list()
    assert max(counts) - min(counts) <= 2  # both methods' rows
    assert bmi.of_row.filter(frame["group_bmi"] == frame["group_bmi"].max())[0] == bmi.order[-1]


def test_an_age_at_an_edge_is_in_the_older_band(table):
    frame = table(5).with_columns(group_age=pl.Series([39.9, 40, 64.99, 80, 79] * 2))
    wide = pl.concat([frame, frame.with_columns(group_age=pl.col("group_age") - 30)])
    assert levels_of(wide, "age").of_row[:5].to_list() == [
        *("< 40", "40–64", "40–64", "≥ 80", "65–79"),
    ]


def test_quartiles_are_of_samples_not_of_rows(table):
    """A patient with many rows (repeats, methods) moves no cut."""
    frame = grouped(table(40, {"a": 1.0}))
    heavy = pl.concat([frame, *[frame.head(1).with_columns(repeat=pl.lit(r)) for r in range(60)]])
    assert levels_of(heavy, "bmi").order == levels_of(frame, "bmi").order


def test_modality_patterns_and_unknown(table):
    present = [["ct", "wsi"], ["ct"], [], None] * 60
    frame = table().with_columns(present=pl.Series(present, dtype=pl.List(pl.String)))
    assert levels_of(frame, "modalities").order == ["ct + wsi", "ct", "none", "unknown"]
    assert group_names(frame) == ["modalities"]
    odd = table().with_columns(group_x=pl.Series([True, False, None, True] * 60))
    assert levels_of(odd, "x").order == ["no", "yes", "unknown"]
    nan = table().with_columns(group_x=pl.Series([1.0, 2.0, float("nan"), 2.0] * 60))
    assert levels_of(nan, "x").order == ["1", "2", "unknown"]


def test_wrong_groups_are_the_users_error(table):
    frame = grouped(table())
    with pytest.raises(InputError, match="'sexe'; did you mean 'sex'"):
        subgroups(frame, by="sexe")
    with pytest.raises(InputError, match="holds lists"):
        subgroups(frame.with_columns(group_x=pl.lit(["a"])), by="x")
    with pytest.raises(InputError, match="no metric 'auc'"):
        subgroups(frame, by="sex", metrics=["auc"])
    with pytest.raises(InputError, match="groups: no column 'sx'; did you mean 'sex'"):
        with_groups(table(), pl.DataFrame({"sample_id": ["p000"], "sex": ["F"]}), ["sx"])
    with pytest.raises(InputError, match="0 resamples"):
        gaps(frame, by="sex", n=0)


def test_groups_are_joined_by_sample(table):
    frame = table(4, {"a": 1.0})
    who = pl.DataFrame({"sample_id": ["p002", "p000", "p001"], "sex": ["F", "M", "F"]})
    joined = with_groups(frame, who, ["sex"])
    assert joined["group_sex"].to_list() == ["M", "F", "F", None]
    assert with_groups(joined, who, ["sex"]).equals(joined)  # once more changes nothing
    assert with_groups(frame, who, []).equals(frame)
    assert with_groups(pl.DataFrame(), who, ["sex"]).is_empty()


# ---- metrics ------------------------------------------------------------------------------------
def test_a_level_is_what_the_summary_says_of_its_rows(table):
    frame = grouped(table(300, repeats=2))
    found = subgroups(frame, by=["sex", "age"], n=60)
    assert found["group"].unique(maintain_order=True).to_list() == ["sex", "age"]
    assert found.filter(group="sex", method="small")["level"].to_list() == ["F", "M"]
    for row in found.filter(group="sex").iter_rows(named=True):
        mine = frame.filter(group_sex=row["level"], method=row["method"])
        [whole] = summarise(mine, n=60).rows(named=True)
        for name in ("n", "n_events", "auroc", "auroc_low", "auroc_high", "brier_low", "note"):
            assert row[name] == whole[name]
        per_repeat = [roc_auc_score(p["label"], p["prob"]) for p in mine.partition_by("repeat")]
        assert row["auroc"] == pytest.approx(np.mean(per_repeat))
    sizes = found.filter(method="small").group_by("group").agg(pl.col("n").sum())
    assert sizes["n"].to_list() == [300, 300]
    assert found.equals(subgroups(frame, by=["sex", "age"], n=60))


@pytest.mark.parametrize(
    ("samples", "events", "note"),
    [
        (19, 9, "too few: 19 samples"),
        (40, 3, "too few: 3 events"),
        (40, 1, "too few: 1 event"),
        (40, 0, "too few: no events"),
        (40, 36, "too few: 4 non-events"),
        (40, 10, "10 events: the interval is wide"),
    ],
)
def test_small_levels_are_shown_and_not_judged(table, samples, events, note):
    few = table(samples, {"a": 1.0}, events=events).with_columns(
        pl.concat_str(pl.lit("few"), "sample_id").alias("sample_id"),
        pl.concat_str(pl.lit("few"), "subject_id").alias("subject_id"),
        group_sex=pl.lit("F"),
    )
    many = table(200, {"a": 1.0}).with_columns(group_sex=pl.lit("M"))
    found = subgroups(pl.concat([few, many]), by="sex", n=20)
    row = found.filter(level="F").row(0, named=True)
    assert (row["n"], row["n_events"], row["note"]) == (samples, events, note)
    assert (row["auroc"] is None) == note.startswith("too few")
    assert found.filter(level="M")["auroc"].is_not_null().all()


def test_many_rows_of_few_patients_are_few(table):
    frame = table(60, {"a": 1.0}).with_columns(group_sex=pl.lit("F"))
    half = frame.with_columns(subject_id="s" + pl.col("sample_id").str.slice(3))
    assert subgroups(half, by="sex", n=10)["note"].to_list() == ["too few: 10 subjects"]


def test_three_classes(table):
    rng = np.random.default_rng(0)
    frame = grouped(table(240, {"a": 1.0})).with_columns(label=pl.int_range(pl.len()) % 3)
    prob = rng.dirichlet(np.ones(3), 240)
    frame = frame.with_columns(**{f"prob_{k}": prob[:, k] for k in range(3)})
    found = subgroups(frame, by="sex", n=20)
    assert found["n_events"].to_list() == [None, None]
    assert found["auroc"].is_not_null().all()
    rare = frame.filter((pl.col("label") < 2) | (pl.col("sample_id") < "p012"))
    assert "class 2" in subgroups(rare, by="sex", n=5)["note"][0]
    gap = gaps(frame, by="sex", n=20)
    assert gap.filter(pl.col("value").is_not_null())["gap"].to_list() == ["auroc"]
    assert gap.filter(pl.col("value").is_null())["note"].unique().to_list() == [
        "for a task of two classes only"
    ]


# ---- gaps ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("by", ["sex", "age", "site"])
def test_gaps_are_those_of_fairlearn(table, by):
    frame = grouped(table(400, {"a": 1.0}), seed=3)
    found = {r["gap"]: r for r in gaps(frame, by=by, n=50, least=1).iter_rows(named=True)}
    assert list(found) == list(GAPS)
    level = levels_of(frame, by).of_row.to_numpy()
    y, decided = frame["label"].to_numpy(), (frame["prob"] >= 0.4).to_numpy().astype(int)
    oracle = equalized_odds_difference(y, decided, sensitive_features=level)
    assert found["equalised_odds"]["value"] == pytest.approx(oracle)
    rates = {"tpr": true_positive_rate, "fpr": false_positive_rate, "selection": selection_rate}
    framed = MetricFrame(metrics=rates, y_true=y, y_pred=decided, sensitive_features=level)
    for name, value in framed.difference().items():
        assert found[name]["value"] == pytest.approx(value)
        assert found[name]["highest"] == framed.by_group[name].idxmax()
        assert found[name]["lowest"] == framed.by_group[name].idxmin()
    p = frame["prob"].to_numpy()
    off = [(y[level == x] - p[level == x]).mean() for x in np.unique(level)]
    area = [roc_auc_score(y[level == x], p[level == x]) for x in np.unique(level)]
    assert found["calibration"]["value"] == pytest.approx(max(off) - min(off))
    assert found["auroc"]["value"] == pytest.approx(max(area) - min(area))
    for row in found.values():
        assert 0 <= row["low"] <= row["value"] <= row["high"] <= 1
        assert (row["n"], row["levels"]) == (400, len(np.unique(level)))


def test_the_interval_of_no_gap_reaches_zero_and_that_of_a_gap_does_not(table):
    """A largest difference and its resampled values are never 0: the limit must be."""
    rng = np.random.default_rng(1)
    covered, false = 0, 0
    for seed in range(40):
        frame = table(240, {"a": 1.0}, events=120, seed=seed)
        frame = frame.with_columns(group_site=pl.Series(rng.integers(0, 4, 240)))
        row = gaps(frame, by="site", n=200).filter(gap="tpr").row(0, named=True)
        covered += row["low"] == 0
        shifted = frame.with_columns(
            prob=pl.when(pl.col("group_site") == 0).then(0.01).otherwise("prob")
        )
        wrong = gaps(shifted, by="site", n=200).filter(gap="tpr").row(0, named=True)
        false += wrong["low"] > 0 and wrong["lowest"] == "0"
    assert covered >= 36
    assert false == 40


def test_the_interval_covers_a_known_gap_with_repeated_patients():
    """Two rows a patient: a bootstrap of rows would be too narrow."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(150):
        n = 160
        right = rng.random(n) < np.where(np.arange(n) % 2, 0.8, 0.6)  # P(decided | event), by site
        columns = {
            "sample_id": [f"{i}-{j}" for i in range(n) for j in (0, 1)],
            "subject_id": [f"{i}" for i in range(n) for _ in (0, 1)],
            "label": np.repeat(np.arange(n) % 4 < 2, 2).astype(int),
            "prob": np.repeat(np.where(right, 0.9, 0.1), 2),
            "group_site": np.repeat(np.arange(n) % 2, 2),
        }
        frame = pl.DataFrame(columns | {"split": "test", "task": "t", "method": "a"})
        row = gaps(frame, by="site", n=200).filter(gap="tpr").row(0, named=True)
        covered += row["low"] <= 0.2 <= row["high"]
    assert 0.9 <= covered / 150 <= 0.99


def test_levels_that_are_too_few_are_left_out_and_named(table):
    frame = grouped(table(300, {"a": 1.0})).with_columns(
        group_sex=pl.when(pl.col("sample_id") < "p005").then(pl.lit("X")).otherwise("group_sex")
    )
    found = gaps(frame, by="sex", n=20)
    assert set(found["note"]) == {"X left out, too few: 5 samples"}
    assert set(found["levels"]) == {2}
    assert found["n"][0] == 295
    alone = gaps(frame.filter(pl.col("group_sex") != "M"), by="sex", n=20)
    assert alone["value"].null_count() == len(GAPS)
    assert alone["note"][0] == ("fewer than two levels to compare; X left out, too few: 5 samples")


def test_gaps_in_words(table):
    frame = grouped(table(300, {"a": 1.0}))
    wrong = frame.with_columns(prob=pl.when(pl.col("group_sex") == "F").then(0.9).otherwise("prob"))
    [said] = sentences(gaps(wrong, by="sex", n=50))
    assert said.startswith("death, a: by sex, equalised odds differ by ")
    assert said.endswith("most between F and M: more than chance explains.")
    [nothing] = sentences(gaps(frame.head(5), by="sex", n=50))
    assert "nothing can be compared (fewer than two levels" in nothing


def test_the_same_seed_gives_the_same_gaps(table):
    frame = grouped(table(200, {"a": 1.0}, repeats=2))
    first = gaps(frame, by="sex", n=40)
    assert first.equals(gaps(frame, by="sex", n=40))
    assert not first["high"].equals(gaps(frame, by="sex", n=40, seed=1)["high"])
    one = gaps(frame.filter(repeat=0), by="sex", n=40)
    other = gaps(frame.filter(repeat=1), by="sex", n=40)
    assert not first["value"].equals(one["value"])
    wider = np.maximum(
        *(t["value"].to_numpy() for t in (one, other))
    )  # rates are averaged, not gaps
    assert (first["value"].to_numpy() <= wider + 1e-12).all()


def test_survival_is_judged_by_the_event_before_the_horizon(table):
    frame = grouped(table(400, {"a": 1.0}, events=200))
    hour = pl.col("sample_id").str.slice(1).cast(pl.Float64) % 10 + 0.5
    late = hour > 6
    survival = frame.with_columns(time=hour, horizon=pl.lit(6.0))
    lost = (pl.col("label") == 0) & ~late
    oracle = frame.with_columns(
        label=pl.when(lost).then(None).when(late).then(0).otherwise("label")
    )
    assert subgroups(survival, by="sex", n=20).equals(subgroups(oracle, by="sex", n=20))
    assert gaps(survival, by="sex", n=20).equals(gaps(oracle, by="sex", n=20))
