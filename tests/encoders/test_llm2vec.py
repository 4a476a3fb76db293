from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.encoders.check_encoder import check_encoder
from tests.encoders.conftest import WORDS, save_tiny, save_tiny_llama

from adacomed.encoders.base import catalogue, fingerprint, load_encoder
from adacomed.encoders.llm2vec import llm2vec, me_llama, qwen3_embedding
from adacomed.encoders.text_encoder import TextEncoder
from adacomed.encoders.windows import PADDED, PassPool, Recipe, Window
from adacomed.errors import InputError

ITEMS = [" ".join((WORDS * 9)[n : n + 1 + 13 * n]) for n in range(12)]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def adapter(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(llama, tmp_path_factory.mktemp("adapter"), "AutoModel", seed=1)


def save_adapter(model: Path, folder: Path, model_class: str, *, seed: int, **config: Any) -> Path:
    """A LoRA whose both matrices are random: as if trained."""
    import transformers
    from peft import LoraConfig, get_peft_model

    base = getattr(transformers, model_class).from_pretrained(model)
    chosen = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "up_proj"], **config}
    adapted = get_peft_model(base, LoraConfig(**chosen))
    torch.manual_seed(seed)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(folder)
    return folder


def two_way(folder: Path, model_class: str = "AutoModel", **options: Any) -> Any:
    """The model with attention in both directions, as transformers makes it."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    config.is_causal = False
    found = getattr(transformers, model_class)
    return found.from_pretrained(folder, config=config, **options).eval()


def own_states(folder: Path, text: str, *, causal: bool = False) -> torch.Tensor:
    """transformers' LlamaModel: left-padded, beside another row, the mask written out in 4-D."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, attn_implementation="sdpa").eval()
    ids = tokenizer(text)["input_ids"]
    length, spare = len(ids) + 7, 7
    rows = torch.tensor([[3] * spare + ids, [4 + i % 20 for i in range(length)]])
    real = torch.ones(2, length, dtype=torch.bool)
    real[0, :spare] = False
    seen = real[:, None, None, :] & torch.ones(length, length, dtype=torch.bool)  # (2, 1, L, L)
    if causal:
        seen = seen.tril()
    seen = seen | torch.eye(length, dtype=torch.bool)  # padding sees itself, so nothing is NaN
    at = torch.arange(length)
    positions = torch.stack([(at - spare).clamp(min=0), at])
    with torch.no_grad():
        found = model(input_ids=rows, attention_mask=seen, position_ids=positions)
    return found.last_hidden_state[0, spare:]


def test_contract(llama: Path, adapter: Path) -> None:
    check_encoder(llm2vec(str(llama), window=40), ITEMS)
    options = {"pooling": "last", "normalise": True, "windows": "first", "instruction": "pain in "}
    check_encoder(llm2vec(str(llama), adapter=str(adapter), **options), ITEMS)
    check_encoder(load_encoder(f"me-llama:{llama}", window=64), ITEMS)


def test_contract_padded_as_on_a_gpu(llama: Path) -> None:
    encoder = llm2vec(str(llama), window=100)
    exact = encoder.encode(ITEMS)
    model = two_way(llama, attn_implementation="eager")
    pool = PassPool(model, encoder.recipe, PADDED, padding=3)
    padded = TextEncoder(pool, encoder.tokenizer, recipe=encoder.recipe, card=encoder.card)
    check_encoder(padded, ITEMS[:10])
    assert np.abs(padded.encode(ITEMS) - exact).max() < 1e-5


@pytest.mark.parametrize("text", ["fever", "renal mass and fever " * 30])
def test_mean_against_a_full_mask_on_left_padded_rows(llama: Path, text: str) -> None:
    expected = own_states(llama, text)[1:].mean(0)  # the start token is not the document's own
    found = llm2vec(str(llama)).encode([text])[0]
    assert np.abs(found - expected.numpy()).max() < 1e-5
    causal = own_states(llama, text, causal=True)
    found = llm2vec(str(llama), bidirectional=False).encode([text])[0]
    assert np.abs(found - causal[1:].mean(0).numpy()).max() < 1e-5
    found = llm2vec(str(llama), bidirectional=False, pooling="last").encode([text])[0]
    assert np.abs(found - causal[-1].numpy()).max() < 1e-5


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3", "gemma"])
def test_last_token_moves_the_first_ones_state(tmp_path: Path, kind: str) -> None:
    """What makes a decoder bidirectional; a release of transformers that loses it fails here."""
    folder = str(save_tiny_llama(tmp_path, kind=kind))
    first = {}
    for bidirectional in (True, False):
        pool = llm2vec(folder, bidirectional=bidirectional).pool
        assert isinstance(pool, PassPool)
        looking = PassPool(pool.model, Recipe("cls"), pool.passes)
        windows = [Window([1, 5, 6, 7, last], 0, 5) for last in (8, 9)]
        one, other = looking(windows)
        first[bidirectional] = float((one - other).abs().max())
    assert first[True] > 1e-3
    assert first[False] == 0


