"""Texts → token windows → one vector per text: what every text encoder does around its model.

A text's vector is bit-identical alone, in any order, with any batch-mates: the shape of a forward
pass depends on the length of its windows alone. Missing rows are filled by repeating one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adacomed.encoders.lanes import columns_first, run_passes
from adacomed.errors import InputError

CHOICES = {"pooling": ("mean", "cls", "last"), "windows": ("all", "first")}


Pool = Callable[[Sequence["Window"]], list[Tensor]]  # windows → a vector (D,) each


@dataclass(frozen=True)
class Passes:
    """Which windows share a forward pass.

    Attributes:
        bucket: a window is padded to a multiple of so many tokens. 1: no padding and no mask, only
            windows of equal length together.
        tokens: of a pass; as many rows as fit, at least one.
    """

    bucket: int
    tokens: int


EXACT = Passes(1, 256)  # of one CPU core
PADDED = Passes(64, 8192)  # of a GPU


@dataclass(frozen=True)
class Recipe:
    """How a text becomes one vector; every field changes the numbers."""

    pooling: Literal["mean", "cls", "last"] = "mean"
    normalise: bool = False
    windows: Literal["all", "first"] = "all"
    window: int = 512  # tokens, all counted
    framing: bool = True  # the mean counts the tokens that stand around the document's own
    instruction: str = ""  # before the document, in every window
    end: str = ""  # the token that every window ends with

    def __post_init__(self) -> None:
        for name, values in CHOICES.items():
            value = getattr(self, name)
            if value not in values:
                raise InputError(f"{name} {value!r}: expected {' or '.join(values)}")

    def describe(self) -> str:
        """The pooling in words, for the card."""
        whose = "all tokens" if self.framing else "the document's own tokens"
        states = {"mean": f"mean of {whose}", "cls": "first token", "last": "last token"}
        found = states[self.pooling]
        return f"{found}, L2 norm 1" if self.normalise else found


@dataclass(frozen=True)
class Window:
    """Token ids of one forward row; those in start … stop are the document's own."""

    ids: list[int]
    start: int
    stop: int


def frame(tokenizer: Any, end: str) -> tuple[list[int], list[int]]:
    """The token ids that a tokenizer puts before and after a text, `end` among the latter.

    Raises:
        InputError: the vocabulary has no such token.
    """
    bare: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
    full: list[int] = tokenizer("a")["input_ids"]
    starts = range(len(full) - len(bare) + 1)
    at = next((i for i in starts if full[i : i + len(bare)] == bare), 0)
    head, tail = full[:at], full[at + len(bare) :]
    if end:
        if end not in tokenizer.get_vocab():
            raise InputError(f"{tokenizer.name_or_path}: its vocabulary has no token {end!r}")
        last: int = tokenizer.convert_tokens_to_ids(end)
        tail = tail if tail[-1:] == [last] else [*tail, last]
    return head, tail


def cut(tokenizer: Any, texts: Sequence[str], recipe: Recipe) -> list[list[Window]]:
    """The windows of every text, in their order; at least one each.

    Raises:
        InputError: an empty text, or an instruction as long as the window.
    """
    head, tail = frame(tokenizer, recipe.end)
    said = recipe.instruction
    found = tokenizer(
        [said + text for text in texts],
        add_special_tokens=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        return_offsets_mapping=bool(said),
        verbose=False,
    )
    cuts = []
    for n, ids in enumerate(found["input_ids"]):
        ends = [stop for _, stop in found["offset_mapping"][n]] if said else []
        own = sum(stop <= len(said) for stop in ends)  # tokens of the instruction
        before, document = [*head, *ids[:own]], ids[own:]
        room = recipe.window - len(before) - len(tail)
        if room < 1:
            raise InputError(f"the instruction fills the window of {recipe.window} tokens")
        if not document or not texts[n].strip():
            raise InputError(f"text {n + 1} of {len(texts)} is empty: there is nothing to embed")
        last = room if recipe.windows == "first" else len(document)
        parts = [document[i : i + room] for i in range(0, last, room)]
        start = len(before)
        cuts.append([Window([*before, *p, *tail], start, start + len(p)) for p in parts])
    return cuts


