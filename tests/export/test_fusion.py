"""The fusion model as one module says what the run says, for every method, task and subset."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from adacomed.errors import InputError
from adacomed.export.feeds import Feeds, feeds_of
from adacomed.export.fusion import Fusion
from adacomed.export.parity import (
    SUBSETS,
    check,
    drawn_patients,
    expected,
    measure,
    subsets_of,
)
from adacomed.export.torch_export import tensors
from adacomed.inference import forward, probabilities
from adacomed.models.small.trees import depth_of
from adacomed.models.weighting import to_ranks
from tests.training.conftest import make_inputs

from .conftest import task_inputs


def eager(fusion: Fusion):
    def answer(feeds: Feeds):
        with torch.no_grad():
            return {name: x.numpy() for name, x in fusion(*tensors(feeds)).items()}

    return answer


def parity(run, inputs=None) -> dict[str, float]:
    fusion = Fusion(run)
    return measure(run, fusion, inputs or drawn_patients(run, 40), eager(fusion))


@pytest.mark.parametrize(
    "settings",
    [
        *({"strategy": s} for s in ("learnable", "inverse", "gaussian", "threshold", "reliable")),
        *({"small": k} for k in ("logistic", "forest", "boosting")),
        {"small": "stack", "members": 2, "strategy": "reliable"},
        {"small": "logistic", "task": "three"},
        {"small": "stack", "task": "survival", "members": 2},
        {"small": "forest", "task": "own"},
        {"task": "findings"},
        {"pca": 3},
        *({"method": m, "task": "three"} for m in ("small", "average", "large-ensemble")),
        {"method": "b-large", "task": "survival"},
        {"method": "flex-moe", "task": "findings"},
        {"method": "healnet", "members": 2},
        *({"calibrator": c} for c in ("temperature", "platt", "isotonic")),
        {"calibrator": "isotonic, 3 classes", "task": "three"},
    ],
    ids=lambda s: "-".join(map(str, s.values())),
)
def test_every_output_is_the_runs(made, settings):
    found = parity(made(**settings))
    assert max(found.values()) <= 1e-7
    assert {"prob", "logits"} <= found.keys()
    if settings.get("task") == "survival":
        assert "survival" in found


def test_patients_of_a_cohort_come_through_as_they_are(made):
    """Real cells on both sides of the trees' cuts, missing ones, a value unknown in training."""
    run, inputs = made(small="stack", members=2, strategy="reliable"), task_inputs("two")
    table = inputs.tables["clinical"].with_columns(
        pl.when(pl.int_range(pl.len()) % 9 == 0).then(pl.lit("Z")).otherwise("ward").alias("ward")
    )
    inputs.tables["clinical"] = table
    fusion = Fusion(run)
    said = eager(fusion)(feeds_of(fusion, run, inputs))
    wanted = probabilities(forward(run.trained, inputs), run.trained)
    np.testing.assert_allclose(said["prob"], wanted, atol=1e-12, rtol=0)
    assert max(parity(run, inputs).values()) <= 1e-12


def test_feeds_say_categories_as_places_and_amounts_in_their_own_units(made):
    run = made()
    fusion, inputs = Fusion(run), make_inputs(6)
    inputs.tables["clinical"] = pl.DataFrame(
        {"age": [71.5, None, 40.0, None, 1.0, 2.0], "ward": ["A", "C", "Z", None, None, "B"]}
    )
    feeds = feeds_of(fusion, run, inputs)
    wanted = [[71.5, 0], [np.nan, 2], [40, -1], [np.nan, np.nan], [1, np.nan], [2, 1]]
    np.testing.assert_array_equal(feeds.tables["clinical"], wanted)
    assert fusion.modalities == ["a", "b", "clinical"]
    np.testing.assert_array_equal(feeds.present[:, 2], [True, True, True, False, True, True])


