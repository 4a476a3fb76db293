"""Where training steps run: a device, a precision, alone or with other processes."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from multiprocessing import connection
from typing import Literal, Protocol

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from adacomed.errors import InputError
from adacomed.models.batch import Batch, Output
from adacomed.models.shared import Share

Precision = Literal["auto", "float32", "bfloat16"]
CPU = torch.device("cpu")
AHEAD = 3  # batches that are read while one is trained on
MANY = 2000  # training patients: below, a fit takes about as long as a card takes to start


def one_core() -> None:
    """From here this process computes on one core, whatever library does: processes scale, threads
    do not. Two processes whose OpenBLAS each takes every core wait for each other most of the time.
    """
    for library in ("OMP", "OPENBLAS", "MKL"):
        os.environ[f"{library}_NUM_THREADS"] = "1"  # of what is loaded later
    threadpool_limits(1)
    torch.set_num_threads(1)


def die_with_parent() -> None:
    """In a process of a pool: a killed parent leaves no orphan computing on."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class Patients(Protocol):
    """What a fit reads its patients from: a `Batch` of all, or files (`streamed.Streamed`)."""

    @property
    def target(self) -> Tensor | None:
        """Of all of them, in memory."""
        ...

    @property
    def present(self) -> Tensor:
        """(N, M) bool, in memory."""
        ...

    def __len__(self) -> int: ...

    def rows(self, index: Tensor) -> Batch:
        """The patients at `index` (int64), in that order."""
        ...


@dataclass(frozen=True)
class Engine:
    """One process.

    Attributes:
        device: of the model and its batches.
        dtype: torch.bfloat16 runs matrix products so (autocast); weights stay float32.
        compiled: through torch.compile.
        graphs: steps are recorded and launched as a whole (`replayed.py`).
        rank, world: this process among all of a training.
    """

    device: torch.device = CPU
    dtype: torch.dtype = torch.float32
    compiled: bool = False
    graphs: bool = False
    rank: int = 0
    world: int = 1

    def ready(self, model: nn.Module) -> nn.Module:
        """What a training step calls in place of `model`, which it shares its weights with."""
        return torch.compile(model) if self.compiled else model  # type: ignore[return-value]

    def place(self, patients: Batch) -> Batch:
        """All patients on the device, where they take less than half of what is free there."""
        if self.device.type != "cuda" or patients.raw:
            return patients
        free, _ = torch.cuda.mem_get_info(self.device)
        needed = sum(x.numel() * x.element_size() for x in patients.embeddings.values())
        return patients.to(self.device) if needed < free / 2 else patients

    def autocast(self) -> AbstractContextManager[object]:
        """What a forward pass runs under."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    @contextmanager
    def products(self) -> Iterator[None]:
        """What a whole step runs under: beside half precision, a card's float32 products (Eq. 5
        of a large batch) are TF32."""
        if self.device.type != "cuda" or self.dtype == torch.float32:
            yield
            return
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)

    def own(self, rows: Tensor) -> tuple[Tensor, Share | None]:
        """Of a batch's rows those of this process, and what its model has to know of the others."""
        return rows, None

    def everyone(self, output: Output, target: Tensor) -> tuple[Output, Tensor]:
        """Output and target of this process's patients → of the whole batch."""
        return output, target

    def backward(self, loss: Tensor) -> None:
        """Gradients of the whole batch's loss."""
        loss.backward()  # type: ignore[no-untyped-call]


ALONE = Engine()


def wants_card(device: str, patients: int) -> bool:
    """Whether `training.device` asks for a card, for so many training patients, if there is one."""
    return patients >= MANY if device == "auto" else device.startswith("cuda")


def local_engine(
    device: str, precision: Precision, *, compiled: bool, graphs: bool, patients: int
) -> Engine:
    """The engine that settings ask for.

    Args:
        device: "auto": a graphics card where there is one and so many patients that it pays.
        precision: "auto": bfloat16 on a card that has it; the processor stays with float32.
        compiled, graphs: as the engine's; the one leaves nothing for the other, which needs a card.
        patients: training patients.
    Raises:
        InputError: a device that is not there.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() and wants_card(device, patients) else "cpu"
    try:
        where = torch.device(device)
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError):
        there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise InputError(
            f"training.device: {device!r} is not there; found {', '.join(there)}"
        ) from None
    if precision == "auto":
        half = where.type == "cuda" and torch.cuda.is_bf16_supported()
        precision = "bfloat16" if half else "float32"
    graphs = graphs and where.type == "cuda" and not compiled
    return Engine(where, getattr(torch, precision), compiled, graphs)


def feed(
    source: Patients, parts: list[Tensor], engine: Engine
) -> Iterator[tuple[Batch, Share | None]]:
    """The batches of an epoch on the engine's device, read ahead where reading takes time."""
    own = [engine.own(rows) for rows in parts]
    if isinstance(source, Batch) and source.present.device == engine.device:
        for rows, share in own:
            yield source.rows(rows.to(engine.device)), share
        return

    def read(rows: Tensor) -> Batch:
        return source.rows(rows).to(engine.device)

    todo = iter(own)
    with ThreadPoolExecutor(1, "feed") as reader:
        ahead: list[tuple[Future[Batch], Share | None]] = []
        try:
            while True:
                wanted = islice(todo, AHEAD - len(ahead))
                ahead += [(reader.submit(read, rows), share) for rows, share in wanted]
                if not ahead:
                    return
                batch, share = ahead.pop(0)
                yield batch.result(), share
        finally:
            for batch, _ in ahead:
                batch.cancel()
