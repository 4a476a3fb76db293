"""What an explanation inside a modality is made of, whatever computed it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from adacomed.errors import InputError


class Part(NamedTuple):
    """A piece of one patient's modality."""

    level: str  # "variable", "time", "token" or "patch"
    name: str  # of a variable; else its place
    position: float | None = None  # hours of a time, index of a token or patch


@dataclass(frozen=True)
class Inside:
    """How the parts of one patient's modality moved the fused log-odds of a class.

    Attributes:
        explained: the class; its log-odds are against all others.
        method: in words, with what the parts are compared to.
        parts, values: of equal length; values in log-odds (nats). Parts of one level add up to
            `total`, but for what `gap` says.
        errors: standard errors of estimated values, else None.
        total: log-odds as they are, less the log-odds of what they are compared to.
        gap: `total` less the sum of the values, the largest over the levels.
        words: of a text, the tokens themselves; patient data, for a file only.
    """

    sample_id: str
    modality: str
    explained: int
    method: str
    parts: list[Part]
    values: list[float]
    total: float
    gap: float
    errors: list[float] | None = None
    words: list[str] | None = None

    def rows(self) -> Iterator[tuple[object, ...]]:
        """Rows of schema.Explanations."""
        for part, value in zip(self.parts, self.values, strict=True):
            place = (part.level, self.modality, part.name, part.position)
            yield (self.sample_id, self.explained, *place, value)

    def to_dict(self) -> dict[str, Any]:
        """JSON values, the words of a text among them."""
        return asdict(self) | {"parts": [part._asdict() for part in self.parts]}


def log_odds(logits: Tensor, k: int, *, findings: bool = False) -> Tensor:
    """Log-odds of class k against all others, or of finding k, logits (R, K) → (R,)."""
    if findings:
        return logits[:, k]
    others = [j for j in range(logits.shape[1]) if j != k]
    return logits[:, k] - logits[:, others].logsumexp(dim=1)


def captum_attr() -> ModuleType:
    """captum.attr, or InputError that says how to get it."""
    try:
        return import_module("captum.attr")
    except ImportError:
        raise InputError(
            "an explanation inside a modality needs captum: pip install 'adacomed[explain]'"
        ) from None


def one_row(x: Tensor, rows: int) -> Tensor:
    """The single patient's (1, …) as (rows, …)."""
    return x.expand(rows, *x.shape[1:])


def index_of(rows: int) -> Tensor:
    """Row 0, `rows` times: repeats the only patient of a batch."""
    return torch.zeros(rows, dtype=torch.long)