def test_a_vector_with_a_hole_counts_as_absent(made):
    run = made()
    fusion = Fusion(run)
    feeds = feeds_of(fusion, run, drawn_patients(run, 8))
    gone = feeds.present.copy()
    gone[:, 0] = False
    holed = {**feeds.vectors, "a": feeds.vectors["a"].copy()}
    holed["a"][:, 1] = np.nan
    one, other = eager(fusion)(feeds._replace(present=gone)), eager(fusion)(feeds)
    same = eager(fusion)(feeds._replace(vectors=holed))
    np.testing.assert_array_equal(one["prob"], same["prob"])
    assert np.abs(one["prob"] - other["prob"]).max() > 1e-4


@pytest.mark.parametrize(
    "settings",
    [{"small": "multimodal-pred"}, {"method": "meta-transformer"}],
    ids=lambda s: next(iter(s.values())),
)
def test_a_model_that_reads_raw_inputs_is_refused_with_what_would_work(made, settings):
    with pytest.raises(InputError, match=r"reads series, images and notes.*small\.kind=stack"):
        Fusion(made(**settings))


@pytest.mark.parametrize("preset", ["paper", "authors"])
def test_a_preset_whose_answers_depend_on_the_batch_is_refused(made, preset):
    with pytest.raises(InputError, match=f"preset '{preset}' .* who else is in the batch"):
        Fusion(made(preset=preset, strategy="inverse"))


def test_a_file_that_misses_is_refused_and_says_by_how_much():
    check({"prob": 9e-6}, "x.onnx")
    with pytest.raises(InputError, match=r"x\.onnx was not written: its s misses .* by 2\.0e-05"):
        check({"prob": 0.0, "s": 2e-5}, "x.onnx")


def test_the_measurement_sees_a_difference_and_a_missing_number(made):
    run = made()
    fusion, inputs = Fusion(run), drawn_patients(run, 5)
    exact = eager(fusion)

    def off(feeds: Feeds):
        return {name: x + 1e-3 * (name == "s") for name, x in exact(feeds).items()}

    found = measure(run, fusion, inputs, off)
    assert found["s"] == pytest.approx(1e-3)
    assert found["prob"] == 0

    def hole(feeds: Feeds):
        return {name: x * np.nan for name, x in exact(feeds).items()}

    assert measure(run, fusion, inputs, hole)["prob"] == np.inf
    assert expected(run, inputs)["prob"].shape == (5, 2)


def test_subsets_are_all_of_them_or_a_fair_number():
    assert len(subsets_of("abcdef")) == 64
    many = subsets_of("abcdefghij")
    assert len(many) == SUBSETS + 10
    assert len(set(many)) == len(many)
    assert {(), tuple("abcdefghij"), ("a",), ("j",)} <= set(many)


# ---- forms that a graph can hold, and that are the ones before them -----------------------------
def test_depth_is_the_longest_way_down_and_a_circle_is_refused():
    left = torch.tensor([[1, 1, 3, 3, 4], [0, 1, 2, 3, 4]])
    right = torch.tensor([[2, 1, 4, 3, 4], [0, 1, 2, 3, 4]])
    assert depth_of(left, right) == 2
    assert depth_of(left[1:], right[1:]) == 0
    with pytest.raises(ValueError, match="circle"):
        depth_of(torch.tensor([[1, 0]]), torch.tensor([[1, 0]]))


def test_ranks_are_those_of_a_search():
    g = torch.Generator().manual_seed(0)
    scale = torch.rand(101, generator=g, dtype=torch.float64).sort().values
    scale[40:50] = scale[40]
    s = torch.cat([torch.rand(500, generator=g, dtype=torch.float64) * 1.2 - 0.1, scale])
    upper = torch.searchsorted(scale, s).clamp(1, 100)
    low, high = scale[upper - 1], scale[upper]
    within = ((s - low) / (high - low).clamp_min(torch.finfo(s.dtype).tiny)).clamp(0, 1)
    assert torch.equal(to_ranks(s, scale), (upper - 1 + within) / 100)
