from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from adacomed.encoders.base import ENCODERS, EncoderCard, catalogue, fingerprint, load_encoder
from adacomed.errors import InputError

from .check_encoder import check_encoder


def test_catalogue_loads_no_weights_and_no_transformers() -> None:
    import subprocess

    code = (
        "import sys; from adacomed.encoders.base import catalogue; catalogue();"
        "assert 'transformers' not in sys.modules and 'sentence_transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_catalogue_names_every_encoder() -> None:
    cards = catalogue()
    assert list(cards) == [*ENCODERS, "precomputed", "custom"]
    assert all(card.licence and card.trained_on and card.input for card in cards.values())
    assert all(card.name == name for name, card in cards.items())


def test_unknown_name_says_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'minilm'"):
        load_encoder("minilmm")


def test_missing_source() -> None:
    with pytest.raises(InputError, match="text-encoder:ID"):
        load_encoder("text-encoder")


def test_dotted_name_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_encoders.py").write_text(
        "import numpy as np\n"
        "class Length:\n"
        "    def __init__(self, scale): self.scale = scale\n"
        "    def encode(self, items):\n"
        "        return np.array([[len(i) * self.scale] for i in items], np.float32)\n"
        "def build(scale=1): return Length(scale)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    found = load_encoder("my_encoders:build", scale=2).encode(["abc"])
    assert np.array_equal(found, [[6]])
    with pytest.raises(InputError, match="has no attribute 'bild'"):
        load_encoder("my_encoders:bild")
    with pytest.raises(InputError, match="No module named 'their_encoders'"):
        load_encoder("their_encoders:build")


def test_a_plain_function_of_the_users(tmp_path: Path) -> None:
    """Found beside the cohort's YAML; its file is what its numbers depend on."""
    module = tmp_path / "my_function.py"
    module.write_text(
        "import numpy as np\n"
        "def embed(images):\n"
        "    return [[i.mean(), i.std()] for i in images]\n"
        "def bad(images): return np.zeros(3)\n"
        "def worse(images): return images.nothing\n"
    )
    encoder = load_encoder("my_function:embed", kind="image", folder=tmp_path, device="cpu")
    rng = np.random.default_rng(0)
    check_encoder(encoder, [rng.random((5 + n, 4, 1), np.float32) for n in range(10)])
    assert str(tmp_path) not in sys.path
    with pytest.raises(InputError, match=r"expected \(1, width\) numbers for 1 items"):
        load_encoder("my_function:bad", kind="image", folder=tmp_path)
    with pytest.raises(InputError, match=r"AttributeError.*nothing"):
        load_encoder("custom:my_function:worse", kind="image", folder=tmp_path)
    before = fingerprint(encoder.card)
    module.write_text(module.read_text() + "# changed\n")
    del sys.modules["my_function"]
    again = load_encoder("my_function:embed", kind="image", folder=tmp_path)
    assert fingerprint(again.card) != before


def test_two_cohorts_functions_of_one_name(tmp_path: Path) -> None:
    """Each cohort's is its own, and so is what a function beside it imports."""
    for value in (1, 2):
        folder = tmp_path / str(value)
        (folder / "namesake").mkdir(parents=True)
        (folder / "namesake" / "value.py").write_text(f"VALUE = {value}\n")
        (folder / "namesake" / "__init__.py").write_text(
            "from .value import VALUE\ndef embed(items): return [[VALUE, 0]] * len(items)\n"
        )
    for value in (1, 2, 2, 1):
        folder = tmp_path / str(value)
        encoder = load_encoder("namesake:embed", kind="text", folder=folder)
        assert encoder.encode(["a"]).tolist() == [[value, 0]]
    beside = sys.modules["json"]
    (tmp_path / "1" / "json.py").write_text("def embed(items): return [[3]] * len(items)\n")
    with pytest.raises(InputError, match="json:embed"):  # Python's own is here already
        load_encoder("json:embed", kind="text", folder=tmp_path / "1")
    assert sys.modules["json"] is beside


def test_options_in_the_name() -> None:
    assert load_encoder("minilm?windows=first").card.preprocessing["windows"] == "first"
    with pytest.raises(InputError, match="has no option 'window'; did you mean 'windows'"):
        load_encoder("minilm?window=3")
    for text in ("minilm?", "minilm?windows", "minilm?windows=", "minilm?=first"):
        with pytest.raises(InputError, match="is no option; write NAME"):
            load_encoder(text)


def test_own_vectors_need_no_encoder() -> None:
    with pytest.raises(InputError, match="kind: embedding"):
        load_encoder("precomputed")


def test_fingerprint_needs_a_measured_card() -> None:
    with pytest.raises(ValueError, match="load the encoder first"):
        fingerprint(catalogue()["minilm"])


def test_fingerprint_follows_what_changes_the_numbers() -> None:
    card = catalogue()["minilm"].model_copy(
        update={"weights_hash": "aa", "preprocessing_hash": "bb"}
    )
    same = {"name": "x", "id": "y", "licence": "z", "revision": "1", "libraries": {"torch": "9"}}
    other = {"weights_hash": "ab", "preprocessing_hash": "bc", "pooling": "cls", "code": 99}

    def of(**update: object) -> str:
        return fingerprint(EncoderCard(**{**card.model_dump(), **update}))

    assert {of(**{k: v}) for k, v in same.items()} == {of()}
    assert len({of(), *(of(**{k: v}) for k, v in other.items())}) == len(other) + 1
