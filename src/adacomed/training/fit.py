"""Algorithm 1: the one loop that trains AdaCoMed, the small model and every neural baseline."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from adacomed.models.batch import Batch, Output, Outputs
from adacomed.models.shared import sharing
from adacomed.training.engine import ALONE, Engine, Patients, feed
from adacomed.training.objective import Objective
from adacomed.training.replayed import training_step
from adacomed.training.step import Step, averaged

WARM_UP = 0.1  # of the epochs, for a model that asks for its patients in an order of its own
AT_ONCE = 2048  # patients that are evaluated together
Row = tuple[int, str, str, float]  # epoch, part, metric, value


@dataclass(frozen=True)
class Recipe:
    """How to optimise: constants of the loop, none of the model."""

    epochs: int = 100
    lr: float = 1e-4
    weight_decay: float = 0.0
    optimizer: str = "adam"
    batch_size: int = 64
    patience: int | None = 10  # None: no early stopping
    stop_after: int | None = None  # leave the schedule as it is, stop early


@dataclass
class FitResult:
    """What a fit leaves behind beside the model itself.

    Attributes:
        best_epoch: epochs trained in the weights that the model now holds (1-based).
        history: rows of (epoch, part, metric, value).
        val_outputs: with `keep_val`, the validation patients' output after every epoch.
        val_output: the same after the best epoch alone, where there is a `patience`.
    """

    best_epoch: int = 0
    history: list[Row] = field(default_factory=list)
    val_outputs: list[Output] = field(default_factory=list)
    val_output: Output | None = None


@dataclass
class Loop:
    """A fit under way: everything that its next epoch depends on, beside torch's generators.

    Attributes:
        generator: of the order of the patients.
        epoch: epochs done.
        best_state: weights of the best epoch so far; None without a `patience`.
        finished: nothing is left to train; `best_state` is what to keep, else the model's own.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    generator: torch.Generator
    result: FitResult = field(default_factory=FitResult)
    epoch: int = 0
    best_score: float = -torch.inf
    best_state: dict[str, Tensor] | None = None
    finished: bool = False


class Snapshot(Protocol):
    """Where a fit is kept after every epoch, so that a killed one can go on (`snapshots.py`)."""

    def restore(self, loop: Loop) -> None:
        """Put a fresh loop where the kept one was; nothing where nothing was kept."""
        ...

    def save(self, loop: Loop) -> None:
        """Keep the loop as it is after an epoch, in place of the one before."""
        ...


def fit(
    model: nn.Module,
    train: Patients,
    *,
    objective: Objective,
    recipe: Recipe,
    seed: int,
    val: Patients | None = None,
    score: Callable[[Tensor, Tensor], float] | None = None,
    metric: str = "auroc",
    keep_val: bool = False,
    on_epoch: Callable[[int, float | None], None] | None = None,
    on_step: Callable[[Output], None] | None = None,
    engine: Engine = ALONE,
    snapshot: Snapshot | None = None,
) -> FitResult:
    """Train `model` in place.

    Args:
        train: all training patients, with target and index.
        seed: decides the order of the patients and dropout; the start is the model's own.
        val: validation patients. With a `patience` the weights of their best epoch are kept.
        score: (logits (N, K), target (N,)) → value on validation, higher is better.
        metric: what the score is called in the history.
        keep_val: keep every epoch's validation output (to choose epochs over several folds).
        on_epoch: called after every epoch with its number and score.
        on_step: called with the batch's output in every training step (Fig. 6).
        engine: where steps run. The model is back on the processor afterwards.
        snapshot: where the loop is kept, and taken up again.
    Raises:
        FloatingPointError: the loss is not finite; nothing is skipped silently.
    Source: AdaCoMed Algorithm 1; Adam with a cosine schedule (Sec. 4.1).
    """
    model.to(engine.device)
    train, val = _remembered(model, train, engine), val and _remembered(model, val, engine)
    loop = start(model, recipe, seed)
    if snapshot is not None:
        snapshot.restore(loop)
    result, ordered = loop.result, getattr(model, "warm_up_order", None)
    step = training_step(model, loop.optimizer, objective, engine)
    while not loop.finished:
        loop.epoch += 1
        parts = batches(len(train), recipe.batch_size, loop.generator, least=engine.world)
        if ordered is not None and loop.epoch <= recipe.epochs * WARM_UP:
            parts = list(torch.split(ordered(train), recipe.batch_size))
        means = train_epoch(step, train, parts, on_step)
        loop.schedule.step()
        result.history += [(loop.epoch, "train", name, value) for name, value in means.items()]
        value = None
        if val is not None and score is not None:
            output, losses = _validate(model, val, step.objective, engine)
            assert val.target is not None
            value = score(output.logits, val.target.cpu())
            losses[metric] = value
            result.history += [(loop.epoch, "val", name, x) for name, x in losses.items()]
            if keep_val:
                result.val_outputs.append(output)
            if recipe.patience is not None and value > loop.best_score:
                loop.best_score, result.best_epoch, result.val_output = value, loop.epoch, output
                loop.best_state = copy.deepcopy(model.state_dict())
            del output  # of many patients it is large
        loop.finished = _is_over(loop, recipe)
        if snapshot is not None:
            snapshot.save(loop)
        if on_epoch is not None:
            on_epoch(loop.epoch, value)
    if loop.best_state is not None:
        model.load_state_dict(loop.best_state)
    else:
        result.best_epoch = loop.epoch
    prepare(model)
    model.to("cpu")
    return result


