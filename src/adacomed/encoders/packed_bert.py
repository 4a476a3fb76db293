"""BERT on a CPU without padding: windows of any length lie end to end.

Products run over blocks of `BLOCK` tokens, wherever a window ends, and attention over each window
alone, so every product has one shape and a window's vector is bit-identical in any company. The
numbers are those of transformers' `BertModel` to rounding.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from adacomed.encoders.lanes import run_passes
from adacomed.encoders.windows import Recipe, Window, pool_states

BLOCK = 128  # tokens of a product; what is left of the last block is computed in vain
STREAM = 4096  # tokens, about, that go through the layers together


def packs(model: Any) -> bool:
    """Whether a model of transformers is a plain BERT encoder, which this module computes."""
    config = model.config
    return (
        config.model_type == "bert"
        and config.hidden_act == "gelu"
        and getattr(config, "position_embedding_type", "absolute") == "absolute"
        and not (config.is_decoder or config.add_cross_attention)
    )


class PackedBert:
    """Windows → vectors, (D,) each.

    Args:
        model: transformers' BertModel in float32 on the CPU; its weights are copied.
        recipe: how states are pooled.
    """

    def __init__(self, model: Any, recipe: Recipe) -> None:
        self.recipe = recipe
        parts = model.embeddings
        self.words = parts.word_embeddings.weight
        self.positions = parts.position_embeddings.weight + parts.token_type_embeddings.weight[0]
        self.norm = parts.LayerNorm
        heads = model.config.num_attention_heads
        self.layers = [_Layer(layer, heads) for layer in model.encoder.layer]

    def __call__(self, windows: Sequence[Window]) -> list[Tensor]:
        """One vector (D,) per window, in their order."""
        streams = share([len(window.ids) for window in windows], torch.get_num_threads())

        def run(stream: list[int]) -> list[Tensor]:
            return self._forward([windows[i] for i in stream])

        pooled: dict[int, Tensor] = {}
        found = run_passes(run, streams, self.words.device)
        for stream, vectors in zip(streams, found, strict=True):
            pooled.update(zip(stream, vectors, strict=True))
        return [pooled[i] for i in range(len(windows))]

    @torch.inference_mode()
    def _forward(self, windows: list[Window]) -> list[Tensor]:
        lengths = [len(window.ids) for window in windows]
        spare = -sum(lengths) % BLOCK
        ids = torch.tensor([i for window in windows for i in window.ids] + [0] * spare)
        at = torch.cat([torch.arange(n) for n in lengths] + [torch.zeros(spare, dtype=torch.long)])
        x = self.norm(F.embedding(ids, self.words) + F.embedding(at, self.positions))  # (tokens, D)
        qkv, mixed = x.new_empty(len(x), 3 * x.shape[1]), torch.zeros_like(x)
        for layer in self.layers:
            layer(x, lengths, qkv, mixed)
        each = torch.split(x, [*lengths, spare])[: len(lengths)]
        return [pool_states(s, w, self.recipe) for s, w in zip(each, windows, strict=True)]


def share(lengths: Sequence[int], cores: int) -> list[list[int]]:
    """Windows → streams of about equal length, at most `STREAM` tokens, some for every core."""
    rounds = max(1, -(-sum(lengths) // (STREAM * cores)))
    streams: list[list[int]] = [[] for _ in range(min(rounds * cores, len(lengths)))]
    filled = [(0, k) for k in range(len(streams))]
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        tokens, k = filled[0]  # the emptiest
        streams[k].append(i)
        heapq.heapreplace(filled, (tokens + lengths[i], k))
    return streams


class _Layer:
    """One block: post-norm attention and MLP; matrices are (in, out), the fastest for few rows."""

    def __init__(self, layer: Any, heads: int) -> None:
        own, out = layer.attention.self, layer.attention.output
        three = (own.query, own.key, own.value)
        self.heads = heads
        self.qkv = (
            torch.cat([part.weight for part in three]).t().contiguous(),
            torch.cat([part.bias for part in three]),
        )
        self.out, self.up, self.down = (
            (part.weight.t().contiguous(), part.bias)
            for part in (out.dense, layer.intermediate.dense, layer.output.dense)
        )
        self.norm1, self.norm2 = out.LayerNorm, layer.output.LayerNorm

    def __call__(self, x: Tensor, lengths: list[int], qkv: Tensor, mixed: Tensor) -> None:
        """Replace x by the block's output.

        Args:
            x: (tokens, D), a multiple of `BLOCK` tokens.
            lengths: of the windows, end to end.
            qkv, mixed: room for (tokens, 3 D) and (tokens, D); what is spare in `mixed` is 0.
        """
        blocks = [slice(start, start + BLOCK) for start in range(0, len(x), BLOCK)]
        for block in blocks:
            _affine(x[block], self.qkv, out=qkv[block])
        heads = self.heads
        self._attend(qkv.view(len(x), 3, heads, -1), mixed.view(len(x), heads, -1), lengths)
        for block in blocks:
            y = self.norm1(_affine(mixed[block], self.out).add_(x[block]))
            x[block] = self.norm2(_affine(F.gelu(_affine(y, self.up)), self.down).add_(y))

    def _attend(self, qkv: Tensor, mixed: Tensor, lengths: list[int]) -> None:
        start = 0
        for length in lengths:
            window = slice(start, start + length)
            q, k, v = qkv[window].permute(1, 2, 0, 3).unsqueeze(1)
            found = F.scaled_dot_product_attention(q, k, v)  # (1, heads, length, D / heads)
            mixed[window] = found[0].transpose(0, 1)
            start += length


def _affine(x: Tensor, layer: tuple[Tensor, Tensor], out: Tensor | None = None) -> Tensor:
    weight, bias = layer
    return torch.addmm(bias, x, weight, out=out)
