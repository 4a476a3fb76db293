"""The stress table: every patient in every row, differences paired, nothing left said."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from adacomed.errors import InputError
from adacomed.evaluation.compare import paired, summarise
from adacomed.evaluation.robustness import cost_of_each, stress_table

NAMES = ["ct", "note", "table"]
SIGNAL = {"ct": 1.2, "note": 0.6, "table": 0.0}


def stressed(n: int = 160, methods=("a",), *, repeats: int = 1, seed: int = 0) -> pl.DataFrame:
    """A method that adds the evidence of what is there, under each subset and some noise."""
    rng = np.random.default_rng(seed)
    y = (np.arange(n) % 4 == 0).astype(int)
    here = rng.random((n, 3)) < [0.7, 0.5, 0.8]
    parts = []
    for method, repeat in [(m, r) for m in methods for r in range(repeats)]:
        x = rng.normal(size=(n, 3)) + y[:, None] * list(SIGNAL.values())
        states = [(k, 0.0) for size in range(4) for k in combinations(NAMES, size)]
        for kept, noise in [*states, (tuple(NAMES), 0.5), (tuple(NAMES), 2.0)]:
            left = here & [m in kept for m in NAMES]
            score = ((x + noise * rng.normal(size=x.shape)) * left).sum(axis=1) - 1
            columns = {
                "sample_id": [f"p{i:03d}" for i in range(n)],
                "subject_id": [f"p{i:03d}" for i in range(n)],
                "split": "test",
                "task": "death",
                "label": y,
                "prob": 1 / (1 + np.exp(-score)),
                "threshold": 0.4,
                "repeat": repeat,
                "fold": [i % 5 for i in range(n)],
                "seed": 0,
                "method": method,
                "present": [[m for m, h in zip(NAMES, row, strict=True) if h] for row in left],
                "kept": [list(kept)] * n,
                "noise": noise,
            }
            schema = {"present": pl.List(pl.String), "kept": pl.List(pl.String)}
            parts.append(pl.DataFrame(columns, schema_overrides=schema))
    return pl.concat(parts)


def test_every_row_scores_every_patient():
    frame = stressed(methods=("a", "b"))
    table = stress_table(frame, n=100)
    assert len(table) == 2 * (8 + 2)
    assert set(table["n"]) == {160}
    mine = table.filter(method="a")
    assert [len(k) for k in mine["kept"]] == [3, 2, 2, 2, 1, 1, 1, 0, 3, 3]
    assert mine["noise"].to_list() == [0.0] * 8 + [0.5, 2.0]
    for row in mine.iter_rows(named=True):
        rows = frame.filter(
            (pl.col("method") == "a")
            & (pl.col("noise") == row["noise"])
            & (pl.col("kept").list.join("+") == "+".join(row["kept"]))
        )
        assert row["value"] == pytest.approx(roc_auc_score(rows["label"], rows["prob"]))
        assert row["n_nothing"] == (rows["present"].list.len() == 0).sum()
    nothing = mine.row(7, named=True)
    assert (nothing["n_nothing"], nothing["value"]) == (160, 0.5)
    assert "nothing is known of anyone" in nothing["note"]
    assert mine["note"].to_list().count("") == 9  # 40 events: none is few


def test_the_intact_row_is_the_headline_and_differs_by_nothing():
    frame = stressed(repeats=2)
    intact = frame.filter((pl.col("kept").list.len() == 3) & (pl.col("noise") == 0))
    for part in (frame, frame.filter(repeat=0)):
        first = stress_table(part, n=100).row(0, named=True)
        rows = intact if part is frame else intact.filter(repeat=0)
        [headline] = summarise(rows, metrics=["auroc"], n=100).rows(named=True)
        assert first["value"] == headline["auroc"]
        assert (first["low"], first["high"]) == (headline["auroc_low"], headline["auroc_high"])
        assert (first["difference"], first["difference_low"], first["difference_high"]) == (0, 0, 0)


def test_differences_are_those_of_a_paired_comparison():
    """Against `compare.paired` with the states as methods."""
    frame = stressed(repeats=2)
    named = frame.with_columns(method=pl.col("kept").list.join("+") + pl.format(" {}", "noise"))
    oracle = paired(named, reference="ct+note+table 0.0", n=200)
    table = stress_table(frame, n=200)
    for row in table[1:].iter_rows(named=True):
        [pair] = oracle.filter(method=f"{'+'.join(row['kept'])} {row['noise']}").rows(named=True)
        assert row["difference"] == pytest.approx(-pair["difference"])
        assert row["difference_low"] == pytest.approx(-pair["high"])
        assert row["difference_high"] == pytest.approx(-pair["low"])


def test_what_carries_the_signal_costs_most():
    table = stress_table(stressed(600), n=200)
    each = cost_of_each(table)
    assert each["without"].to_list() == ["table", "note", "ct"]
    cost = dict(each.select("without", "difference").rows())
    assert cost["ct"] < cost["note"] < 0
    assert each.filter(without="ct")["difference_high"][0] < 0
    weak, strong = table.filter(pl.col("noise") > 0)["value"]
    assert table["value"][0] > weak > strong
    assert cost_of_each(stress_table(pl.DataFrame())).is_empty()


def test_other_metrics_and_an_undefined_one():
    frame = stressed()
    row = stress_table(frame, metric="brier", n=20).row(0, named=True)
    intact = frame.filter((pl.col("kept").list.len() == 3) & (pl.col("noise") == 0))
    assert row["value"] == pytest.approx(brier_score_loss(intact["label"], intact["prob"]))
    alive = stress_table(frame.filter(label=0), n=20)
    assert alive["value"].null_count() == alive["difference_low"].null_count() == len(alive)
    assert all("no events" in note or "nothing is known" in note for note in alive["note"])


def test_what_is_not_a_stress_table_is_said():
    frame = stressed(40)
    with pytest.raises(InputError, match="no metric 'auc'; did you mean 'auroc'"):
        stress_table(frame, metric="auc")
    with pytest.raises(InputError, match="column 'noise' is missing"):
        stress_table(frame.drop("noise"))
    with pytest.raises(InputError, match="'death', method 'a': no rows of the intact inputs"):
        stress_table(frame.filter(pl.col("kept").list.len() < 3))
    lost = (pl.col("kept").list.join("+") == "ct") & (pl.col("sample_id") == "p000")
    with pytest.raises(InputError, match=r"with ct other samples are scored than intact: p000"):
        stress_table(frame.filter(~lost), n=5)
    assert stress_table(frame, split="val", n=5).is_empty()
    assert stress_table(pl.DataFrame()).columns == stress_table(frame, n=5).columns


def test_the_same_seed_gives_the_same_table():
    frame = stressed(60, repeats=2)
    first = stress_table(frame, n=40)
    assert first.equals(stress_table(frame, n=40))
    assert not first["low"].equals(stress_table(frame, n=40, seed=1)["low"])


def test_survival_is_judged_by_the_event_before_the_horizon():
    frame = stressed(160)
    hour = pl.col("sample_id").str.slice(1).cast(pl.Float64) % 10 + 0.5
    late = hour > 6  # an event after the horizon is none by then
    survival = frame.with_columns(time=hour, horizon=pl.lit(6.0))
    lost = (pl.col("label") == 0) & ~late
    oracle = frame.with_columns(
        label=pl.when(lost).then(None).when(late).then(0).otherwise("label")
    )
    assert stress_table(survival, n=20).equals(stress_table(oracle, n=20))
