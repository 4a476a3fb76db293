"""Algorithm 1: the one loop that trains AdaCoMed, the small model and every neural baseline."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from adacomed.models.batch import Batch, Output
from adacomed.training.objective import Objective

WARM_UP = 0.1  # of the epochs, for a model that asks for its patients in an order of its own


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
    """

    best_epoch: int
    history: list[tuple[int, str, str, float]] = field(default_factory=list)
    val_outputs: list[Output] = field(default_factory=list)


def fit(
    model: nn.Module,
    train: Batch,
    *,
    objective: Objective,
    recipe: Recipe,
    seed: int,
    val: Batch | None = None,
    score: Callable[[Tensor, Tensor], float] | None = None,
    metric: str = "auroc",
    keep_val: bool = False,
    on_epoch: Callable[[], None] | None = None,
    on_step: Callable[[Output], None] | None = None,
) -> FitResult:
    """Train `model` in place.

    Args:
        train: all training patients, with target and index.
        seed: decides the order of the patients and dropout; the start is the model's own.
        val: validation patients. With a `patience` the weights of their best epoch are kept.
        score: (logits (N, K), target (N,)) → value on validation, higher is better.
        metric: what the score is called in the history.
        keep_val: keep every epoch's validation output (to choose epochs over several folds).
        on_epoch: called after every epoch (progress bar).
        on_step: called with the batch's output in every training step (Fig. 6).
    Raises:
        FloatingPointError: the loss is not finite; nothing is skipped silently.
    Source: AdaCoMed Algorithm 1; Adam with a cosine schedule (Sec. 4.1).
    """
    remember = getattr(model, "remember", None)  # of what is frozen
    if callable(remember):
        train, val = remember(train), None if val is None else remember(val)
    torch.manual_seed(seed)  # dropout
    generator = torch.Generator().manual_seed(seed)  # order of the patients
    ordered = getattr(model, "warm_up_order", None)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = _optimizer(recipe, parameters)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=recipe.epochs)
    result = FitResult(best_epoch=0)
    best_score, best_state = -torch.inf, None
    for epoch in range(1, (recipe.stop_after or recipe.epochs) + 1):
        parts = batches(len(train), recipe.batch_size, generator)
        if ordered is not None and epoch <= recipe.epochs * WARM_UP:
            parts = list(torch.split(ordered(train), recipe.batch_size))
        means = _train_epoch(model, train, objective, optimizer, parts, on_step)
        schedule.step()
        result.history += [(epoch, "train", name, value) for name, value in means.items()]
        if val is not None and score is not None:
            output = evaluate(model, val)
            assert val.target is not None
            value = score(output.logits, val.target)
            losses = objective(output, val.target) if len(val) > 1 else {}
            result.history += [(epoch, "val", k, float(v)) for k, v in losses.items()]
            result.history.append((epoch, "val", metric, value))
            if keep_val:
                result.val_outputs.append(output)
            if recipe.patience is not None and value > best_score:
                best_score, result.best_epoch = value, epoch
                best_state = copy.deepcopy(model.state_dict())
        if on_epoch is not None:
            on_epoch()
        stale = epoch - result.best_epoch
        if recipe.patience is not None and best_state is not None and stale >= recipe.patience:
            break
    if best_state is not None:
        model.load_state_dict(best_state)
    else:
        result.best_epoch = epoch
    prepare(model)
    return result


def prepare(model: nn.Module) -> None:
    """Bring derived state (the bank of Eq. 4) up to date with the weights, and switch to eval."""
    for module in model.modules():
        refresh = getattr(module, "refresh", None)
        if callable(refresh):
            refresh()
    model.eval()


@torch.no_grad()
def evaluate(model: nn.Module, batch: Batch) -> Output:
    """Output of all patients of `batch` in evaluation mode, without the training set's index."""
    prepare(model)
    return model(replace(batch, target=None, index=None)).detach()  # type: ignore[no-any-return]


def _optimizer(recipe: Recipe, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)


def _train_epoch(
    model: nn.Module,
    train: Batch,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    parts: list[Tensor],
    on_step: Callable[[Output], None] | None,
) -> dict[str, float]:
    """One pass over the training patients; means of the losses, s and w_large."""
    model.train()
    sums: dict[str, float] = {}
    for rows in parts:
        batch = train.rows(rows)
        assert batch.target is not None
        output = model(batch)
        losses = objective(output, batch.target)
        own = getattr(model, "auxiliary", None)  # a loss of the model's own, such as a router's
        if own is not None:
            losses["loss"] = losses["loss"] + own
            model.auxiliary = None  # type: ignore[assignment]  # of this batch alone
        if not torch.isfinite(losses["loss"]):
            raise FloatingPointError(f"the training loss became {losses['loss'].item()}")
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if on_step is not None:
            on_step(output)
        shown = {**losses, "s": output.s, "w_large": output.w_large}
        for name, value in shown.items():
            if value is not None:
                sums[name] = sums.get(name, 0.0) + float(value.detach().mean()) * len(rows)
    return {name: total / len(train) for name, total in sums.items()}


def batches(n: int, size: int, generator: torch.Generator) -> list[Tensor]:
    """Shuffled rows in batches; a last batch of one joins the one before (Eq. 5 needs two)."""
    parts = list(torch.split(torch.randperm(n, generator=generator), size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts
