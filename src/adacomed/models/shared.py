"""A batch that several processes share: each has some of its rows, all train as one would.

Every process draws the dropout of the whole batch, from the same seed, and uses what belongs to its
own patients. What depends on a batch's other patients reads those of every process (`whole`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Share:
    """This process has the batch's rows from `start`; all have `total` together.

    Attributes:
        gather: (B, …) of this process → (total, …) of all, with a gradient.
    """

    start: int
    total: int
    gather: Callable[[Tensor], Tensor]


_share: ContextVar[Share | None] = ContextVar("share", default=None)
_silent: ContextVar[bool] = ContextVar("silent", default=False)


@contextmanager
def sharing(share: Share | None) -> Iterator[None]:
    """In this block a model sees this share of every batch; None: all of it."""
    token = _share.set(share)
    try:
        yield
    finally:
        _share.reset(token)


@contextmanager
def silent() -> Iterator[None]:
    """In this block nothing is dropped: the rows are no patients of the batch."""
    token = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(token)


def whole(x: Tensor) -> Tensor:
    """(B, …) → the whole batch's rows, (total, …)."""
    share = _share.get()
    return x if share is None else share.gather(x)


def drawn(shape: Sequence[int], keep: float, rows: int, like: Tensor) -> Tensor:
    """1 with chance `keep` (in steps of 2^−16), else 0, of `shape`, whose axis `rows` is the batch.

    On a processor four draws come of one 64-bit number: a third of the time of `bernoulli_`.
    """
    everyone, share = list(shape), _share.get()
    if share is not None:
        everyone[rows] = share.total
    if like.is_cuda:
        draws = torch.empty(everyone, device=like.device, dtype=like.dtype).bernoulli_(keep)
    else:
        n = math.prod(everyone)
        bits = torch.empty(-(-n // 4), dtype=torch.int64).random_(-(2**63), None)
        below = bits.view(torch.int16)[:n] < min(round(keep * 2**16) - 2**15, 2**15 - 1)
        draws = below.view(everyone).to(like.dtype)
    return draws if share is None else draws.narrow(rows, share.start, shape[rows])


class Dropout(nn.Module):
    """nn.Dropout by `drawn`.

    Args:
        p: chance that a value is dropped.
        rows: axis of the patients.
    """

    def __init__(self, p: float, *, rows: int = 0) -> None:
        super().__init__()
        self.p, self.rows = p, rows

    def forward(self, x: Tensor) -> Tensor:
        """x of any shape → the same shape."""
        if not self.training or self.p == 0 or _silent.get():
            return x
        if x.is_cuda and _share.get() is None:
            return F.dropout(x, self.p)  # one kernel
        keep = 1 - self.p
        return x * drawn(x.shape, keep, self.rows, x).div_(keep)
