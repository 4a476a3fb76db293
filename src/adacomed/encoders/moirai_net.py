"""The encoder of MOIRAI: patches of many variables → one state each.

Written from the published architecture, with the published parameter names, so that the files of
the hub load as they are. The parts that only forecasting needs (the mask token, the distribution's
parameters) are left out.

Source: Woo et al., "Unified Training of Universal Time Series Forecasting Transformers", ICML 2024.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from adacomed.encoders.weights import Weights, load_tensors
from adacomed.errors import InputError

HEAD = 64  # width of an attention head
EPS = 1e-5  # of the norms, and added to a variable's variance
ROTARY_BASE = 10000.0
FORECASTING = ("mask_encoding.", "param_proj.")  # parameters that an embedding does not need


@dataclass(frozen=True)
class MoiraiConfig:
    """What config.json says; its other fields concern training and forecasting."""

    d_model: int
    num_layers: int
    patch_sizes: tuple[int, ...]
    max_seq_len: int
    scaling: bool = True

    @classmethod
    def read(cls, path: Path) -> MoiraiConfig:
        """Raises InputError: not MOIRAI's config, or numbers that no such model has."""
        try:
            stated = json.loads(path.read_text(encoding="utf-8"))
            config = cls(
                d_model=int(stated["d_model"]),
                num_layers=int(stated["num_layers"]),
                patch_sizes=tuple(int(size) for size in stated["patch_sizes"]),
                max_seq_len=int(stated["max_seq_len"]),
                scaling=bool(stated.get("scaling", True)),
            )
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(
                f"{path}: not the config of a MOIRAI (1.0-R or 1.1-R) model; expected d_model, "
                f"num_layers, patch_sizes and max_seq_len in it"
            ) from None
        sound = config.d_model >= HEAD and config.d_model % (4 * (config.d_model // HEAD)) == 0
        sound = sound and config.d_model <= 8192 and 1 <= config.num_layers <= 128
        if not (sound and config.patch_sizes and min(config.patch_sizes) >= 1):
            raise InputError(f"{path}: no MOIRAI model has these sizes")
        return config


class MoiraiEncoder(nn.Module):
    """Patches → token states. B samples, N tokens, D = d_model."""

    def __init__(self, config: MoiraiConfig) -> None:
        super().__init__()
        self.config = config
        self.in_proj = PatchProjection(config.patch_sizes, config.d_model)
        self.encoder = Layers(config.d_model, config.num_layers)

    def forward(self, patches: Tensor, time: Tensor, variable: Tensor, attended: Tensor) -> Tensor:
        """States after the last norm, (B, N, D).

        Args:
            patches: standardised values, (B, N, p), p one of the patch sizes.
            time: position of each patch in time, (B, N) integers.
            variable: which variable each patch is of, (B, N); only equality matters.
            attended: which tokens exist, (B, N) bool, at least one of each sample; no state
                depends on the others, and theirs mean nothing.
        """
        hidden: Tensor = self.encoder(self.in_proj(patches), time, variable, attended)
        return hidden


class PatchProjection(nn.Module):
    """One linear map for each patch size, kept in one tensor: (B, N, p) → (B, N, D)."""

    def __init__(self, patch_sizes: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.patch_sizes = patch_sizes
        self.weight = nn.Parameter(torch.empty(len(patch_sizes), width, max(patch_sizes)))
        self.bias = nn.Parameter(torch.empty(len(patch_sizes), width))

    def forward(self, patches: Tensor) -> Tensor:
        """By the map of the patches' own size."""
        size = patches.shape[-1]
        which = self.patch_sizes.index(size)
        return F.linear(patches, self.weight[which, :, :size], self.bias[which])


class Layers(nn.Module):
    """The pre-norm transformer and its last norm: (B, N, D) → (B, N, D)."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(width) for _ in range(layers))
        self.norm = nn.RMSNorm(width, eps=EPS)

    def forward(self, hidden: Tensor, time: Tensor, variable: Tensor, attended: Tensor) -> Tensor:
        """Arguments as of `MoiraiEncoder`, but for the projected patches, (B, N, D)."""
        heads = hidden.shape[-1] // HEAD
        turns = rotation(time, hidden.shape[-1] // heads // 2)
        same = variable.unsqueeze(-1) == variable.unsqueeze(-2)  # (B, N, N)
        for layer in self.layers:
            hidden = layer(hidden, turns, same, attended)
        normed: Tensor = self.norm(hidden)
        return normed


class Layer(nn.Module):
    """Attention and feed-forward, each on the normed state and added to it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.self_attn = Attention(width)
        self.ffn = GatedFeedForward(width)
        self.norm1 = nn.RMSNorm(width, eps=EPS)
        self.norm2 = nn.RMSNorm(width, eps=EPS)

    def forward(
        self, hidden: Tensor, turns: tuple[Tensor, Tensor], same: Tensor, attended: Tensor
    ) -> Tensor:
        """(B, N, D) → (B, N, D); arguments as of `Attention`."""
        hidden = hidden + self.self_attn(self.norm1(hidden), turns, same, attended)
        fed: Tensor = hidden + self.ffn(self.norm2(hidden))
        return fed


class Attention(nn.Module):
    """Any-variate attention: normed queries and keys, half of each turned by its time, and one
    learned bias a head for pairs of the same variable, one for pairs of different ones.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // HEAD
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.out_proj = nn.Linear(width, width, bias=False)
        self.q_norm = nn.RMSNorm(width // self.heads, eps=EPS)
        self.k_norm = nn.RMSNorm(width // self.heads, eps=EPS)
        self.var_attn_bias = VariableBias(self.heads)

    def forward(
        self, hidden: Tensor, turns: tuple[Tensor, Tensor], same: Tensor, attended: Tensor
    ) -> Tensor:
        """(B, N, D) → (B, N, D).

        Args:
            hidden: normed states.
            turns: cosine and sine of `rotation`.
            same: pairs of tokens of one variable, (B, N, N).
            attended: which tokens exist, (B, N).
        """
        query = turn(self.q_norm(self._split(self.q_proj(hidden))), turns)  # (B, heads, N, d)
        key = turn(self.k_norm(self._split(self.k_proj(hidden))), turns)
        scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
        scores = scores + self.var_attn_bias(same)
        scores = scores.masked_fill(~attended[:, None, None, :], float("-inf"))
        # written out: a fused kernel may change with the mask or the device
        mixed = scores.float().softmax(-1).to(scores.dtype) @ self._split(self.v_proj(hidden))
        projected: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return projected

    def _split(self, states: Tensor) -> Tensor:
        """(B, N, D) → (B, heads, N, d)"""
        samples, tokens, _ = states.shape
        return states.view(samples, tokens, self.heads, -1).transpose(1, 2)


class VariableBias(nn.Module):
    """Added to the scores, (B, heads, N, N): row 1 for the same variable, row 0 for another."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.emb = nn.Embedding(2, heads)

    def forward(self, same: Tensor) -> Tensor:
        """`same`: which pairs are of one variable, (B, N, N)."""
        bias: Tensor = self.emb(same.long())
        return bias.permute(0, 3, 1, 2)


class GatedFeedForward(nn.Module):
    """SwiGLU of two thirds of the usual inner width, rounded up to a multiple of 8."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = -(-int(4 * width * 2 / 3) // 8) * 8
        self.fc1 = nn.Linear(width, inner, bias=False)
        self.fc_gate = nn.Linear(width, inner, bias=False)
        self.fc2 = nn.Linear(inner, width, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, N, D) → (B, N, D)"""
        fed: Tensor = self.fc2(F.silu(self.fc_gate(hidden)) * self.fc1(hidden))
        return fed


def rotation(time: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the rotary angles, (B, 1, N, width / 2) each, in single precision."""
    steps = torch.arange(0, width, 2, device=time.device, dtype=torch.float32)
    angle = time[:, None, :, None].float() * ROTARY_BASE ** (-steps / width)
    return angle.cos(), angle.sin()


def turn(states: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate neighbouring pairs in the first half of (B, heads, N, d); the second half stays."""
    cos, sin = turns
    timed, rest = states.chunk(2, dim=-1)
    even, odd = timed[..., 0::2], timed[..., 1::2]
    turned = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)
    return torch.cat((turned.to(states.dtype), rest), dim=-1)


def standardise(values: NDArray[np.float64], missing: str = "mean") -> NDArray[np.float32]:
    """Each variable to mean 0 and variance 1 over what was observed, (V, T), rounded as published.

    Args:
        values: (V, T), NaN where not observed.
        missing: what stands there: "mean": 0 after scaling; "zero": 0 before it, as in uni2ts.
    """
    observed = ~np.isnan(values)
    known = np.where(observed, values.astype(np.float32).astype(np.float64), 0.0)
    count = observed.sum(axis=1, keepdims=True)
    loc = known.sum(axis=1, keepdims=True) / np.maximum(count, 1)
    squares = np.where(observed, (known - loc) ** 2, 0.0).sum(axis=1, keepdims=True)
    scale = np.sqrt(squares / np.maximum(count - 1, 1) + EPS).astype(np.float32)
    scaled: NDArray[np.float32] = (known.astype(np.float32) - loc.astype(np.float32)) / scale
    return scaled if missing == "zero" else np.where(observed, scaled, np.float32(0))


def load_network(weights: Weights) -> MoiraiEncoder:
    """The encoder in float32, in evaluation mode, every parameter from the file.

    Raises:
        InputError: unreadable, or the file does not belong to its config.json.
    """
    config = MoiraiConfig.read(weights.folder / "config.json")
    tensors = load_tensors(weights.files())
    tensors = {k: v.float() for k, v in tensors.items() if not k.startswith(FORECASTING)}
    with torch.device("meta"):
        network = MoiraiEncoder(config)
    expected = {name: value.shape for name, value in network.state_dict().items()}
    found = {name: value.shape for name, value in tensors.items()}
    wrong = sorted(k for k in expected | found if expected.get(k) != found.get(k))
    if wrong:
        raise InputError(
            f"{weights.folder}: {len(wrong)} parameters of the weights file and of the encoder of "
            f"MOIRAI 1.0-R and 1.1-R differ in name or shape ({wrong[0]}, …); the weights do not "
            f"belong to config.json, or are of another model"
        )
    network.load_state_dict(tensors, assign=True)
    return network.eval()
