"""Raw and vector inputs → tokens: what Meta-Transformer and OneLLM put before their transformers.

One tokeniser a kind of input (`models/raw.py`). A token that is not real is zero and masked. Tokens
carry their own positions, so their order in a sequence means nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adacomed.errors import InputError
from adacomed.models import raw
from adacomed.models.batch import Batch

PATCH = 16  # pixels along a patch's side
RGB = tuple[float, float, float]
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and standard deviation, RGB


@dataclass(frozen=True)
class Tokens:
    """L tokens a patient: `x` (B, L, width), zero where `here` (B, L) is false."""

    x: Tensor
    here: Tensor


@dataclass(frozen=True)
class Limits:
    """What is read of a patient at most, always the latest: images, time stamps, words."""

    images: int = 4
    steps: int = 128
    words: int = 512


class Tokenisers(nn.Module):
    """One tokeniser a modality, and a learned vector that says which modality a token is of.

    Args:
        shapes: modality → its shape.
        width: of every token.
        train_words: False freezes the word vectors of text, as Meta-Transformer does with CLIP's.
    """

    def __init__(
        self,
        shapes: Mapping[str, raw.Shape],
        *,
        width: int,
        limits: Limits,
        train_words: bool = True,
    ) -> None:
        super().__init__()
        self.modalities = list(shapes)
        self.each = nn.ModuleList(
            _tokeniser(name, shape, width, limits, train_words) for name, shape in shapes.items()
        )
        self.kind = _learned(len(shapes), width)

    def forward(self, batch: Batch) -> dict[str, Tokens]:
        """Modality → its tokens, of all B patients."""
        found = {}
        for name, tokeniser, kind in zip(self.modalities, self.each, self.kind, strict=True):
            tokens: Tokens = tokeniser(batch)
            found[name] = Tokens(
                torch.where(tokens.here[..., None], tokens.x + kind, 0.0), tokens.here
            )
        return found


class ImageTokens(nn.Module):
    """Patches of 16 × 16 pixels of each of a patient's latest images: a conv stem and positions."""

    def __init__(self, name: str, shape: raw.ImageShape, *, width: int, most: int) -> None:
        super().__init__()
        if shape.size < PATCH:
            raise InputError(f"{name}: images of {shape.size} px; expected ≥ {PATCH}, one patch")
        self.name, self.most = name, most
        self.stem = nn.Conv2d(3, width, kernel_size=PATCH, stride=PATCH)
        self.position = _learned((shape.size // PATCH) ** 2, width)

    def forward(self, batch: Batch) -> Tokens:
        """At most `most` · (S / 16)² tokens a patient; the stem runs only on images that occur."""
        images = batch.raw[self.name]
        assert isinstance(images, raw.Images)
        rows, slot, here = latest_images(images, self.most)
        x = self.stem(normalised(images.pixels[rows], IMAGENET, self.position.dtype))
        return spread(x.flatten(2).transpose(1, 2) + self.position, slot, here)


class SeriesTokens(nn.Module):
    """One token a time stamp: Meta-Transformer's circular convolution over three steps, and hours.

    Circular over the patient's own steps, so that no padding is ever seen.
    """

    def __init__(self, name: str, shape: raw.SeriesShape, *, width: int, most: int) -> None:
        super().__init__()
        self.name, self.width, self.most = name, width, most
        self.conv = nn.Linear(3 * 2 * shape.variables, width, bias=False)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="leaky_relu")  # as the original

    def forward(self, batch: Batch) -> Tokens:
        """At most `most` tokens a patient: values, 0 where not measured, and what was measured."""
        events = batch.raw[self.name]
        assert isinstance(events, raw.Events)
        seen = ~events.value.isnan()
        steps = torch.cat([events.value.nan_to_num(0.0), seen.to(events.value.dtype)], -1)
        first, t, here = _last((~events.hours.isnan()).sum(1), self.most)
        around = t[:, None] + torch.arange(-1, 2, device=t.device)  # (T, 3)
        length = here.sum(1).clamp(min=1)[:, None, None]
        index = first[:, None, None] + around % length  # (B, T, 3)
        near = steps.gather(1, index.flatten(1)[..., None].expand(-1, -1, steps.shape[-1]))
        hours = torch.where(here, events.hours.gather(1, index[..., 1]), 0.0)
        x = self.conv(near.view(*here.shape, 3 * steps.shape[-1])) + sinusoidal(hours, self.width)
        return Tokens(x, here)


class TextTokens(nn.Module):
    """One token a word, of all of a patient's notes one after the other."""

    def __init__(
        self, name: str, shape: raw.TextShape, *, width: int, most: int, train: bool
    ) -> None:
        super().__init__()
        self.name, self.most = name, most
        self.word = nn.Embedding(shape.vocabulary, width).requires_grad_(train)
        self.position = _learned(most, width)

    def forward(self, batch: Batch) -> Tokens:
        """At most `most` tokens a patient."""
        notes = batch.raw[self.name]
        assert isinstance(notes, raw.Notes)
        words = F.pad(notes.token, (0, 0, 0, 1))  # the last row, raw.NONE = −1, is of no note
        token = words[notes.item].flatten(1)  # (B, I · L)
        token, here = pack(token, token != 0)
        first, t, here = _last(here.sum(1), self.most)
        index = (first[:, None] + t).clamp(max=max(token.shape[1] - 1, 0))
        return Tokens(self.word(token.gather(1, index)) + self.position[: len(t)], here)


class VectorTokens(nn.Module):
    """A large encoder's vector as one token."""

    def __init__(self, name: str, shape: raw.VectorShape, *, width: int) -> None:
        super().__init__()
        self.name = name
        self.projection = nn.Linear(shape.width, width)

    def forward(self, batch: Batch) -> Tokens:
        """One token a patient."""
        here = batch.present[:, [list(batch.embeddings).index(self.name)]]  # (B, 1)
        vector = torch.where(here, batch.embeddings[self.name], 0.0)
        return Tokens(self.projection(vector)[:, None], here)


class TableTokens(nn.Module):
    """One token a column: value · learned vector + learned bias, as in FT-Transformer."""

    def __init__(self, name: str, shape: raw.TableShape, *, width: int) -> None:
        super().__init__()
        self.name = name
        bound = 1 / math.sqrt(width)
        self.weight = nn.Parameter(torch.empty(shape.columns, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(shape.columns, width).uniform_(-bound, bound))

    def forward(self, batch: Batch) -> Tokens:
        """P tokens a patient, those of cells without a value masked."""
        table = batch.small[self.name]
        return Tokens(table.nan_to_num(0.0)[..., None] * self.weight + self.bias, ~table.isnan())


def _tokeniser(name: str, shape: raw.Shape, width: int, limits: Limits, train: bool) -> nn.Module:
    if isinstance(shape, raw.ImageShape):
        return ImageTokens(name, shape, width=width, most=limits.images)
    if isinstance(shape, raw.SeriesShape):
        return SeriesTokens(name, shape, width=width, most=limits.steps)
    if isinstance(shape, raw.TextShape):
        return TextTokens(name, shape, width=width, most=limits.words, train=train)
    if isinstance(shape, raw.VectorShape):
        return VectorTokens(name, shape, width=width)
    return TableTokens(name, shape, width=width)


def latest_images(images: raw.Images, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """The last `most` images of each patient.

    Returns:
        Rows (U,) of `pixels` that occur, each once; slot (B, I) into these; here (B, I).
    """
    hours = images.hours.nan_to_num(0.0).masked_fill(images.item == raw.NONE, -torch.inf)
    item = images.item.gather(1, hours.argsort(dim=1, stable=True)[:, -most:])
    here = item != raw.NONE
    rows, inverse = torch.unique(item[here], return_inverse=True)
    slot = torch.zeros_like(item)
    slot[here] = inverse
    return rows, slot, here


def normalised(pixels: Tensor, scale: tuple[RGB, RGB], dtype: torch.dtype) -> Tensor:
    """Grey uint8 (U, S, S) → three equal channels less `scale`'s mean over its deviation."""
    mean, std = (torch.tensor(s, dtype=dtype, device=pixels.device)[:, None, None] for s in scale)
    return (pixels.to(dtype)[:, None] / 255 - mean) / std  # (U, 3, S, S)


def spread(features: Tensor, slot: Tensor, here: Tensor) -> Tokens:
    """Features of images (U, P, width) to the patients that have them, as slot, here (B, I) say."""
    if not len(features):
        return Tokens(features.new_zeros(len(slot), 0, features.shape[2]), here[:, :0])
    x = torch.where(here[..., None, None], features[slot], 0.0)  # (B, I, P, width)
    return Tokens(x.flatten(1, 2), here[..., None].expand(x.shape[:3]).flatten(1))


def sinusoidal(hours: Tensor, width: int) -> Tensor:
    """Hours (…) → (…, width) sines and cosines of periods from 2π to 20,000π hours; even width."""
    half = torch.arange(width // 2, dtype=hours.dtype, device=hours.device)
    angle = hours[..., None] * torch.exp(-math.log(1e4) * 2 / width * half)
    return torch.cat([angle.sin(), angle.cos()], -1)


def join(parts: Iterable[Tokens]) -> Tokens:
    """All tokens of a patient in one sequence, without gaps."""
    x, here = (torch.cat(p, 1) for p in zip(*((t.x, t.here) for t in parts), strict=True))
    return Tokens(*pack(x, here))


def pack(x: Tensor, here: Tensor) -> tuple[Tensor, Tensor]:
    """x (B, L, …), here (B, L): what is here moves to the front, in order; cut to the longest."""
    longest = int(here.sum(1).max()) if len(here) else 0
    order = (~here).to(torch.uint8).argsort(dim=1, stable=True)[:, :longest]
    index = order.reshape(*order.shape, *[1] * (x.ndim - 2)).expand(-1, -1, *x.shape[2:])
    return x.gather(1, index), here.gather(1, order)


def _last(n: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of n (B,) things the last `most`: the first kept (B,), 0 … T − 1 (T,), and here (B, T)."""
    kept = n.clamp(max=most)
    t = torch.arange(int(kept.max()) if len(n) else 0, device=n.device)
    return n - kept, t, t < kept[:, None]


def _learned(*shape: int) -> nn.Parameter:
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=0.02))