def test_a_model_that_cannot_be_bidirectional(tmp_path: Path) -> None:
    folder = save_tiny_llama(tmp_path, kind="llama")
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "mamba", vocab_size=60, hidden_size=32, state_size=4, num_hidden_layers=2
    )
    AutoModel.from_config(config).save_pretrained(folder)
    with pytest.raises(InputError, match="attention of a mamba model stays causal"):
        llm2vec(str(folder))
    with pytest.raises(InputError, match="attention of a bert model stays bidirectional"):
        llm2vec(str(save_tiny(tmp_path / "bert")), bidirectional=False, window=40)


def test_windows_and_instruction_against_a_loop(llama: Path) -> None:
    from transformers import AutoTokenizer

    text, said = "renal mass and fever " * 30, "pain in "
    tokenizer = AutoTokenizer.from_pretrained(llama)
    model = two_way(llama).double()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    pooled = []
    for start in range(0, len(ids), 37):  # a window of 40 has <s>, 2 words said, 37 of the text
        piece = [1, *tokenizer(said, add_special_tokens=False)["input_ids"], *ids[start:][:37]]
        with torch.no_grad():
            states = model(input_ids=torch.tensor([piece])).last_hidden_state[0]
        pooled.append(states[3:].mean(0).numpy())
    every = llm2vec(str(llama), window=40, instruction=said).encode([text])[0]
    assert np.abs(every - np.mean(pooled, axis=0)).max() < 1e-5
    first = llm2vec(str(llama), window=40, instruction=said, windows="first").encode([text])[0]
    assert np.abs(first - pooled[0]).max() < 1e-5
    with pytest.raises(InputError, match="instruction fills the window of 20"):
        llm2vec(str(llama), window=20, instruction="pain " * 30)


@pytest.mark.parametrize("model_class", ["AutoModel", "AutoModelForCausalLM"])
def test_adapters_merged_equal_peft(llama: Path, tmp_path: Path, model_class: str) -> None:
    """One adapter, of the bare model or of the one with a head; then a second on top of it."""
    from peft import PeftModel

    first = save_adapter(llama, tmp_path / "mntp", model_class, seed=1)
    second = save_adapter(llama, tmp_path / "supervised", "AutoModel", seed=2)
    base = two_way(llama, model_class)
    ids = torch.tensor([[1, 5, 9, 13, 17, 6]])
    text = " ".join(WORDS[i - 4] for i in ids[0, 1:].tolist())

    def states(model: Any) -> np.ndarray:
        with torch.no_grad():
            found = model.eval()(input_ids=ids, output_hidden_states=True).hidden_states[-1]
        return found[0, 1:].mean(0).numpy()

    plain = llm2vec(str(llama)).encode([text])[0]
    merged = llm2vec(str(llama), adapter=str(first))
    adapted = PeftModel.from_pretrained(base, first)
    assert np.abs(merged.encode([text])[0] - states(adapted)).max() < 1e-5
    assert np.abs(merged.encode([text])[0] - plain).max() > 1e-2
    both = llm2vec(str(llama), adapter=f"{first}, {second}")
    inner = adapted.merge_and_unload()
    inner = inner.model if "LM" in model_class else inner
    assert (
        np.abs(both.encode([text])[0] - states(PeftModel.from_pretrained(inner, second))).max()
        < 1e-5
    )
    marks = {fingerprint(e.card) for e in (llm2vec(str(llama)), merged, both)}
    assert len(marks) == 3


def test_an_adapters_scale_is_in_the_fingerprint(
    llama: Path, adapter: Path, tmp_path: Path
) -> None:
    stronger = shutil.copytree(adapter, tmp_path / "stronger")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (stronger / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 16}))
    one, other = (llm2vec(str(llama), adapter=str(folder)) for folder in (adapter, stronger))
    assert not np.array_equal(one.encode(["fever"]), other.encode(["fever"]))
    assert fingerprint(one.card) != fingerprint(other.card)


