"""A vision transformer saved by timm → the same network on transformers' DINOv2 classes.

The two agree layer by layer: pre-norm blocks with LayerScale, GELU MLP or packed SwiGLU, class and
register tokens, learned positions, a final norm. Every size is read off the tensors; only the
number of heads is not in them. Names are those of the published facebook/dinov2 checkpoints, which
every release of transformers loads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from adacomed.encoders.weights import quiet
from adacomed.errors import InputError

HEAD = 64  # width of an attention head in ViT-S, B, L and UNI2-h
LARGEST_RATIO = 64  # MLP width / width
EPS = 1e-6  # of timm's and DINOv2's LayerNorm
LAYER = {  # timm → DINOv2, inside a block; qkv is split apart from it
    "norm1": "norm1",
    "attn.proj": "attention.output.dense",
    "norm2": "norm2",
}
MLP = {"mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
SWIGLU = {"mlp.fc1": "mlp.weights_in", "mlp.fc2": "mlp.weights_out"}


@dataclass(frozen=True)
class ViTShape:
    """Sizes of a vision transformer; `ratio` is transformers' mlp_ratio."""

    width: int
    depth: int
    heads: int
    patch: int  # px
    grid: int  # patches on a side
    registers: int
    swiglu: bool
    ratio: int

    @property
    def side(self) -> int:
        """Of the input image, px."""
        return self.grid * self.patch


def network(shape: ViTShape) -> nn.Module:
    """The network with transformers' initial weights; its `pooler_output` is the normed CLS."""
    model, config = _classes(shape)
    found: nn.Module = model(config)
    return found


def load_vit(tensors: Mapping[str, Tensor], origin: str, heads: int | None = None) -> nn.Module:
    """The network of a timm state dict, float32, evaluation mode.

    Args:
        tensors: timm's names.
        origin: of them, for messages.
        heads: attention heads; default: width / 64.
    Raises:
        InputError: a tensor is missing, left over, or does not fit.
    """
    if not all(isinstance(n, str) and isinstance(t, Tensor) for n, t in tensors.items()):
        raise InputError(f"{origin}: more than tensors in it; expected a timm ViT's state dict")
    shape = read_shape(tensors, origin, heads)
    model, config = _classes(shape)
    state = {name: t.float() for name, t in to_dinov2(tensors, shape, origin).items()}
    try:
        with quiet():
            found, info = model.from_pretrained(
                None, config=config, state_dict=state, output_loading_info=True
            )
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise InputError(f"{origin}: weights of other sizes than a ViT's ({reason})") from None
    wrong = [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]
    if wrong:
        raise InputError(f"{origin}: {len(wrong)} weights do not fit this ViT ({wrong[0]}, …)")
    trunk: nn.Module = found.float().eval()
    return trunk


