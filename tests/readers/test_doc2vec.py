"""Document vectors: two topics apart, the same bits everywhere, and nothing pickled."""

import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from adacomed.errors import InputError

pytest.importorskip("gensim")
from adacomed.readers.doc2vec import DocumentVectors

HEART = ["heart", "failure", "oedema", "cardiac", "ventricle", "ejection", "murmur", "valve"]
KIDNEY = ["kidney", "tumour", "mass", "renal", "lesion", "cyst", "ureter", "biopsy"]
COMMON = ["patient", "with", "and", "the", "history", "of", "shows"]


def notes(topic: list[str], n: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choice(topic + COMMON) for _ in range(30)) for _ in range(n)]


def corpus() -> list[str]:
    return [*notes(HEART, 60, 1), "", *notes(KIDNEY, 60, 2)]


@pytest.fixture(scope="module")
def fitted() -> DocumentVectors:
    return DocumentVectors.fit(corpus(), width=32)


def digest(vectors: np.ndarray) -> str:
    return hashlib.sha256(vectors.tobytes()).hexdigest()


def test_new_texts_of_one_topic_are_near_each_other(fitted):
    heart, kidney = (fitted.vectors(notes(t, 20, 7)) for t in (HEART, KIDNEY))
    assert heart.shape == (20, 32)
    assert heart.dtype == np.float32
    heart, kidney = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (heart, kidney))
    between = (heart @ kidney.T).max()
    assert (heart @ heart.T).min() > between + 0.3
    assert (kidney @ kidney.T).min() > between + 0.3


def test_a_vector_does_not_depend_on_other_texts_or_their_order(fitted):
    texts = notes(HEART, 10, 3) + notes(KIDNEY, 10, 4)
    together = fitted.vectors(texts)
    assert np.array_equal(together[::-1], fitted.vectors(texts[::-1]))
    assert np.array_equal(together[4:5], fitted.vectors(texts[4:5]))
    assert len(np.unique(together, axis=0)) == 20


SCRIPT = """
from tests.readers.test_doc2vec import corpus, digest
from adacomed.readers.doc2vec import DocumentVectors
for seed in (0, 1):
    print(digest(DocumentVectors.fit(corpus(), width=32, seed=seed).vectors(corpus())))
"""


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_a_seed_gives_the_same_bits_in_another_process(fitted, hash_seed):
    environment = os.environ | {
        "PYTHONHASHSEED": hash_seed,
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True
    )
    here = digest(fitted.vectors(corpus()))
    assert [line == here for line in run.stdout.split()] == [True, False]


def test_loaded_from_a_file_the_vectors_have_the_same_bits(fitted, tmp_path):
    arrays, state = fitted.to_arrays()
    save_file(arrays, tmp_path / "doc2vec.safetensors")
    (tmp_path / "doc2vec.json").write_text(json.dumps(state))
    loaded = DocumentVectors.from_arrays(
        load_file(tmp_path / "doc2vec.safetensors"),
        json.loads((tmp_path / "doc2vec.json").read_text()),
    )
    texts = corpus() + notes(HEART + KIDNEY, 10, 5)
    assert loaded.vectors(texts).tobytes() == fitted.vectors(texts).tobytes()
    assert np.array_equal(loaded.tokens(texts, 12), fitted.tokens(texts, 12))
    assert (loaded.width, loaded.vocabulary) == (fitted.width, fitted.vocabulary)


def test_tokens_are_the_known_words_in_order(fitted):
    words = fitted.to_arrays()[1]["words"]
    assert fitted.vocabulary == len(HEART + KIDNEY + COMMON) + 1
    tokens = fitted.tokens(["Kidney: UNHEARD-OF, heart!", "", " ".join(HEART)], 4)
    assert tokens.dtype == np.int64
    numbers = [1 + words.index(w) for w in ["kidney", "of", "heart"]]  # "unheard" is unknown
    assert tokens[0].tolist() == [*numbers, 0]
    assert tokens[1].tolist() == [0] * 4
    assert tokens[2].tolist() == [1 + words.index(w) for w in HEART[:4]]


def test_a_text_without_known_words_is_zero(fitted):
    vectors = fitted.vectors(["", "xyzzy 12 3.4", "heart"])
    assert not vectors[:2].any()
    assert vectors[2].any()
    assert fitted.vectors([]).shape == (0, 32)
    assert fitted.tokens([], 5).shape == (0, 5)


def test_rare_words_are_left_out_unless_all_are_rare():
    many = DocumentVectors.fit(["heart heart valve", "heart"], width=8)
    assert many.to_arrays()[1]["words"] == ["heart"]
    few = DocumentVectors.fit(["heart valve", "kidney"], width=8)
    assert sorted(few.to_arrays()[1]["words"]) == ["heart", "kidney", "valve"]
    assert np.isfinite(few.vectors(["heart valve", "kidney"])).all()


@pytest.mark.parametrize("texts", [[], [""], ["12 345", "?"]])
def test_texts_without_words_are_refused(texts):
    with pytest.raises(InputError, match=f"none of the {len(texts)} texts"):
        DocumentVectors.fit(texts, width=8)


def test_the_original_width_on_a_long_text():
    model = DocumentVectors.fit(notes(HEART, 4, 1))
    assert model.width == 512
    long = " ".join(notes(HEART, 500, 2))  # 15,000 words, of which 10,000 are read
    assert np.isfinite(model.vectors([long])).all()


@pytest.mark.parametrize(
    "damage",
    [
        lambda a, s: a.pop("output"),
        lambda a, s: s.pop("seed"),
        lambda a, s: a.update(output=a["output"][:, :8]),
        lambda a, s: a.update(count=a["count"] * 0),
        lambda a, s: s["words"].pop(),
        lambda a, s: s["words"].__setitem__(0, s["words"][1]),
    ],
)
def test_damaged_arrays_are_refused(fitted, damage):
    arrays, state = fitted.to_arrays()
    damage(arrays, state)
    with pytest.raises(InputError, match="not saved document vectors"):
        DocumentVectors.from_arrays(arrays, state)