def embed(pool: Pool, tokenizer: Any, texts: Sequence[str], recipe: Recipe) -> NDArray[np.float32]:
    """Vectors of n texts, (n, D) float32: the mean of a text's windows, in double precision."""
    cuts = cut(tokenizer, texts, recipe)
    pooled = iter(pool([window for windows in cuts for window in windows]))
    vectors = []
    for windows in cuts:
        vector = torch.stack([next(pooled) for _ in windows]).double().mean(0)
        if recipe.normalise:
            vector = vector / vector.norm().clamp_min(1e-12)
        vectors.append(vector.float())
    found: NDArray[np.float32] = torch.stack(vectors).numpy()
    return found


def pool_states(states: Tensor, window: Window, recipe: Recipe) -> Tensor:
    """One window's vector, (D,) float32 on the CPU, of its states (tokens, D)."""
    states = states[: len(window.ids)].float()
    if recipe.pooling == "cls":
        return states[0].cpu()
    if recipe.pooling == "last":
        return states[-1].cpu()
    return (states if recipe.framing else states[window.start : window.stop]).mean(0).cpu()


class PassPool:
    """Windows → vectors by any model of transformers, several windows a forward pass.

    Args:
        model: gives `last_hidden_state`, (rows, tokens, D).
        recipe: how states are pooled.
        passes: which windows share a pass.
        padding: id of the padding token.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, passes: Passes, padding: int = 0) -> None:
        self.model, self.recipe, self.passes, self.padding = model, recipe, passes, padding
        self.device = next(model.parameters()).device

    def __call__(self, windows: Sequence[Window]) -> list[Tensor]:
        """One vector (D,) per window, in their order."""
        equal: dict[int, list[int]] = defaultdict(list)
        for i, window in enumerate(windows):
            equal[self._padded(len(window.ids))].append(i)
        todo: list[list[int]] = []
        for length in sorted(equal, reverse=True):  # the longest first: no core waits at the end
            rows, members = max(1, self.passes.tokens // length), equal[length]
            for start in range(0, len(members), rows):
                part = members[start : start + rows]
                todo.append(part + part[:1] * (rows - len(part)))  # spare rows repeat one

        def run(part: list[int]) -> list[Tensor]:
            return self._forward([windows[i] for i in part])

        pooled: dict[int, Tensor] = {}
        for part, vectors in zip(todo, run_passes(run, todo, self.device), strict=True):
            pooled.update(zip(part, vectors, strict=True))
        return [pooled[i] for i in range(len(windows))]

    def _padded(self, tokens: int) -> int:
        bucket = self.passes.bucket
        return min(-(-tokens // bucket) * bucket, self.recipe.window)

    @torch.inference_mode()
    def _forward(self, windows: list[Window]) -> list[Tensor]:
        length = max(self._padded(len(window.ids)) for window in windows)
        ids = torch.full((len(windows), length), self.padding)
        mask = torch.zeros_like(ids)
        for row, window in enumerate(windows):
            ids[row, : len(window.ids)] = torch.tensor(window.ids)
            mask[row, : len(window.ids)] = 1
        inputs = {"input_ids": ids.to(self.device)}
        if self.passes.bucket > 1:  # also where nothing is padded, so that the kernel is the same
            inputs["attention_mask"] = mask.to(self.device)
        states = self.model(**inputs).last_hidden_state
        return [pool_states(states[i], w, self.recipe) for i, w in enumerate(windows)]


def pass_pool(model: nn.Module, tokenizer: Any, recipe: Recipe) -> PassPool:
    """The pool that suits the model's device."""
    padding = tokenizer.pad_token_id or 0
    if next(model.parameters()).device.type == "cpu":
        return PassPool(columns_first(model), recipe, EXACT, padding)
    return PassPool(model, recipe, PADDED, padding)
