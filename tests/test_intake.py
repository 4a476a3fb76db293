"""New patients meet a finished run: from raw items, from vectors made elsewhere, from memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml

from adacomed import __version__
from adacomed.cohort.cohort import load_cohort, new_patients
from adacomed.embed import embedded
from adacomed.errors import InputError
from adacomed.inference import forward, forward_batch, in_double, predict
from adacomed.intake import gather_for
from adacomed.models.batch import Batch
from adacomed.schema import EmbeddingCard, Predictions
from adacomed.training.bundle import open_run, write_bundle
from adacomed.training.checkpoint import Run, load_run
from tests.commands.conftest import QUICK, adacomed

N = 60
WORDS = ("short of breath", "no complaint", "fever since yesterday", "cough")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty patients with a table, a note (a fifth lack it) and a vector, and a run on them."""
    root = tmp_path_factory.mktemp("intake")
    rng = np.random.default_rng(0)
    y = np.arange(N) % 2
    notes = [None if i % 5 == 0 else f"{WORDS[rng.integers(4)]}, day {i}" for i in range(N)]
    table = {
        "patient": [f"p{i}" for i in range(N)],
        "age": (60 + 10 * y + rng.normal(0, 5, N)).round(1),
        "note": notes,
        "died": np.where(y == 1, "yes", "no"),
    }
    pl.DataFrame(table).write_csv(root / "patients.csv")
    vectors = rng.normal(y[:, None], 1, (N, 6)).astype(np.float32)
    pl.DataFrame(
        {"sample_id": table["patient"], "vector": list(vectors)},
        schema_overrides={"vector": pl.List(pl.Float32)},
    ).write_parquet(root / "ct.parquet")
    card = {
        "name": "intake",
        "table": "patients.csv",
        "subject": "patient",
        "tasks": {"death": {"column": "died", "positive": "yes"}},
        "modalities": {
            "ct": {"kind": "embedding", "root": "ct.parquet"},
            "note": {"kind": "text", "column": "note"},
            "clinical": {"kind": "tabular", "columns": ["age"]},
        },
    }
    (root / "cohort.yaml").write_text(yaml.safe_dump(card))
    (root / "experiment.yaml").write_text("cohort: cohort.yaml\n")
    adacomed("train", root / "experiment.yaml", "--out", root / "run", *QUICK)
    return root


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return load_run(folder / "run")


def test_predictions_say_where_they_come_from(folder: Path, run: Run) -> None:
    found = predict(run, gather_for(run, load_cohort(folder, labels=False)))
    assert found[Predictions.MODEL].unique().to_list() == [run.model_hash]
    assert found[Predictions.VERSION].unique().to_list() == [__version__]
    note = f"note: minilm@{run.meta['encoders']['note']}"
    told = found[Predictions.ENCODERS].to_list()
    assert told[1] == ["ct: as given", note]
    assert told[0] == ["ct: as given"]  # this patient has no note


def test_vectors_made_elsewhere_are_the_raw_items(folder: Path, run: Run) -> None:
    cohort = load_cohort(folder, labels=False)
    raw = gather_for(run, cohort)
    vectors, _ = embedded(cohort, "note", None)
    cards = {
        **cohort.card.modalities,
        "note": EmbeddingCard(kind="embedding", root=Path("note.parquet")),
    }
    card = cohort.card.model_copy(update={"modalities": cards})
    given = new_patients(
        card, folder, cohort.samples, {"note": vectors, "ct": cohort.vectors("ct")}
    )
    mine = gather_for(run, given)
    assert np.array_equal(mine.vectors["note"], raw.vectors["note"], equal_nan=True)
    one, other = predict(run, raw), predict(run, mine)
    assert one[Predictions.PROB].equals(other[Predictions.PROB])
    assert other[Predictions.ENCODERS].to_list()[1] == ["ct: as given", "note: as given"]


def test_raw_items_for_a_run_without_an_encoder(folder: Path, run: Run) -> None:
    cohort = load_cohort(folder, labels=False)
    cards = {"ct": cohort.card.modalities["note"]}
    raw = replace(cohort, card=cohort.card.model_copy(update={"modalities": cards}))
    with pytest.raises(InputError, match=r"ready vectors and has no encoder.*width 6"):
        gather_for(run, raw)


def test_a_vector_of_another_width(folder: Path, run: Run) -> None:
    cohort = load_cohort(folder, labels=False)
    cards = {"note": EmbeddingCard(kind="embedding", root=Path("x.parquet"))}
    card = cohort.card.model_copy(update={"modalities": cards})
    wrong = new_patients(card, folder, cohort.samples, {"note": np.zeros((N, 7), np.float32)})
    with pytest.raises(InputError, match=r"'note'.*width 7.*384"):
        predict(run, gather_for(run, wrong))


def test_patients_in_memory_are_patients_in_files(folder: Path, run: Run) -> None:
    cohort = load_cohort(folder, labels=False)
    memory = new_patients(cohort.card, folder, cohort.samples, {"ct": cohort.vectors("ct")})
    assert (
        memory.samples[Predictions.SUBJECT_ID].to_list() == cohort.samples["subject_id"].to_list()
    )
    files, memories = gather_for(run, cohort), gather_for(run, memory)
    assert files.tables["clinical"].equals(memories.tables["clinical"])
    unknown = ["split", "label"]
    assert predict(run, files).drop(unknown).equals(predict(run, memories).drop(unknown))


def test_batches_put_together_are_the_same_patients(folder: Path, run: Run) -> None:
    inputs = gather_for(run, load_cohort(folder, labels=False))
    ready = in_double(run.trained)
    assert in_double(ready) is ready
    parts = [
        run.trained.fitted.batch(inputs.take(np.array([i]))).to("cpu", torch.float64)
        for i in range(8)
    ]
    together = forward_batch(ready, Batch.concatenate(parts))
    whole = forward(run.trained, inputs)
    assert torch.allclose(together.logits, whole.logits[:8], atol=1e-12)
    raw = replace(parts[0], raw={"x": object()})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="raw"):
        Batch.concatenate([raw, parts[1]])


def test_a_bundle_runs_no_code_that_it_names(folder: Path, run: Run) -> None:
    """`subprocess:getoutput` over a patient's note would be a command line."""
    cards = run.card.modalities
    note = cards["note"].model_copy(update={"encoder": "subprocess:getoutput"})
    card = run.card.model_copy(update={"modalities": {**cards, "note": note}})
    cohort = load_cohort(folder, labels=False)
    foreign = replace(run, card=card, bundled=True)
    with pytest.raises(InputError, match=r"--encoder note=subprocess:getoutput"):
        gather_for(foreign, cohort)
    mine = gather_for(foreign, cohort, encoders={"note": "minilm"})  # said by the user: taken
    assert mine.encoders["note"] == run.meta["encoders"]["note"]
    assert open_run(folder / "run").bundled is False
    write_bundle(folder / "run", folder / "run.adacomed")
    assert open_run(folder / "run.adacomed").bundled is True
