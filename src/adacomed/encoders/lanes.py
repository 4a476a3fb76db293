"""Independent forward passes side by side: on a CPU one core each, on a GPU one after another.

Splitting one pass over all cores makes them wait for each other hundreds of times; passes of their
own never wait. It is faster, far faster where other processes share the cores, and the numbers do
not depend on how many cores there are.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import nn

P = TypeVar("P")
R = TypeVar("R")


def run_passes(function: Callable[[P], R], passes: Sequence[P], device: torch.device) -> list[R]:
    """`function` of every pass, in order.

    Args:
        function: computes one pass; sets inference mode itself (it is a thread's own).
        passes: what it takes; of a CPU, as many at once as torch may use threads.
        device: where it computes.
    """
    if device.type != "cpu":
        return [function(one) for one in passes]
    return list(_lanes(torch.get_num_threads(), os.getpid()).map(function, passes))


def columns_first(model: nn.Module) -> nn.Module:
    """The same model, its linear layers' weights stored column by column.

    A product of few rows with such a matrix is up to a third faster on a CPU; no value changes.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.data = layer.weight.data.t().contiguous().t()
    return model


@functools.cache
def _lanes(count: int, process: int) -> ThreadPoolExecutor:
    """Threads of one core each; made anew in a forked process, where a parent's are dead."""
    started = threading.Barrier(count)

    def one_core() -> None:
        torch.get_num_threads()  # a thread's first call takes the process's number
        torch.set_num_threads(1)  # of this thread, and of threads that are yet to come
        started.wait()

    pool = ThreadPoolExecutor(count, "adacomed-lane", initializer=one_core)
    list(pool.map(id, range(count)))  # returns when all have started
    torch.set_num_threads(count)
    return pool
