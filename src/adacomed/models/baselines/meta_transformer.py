"""Meta-Transformer: every modality as tokens of one ViT, all of it fine-tuned.

CLS and the tokens of all of a patient's modalities → pre-norm blocks → CLS → a linear head.
Source: Zhang et al. 2023, arXiv 2307.10802 (large encoder, 302 M); AdaCoMed Sec. 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adacomed.errors import InputError, nearest
from adacomed.models.baselines.tokenisers import Limits, Tokenisers, Tokens, join
from adacomed.models.batch import Batch, Output
from adacomed.models.raw import Shape

EPS = 1e-6  # of a ViT's LayerNorm


@dataclass(frozen=True)
class Size:
    """Of a trunk."""

    width: int
    blocks: int
    heads: int


SIZES = {"tiny": Size(32, 2, 2), "small": Size(128, 4, 4), "published": Size(1024, 24, 16)}


class Attention(nn.Module):
    """Self-attention of a ViT block; parameters named as timm names them."""

    def __init__(self, width: int, *, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, here: Tensor) -> Tensor:
        """x (B, L, width); nobody attends to a token where `here` (B, L) is false."""
        B, L, width = x.shape
        q, k, v = self.qkv(x).view(B, L, 3, self.heads, width // self.heads).unbind(2)
        mixed = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=here[:, None, None]
        )
        y: Tensor = self.proj(mixed.transpose(1, 2).reshape(B, L, width))
        return y


class MLP(nn.Module):
    """Linear → GELU → Linear, four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """x (…, width) → (…, width)."""
        y: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return y


class Block(nn.Module):
    """A pre-norm ViT block."""

    def __init__(self, width: int, *, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.attn = Attention(width, heads=heads)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.mlp = MLP(width)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, here: Tensor) -> Tensor:
        """x (B, L, width), here (B, L) → (B, L, width)."""
        x = x + self.attn(self.norm1(x), here)
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


class MetaTransformer(nn.Module):
    """One ViT over all tokens of a patient.

    A patient with no modality is the CLS token alone.

    Args:
        tokenisers: batch → tokens of each modality, as wide as the blocks.
        trunk: the blocks.
        classes: K.
    """

    def __init__(
        self, *, tokenisers: nn.Module, trunk: nn.ModuleList, width: int, classes: int
    ) -> None:
        super().__init__()
        self.tokenisers, self.trunk = tokenisers, trunk
        self.cls = nn.Parameter(nn.init.trunc_normal_(torch.empty(width), std=0.02))
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.head = nn.Linear(width, classes)

    def forward(self, batch: Batch) -> Output:
        """Logits (B, K), as the whole prediction and as the large branch."""
        B = len(batch)
        first = Tokens(self.cls.expand(B, 1, -1), batch.present.new_ones(B, 1))
        tokens = join([first, *self.tokenisers(batch).values()])
        x = tokens.x  # (B, 1 + L, width)
        for block in self.trunk:
            x = block(x, tokens.here)
        logits = self.head(self.norm(x[:, 0]))
        return Output(logits=logits, logits_large=logits)


def build_meta_transformer(
    shapes: Mapping[str, Shape],
    *,
    classes: int,
    size: str = "published",
    train_words: bool = True,
    limits: Limits = Limits(),  # noqa: B008 (frozen)
) -> MetaTransformer:
    """Meta-Transformer for these modalities, every weight random; see `load_trunk`.

    Args:
        shapes: modality → its shape.
        size: a name of `SIZES`.
        train_words: False freezes the word vectors, which come from CLIP in the original; ours are
            of the cohort's own words, so the default trains them.
    Raises:
        InputError: no such size.
    """
    if size not in SIZES:
        raise InputError(f"no size {size!r} of Meta-Transformer{nearest(size, SIZES)}")
    s = SIZES[size]
    return MetaTransformer(
        tokenisers=Tokenisers(shapes, width=s.width, limits=limits, train_words=train_words),
        trunk=nn.ModuleList(Block(s.width, heads=s.heads) for _ in range(s.blocks)),
        width=s.width,
        classes=classes,
    )


def load_trunk(model: MetaTransformer, tensors: Mapping[str, Tensor]) -> None:
    """Fill the blocks with the published encoder, a list of timm's ViT blocks.

    Args:
        tensors: "0.norm1.weight", "0.attn.qkv.weight", … of every block.
    Raises:
        InputError: a tensor is missing, left over or of another shape; nothing is loaded then.
    """
    wanted = model.trunk.state_dict()
    wrong = {
        "missing": sorted(wanted.keys() - tensors.keys()),
        "not of a ViT block": sorted(tensors.keys() - wanted.keys()),
        "of another shape": [
            f"{name} {tuple(tensors[name].shape)} for {tuple(wanted[name].shape)}"
            for name in wanted
            if name in tensors and tensors[name].shape != wanted[name].shape
        ],
    }
    said = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for what, names in wrong.items()
        if names
    ]
    if said:
        raise InputError(
            f"these weights are not the trunk of {len(model.trunk)} blocks, "
            f"{len(model.cls)} wide: {'; '.join(said)}"
        )
    model.trunk.load_state_dict(dict(tensors))
