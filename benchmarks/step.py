"""One training step of AdaCoMed against what the machine's matrix products and copies allow.

    python benchmarks/step.py                                  # this machine's processor
    python benchmarks/step.py --device cuda --batch 4096 --widths 1536,5120,1024

Needs torch and this package's models alone, so that it runs where nothing else is installed. The
weights and the patients are random: only time is measured.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from adacomed.models.batch import Batch
from adacomed.models.presets import PRESETS, build_adacomed
from adacomed.models.small.shallow import ShallowSmall
from adacomed.training.fit import Recipe, _optimizer, _train_epoch
from adacomed.training.objective import Objective

ROUNDS = 5  # the median of these is printed


def main() -> None:
    """Print samples per second in every precision, and the share of the machine's own bound."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--widths", default="1536,5120", help="D_m of the modalities")
    parser.add_argument("--H", type=int, default=512)
    parser.add_argument("--d", type=int, default=1024)
    parser.add_argument("--small-width", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--compile", action="store_true", help="also through torch.compile")
    args = parser.parse_args()
    device = torch.device(args.device)
    widths = {f"m{i}": int(D) for i, D in enumerate(args.widths.split(","))}
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    threads = torch.get_num_threads()
    print(f"{name or platform.machine()}, torch {torch.__version__}, {threads} threads")
    train = patients(widths, args.batch * 4, device)
    print(
        f"M = {len(widths)} ({args.widths}), H = {args.H}, batch {args.batch}, median of {ROUNDS}"
    )
    columns = ("samples/s", "ms/step", "TFLOP/s", "of GEMM", "of bound")
    print(f"{'step':24}" + "".join(f"{column:>13}" for column in columns))
    for kind in ("float32", "tf32", "bfloat16") if device.type == "cuda" else ("float32",):
        with precision(kind, device) as autocast:
            gemm = gemm_rate(kind, device)
            for compiled in (False, True) if args.compile else (False,):
                model = build(widths, args.H, args.d, args.small_width).to(device)
                seconds, flops, moved = measure(
                    model, train, args.batch, args.steps, autocast, compiled=compiled
                )
                bound = max(flops / gemm, moved / copy_rate(device))
                label = kind + (", compiled" if compiled else "")
                print(
                    f"{label:24}{args.batch / seconds:13,.0f}{seconds * 1e3:13.2f}"
                    f"{flops / seconds / 1e12:13.2f}{flops / seconds / gemm:13.1%}"
                    f"{bound / seconds:13.1%}"
                )


def build(widths: dict[str, int], H: int, d: int, small_width: int) -> nn.Module:
    """AdaCoMed of the default preset at these widths, around a small model of random weights."""
    torch.manual_seed(0)
    small = ShallowSmall({"clinical": 20}, width=small_width, classes=2, dropout=0.3)
    preset = replace(PRESETS["default"], H=H, d=d)
    return build_adacomed(preset, widths, small, strategy="gaussian")


def patients(widths: dict[str, int], n: int, device: torch.device) -> Batch:
    """n random patients, a fifth of whose modalities are absent."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    present = torch.rand(n, len(widths), generator=generator) > 0.2
    present[:, 0] = True
    batch = Batch(
        embeddings={m: random(n, D) for m, D in widths.items()},
        present=present,
        small={"clinical": random(n, 20)},
        target=torch.randint(0, 2, (n,), generator=generator),
        index=torch.arange(n),
    )
    return batch.to(device)


def measure(
    model: nn.Module,
    train: Batch,
    size: int,
    steps: int,
    autocast: Callable[[], object],
    *,
    compiled: bool,
) -> tuple[float, float, float]:
    """Seconds per step (median), FLOP per step, bytes that its optimiser moves."""
    train = model.remember(train)  # type: ignore[operator]
    model.bank.fill(train.e_small[:256], train.index[:256])  # type: ignore[union-attr,index]
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = _optimizer(Recipe(), parameters)
    step = torch.compile(model) if compiled else model
    order = torch.arange(len(train), device=train.present.device)
    parts = list(torch.split(order, size))[: max(1, len(train) // size)]

    def run(n: int) -> None:
        with autocast():  # type: ignore[attr-defined]
            _train_epoch(
                step, train, Objective(), optimizer, [parts[i % len(parts)] for i in range(n)], None
            )

    run(3)
    with FlopCounterMode(display=False) as counter, autocast():  # type: ignore[attr-defined]
        _train_epoch(model, train, Objective(), optimizer, parts[:1], None)
    times = []
    for _ in range(ROUNDS):
        wait(train.present.device)
        started = time.perf_counter()
        run(steps)
        wait(train.present.device)
        times.append((time.perf_counter() - started) / steps)
    # Adam reads weight, gradient and both moments and writes weight and moments: 7 × 4 bytes
    moved = 28.0 * sum(p.numel() for p in parameters)
    return statistics.median(times), float(counter.get_total_flops()), moved


@contextmanager
def precision(kind: str, device: torch.device) -> Iterator[Callable[[], object]]:
    """What a step runs under."""
    torch.set_float32_matmul_precision("high" if kind == "tf32" else "highest")
    if kind == "bfloat16":
        yield lambda: torch.autocast(device.type, torch.bfloat16)
    else:
        yield nullcontext


def gemm_rate(kind: str, device: torch.device) -> float:
    """FLOP/s of one large square matrix product in this precision."""
    n = 8192 if device.type == "cuda" else 2048
    dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
    a, b = torch.randn(2, n, n, device=device, dtype=dtype)
    return 2 * n**3 / best(lambda: a @ b, device)


def copy_rate(device: torch.device) -> float:
    """Bytes/s of a large copy, read and write counted."""
    x = torch.empty(2**28 if device.type == "cuda" else 2**25, device=device)
    y = torch.empty_like(x)
    return 2 * x.numel() * 4 / best(lambda: y.copy_(x), device)


def best(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the quickest of some repetitions."""
    times = []
    for _ in range(2 + ROUNDS):
        wait(device)
        started = time.perf_counter()
        work()
        wait(device)
        times.append(time.perf_counter() - started)
    return min(times[2:])


def wait(device: torch.device) -> None:
    """Until the device has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
