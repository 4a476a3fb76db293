"""Tokens and patches: gradients through frozen encoders, on tiny ones with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from adacomed.cohort.cohort import load_cohort
from adacomed.cohort.split import Fold
from adacomed.encoders.base import load_encoder
from adacomed.encoders.custom import FunctionEncoder
from adacomed.errors import InputError
from adacomed.explain.encoded import patch_gradients, token_gradients
from adacomed.explain.gradients import SMALL
from adacomed.explain.inside import Inside, log_odds
from adacomed.explain.within import explain_within
from adacomed.inference import forward
from adacomed.intake import gather_for
from adacomed.training.checkpoint import Run
from adacomed.training.loader import Inputs
from adacomed.training.methods import Problem, run_method
from adacomed.training.prepare import prepare
from tests.encoders.conftest import save_tiny, save_tiny_llama
from tests.encoders.test_dinov2 import save_tiny_dinov2
from tests.training.conftest import make_experiment, saved_run
from tests.training.raw_cohort import random_files, write

from .conftest import QUICK

pytest.importorskip("captum")
pytest.importorskip("transformers")
WORDS = {"note": "text-encoder:", "xray": "dinov2-small:"}


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    return {
        "note": save_tiny(folder / "bert", seed=1),
        "modern": save_tiny(folder / "modern", kind="distilbert"),
        "xray": save_tiny_dinov2(folder / "dino", registers=False),
    }


@pytest.fixture(scope="module")
def encoded_run(encoders, tmp_path_factory) -> tuple[Run, object, Inputs]:
    """AdaCoMed on notes, X-rays and a table, embedded by the tiny encoders."""
    folder = tmp_path_factory.mktemp("cohort")
    specs = {m: f"{WORDS[m]}{encoders[m]}" for m in WORDS}
    specs["xray"] += "?size=28"
    path = write(folder, random_files(), names=("xray", "note", "clinical"), encoders=specs)
    experiment = make_experiment(
        **{**QUICK, "cohort": str(path), "model": {"strategy": "reliable", "H": 8, "d": 8}}
    )
    prepared = prepare(experiment, methods=["adacomed"])
    fold = Fold(0, 0, train=np.arange(20), test=np.arange(20, 28))
    result = run_method("adacomed", Problem(experiment, prepared.inputs, fold, prepared.task, 0))
    run = saved_run(folder / "run", result, experiment, prepared, "adacomed")
    cohort = load_cohort(path, labels=False).take(np.arange(20, 25))
    return run, cohort, gather_for(run, cohort)


def one_of(inputs: Inputs, sample: str) -> Inputs:
    return inputs.take(np.array([inputs.sample_id.tolist().index(sample)]))


def told(run: Run, one: Inputs) -> float:
    return float(log_odds(forward(run.trained, one).logits, 1)[0])


def with_vector(one: Inputs, modality: str, vector: np.ndarray) -> Inputs:
    return replace(one, vectors={**one.vectors, modality: vector[None].astype(np.float32)})


def complete(found: list[Inside]) -> None:
    for one in found:
        assert sum(one.values) == pytest.approx(one.total, rel=0.02, abs=SMALL)
        assert any(one.values)


def test_tokens_of_notes(encoded_run, encoders) -> None:
    run, cohort, inputs = encoded_run
    found = explain_within(run, cohort, inputs, "note")
    complete(found)
    assert [one.sample_id for one in found] == ["p20", "p21", "p23", "p24"]
    encoder = load_encoder(f"text-encoder:{encoders['note']}")
    notes = dict(zip(inputs.sample_id, cohort.cells("note"), strict=True))
    for one in found:
        texts = notes[one.sample_id]
        words = [w for text in texts for w in encoder.tokenizer.tokenize(text)]
        assert one.words == words
        assert len(one.parts) == len(one.values) == len(words)
        assert one.parts[0].name == "text 1, token 1"
        assert not any(w in part.name for part in one.parts for w in set(words) - {"text"})
        # the total: against the same notes, each of their tokens one that says nothing
        blank = [" ".join(["[UNK]"] * len(encoder.tokenizer.tokenize(t))) for t in texts]
        patient = one_of(inputs, one.sample_id)
        nothing = encoder.encode(blank).mean(axis=0)
        gone = told(run, with_vector(patient, "note", nothing))
        assert one.total == pytest.approx(told(run, patient) - gone, abs=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"pooling": "cls"},
        {"normalise": True},
        {"windows": "first"},
        {"model": "modern"},
    ],
)
def test_every_recipe_of_a_text_encoder(options, encoded_run, encoders) -> None:
    run, _, inputs = encoded_run
    folder = encoders[options.pop("model", "note")]
    encoder = load_encoder(f"text-encoder:{folder}", **options)
    texts = ["cough and fever with effusion " * 10, "no pain"]  # two windows, and one
    one = with_vector(one_of(inputs, "p20"), "note", encoder.encode(texts).mean(axis=0))
    found = token_gradients(run.trained, one, "note", 1, texts=texts, encoder=encoder)
    complete([found])
    own = 38 if options.get("windows") == "first" else 50
    assert [p.position for p in found.parts] == [*map(float, range(own)), 0.0, 1.0]


def test_a_decoder_of_llm2vec(encoded_run, tmp_path) -> None:
    run, _, inputs = encoded_run
    encoder = load_encoder(f"llm2vec:{save_tiny_llama(tmp_path)}")
    texts = ["patient with fever", "no pain"]
    one = with_vector(one_of(inputs, "p20"), "note", encoder.encode(texts).mean(axis=0))
    found = token_gradients(run.trained, one, "note", 1, texts=texts, encoder=encoder)
    complete([found])


def test_patches_of_images(encoded_run) -> None:
    run, cohort, inputs = encoded_run
    found = explain_within(run, cohort, inputs, "xray")
    complete(found)
    files = dict(zip(inputs.sample_id, cohort.cells("xray"), strict=True))
    for one in found:
        count = len(files[one.sample_id])
        assert len(one.parts) == 4 * count  # 28 pixels, patches of 14
        assert one.parts[3].name == "image 1, row 2, column 2"
        assert [p.position for p in one.parts] == [0.0, 1.0, 2.0, 3.0] * count
        assert one.words is None


def test_a_patch_is_where_its_pixels_are(encoded_run, encoders) -> None:
    run, _, inputs = encoded_run
    encoder = load_encoder(f"dinov2-small:{encoders['xray']}", size=28)
    image = np.random.default_rng(0).random((28, 28, 3)).astype(np.float32)
    grey = np.array(encoder.prepare.mean, np.float32)
    image[:14, :14] = grey  # one patch as the baseline has it: it can have no effect
    encoder.prepare = lambda image, own=encoder.prepare: (
        (torch.from_numpy(image.transpose(2, 0, 1)) - torch.tensor(own.mean)[:, None, None])
        / torch.tensor(own.std)[:, None, None]
    ).numpy()
    one = with_vector(one_of(inputs, "p20"), "xray", encoder.encode([image])[0])
    found = patch_gradients(run.trained, one, "xray", 1, images=[image], encoder=encoder)
    assert abs(found.values[0]) < 1e-6
    assert min(map(abs, found.values[1:])) > 1e-6


def test_encoders_without_a_gradient_say_so(encoded_run) -> None:
    run, _, inputs = encoded_run
    one = one_of(inputs, "p20")

    def embed(items: list[str]) -> np.ndarray:
        return np.zeros((len(items), 3))

    encoder = FunctionEncoder(embed, "mine:embed", "text")
    ask: dict[str, Callable[[], Inside]] = {
        "tokens": lambda: token_gradients(
            run.trained, one, "note", 1, texts=["fever"], encoder=encoder
        ),
        "patches": lambda: patch_gradients(
            run.trained, one, "xray", 1, images=[np.zeros((4, 4, 1))], encoder=encoder
        ),
    }
    for parts, question in ask.items():
        with pytest.raises(InputError, match=f"whose {parts} have no gradient"):
            question()


def test_another_encoders_vector_is_not_explained(encoded_run, encoders, monkeypatch) -> None:
    run, _, inputs = encoded_run
    encoder = load_encoder(f"text-encoder:{encoders['note']}")
    monkeypatch.setattr(encoder, "encode", lambda texts: np.ones((len(texts), 32), np.float32))
    with pytest.raises(InputError, match="cannot be followed back to its input"):
        token_gradients(
            run.trained, one_of(inputs, "p20"), "note", 1, texts=["fever"], encoder=encoder
        )