def read_shape(tensors: Mapping[str, Tensor], origin: str, heads: int | None = None) -> ViTShape:
    """The sizes, read off timm's tensors.

    Raises:
        InputError: not a ViT with LayerScale, or a width that does not divide by the heads.
    """
    projection = _need(tensors, "patch_embed.proj.weight", 4, origin)  # (D, 3, P, P)
    positions = _need(tensors, "pos_embed", 3, origin)  # (1, N, D)
    fc1 = _need(tensors, "blocks.0.mlp.fc1.weight", 2, origin)
    fc2 = _need(tensors, "blocks.0.mlp.fc2.weight", 2, origin)
    _need(tensors, "blocks.0.ls1.gamma", 1, origin)
    width, channels, patch, other = projection.shape
    registers = tensors["reg_token"].shape[1] if "reg_token" in tensors else 0
    grid = _grid(positions.shape[1])
    if channels != 3 or patch != other or not grid:
        raise InputError(
            f"{origin}: patches of {channels} channels, {patch} × {other} px and "
            f"{positions.shape[1]} positions; a ViT of square RGB images is expected"
        )
    heads = heads or max(1, width // HEAD)
    if width % heads:
        raise InputError(f"{origin}: width {width} does not divide by {heads} heads; give heads")
    blocks = {name.split(".")[1] for name in tensors if name.startswith("blocks.")}
    hidden, swiglu = fc2.shape[1], fc1.shape[0] == 2 * fc2.shape[1]
    ratio = _ratio(width, hidden, swiglu)
    if ratio is None:
        raise InputError(f"{origin}: an MLP {hidden} wide at width {width}, which DINOv2 lacks")
    return ViTShape(width, len(blocks), heads, patch, grid, registers, swiglu, ratio)


def to_dinov2(tensors: Mapping[str, Tensor], shape: ViTShape, origin: str) -> dict[str, Tensor]:
    """The same tensors under DINOv2's names; qkv split in three, positions with a class row.

    A timm model with `no_embed_class` has no position for the class token: its row is zero. The
    mask token, used in DINOv2's training only, is zero.

    Raises:
        InputError: a tensor is missing or left over.
    """
    left = {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}

    def take(name: str) -> Tensor:
        if name not in left:
            raise InputError(f"{origin}: no {name} in it; expected a timm ViT with LayerScale")
        return left.pop(name)

    positions = take("pos_embed")
    if positions.shape[1] == shape.grid**2:
        positions = torch.cat([torch.zeros_like(positions[:, :1]), positions], dim=1)
    state = {
        "embeddings.cls_token": take("cls_token"),
        "embeddings.mask_token": torch.zeros(1, shape.width),
        "embeddings.position_embeddings": positions,
    }
    if shape.registers:
        state["embeddings.register_tokens"] = take("reg_token")
    names = {"patch_embed.proj": "embeddings.patch_embeddings.projection", "norm": "layernorm"}
    inside = LAYER | (SWIGLU if shape.swiglu else MLP)
    for i in range(shape.depth):
        block, layer = f"blocks.{i}", f"encoder.layer.{i}"
        names |= {f"{block}.{old}": f"{layer}.{new}" for old, new in inside.items()}
        for n in "12":
            state[f"{layer}.layer_scale{n}.lambda1"] = take(f"{block}.ls{n}.gamma")
        for kind in ("weight", "bias"):
            parts = take(f"{block}.attn.qkv.{kind}").chunk(3)
            for part, name in zip(parts, ("query", "key", "value"), strict=True):
                state[f"{layer}.attention.attention.{name}.{kind}"] = part
    for old, new in names.items():
        state |= {f"{new}.{kind}": take(f"{old}.{kind}") for kind in ("weight", "bias")}
    if left:
        raise InputError(f"{origin}: {len(left)} tensors are not a plain ViT's ({min(left)}, …)")
    return state


def _classes(shape: ViTShape) -> tuple[Any, Any]:
    """transformers' model class and its configuration."""
    try:
        from transformers import (
            Dinov2Config,
            Dinov2Model,
            Dinov2WithRegistersConfig,
            Dinov2WithRegistersModel,
        )
    except ImportError:
        raise InputError("UNI needs transformers: pip install 'adacomed[slide]'") from None
    sizes: dict[str, Any] = {
        "hidden_size": shape.width,
        "num_hidden_layers": shape.depth,
        "num_attention_heads": shape.heads,
        "patch_size": shape.patch,
        "image_size": shape.side,
        "mlp_ratio": shape.ratio,
        "use_swiglu_ffn": shape.swiglu,
        "layer_norm_eps": EPS,
        "attn_implementation": "sdpa",
    }
    if shape.registers:
        sizes["num_register_tokens"] = shape.registers
        return Dinov2WithRegistersModel, Dinov2WithRegistersConfig(**sizes)
    return Dinov2Model, Dinov2Config(**sizes)


def _need(tensors: Mapping[str, Tensor], name: str, dimensions: int, origin: str) -> Tensor:
    found = tensors.get(name)
    if found is None or found.ndim != dimensions or 0 in found.shape:
        raise InputError(
            f"{origin}: no usable {name} in it; expected a ViT with LayerScale in timm's naming "
            f"(UNI's pytorch_model.bin)"
        )
    return found


def _grid(positions: int) -> int:
    """Patches on a side, of positions with or without one for the class token; 0: neither."""
    for patches in (positions, positions - 1):
        side = math.isqrt(max(patches, 0))
        if side and side * side == patches:
            return side
    return 0


def _ratio(width: int, hidden: int, swiglu: bool) -> int | None:
    """The mlp_ratio from which transformers computes this hidden width; None: there is none."""
    for ratio in range(1, LARGEST_RATIO + 1):
        given = width * ratio
        if swiglu:  # two thirds, rounded up to a multiple of 8
            given = (int(given * 2 / 3) + 7) // 8 * 8
        if given == hidden:
            return ratio
    return None