def test_adapters_that_do_not_fit(llama: Path, adapter: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    def copy(name: str) -> Path:
        return shutil.copytree(adapter, tmp_path / name)

    def refused(folder: Path, match: str) -> None:
        with pytest.raises(InputError, match=match):
            llm2vec(str(llama), adapter=str(folder))

    tensors = load_file(adapter / "adapter_model.safetensors")
    renamed = {name.replace("layers.1", "layers.9"): t for name, t in tensors.items()}
    save_file(renamed, copy("other") / "adapter_model.safetensors")
    refused(tmp_path / "other", "do not fit this model.*another model")
    fewer = dict(list(tensors.items())[:-1])
    save_file(fewer, copy("fewer") / "adapter_model.safetensors")
    refused(tmp_path / "fewer", "1 of the adapter's tensors")
    wide = {name: torch.cat([t, t]) for name, t in tensors.items()}
    save_file(wide, copy("wide") / "adapter_model.safetensors")
    refused(tmp_path / "wide", "does not fit this model")
    (copy("pickled") / "adapter_model.safetensors").unlink()
    torch.save(tensors, tmp_path / "pickled" / "adapter_model.bin")
    refused(tmp_path / "pickled", r"no adapter_model\*\.safetensors")
    (copy("bare") / "adapter_config.json").unlink()
    refused(tmp_path / "bare", r"no adapter_config\.json")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (copy("odd") / "adapter_config.json").write_text(json.dumps({**config, "peft_type": "ODD"}))
    refused(tmp_path / "odd", "does not fit this model")
    refused(tmp_path / "nowhere", "no such folder")


@pytest.mark.parametrize("end", ["<|endoftext|>", None])
def test_qwen3_embedding(tmp_path: Path, end: str | None) -> None:
    """The end token is there once, whether the tokenizer puts it or not; causal, last state, L2."""
    from transformers import AutoModel

    folder = save_tiny_llama(tmp_path, kind="qwen3", end=end)
    encoder = load_encoder(f"qwen3-embedding:{folder}", window=16)
    check_encoder(encoder, ITEMS)
    first = qwen3_embedding(str(folder), window=16, windows="first")
    model = AutoModel.from_pretrained(folder).eval()
    for text in ("fever", "renal mass and fever " * 30):
        ids = [4 + WORDS.index(word) for word in text.split()]
        ids = [*ids[:15], 3] if end else [1, *ids[:14], 3]
        with torch.no_grad():
            last = model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
        found = first.encode([text])[0]
        assert np.abs(found - (last / last.norm()).numpy()).max() < 1e-5


def test_me_llama_is_not_on_the_hub(llama: Path) -> None:
    with pytest.raises(InputError, match=r"physionet\.org.*me-llama:FOLDER.*'qwen3-embedding'"):
        load_encoder("me-llama")
    card = me_llama(str(llama)).card
    assert card.gated
    assert "MIMIC-IV-Note" in (card.seen_datasets or ())
    assert catalogue()["me-llama"].width == 5120


def test_every_option_changes_the_fingerprint(llama: Path) -> None:
    options: list[dict[str, Any]] = [
        {},
        {"pooling": "last"},
        {"bidirectional": False},
        {"normalise": True},
        {"windows": "first"},
        {"window": 20},
        {"instruction": "pain in "},
    ]
    encoders = [llm2vec(str(llama), **{"window": 40, **o}) for o in options]
    assert len({fingerprint(e.card) for e in encoders}) == len(options)
    assert len({tuple(e.encode(["renal mass and fever " * 30])[0]) for e in encoders}) == len(
        options
    )


def test_wrong_inputs(llama: Path) -> None:
    encoder = llm2vec(str(llama))
    with pytest.raises(InputError, match="text 2 of 2 is empty"):
        encoder.encode(["fever", " "])
    with pytest.raises(InputError, match="window of 4096 tokens; this model takes up to 2048"):
        llm2vec(str(llama), window=4096)
    with pytest.raises(InputError, match="expected mean or cls or last"):
        llm2vec(str(llama), pooling="max")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"not cached here|neither a folder"):
        llm2vec("nobody/nothing-of-that-name")
