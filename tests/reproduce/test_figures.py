"""Figures 2, 4, 5 and 6: the numbers behind them, and each strategy's law in training."""

import numpy as np
import polars as pl
import pytest
import torch

from adacomed.models import weighting
from adacomed.reproduce import domination, figures


@pytest.fixture
def evolution(study):
    wide = ("model.H=32", "model.d=32", "small.width=32", "model.dropout=0")
    return figures.figure_6(study("training.batch_size=16", *wide))


def test_similarity_starts_low_and_rises(evolution):
    frame = evolution.data["fig6"]
    assert set(frame["strategy"]) == set(figures.STRATEGIES)
    for _, mine in frame.group_by("strategy"):
        s = mine.sort("step")["s"].to_numpy()
        assert len(s) == figures.STEPS
        assert s[:5].mean() < 0.15  # chance among 16 is .06
        assert s[-50:].mean() > 2 * s[:5].mean()


def test_every_step_keeps_the_law_of_table_1(study):
    """Per patient, the recorded weights are Table 1's functions of the recorded s."""
    seen: dict[str, list[list[torch.Tensor]]] = {}
    _, trainer, _ = study().trainer(*figures.AS_PAPER)
    for strategy in figures.STRATEGIES:
        steps = seen.setdefault(strategy, [])
        trainer.watch(
            strategy,
            lambda o, keep=steps: keep.append([x.detach() for x in (o.s, o.w_large, o.w_small)]),
            epochs=3,
        )
    for s, w_large, w_small in seen["inverse"]:
        large, small = torch.sigmoid(s), 1 / (s + 1e-6)
        assert torch.allclose(w_large, large / (large + small), atol=1e-5)
        assert torch.allclose(w_small, small / (large + small), atol=1e-5)
        assert w_large.max() <= 0.43  # what Table 1 with α = T = 1 can reach
    for s, w_large, w_small in seen["gaussian"]:
        assert torch.allclose(w_small, torch.exp(-(s**2) / 2), atol=1e-6)
        assert torch.allclose(w_large, 1 - torch.exp(-(s**2) / 2), atol=1e-6)
    for s, w_large, w_small in seen["threshold"]:
        assert torch.allclose(w_large, 0.5 + 0.5 * torch.tanh(10 * (s - 0.5)), atol=1e-6)
        assert torch.allclose(w_small, 1 - w_large, atol=1e-6)
    for s, w_large, w_small in seen["learnable"]:
        assert w_large.unique().numel() == 1  # the same for every patient
        assert torch.allclose(w_large + w_small, torch.ones_like(s), atol=1e-6)
    first, last = (seen["learnable"][i][1][0] for i in (0, -1))
    assert first == 0.5
    assert last != first  # θ learns
    assert set(seen) <= set(weighting.STRATEGIES)


def test_training_size(study):
    artefact = figures.figure_4(study("training.epochs=1"))
    frame = artefact.data["fig4"]
    assert artefact.title.startswith("Simulated")
    assert frame["fraction"].unique().sort().to_list() == list(figures.FRACTIONS)
    assert frame.filter(fraction=0.1)[0, "n"] == 12  # of 120 training patients
    assert frame["n"].unique().sort().to_list() == [12, 36, 60, 84]
    assert set(frame["metric"]) == {"Acc", "Auroc", "Auprc", "mAP", "mAR", "mF1"}
    assert set(artefact.figures) == {"fig4-radar", "fig4-lines"}


def test_sensitivity(study):
    artefact = figures.figure_5(study("training.epochs=1"), (0.1, 1.0), (16, 32))
    frame = artefact.data["fig5"]
    assert frame.select("parameter", "at").rows() == [
        ("lambda", 0.1),
        ("lambda", 1.0),
        ("d", 16.0),
        ("d", 32.0),
    ]
    assert (frame["low"] <= frame["value"]).all()
    assert (frame["value"] <= frame["high"]).all()


def test_domination_is_measured_and_drawn(study):
    artefact = domination.figure_2(study())
    table = artefact.data["fig2"]
    assert table["panel"].unique(maintain_order=True).to_list() == [
        "direct combination",
        "AdaCoMed",
    ]
    sums = table.group_by("panel").agg(pl.col("share").sum())["share"].to_list()
    assert sums == pytest.approx([1, 1])
    points = artefact.data["fig2-points"]
    assert set(points["cloud"]) == {"m1", "m2", "fused"}
    assert np.isfinite(points.select("x", "y").to_numpy()).all()
