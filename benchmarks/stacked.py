"""Whether the fits of several folds and seeds should be one stacked model (torch.func.vmap).

    OMP_NUM_THREADS=1 python benchmarks/stacked.py --fits 15

AdaCoMed at the default preset and MMIST-CCRCC's widths: a training step of every fit after the
other, against one step of all fits stacked. Per fit and step it prints milliseconds of both, and
what their matrix products alone take at this batch, which is what stacking cannot save. Random
weights and patients: only time is measured. Stacked fits share their dropout here, which is cheaper
than masks of their own would be.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from step import Setting, Step, build, random_patients
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap

from adacomed.models.batch import Batch
from adacomed.training.engine import ALONE
from adacomed.training.objective import Objective

MMIST = Setting((512, 512, 1024, 384), 64, 64, 64)
ROUNDS = 7


def main() -> None:
    """Print one line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fits", type=int, default=15)
    parser.add_argument("--batch", type=int, default=64)
    args = parser.parse_args()
    batch = random_patients(MMIST, args.batch, torch.device("cpu"))
    steps = [Step(build(MMIST), batch, args.batch, ALONE) for _ in range(args.fits)]
    stacked = stacked_step(steps, batch)
    loop: list[float] = []
    together: list[float] = []
    for _ in range(ROUNDS):  # alternating, so that what else runs here meets both
        loop.append(timed(lambda: [step.run(1) for step in steps]))
        together.append(timed(stacked))
    each = [1e3 * statistics.median(found) / args.fits for found in (loop, together)]
    rate = small_gemm_rate(args.batch)
    products = 1e3 * steps[0].flops() / rate
    print(
        f"{args.fits} fits, batch {args.batch}, {torch.get_num_threads()} threads: one after the "
        f"other {each[0]:.2f} ms, stacked {each[1]:.2f} ms per fit and step, ratio "
        f"{each[1] / each[0]:.2f}; their matrix products alone {products:.2f} ms"
    )


def stacked_step(steps: list[Step], batch: Batch) -> Callable[[], None]:
    """One training step of all fits, their weights stacked along a first axis."""
    base = steps[0].model.train()
    names = {name for name, p in base.named_parameters() if p.requires_grad}
    parameters, buffers = stack_module_state([step.model for step in steps])  # type: ignore[arg-type]
    live = {k: p.detach().clone().requires_grad_() for k, p in parameters.items() if k in names}
    frozen = {k: p.detach() for k, p in parameters.items() if k not in names}
    optimizer = torch.optim.AdamW(live.values(), lr=1e-3, fused=True)
    remembered = steps[0].patients
    objective = Objective(beta=1.0)

    def loss(mine: dict[str, Tensor], fixed: dict[str, Tensor], state: Any) -> Tensor:
        output = functional_call(base, ({**mine, **fixed}, state), (remembered,))
        assert remembered.target is not None
        return objective(output, remembered.target)["loss"]

    every = vmap(loss, randomness="same")

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        every(live, frozen, buffers).sum().backward()
        optimizer.step()

    step()
    return step


def small_gemm_rate(batch: int) -> float:
    """FLOP/s of a product of the step's usual shape, (batch, 512) by (512, 64)."""
    a, b = torch.randn(batch, 512), torch.randn(512, 64)
    times = [timed(lambda: [a @ b for _ in range(100)]) for _ in range(ROUNDS)]
    return 2 * batch * 512 * 64 * 100 / min(times)


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
