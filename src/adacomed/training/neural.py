"""Training of every neural method, AdaCoMed first, through one plan and one loop."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import nn

from adacomed.config import Experiment
from adacomed.evaluation.discrimination import choose_threshold
from adacomed.models.adacomed import AdaCoMed
from adacomed.models.baselines.ensemble import Average
from adacomed.models.batch import Batch, Output
from adacomed.models.members import Members
from adacomed.models.presets import PRESETS, Preset, build_adacomed
from adacomed.models.small.shallow import ShallowSmall
from adacomed.models.weighting import STRATEGIES
from adacomed.training.fit import Recipe
from adacomed.training.objective import Objective, class_weights
from adacomed.training.seed import derive
from adacomed.training.selection import (
    Candidate,
    Choice,
    Part,
    Plan,
    Tick,
    choose,
    clearly_better,
    finish,
)
from adacomed.training.trained import Trained, build_from_spec, correct_prior


def resolve_preset(experiment: Experiment) -> Preset:
    """The experiment's preset with its own values put over it."""
    values = {
        **experiment.model.model_dump(exclude_none=True),
        **{
            name: value
            for name in ("epochs", "members", "lr", "weight_decay", "label_smoothing")
            if (value := getattr(experiment.training, name)) is not None
        },
    }
    small = experiment.small.epochs or experiment.training.epochs
    if small is not None:
        values["small_epochs"] = small
    return replace(PRESETS[experiment.preset], **values)


