"""One training step of AdaCoMed against a plain loop over its experts, and the machine's own bound.

    python benchmarks/step.py                                  # this machine's processor
    python benchmarks/step.py --device cuda --batch 4096 --only M=3

Per setting and precision, medians of several alternating rounds in one process: samples per second
of ours; of the same model with its experts and projections in a Python loop and Adam as it comes;
their ratio; and the bound, which is the larger of the step's matrix products at the machine's rate
for one large product and its optimiser's traffic at the machine's copy rate.

Needs torch and this package's models and loop alone. The weights and the patients are random: only
time is measured.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from adacomed.models.adacomed import AdaCoMed
from adacomed.models.batch import Batch
from adacomed.models.mome import Experts, Projections, mlp, modality_subsets
from adacomed.models.presets import PRESETS, build_adacomed
from adacomed.models.small.shallow import ShallowSmall
from adacomed.training.engine import Engine
from adacomed.training.fit import Recipe, start, train_epoch
from adacomed.training.objective import Objective
from adacomed.training.replayed import training_step
from adacomed.training.seed import seed_everything

KINDS = ("float32", "tf32", "bfloat16")


@dataclass(frozen=True)
class Setting:
    """Widths of issue 9's three models."""

    widths: tuple[int, ...]
    H: int
    d: int
    small_width: int


SETTINGS = {
    "M=2": Setting((1536, 5120), 512, 1024, 2048),
    "M=3": Setting((1536, 5120, 1024), 512, 1024, 2048),
    "M=8": Setting((1024,) * 8, 128, 1024, 2048),
}


class LoopedExperts(nn.Module):
    """The experts of Eq. 2 as a list of MLPs."""

    def __init__(self, H: int, M: int, *, dropout: float) -> None:
        super().__init__()
        self.subsets = modality_subsets(M)
        self.experts = nn.ModuleList(
            mlp(len(subset) * H, H, hidden=H, dropout=dropout) for subset in self.subsets
        )

    def mixture(self, h: Tensor, weights: Tensor) -> Tensor:
        """h (B, M, H), weights (B, C) → (B, H)."""
        outputs = [
            expert(torch.cat([h[:, m] for m in subset], dim=-1))
            for subset, expert in zip(self.subsets, self.experts, strict=True)
        ]
        return (weights[..., None] * torch.stack(outputs, dim=1)).sum(dim=1)


class LoopedProjections(nn.Module):
    """Proj_m of Eq. 1 as a list of MLPs."""

    def __init__(self, widths: Mapping[str, int], H: int, *, dropout: float) -> None:
        super().__init__()
        self.each = nn.ModuleDict(
            {m: mlp(D, H, hidden=H, dropout=dropout) for m, D in widths.items()}
        )

    def forward(self, embeddings: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """Tokens (B, M, H), zero where absent."""
        tokens = []
        for i, (m, projection) in enumerate(self.each.items()):
            here = present[:, i, None]
            token = projection(torch.where(here, embeddings[m], 0.0))
            tokens.append(torch.where(here, token, 0.0))
        return torch.stack(tokens, dim=1)


def main() -> None:
    """Print a table per setting."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", choices=SETTINGS, action="append")
    parser.add_argument("--precision", choices=KINDS, action="append")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="also through torch.compile")
    args = parser.parse_args()
    device = torch.device(args.device)
    gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if gpu else platform.processor()
    threads = torch.get_num_threads()
    seed_everything(0)  # deterministic kernels, as every training has
    print(f"{name or platform.machine()}, torch {torch.__version__}, {threads} threads")
    columns = ("samples/s", "looped", "ratio", "TFLOP/s", "of GEMM", "of bound")
    print(f"{f'batch {args.batch}':24}" + "".join(f"{column:>11}" for column in columns))
    for label in args.only or SETTINGS:
        for kind in args.precision or (KINDS if gpu else KINDS[:1]):
            for way in ("plain", *["graphs"] * gpu, *["compiled"] * args.compile):
                row(label, kind, device, args, way)


def row(label: str, kind: str, device: torch.device, args: argparse.Namespace, way: str) -> None:
    """Measure one setting in one precision and print it."""
    torch.set_float32_matmul_precision("high" if kind == "tf32" else "highest")
    dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
    engine = Engine(device, dtype, compiled=way == "compiled", graphs=way == "graphs")
    setting = SETTINGS[label]
    patients = random_patients(setting, args.batch * 2, device)
    ours = Step(build(setting), patients, args.batch, engine)
    looped = Step(loop(build(setting), setting), patients, args.batch, Engine(device, dtype))
    looped.step.optimizer = torch.optim.Adam(looped.parameters, lr=1e-3)
    gemm, copy = gemm_rate(kind, device), copy_rate(device)
    flops = ours.flops()
    # Adam reads weight, gradient and both moments and writes weight and moments: 7 × 4 bytes
    bound = max(flops / gemm, 28.0 * sum(p.numel() for p in ours.parameters) / copy)
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(args.rounds):
        for step, found in zip((ours, looped), times, strict=True):
            found.append(step.seconds(args.seconds))
    mine, plain = map(statistics.median, times)
    title = f"{label} {kind}{'' if way == 'plain' else f', {way}'}"
    print(
        f"{title:24}{args.batch / mine:11,.0f}{args.batch / plain:11,.0f}{plain / mine:11.2f}"
        f"{flops / mine / 1e12:11.3f}{flops / mine / gemm:11.1%}{bound / mine:11.1%}",
        flush=True,
    )


class Step:
    """A model, its optimiser and its patients, ready to take steps."""

    def __init__(self, model: AdaCoMed, patients: Batch, size: int, engine: Engine) -> None:
        self.size, self.engine = size, engine
        model.to(engine.device)
        self.patients = model.remember(patients)
        assert model.bank is not None
        assert self.patients.e_small is not None
        assert self.patients.index is not None
        model.bank.fill(self.patients.e_small[:256], self.patients.index[:256])
        loop = start(model, Recipe(lr=1e-3, optimizer="adamw"), 0)
        self.step = training_step(model, loop.optimizer, Objective(beta=1.0), engine)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.parts = list(torch.split(torch.arange(len(patients)), size))
        self.run(6)

    def run(self, steps: int) -> None:
        """Take so many steps."""
        parts = [self.parts[i % len(self.parts)] for i in range(steps)]
        train_epoch(self.step, self.patients, parts)

    def flops(self) -> float:
        """Floating-point operations of one step's matrix products."""
        plain = replace(self.engine, compiled=False, graphs=False)
        step = training_step(self.step.model, self.step.optimizer, Objective(beta=1.0), plain)
        with FlopCounterMode(display=False) as counter:
            train_epoch(step, self.patients, self.parts[:1])
        return float(counter.get_total_flops())

    def seconds(self, wanted: float) -> float:
        """Seconds per step, over about `wanted` seconds."""
        one = self._timed(2)
        return self._timed(max(2, round(wanted / one)))

    def _timed(self, steps: int) -> float:
        wait(self.engine.device)
        started = time.perf_counter()
        self.run(steps)
        wait(self.engine.device)
        return (time.perf_counter() - started) / steps


def build(setting: Setting) -> AdaCoMed:
    """AdaCoMed of the default preset at these widths, around a small model of random weights."""
    torch.manual_seed(0)
    widths = {f"m{i}": D for i, D in enumerate(setting.widths)}
    small = ShallowSmall({"clinical": 20}, width=setting.small_width, classes=2, dropout=0.3)
    preset = replace(PRESETS["default"], H=setting.H, d=setting.d)
    return build_adacomed(preset, widths, small, strategy="ensemble")


def loop(model: AdaCoMed, setting: Setting) -> AdaCoMed:
    """The same model with loops over modalities and experts."""
    mome, p = model.mome, PRESETS["default"].dropout
    assert isinstance(mome.projections, Projections)
    assert isinstance(mome.experts, Experts)
    widths = {f"m{i}": D for i, D in enumerate(setting.widths)}
    mome.projections = LoopedProjections(widths, setting.H, dropout=p)  # type: ignore[assignment]
    mome.experts = LoopedExperts(setting.H, len(widths), dropout=p)  # type: ignore[assignment]
    return model


def random_patients(setting: Setting, n: int, device: torch.device) -> Batch:
    """n random patients, a fifth of whose modalities are absent."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    M = len(setting.widths)
    present = torch.rand(n, M, generator=generator) > 0.2
    present[:, 0] = True
    batch = Batch(
        embeddings={f"m{i}": random(n, D) for i, D in enumerate(setting.widths)},
        present=present,
        small={"clinical": random(n, 20)},
        target=torch.randint(0, 2, (n,), generator=generator),
        index=torch.arange(n),
    )
    return batch.to(device)


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


def best(work: Callable[[], object], device: torch.device, rounds: int = 7) -> float:
    """Seconds of the quickest of some repetitions."""
    times = []
    for _ in range(rounds):
        wait(device)
        started = time.perf_counter()
        work()
        wait(device)
        times.append(time.perf_counter() - started)
    return min(times)


def wait(device: torch.device) -> None:
    """Until the device has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