def _remembered(model: nn.Module, patients: Patients, engine: Engine) -> Patients:
    """The patients with what is frozen computed once, on the engine's device where they fit."""
    remember = getattr(model, "remember", None)
    if not isinstance(patients, Batch):
        return patients
    patients = engine.place(patients)
    return remember(patients) if callable(remember) else patients


def start(model: nn.Module, recipe: Recipe, seed: int) -> Loop:
    """A fit before its first epoch; torch's own generator is seeded too."""
    torch.manual_seed(seed)  # dropout
    generator = torch.Generator().manual_seed(seed)  # order of the patients
    parameters = [p for p in model.parameters() if p.requires_grad]
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    optimizer = kind(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=recipe.epochs)
    return Loop(model, optimizer, schedule, generator)


def _is_over(loop: Loop, recipe: Recipe) -> bool:
    stale = loop.epoch - loop.result.best_epoch
    stopped = recipe.patience is not None and loop.best_state is not None
    return loop.epoch >= (recipe.stop_after or recipe.epochs) or (
        stopped and stale >= recipe.patience  # type: ignore[operator]
    )


def prepare(model: nn.Module) -> None:
    """Bring derived state (the bank of Eq. 4) up to date with the weights, and switch to eval."""
    for module in model.modules():
        refresh = getattr(module, "refresh", None)
        if callable(refresh):
            refresh()
    model.eval()


@torch.no_grad()
def evaluate(model: nn.Module, patients: Patients) -> Output:
    """Output of all patients in evaluation mode, without the training set's index, on the CPU."""
    return _validate(model, patients, None)[0]


@torch.no_grad()
def _validate(
    model: nn.Module, patients: Patients, objective: Objective | None, engine: Engine = ALONE
) -> tuple[Output, dict[str, float]]:
    """The same, and the losses: means over groups of `AT_ONCE` patients, which processes share."""
    prepare(model)
    device = next(model.parameters()).device
    outputs, means = Outputs(len(patients)), Means()
    for rows in torch.split(torch.arange(len(patients)), AT_ONCE):
        own, share = engine.own(rows) if len(rows) >= engine.world else (rows, None)
        batch = patients.rows(own).to(device)
        with sharing(share):
            output, target = model(replace(batch, target=None, index=None)), batch.target
        if share is not None and target is not None:
            output, target = engine.everyone(output, target)
        if objective is not None and target is not None and len(patients) > 1:
            told = {"s": output.s, "w_large": output.w_large}
            means.add(*averaged({**objective(output, target), **told}), len(rows))
        outputs.add(replace(output, z_large=None, z_small=None))
    return outputs.output(), means.values()


class Means:
    """Means over an epoch's patients, summed where the values are: nobody waits for a number."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.total: Tensor | None = None
        self.count = 0

    def add(self, names: list[str], means: Tensor, rows: int) -> None:
        """Means (len(names),) of a batch of so many patients."""
        self.names, part = names, means * rows
        self.total = part if self.total is None else self.total + part
        self.count += rows

    def values(self) -> dict[str, float]:
        """Name → mean."""
        if self.total is None:
            return {}
        return dict(zip(self.names, (self.total / self.count).tolist(), strict=True))


def train_epoch(
    step: Step,
    train: Patients,
    parts: list[Tensor],
    on_step: Callable[[Output], None] | None = None,
) -> dict[str, float]:
    """One pass over the rows in `parts`, a batch each; means of the losses, s and w_large.

    Raises:
        FloatingPointError: a loss was not finite.
    """
    step.called.train()
    means = Means()
    for rows, (batch, share) in zip(parts, feed(train, parts, step.engine), strict=True):
        taken = step.take(batch, share)
        if on_step is not None:
            on_step(taken.output)
        means.add(taken.names, taken.means, len(rows))
    found = means.values()
    if not all(map(math.isfinite, found.values())):
        raise FloatingPointError(f"the training loss became {found['loss']}")
    return found


def batches(n: int, size: int, generator: torch.Generator, *, least: int = 1) -> list[Tensor]:
    """Shuffled rows in batches; a last batch of one joins the one before (Eq. 5 needs two).

    Args:
        least: processes that share a batch: each needs a row of it.
    """
    parts = list(torch.split(torch.randperm(n, generator=generator), size))
    if len(parts) > 1 and len(parts[-1]) < max(2, least):
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts
