"""Over a cohort: means with intervals, router by pattern, Fig. 6 and Fig. 2 of any run."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
from scipy.stats import bootstrap as scipy_bootstrap
from sklearn.decomposition import PCA

from adacomed.errors import InputError
from adacomed.evaluation.domination import domination
from adacomed.explain.cohort import mean_shapley, mean_weights, router_by_pattern, trajectories
from adacomed.explain.domination import FUSED, clouds, project
from adacomed.explain.patient import explain_patients

from .test_patient import run_of


def test_mean_shapley_has_its_interval(fitted) -> None:
    trained, inputs = fitted(classes=3, members=2)
    _, found = explain_patients(run_of(trained, 3), inputs)
    table = mean_shapley(found, n=4000)
    assert len(table) == 9
    for m, name in enumerate(found.names):
        here = found.present[:, m]
        for k in range(3):
            row = table.row(
                by_predicate=(pl.col("modality") == name) & (pl.col("class") == k), named=True
            )
            size = np.abs(found.values[here, m, k])
            assert row["present"] == here.sum()
            assert row["mean_abs"] == pytest.approx(size.mean())
            assert row["mean"] == pytest.approx(found.values[here, m, k].mean())
            limits = scipy_bootstrap(
                (size,), np.mean, method="percentile", n_resamples=4000, rng=0
            ).confidence_interval
            width = limits.high - limits.low
            assert row["mean_abs_low"] == pytest.approx(limits.low, abs=0.15 * width)
            assert row["mean_abs_high"] == pytest.approx(limits.high, abs=0.15 * width)


def test_one_subject_or_nobody_has_no_interval(fitted) -> None:
    trained, inputs = fitted()
    _, found = explain_patients(run_of(trained, 2), inputs)
    same = replace(found, subject_id=np.full(30, "s"))
    assert mean_shapley(same)["mean_low"].null_count() == 3
    nobody = replace(found, present=found.present & np.array([True, False, True]))
    row = mean_shapley(nobody).row(1, named=True)
    assert (row["present"], row["mean_abs"], row["mean_high"]) == (0, None, None)


def test_mean_weights(fitted) -> None:
    trained, inputs = fitted(members=2)
    patients, _ = explain_patients(run_of(trained, 2), inputs)
    rows = {row["quantity"]: row for row in mean_weights(patients, inputs.subject_id).to_dicts()}
    large = np.array([p.w_large for p in patients])
    assert rows["w_large"]["value"] == pytest.approx(large.mean())
    assert rows["w_large"]["low"] < large.mean() < rows["w_large"]["high"]
    assert rows["w_large"]["value"] + rows["w_small"]["value"] == pytest.approx(1)
    shares = [row["value"] for name, row in rows.items() if name.startswith("share")]
    assert sum(shares) == pytest.approx(1)
    assert {"s", "spread"} <= rows.keys()
    plain, more = fitted("large-ensemble")
    others, _ = explain_patients(run_of(plain, 2), more)
    assert mean_weights(others, more.subject_id).is_empty()


def test_router_by_pattern(fitted) -> None:
    trained, inputs = fitted()
    patients, _ = explain_patients(run_of(trained, 2), inputs)
    table = router_by_pattern(patients)
    total = table.group_by("pattern").agg(pl.col("weight").sum(), pl.col("n").first())
    assert total["weight"].is_between(1 - 1e-9, 1 + 1e-9).all()
    assert total["n"].sum() == 30
    lacking = table.filter(~pl.col("pattern").str.contains("b"))
    assert lacking["expert"].unique().to_list() == ["a"]


def test_trajectories_are_figure_6() -> None:
    rows = [
        ("adacomed", e, part, metric, value + e / 10)
        for e in (1, 2)
        for part in ("train", "val")
        for metric, value in (("s", 0.2), ("w_large", 0.5), ("loss", 1.0))
    ]
    rows.append(("adacomed", 1, "train", "w_large", 0.8))  # another member's
    history = pl.DataFrame(rows, schema=["stage", "epoch", "part", "metric", "value"], orient="row")
    table = trajectories(history)
    assert set(table["metric"]) == {"s", "w_large", "w_small"}
    one = table.filter(epoch=1, part="train")
    found = dict(zip(one["metric"], one["value"], strict=True))
    assert found == pytest.approx({"s": 0.3, "w_large": 0.7, "w_small": 0.3})


def test_domination_before_and_after(fitted) -> None:
    trained, inputs = fitted(members=2)
    run = replace(run_of(trained, 2), meta={"seed": 3})
    after, before = clouds(run, inputs), clouds(run, inputs, trained=False)
    N = int(inputs.present.all(axis=1).sum())
    assert after.fused.shape[0] == N
    assert list(after.alone) == ["a", "b"]
    model, batch = trained.model.members[0], trained.fitted.batch(inputs)
    batch = batch.rows(batch.present.all(1))
    with torch.no_grad():
        fused = model(batch).z_large.double().numpy()
    np.testing.assert_allclose(after.fused, fused, atol=1e-6)
    assert not np.allclose(after.fused, before.fused)
    again = clouds(run, inputs, trained=False)
    assert (again.fused == before.fused).all()
    assert after.measure(n=50) == domination(after.fused, after.alone, n=50)
    torch.manual_seed(9)
    state = torch.get_rng_state()
    clouds(run, inputs, trained=False)
    assert torch.equal(state, torch.get_rng_state())


def test_domination_that_cannot_be_had(fitted) -> None:
    run = replace(run_of(fitted("small")[0], 2), meta={"seed": 0}, method="small")
    with pytest.raises(InputError, match="this run is of small"):
        clouds(run, fitted("small")[1])
    trained, inputs = fitted()
    few = inputs.take(np.flatnonzero(~inputs.present.all(axis=1)))
    with pytest.raises(InputError, match="here are 2 and 0"):
        clouds(run_of(trained, 2), few)


def test_figure_2_as_points(fitted) -> None:
    trained, inputs = fitted("large-ensemble")
    found = clouds(run_of(trained, 2), inputs)
    points = project(found)
    assert points["cloud"].unique(maintain_order=True).to_list() == ["a", "b", FUSED]
    assert len(points) == 3 * len(found.fused)
    stacked = np.concatenate([*found.alone.values(), found.fused])
    theirs = np.abs(PCA(2, svd_solver="full").fit_transform(stacked))
    np.testing.assert_allclose(points.select(pl.col("x", "y").abs()), theirs, atol=1e-9)


def test_figure_2_by_umap(fitted, monkeypatch) -> None:
    """UMAP itself takes a minute to compile: what it is given, and what is made of its answer."""
    trained, inputs = fitted("large-ensemble")
    found = clouds(run_of(trained, 2), inputs)
    asked: dict[str, object] = {}

    class UMAP:
        def __init__(self, **options: object) -> None:
            asked.update(options)

        def fit_transform(self, x: np.ndarray) -> np.ndarray:
            asked["shape"] = x.shape
            return x[:, :2].astype(np.float32)

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=UMAP))
    points = project(found, "umap")
    n = len(found.fused)
    assert asked["shape"] == (3 * n, found.fused.shape[1])
    assert asked["random_state"] == 0
    np.testing.assert_allclose(points["x"][:n], found.alone["a"][:, 0], rtol=1e-6)
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(InputError, match="PCA needs nothing"):
        project(found, "umap")
