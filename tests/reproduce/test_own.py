"""Ours beyond the paper: ablation and the Bayes ceiling; and what training costs (Table 6)."""

from dataclasses import replace

import polars as pl
import pytest
import torch

from adacomed.models.presets import PRESETS
from adacomed.reproduce import ablation, cost
from adacomed.reproduce.ceiling import ceiling


def test_ablation_changes_one_thing_at_a_time(study):
    artefact = ablation.ablation(study("training.epochs=1"))
    [table] = artefact.tables.values()
    assert table["variant"].to_list() == ["default", *ablation.VARIANTS]
    assert table[0, "AUROC, variant − default"] is None
    frame = artefact.data["ablation"]
    assert frame.height == len(ablation.VARIANTS)
    assert (frame["low"] <= frame["difference"]).all()
    changed = frame.filter(pl.col("difference") != 0)["variant"].to_list()
    assert "patients attend to each other" in changed
    assert len(changed) > 5


def test_share_of_the_ceiling(study):
    names = ["adacomed", "small", "logistic", "late-fusion", "bayes"]
    artefact = ceiling(study(), sizes=(60, 120), tested=200, methods=names)
    assert artefact.title.startswith("Simulated")
    shares = artefact.data["ceiling"]
    assert shares["n"].unique().sort().to_list() == [60, 120]
    assert "bayes" not in shares["method"]
    assert (shares["low"] <= shares["share"]).all()
    verdicts = artefact.tables["AdaCoMed against each rival"]
    assert set(verdicts["AdaCoMed"]) <= {"wins", "ties", "loses"}
    assert set(verdicts["rival"]) == {"small", "logistic", "late-fusion"}


def test_parameters_of_the_papers_table_6():
    """Counted on the meta device, at the original shapes, within 1 % of the paper's figures."""
    assert cost.meta_transformer().trained / 1e6 == pytest.approx(302.8, rel=0.01)
    with torch.device("meta"):
        small = cost.build_multimodal_pred(cost.SHAPES, classes=2)
    assert sum(p.numel() for p in small.parameters()) / 1e6 == pytest.approx(49.7, rel=0.01)
    onellm = cost.published_onellm(cost.ONELLM_MODALITIES)
    trained = sum(p.numel() for p in onellm.parameters() if p.requires_grad)
    assert trained / 1e6 == pytest.approx(383.0, rel=0.01)


def test_the_width_that_gives_the_papers_size():
    H, trained = cost.paper_width()
    assert H % 4 == 0
    assert trained / 1e6 == pytest.approx(cost.PAPER_PARAMETERS, rel=0.01)


def test_a_step_is_counted_and_timed():
    preset = replace(PRESETS["default"], bank_size="batch")  # a bank costs the same at any batch
    found, twice = cost.adacomed(preset, batch=8), cost.adacomed(preset, batch=16)
    assert found.seconds > 0
    assert 1.5 < twice.flops / found.flops < 2.5
    assert twice.memory > found.memory
    assert found.frozen > 40e6  # MultimodalPred's body
    assert found.memory > 4 * (found.trained + found.frozen) + 12 * 0.9 * found.trained
