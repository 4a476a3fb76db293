"""Training of every neural method, AdaCoMed first, through one plan and one loop."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import nn

from adacomed.config import Experiment
from adacomed.evaluation.discrimination import choose_threshold
from adacomed.models.adacomed import AdaCoMed
from adacomed.models.baselines.ensemble import Average
from adacomed.models.batch import Batch, Output
from adacomed.models.members import Members
from adacomed.models.presets import build_adacomed
from adacomed.models.weighting import STRATEGIES
from adacomed.training.build import build_from_spec, start_from_published
from adacomed.training.recipes import objective_of, recipe_of, resolve_preset
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
from adacomed.training.trained import Trained, correct_prior


@dataclass
class Pretrained:
    """Small models of one fold: the choice of their epochs, and a model per part."""

    choice: Choice | None = None
    models: dict[str, nn.Module] = field(default_factory=dict)


class Trainer:
    """One fold's training of any neural method; what two methods share is trained once.

    Args:
        experiment: settings; the preset and its overrides decide every constant.
        plan: parts to train and validate on.
        classes: K.
        seed: of this fold and repetition.
        task: name of the task (MultimodalPred's authors give class weights by task).
        pretrained: small models of other trainers of this fold, which may differ in the fusion.
    Attributes:
        tick: called with the stage's name after every epoch.
    """

    def __init__(
        self,
        experiment: Experiment,
        plan: Plan,
        *,
        classes: int,
        seed: int,
        task: str,
        pretrained: dict[str, Pretrained] | None = None,
    ) -> None:
        self.experiment, self.plan, self.K, self.seed = experiment, plan, classes, seed
        self.task = task
        self.preset = resolve_preset(experiment)
        self.tick: Tick = lambda stage: None
        shared = {} if pretrained is None else pretrained
        self._pretrained = shared.setdefault(self._small_key(), Pretrained())
        self._fusions: dict[str, Choice] = {}
        self._plain: dict[str, Trained] = {}

    # ---- the methods ----------------------------------------------------------------------------
    def adacomed(self, strategy: str) -> Trained:
        """Algorithm 1, its epoch count (and with "auto" its strategy) chosen on validation."""
        small = self._choose_small()
        strategies = STRATEGIES if strategy == "auto" else (strategy,)
        choices = {s: self._choose_fusion(s) for s in strategies}
        best = self._best_strategy(choices)
        models = finish(
            self._candidate("adacomed", self._fusion(best), best), choices[best], self.plan
        )
        for model in models:
            _set_threshold_t(model, choices[best].output)
        spec = {
            **self._spec("adacomed"),
            "preset": {**asdict(self.preset), "strategy": strategy},
            "strategy": best,
            "bank": _bank_size(models[0]),
        }
        trained = self._trained(models, choices[best], spec, "adacomed")
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
        return self._trained(models, choice, self._spec("small"), "small")

    def single(self, modality: str) -> Trained:
        """`<modality>-large`: one large embedding and a head."""
        return self.plain("single", f"{modality}-large", modality=modality)

    def plain(self, model: str, stage: str | None = None, **more: Any) -> Trained:
        """A method that is one network: whatever `build_from_spec` knows by that name."""
        stage = stage or model
        if stage not in self._plain:
            spec = self._spec(model) | more

            def build(part: Part, seed: int) -> nn.Module:
                model = build_from_spec(spec, part.fitted, self.K)
                start_from_published(model, spec)
                return model

            candidate = self._candidate(stage, build)
            choice = choose(candidate, self.plan)
            models = finish(candidate, choice, self.plan)
            self._plain[stage] = self._trained(models, choice, spec, stage)
        return self._plain[stage]

    def average(self) -> Trained:
        """Mean of the logits of large-ensemble and small, each trained alone."""
        large, small = self.plain("large-ensemble"), self.small()
        model = Average(large.model, small.model).eval()
        logits = (large.val_output.logits + small.val_output.logits) / 2
        output = Output(logits=logits)
        return replace(
            large,
            model=model,
            log_prior=(large.log_prior + small.log_prior) / 2,  # of the mean of both logits
            spec={**large.spec, "model": "average"},
            val_output=output,
            threshold=self._threshold(output),
            history=large.history + small.history,
            choices={"large": large.choices, "small": small.choices},
        )

    def watch(self, strategy: str, on_step: Callable[[Output], None], epochs: int) -> nn.Module:
        """Train AdaCoMed on the kept part and show every step's output (Fig. 6, Fig. 2)."""
        candidate = self._candidate("adacomed", self._fusion(strategy), strategy)
        recipe = replace(candidate.recipe, epochs=epochs, patience=None)
        return candidate.train(self.plan.kept, recipe, on_step=on_step)[0]

    # ---- their parts ----------------------------------------------------------------------------
    def _spec(self, model: str) -> dict[str, Any]:
        return {
            "model": model,
            "preset": asdict(self.preset),
            "small": self.experiment.small.model_dump(mode="json"),
            "baselines": self.experiment.baselines.model_dump(mode="json"),
        }

    def _best_strategy(self, choices: dict[str, Choice]) -> str:
        """The best on validation, if it clearly beats the first candidate (the plain ensemble)."""
        incumbent, *_ = choices
        best = max(choices, key=lambda s: choices[s].score)
        better = clearly_better(
            choices[best].output.logits, choices[incumbent].output.logits, self.plan
        )
        return best if better else incumbent

    def _choose_small(self) -> Choice:
        if self._pretrained.choice is None:
            self._pretrained.choice = choose(self._small_candidate(), self.plan, keep=True)
        return self._pretrained.choice

    def _small_key(self) -> str:
        """Everything that a pretrained small model depends on."""
        e, p = self.experiment, self.preset
        settings = [s.model_dump_json() for s in (e.small, e.training, e.inputs)]
        constants = (p.small_epochs, p.lr, p.weight_decay, p.optimizer, p.label_smoothing)
        return f"{settings} {constants} {p.members} {bool(self.plan.kept.fitted.raw.shapes)}"

    def _small_candidate(self) -> Candidate:
        spec = self._spec("small")
        return self._candidate("small", lambda part, _: build_from_spec(spec, part.fitted, self.K))

    def _small_for(self, part: Part) -> nn.Module:
        """The small model pretrained on a part's training patients, for the chosen epochs."""
        models = self._pretrained.models
        if part.name not in models:
            choice = self._choose_small()
            known = {p.name: m for p, m in zip(self.plan.parts, choice.models, strict=True)}
            whole = choice.epochs == self._small_candidate().recipe.epochs
            if part.name in known and (whole or not self.plan.members):
                models[part.name] = known[part.name]
            else:
                only = Plan(self.plan.parts, [part])
                [models[part.name]] = finish(self._small_candidate(), choice, only)
        return models[part.name]

    def _choose_fusion(self, strategy: str) -> Choice:
        if strategy not in self._fusions:
            candidate = self._candidate("adacomed", self._fusion(strategy), strategy)
            self._fusions[strategy] = choose(candidate, self.plan)
        return self._fusions[strategy]

    def _fusion(self, strategy: str) -> Callable[[Part, int], nn.Module]:
        def build(part: Part, seed: int) -> nn.Module:
            small = copy.deepcopy(self._small_for(part))
            torch.manual_seed(seed)  # pretraining a small model above must not move the start
            model = build_adacomed(
                self.preset,
                part.fitted.widths,
                small,  # type: ignore[arg-type]
                strategy=strategy,
            )
            if model.bank is not None:
                fill_bank(model, part.train, seed)
            return model

        return build

    def _candidate(
        self, stage: str, build: Callable[[Part, int], nn.Module], name: str | None = None
    ) -> Candidate:
        return Candidate(
            build=build,
            objective=lambda part: self._objective(stage, part),
            recipe=recipe_of(stage, self.experiment, self.preset),
            seed=derive(self.seed, stage),
            tick=lambda: self.tick(name or stage),
        )

    def _objective(self, stage: str, part: Part) -> Any:
        assert part.train.target is not None
        return objective_of(
            stage, self.experiment, self.preset, part.train.target, self.K, self.task
        )

    def _trained(
        self, models: Sequence[nn.Module], choice: Choice, spec: dict[str, Any], stage: str
    ) -> Trained:
        part = self.plan.kept
        weights = self._objective(stage, part).class_weights
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
        e_small = model.small.eval().embed(train.rows(rows))
    model.bank.fill(e_small, train.index[rows])


def _bank_size(model: nn.Module) -> int:
    assert isinstance(model, AdaCoMed)
    return 0 if model.bank is None else len(model.bank.z_small)


def _set_threshold_t(model: nn.Module, output: Output) -> None:
    """t of the threshold strategy: the median of s on validation, where the preset asks for it."""
    assert isinstance(model, AdaCoMed)
    if model.weighting.follow and output.s is not None:
        model.weighting.t.copy_(output.s.median())