class Trainer:
    """One fold's training of any neural method.

    Args:
        experiment: settings; the preset and its overrides decide every constant.
        plan: parts to train and validate on.
        classes: K.
        seed: of this fold and repetition.
        tick: called with the stage's name after every epoch.
    """

    def __init__(
        self, experiment: Experiment, plan: Plan, *, classes: int, seed: int, tick: Tick
    ) -> None:
        self.experiment, self.plan, self.K, self.seed = experiment, plan, classes, seed
        self.preset = resolve_preset(experiment)
        self.tick = tick
        self._smalls: dict[str, ShallowSmall] = {}
        self._small_choice: Choice | None = None

    # ---- the methods ----------------------------------------------------------------------------
    def adacomed(self) -> Trained:
        """Algorithm 1, its strategy and epoch count chosen on validation."""
        small = self._choose_small()
        named = self.preset.strategy
        strategies = STRATEGIES if named == "auto" else (named,)
        candidates = {s: self._candidate("adacomed", self._fusion(s), s) for s in strategies}
        choices = {s: choose(c, self.plan) for s, c in candidates.items()}
        best = self._best_strategy(choices)
        models = finish(candidates[best], choices[best], self.plan)
        for model in models:
            _set_threshold_t(model, choices[best].output)
        spec = {
            "model": "adacomed",
            "preset": asdict(self.preset),
            "strategy": best,
            "small_width": self.experiment.small.width,
            "bank": _bank_size(models[0]),
        }
        trained = self._trained(models, choices[best], spec, "adacomed", fusion=True)
        trained.history = [("small", *row) for row in small.history] + trained.history
        trained.choices |= {
            "strategy": best,
            "small_epochs": small.epochs,
            "strategy_auroc_on_validation": {s: round(c.score, 4) for s, c in choices.items()},
        }
        return trained

    def small(self) -> Trained:
        """The small multimodal model alone: the one that AdaCoMed starts from, seed for seed."""
        choice = self._choose_small()
        models = [self._small_for(part) for part in self.plan.members or self.plan.parts]
        spec = {"model": "small", "small_width": self.experiment.small.width}
        return self._trained(models, choice, spec, "small")

    def large_ensemble(self) -> Trained:
        """Concatenated large embeddings and a head."""
        spec = {"model": "large-ensemble", "preset": asdict(self.preset)}
        return self._one(spec, "large-ensemble")

    def single(self, modality: str) -> Trained:
        """`<modality>-large`: one large embedding and a head."""
        spec = {"model": "single", "modality": modality, "preset": asdict(self.preset)}
        return self._one(spec, f"{modality}-large")

    def average(self) -> Trained:
        """Mean of the logits of large-ensemble and small, each trained alone."""
        large, small = self.large_ensemble(), self.small()
        model = Average(large.model, small.model).eval()
        spec = {**large.spec, **small.spec, "model": "average"}
        logits = (large.val_output.logits + small.val_output.logits) / 2
        output = Output(logits=logits)
        return replace(
            large,
            model=model,
            spec=spec,
            val_output=output,
            threshold=self._threshold(output),
            history=large.history + small.history,
            choices={"large": large.choices, "small": small.choices},
        )

    def _best_strategy(self, choices: dict[str, Choice]) -> str:
        """The best on validation, if it clearly beats the first candidate (the plain ensemble)."""
        incumbent, *_ = choices
        best = max(choices, key=lambda s: choices[s].score)
        better = clearly_better(
            choices[best].output.logits, choices[incumbent].output.logits, self.plan
        )
        return best if better else incumbent

    # ---- their parts ----------------------------------------------------------------------------
    def _one(self, spec: dict[str, Any], stage: str) -> Trained:
        def build(part: Part, seed: int) -> nn.Module:
            return build_from_spec(spec, part.fitted, self.K)

        candidate = self._candidate(stage, build)
        choice = choose(candidate, self.plan)
        models = finish(candidate, choice, self.plan)
        return self._trained(models, choice, spec, stage)

    def _choose_small(self) -> Choice:
        if self._small_choice is None:
            self._small_choice = choose(self._candidate("small", self._new_small), self.plan)
        return self._small_choice

    def _new_small(self, part: Part, seed: int) -> ShallowSmall:
        settings = self.experiment.small
        return ShallowSmall(
            part.fitted.small_widths,
            width=settings.width,
            classes=self.K,
            dropout=settings.dropout,
        )

    def _small_for(self, part: Part) -> ShallowSmall:
        """The small model pretrained on a part's training patients, for the chosen epochs."""
        if part.name not in self._smalls:
            choice = self._choose_small()
            only = Plan(self.plan.parts, [part] if self.plan.members else [])
            [model] = finish(self._candidate("small", self._new_small), choice, only)
            assert isinstance(model, ShallowSmall)
            self._smalls[part.name] = model
        return self._smalls[part.name]

    def _fusion(self, strategy: str) -> Callable[[Part, int], nn.Module]:
        def build(part: Part, seed: int) -> nn.Module:
            small = copy.deepcopy(self._small_for(part))
            torch.manual_seed(seed)  # pretraining a small model above must not move the start
            model = build_adacomed(self.preset, part.fitted.widths, small, strategy=strategy)
            if model.bank is not None:
                fill_bank(model, part.train, seed)
            return model

        return build

    def _recipe(self, stage: str) -> Recipe:
        return Recipe(
            epochs=self.preset.small_epochs if stage == "small" else self.preset.epochs,
            lr=self.preset.lr,
            weight_decay=self.preset.weight_decay,
            optimizer=self.preset.optimizer,
            batch_size=self.experiment.training.batch_size,
            patience=self.experiment.training.patience,
        )

    def _objective(self, *, fusion: bool) -> Callable[[Part], Objective]:
        weighted = self.experiment.training.class_weights
        weighted = weighted and (self.preset.fusion_class_weights or not fusion)

        def objective(part: Part) -> Objective:
            assert part.train.target is not None
            return Objective(
                lambda_=self.preset.lambda_,
                tau=self.preset.tau,
                beta=self.preset.beta,
                class_weights=class_weights(part.train.target, self.K) if weighted else None,
                label_smoothing=self.preset.label_smoothing,
            )

        return objective

    def _candidate(
        self, stage: str, build: Callable[[Part, int], nn.Module], name: str | None = None
    ) -> Candidate:
        return Candidate(
            build=build,
            objective=self._objective(fusion=stage == "adacomed"),
            recipe=self._recipe(stage),
            seed=derive(self.seed, stage),
            tick=lambda: self.tick(name or stage),
        )

    def _trained(
        self,
        models: Sequence[nn.Module],
        choice: Choice,
        spec: dict[str, Any],
        stage: str,
        *,
        fusion: bool = False,
    ) -> Trained:
        part = self.plan.kept
        weights = self._objective(fusion=fusion)(part).class_weights
        log_prior = torch.zeros(self.K)
        if weights is not None and self.preset.prior_correction:
            log_prior = weights.log()
        output = correct_prior(choice.output, log_prior)
        return Trained(
            model=(Members(models) if len(models) > 1 else models[0]).eval(),
            fitted=part.fitted,
            spec={**spec, "members": len(models)},
            log_prior=log_prior,
            threshold=self._threshold(output),
            val_output=output,
            history=[(stage, *row) for row in choice.history],
            choices={"epochs": choice.epochs, "auroc_on_validation": round(choice.score, 4)},
        )

    def _threshold(self, output: Output) -> float:
        """Maximises macro F1 on validation; 0.5 stands for argmax where K > 2."""
        if self.K > 2:
            return 0.5
        target = self.plan.val_target
        prob = torch.softmax(output.logits.double(), -1)[:, 1].numpy()
        return float(choose_threshold(target, prob))


def fill_bank(model: AdaCoMed, train: Batch, seed: int) -> None:
    """Put a seeded sample of the training patients into the bank of Eq. 4."""
    assert model.bank is not None
    assert train.index is not None
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(train), generator=generator)[: len(model.bank.z_small)]
    with torch.no_grad():
        e_small = model.small.eval().embed(train.rows(rows).small)
    model.bank.fill(e_small, train.index[rows])


def _bank_size(model: nn.Module) -> int:
    assert isinstance(model, AdaCoMed)
    return 0 if model.bank is None else len(model.bank.z_small)


def _set_threshold_t(model: nn.Module, output: Output) -> None:
    """t of the threshold strategy: the median of s on validation, where the preset asks for it."""
    assert isinstance(model, AdaCoMed)
    if model.weighting.follow and output.s is not None:
        model.weighting.t.copy_(output.s.median())
