"""Vectors on disk: the numbers of a training in memory, and a clear word where that cannot be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from adacomed import inference
from adacomed.cohort.cohort import load_cohort
from adacomed.cohort.matrix import Mapped, open_matrix
from adacomed.config import Experiment, parse
from adacomed.datasets import simulated
from adacomed.embed import embed_modality
from adacomed.encoders.text_encoder import text_encoder
from adacomed.errors import InputError
from adacomed.models.batch import Batch, Output
from adacomed.schema import Predictions
from adacomed.training import on_disk, scaling
from adacomed.training.loader import Inputs, gather
from adacomed.training.methods import Problem, Result, run_method
from adacomed.training.names import check_methods
from adacomed.training.on_disk import Ids, is_large
from adacomed.training.perturb import Spread, presence
from adacomed.training.plan import plan
from adacomed.training.prepare import STREAMED, Prepared, one_fold, prepare
from adacomed.training.scaling import Standardiser, moments
from tests.encoders.conftest import WORDS, save_tiny

from .conftest import make_inputs

SMALL = {
    "small": {"kind": "shallow", "width": 8, "epochs": 2},
    "model": {"H": 16, "d": 16, "bank_size": 16, "strategy": "inverse"},
    "evidence": {"stress": False, "calibration": "none"},
}
WHOLE = {"model": {**SMALL["model"], "strategy": "auto"}, "evidence": {"noise": [0.5]}}
HOLDOUT = {"epochs": 2, "batch_size": 32, "validation": "holdout"}
INNER = {"epochs": 2, "batch_size": 32, "inner_folds": 2, "members": 1}


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("cohorts")
    for task in ("outcome", "findings", "survival"):
        simulated.build(folder / task, samples=120, modalities=2, task=task)
    return {task: folder / task for task in ("outcome", "findings", "survival")}


def ready(cohort: Path, stream: bool, **settings: object) -> tuple[Experiment, Prepared]:
    data = {"cohort": str(cohort), **SMALL, **settings}
    data["training"] = {**data.get("training", HOLDOUT), "stream": stream}  # type: ignore[dict-item]
    experiment = parse(Experiment, data, "test")
    return experiment, prepare(experiment, methods=["adacomed"])


def ran(method: str, cohort: Path, stream: bool, **settings: object) -> Result:
    experiment, prepared = ready(cohort, stream, **settings)
    assert prepared.inputs.streamed == stream
    fold = one_fold(experiment, prepared)
    torch.manual_seed(0)
    return run_method(method, Problem(experiment, prepared.inputs, fold, prepared.task, 0))


def same(one: pl.DataFrame, other: pl.DataFrame) -> None:
    assert one.schema == other.schema
    assert len(one) == len(other) > 0
    for name in one.columns:
        a, b = one[name], other[name]
        if a.dtype == pl.List(pl.Float64):
            a, b = a.explode(), b.explode()
        if a.dtype.is_float():
            x, y = a.to_numpy(), b.to_numpy()
            assert np.allclose(x, y, rtol=0, atol=1e-6, equal_nan=True), name
        else:
            assert a.to_list() == b.to_list(), name


@pytest.mark.parametrize(
    ("method", "task", "settings"),
    [
        ("adacomed", "outcome", {"training": HOLDOUT, **WHOLE}),
        ("adacomed", "outcome", {"training": INNER, "inputs": {"pca": 4}}),
        ("adacomed", "findings", {"training": HOLDOUT}),
        ("adacomed", "survival", {"training": HOLDOUT}),
        ("average", "outcome", {"training": HOLDOUT}),
        ("m1-large", "outcome", {"training": HOLDOUT}),
        ("flex-moe", "outcome", {"training": HOLDOUT}),
    ],
)
def test_a_streamed_training_has_the_numbers_of_one_in_memory(cohorts, method, task, settings):
    memory = ran(method, cohorts[task], False, **settings)
    disk = ran(method, cohorts[task], True, **settings)
    same(memory.predictions, disk.predictions)
    same(memory.history, disk.history)
    stressed = "evidence" in settings
    assert bool(memory.stress.width) == bool(disk.stress.width) == stressed
    if stressed:
        same(memory.stress, disk.stress)
    assert memory.choices == disk.choices


def test_batches_are_those_in_memory(cohorts):
    found = {}
    for stream in (False, True):
        experiment, prepared = ready(cohorts["outcome"], stream)
        layout = plan(prepared.inputs, one_fold(experiment, prepared), experiment)
        assert layout.streamed == stream
        found[stream] = layout.kept
    memory, disk = found[False], found[True]
    assert memory.val is not None
    assert disk.val is not None
    assert isinstance(memory.train, Batch)
    rows = torch.tensor([5, 0, 70, 5])
    for one, other in ((memory.train, disk.train), (memory.val, disk.val)):
        a, b = one.rows(rows % len(one)), other.rows(rows % len(one))
        assert len(one) == len(other)
        assert torch.equal(one.present, other.present)
        assert torch.equal(one.target, other.target)  # type: ignore[arg-type]
        for name in ("embeddings", "small"):
            for m, x in getattr(a, name).items():
                assert torch.equal(x.nan_to_num(9.0), getattr(b, name)[m].nan_to_num(9.0))
        assert torch.equal(a.present, b.present)
        assert torch.equal(a.target, b.target)  # type: ignore[arg-type]
    assert disk.train.rows(rows).index is not None
    assert disk.val.rows(rows[:2]).index is None


def test_inputs_on_disk_are_told_as_those_in_memory(cohorts):
    _, memory = ready(cohorts["outcome"], False)
    _, disk = ready(cohorts["outcome"], True)
    assert STREAMED in disk.notes
    assert STREAMED not in memory.notes
    one, other = memory.inputs, disk.inputs
    assert isinstance(other.sample_id, Ids)
    assert other.sample_id.tolist() == list(other.sample_id) == one.sample_id.tolist()
    assert one.fingerprint() == other.fingerprint()
    assert np.array_equal(one.present, other.present)
    assert np.array_equal(presence(one), presence(other))
    rows = np.array([4, 100, 7])
    a, b = one.take(rows), other.take(rows)
    assert b.streamed
    assert b.sample_id.tolist() == a.sample_id.tolist()
    assert not b.loaded().streamed
    assert np.array_equal(a.vectors["m2"], b.loaded().vectors["m2"], equal_nan=True)
    assert a.loaded() is a
    for name, deviation in Spread.of(one).vectors.items():
        assert np.allclose(deviation, Spread.of(other).vectors[name], rtol=1e-12)
    assert disk.cohort.samples.columns == ["sample_id", "subject_id", "split", "ward"]
    assert np.array_equal(np.unique(one.subjects, return_inverse=True)[1], other.subjects)


def test_numbers_of_subjects_are_in_the_order_of_their_names():
    names = ["b", "a", "ä", "B", "a", "10", "9"]
    wanted = np.unique(names, return_inverse=True)[1]
    for order in (np.arange(7), np.argsort(names, kind="stable")):
        numbers = Ids(pl.Series(names)[order]).numbers()
        assert np.array_equal(np.unique(numbers, return_inverse=True)[1], wanted[order])


def mapped(folder: Path, x: np.ndarray) -> Mapped:
    np.save(folder / "x.npy", x)
    return open_matrix(folder / "x.npy", "m")


def test_scalers_fitted_in_chunks(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3000, 12)) @ rng.normal(size=(12, 12)) + 1000 * np.arange(12)
    x = x.astype(np.float32)
    x[:, 3] = 7  # constant
    found = mapped(tmp_path, x)
    mean, std = moments(found)
    assert np.allclose(mean, x.astype(float).mean(axis=0), rtol=1e-12)
    assert np.allclose(std, x.astype(float).std(axis=0), rtol=1e-9, atol=1e-9)
    monkeypatch.setattr("adacomed.cohort.matrix.AT_ONCE", 4 * 12 * 700)
    for pca, scale in ((None, True), (5, True), (5, False)):
        whole = Standardiser.fit(x.astype(np.float64), pca, scale=scale)  # type: ignore[arg-type]
        monkeypatch.setattr(scaling, "AT_ONCE", 0)
        parts = Standardiser.fit(found, pca, scale=scale)
        assert np.allclose(parts.mean, whole.mean, rtol=1e-6)
        assert np.allclose(parts.scale, whole.scale, rtol=1e-6)
        if pca:
            a, b = whole.components, parts.components
            sign = np.sign((a * b).sum(axis=1, keepdims=True))
            assert np.allclose(a, b * sign, atol=2e-4)
    monkeypatch.setattr(scaling, "AT_ONCE", 1 << 20)
    whole, parts = Standardiser.fit(x, 5), Standardiser.fit(found, 5)
    assert np.array_equal(whole.components, parts.components)  # few: the same computation


@pytest.mark.parametrize(
    ("asked", "settings", "said"),
    [
        (["adacomed"], {"small": {"kind": "stack"}}, "small.kind stack.*small.kind=shallow"),
        (["adacomed?small.kind=forest"], {}, "small.kind forest"),
        (["adacomed", "boosting-all"], {}, "'boosting-all'.*every patient.*training.stream=no"),
        (["late-fusion"], {}, "'late-fusion'"),
        (["haim"], {}, "'haim'"),
    ],
)
def test_what_needs_everyone_in_memory_is_refused_before_any_training(
    cohorts, asked, settings, said
):
    experiment, prepared = ready(cohorts["outcome"], True, **settings)
    with pytest.raises(InputError, match=said):
        check_methods(asked, prepared.inputs, experiment)


def test_the_usual_methods_of_a_large_cohort_are_neural(cohorts):
    experiment, prepared = ready(cohorts["outcome"], True)
    found = check_methods(None, prepared.inputs, experiment)
    assert found == [
        *("adacomed", "small", "large-ensemble", "average", "m1-large", "m2-large"),
        "bayes",
    ]


def test_auto_becomes_the_shallow_small_model(cohorts):
    quick = {"kind": "auto", "width": 8, "epochs": 1}
    found = ran("small", cohorts["outcome"], True, small=quick, training=HOLDOUT)
    assert found.trained is not None
    assert found.trained.spec["small"]["kind"] == "shallow"


def test_auto_streams_where_there_is_much(cohorts, monkeypatch):
    cohort = load_cohort(cohorts["outcome"])
    store = cohort.root / "store"
    assert not is_large(cohort, store)
    size = sum(file.stat().st_size for file in (cohort.root / "vectors").iterdir())
    monkeypatch.setattr(on_disk, "ROOM", size - 1)
    assert is_large(cohort, store)
    monkeypatch.setattr(on_disk, "ROOM", size + 1)
    assert not is_large(cohort, store)
    monkeypatch.setattr(on_disk, "MANY", 100)
    assert is_large(cohort, store)


def test_forward_and_rows_in_parts(cohorts, monkeypatch):
    trained = ran("adacomed", cohorts["outcome"], True).trained
    assert trained is not None
    memory, disk = (ready(cohorts["outcome"], s)[1].inputs for s in (False, True))
    whole = inference.forward(trained, memory)
    monkeypatch.setattr(inference, "CHUNK", 33)
    parts = inference.forward(trained, disk)
    assert parts.z_large is None
    assert parts.router is not None
    assert whole.router is not None
    assert torch.allclose(whole.logits, parts.logits, rtol=0, atol=1e-9)
    assert torch.allclose(whole.router, parts.router, rtol=0, atol=1e-9)

    def frame(inputs: Inputs, output: Output | None) -> pl.DataFrame:
        prob = inference.probabilities(whole, trained)
        about = {"task": "t", "method": "m", "split": "test", "threshold": 0.5}
        made = {"sets": trained.sets, "calibrator": trained.calibrator}
        return inference.prediction_frame(inputs, prob, output=output, **made, **about)

    for output in (whole, None):
        expected = frame(memory, output)
        monkeypatch.setattr(inference, "ROWS", 47)
        same(expected, frame(disk, output))
        monkeypatch.undo()
    assert expected[Predictions.PRESENT].null_count() == 0


CARD = """
name: notes
table: patients.csv
subject: patient
tasks: {icu: {column: icu}}
modalities:
  note: {kind: text, column: text, encoder: NONE}
"""


def test_vectors_of_the_embedding_store(tmp_path):
    encoder = text_encoder(str(save_tiny(tmp_path / "model")))
    rng = np.random.default_rng(0)
    notes = [" ".join(rng.choice(WORDS, size=5 + k % 7)) if k % 6 else None for k in range(30)]
    rows = {"patient": [f"P{k:02d}" for k in range(30)], "icu": [0, 1] * 15, "text": notes}
    pl.DataFrame(rows).write_csv(tmp_path / "patients.csv")
    (tmp_path / "cohort.yaml").write_text(CARD.replace("NONE", f"text-encoder:{tmp_path}/model"))
    cohort, store = load_cohort(tmp_path), tmp_path / "store"
    memory = embed_modality(cohort, "note", encoder, None)
    loaded = []
    for _ in range(2):
        found = gather(cohort, "icu", store=store, stream=True)
        loaded.append(found.vectors["note"])
        assert isinstance(found.vectors["note"], Mapped)
        assert np.array_equal(found.loaded().vectors["note"], memory, equal_nan=True)
    assert loaded[0].file.path == loaded[1].file.path
    again = gather(cohort, "icu", store=store)
    assert again.encoders == found.encoders
    assert again.fingerprint() == found.fingerprint()


def test_nothing_changes_for_arrays():
    inputs = make_inputs()
    assert not inputs.streamed
    assert inputs.subjects is inputs.subject_id
    assert replace(inputs, vectors={}).loaded().vectors == {}
