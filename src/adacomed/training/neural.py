"""Training of every neural method, AdaCoMed first, through one plan and one loop."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from adacomed.config import Experiment
from adacomed.models.adacomed import AdaCoMed
from adacomed.models.baselines.ensemble import Average
from adacomed.models.batch import Output
from adacomed.models.presets import build_adacomed
from adacomed.training.build import build_from_spec, start_at_base, start_from_published
from adacomed.training.engine import ALONE, Engine, Patients
from adacomed.training.plan import Part, Plan
from adacomed.training.pretraining import AUTO, SmallModels
from adacomed.training.recipes import resolve_preset
from adacomed.training.selection import (
    Candidate,
    Choice,
    Snapshots,
    Tick,
    Watch,
    choose,
    clearly_better,
    finish,
)
from adacomed.training.stages import Stages
from adacomed.training.strategies import (
    Judged,
    fitted_weighting,
    judge,
    settle,
    training_strategy,
)
from adacomed.training.trained import Trained


class Trainer:
    """One fold's training of any neural method; what two methods share is trained once.

    Args:
        experiment: settings; the preset and its overrides decide every constant.
        plan: parts to train and validate on.
        classes: K, or the width of the plan's outcome.
        seed: of this fold and repetition.
        task: name of the task (MultimodalPred's authors give class weights by task).
        smalls: small models of other trainers of this fold, which may differ in the fusion.
        watch, engine, snapshots: as for a `Candidate`.
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
        smalls: dict[str, SmallModels] | None = None,
        watch: Watch = lambda *_: None,
        engine: Engine = ALONE,
        snapshots: Snapshots = lambda *_: None,
    ) -> None:
        preset = resolve_preset(experiment)
        if plan.outcome.kind != "classes" and preset.mix == "probabilities":
            preset = replace(preset, mix="sigmoids")
        self.experiment, self.preset, self.plan, self.K = experiment, preset, plan, classes
        self.stages = Stages(
            experiment, preset, plan, classes, seed, task, watch, engine, snapshots
        )
        self.tick: Tick = lambda stage: None
        self._shared = {} if smalls is None else smalls
        self._fusions: dict[str, Choice] = {}
        self._plain: dict[str, Trained] = {}

    # ---- the methods ----------------------------------------------------------------------------
    def adacomed(self, strategy: str) -> Trained:
        """Algorithm 1, its epoch count (and with "auto" its strategy) chosen on validation."""
        small, trained_with = self.smalls.choice, training_strategy(strategy)
        choice = self._choose_fusion(trained_with)
        judged = Judged.of(self.plan, choice.output, self.preset, self.stages.log_prior("adacomed"))
        verdict = judge(strategy, self.preset, judged, self.plan)
        candidate = self._candidate("adacomed", self._fusion(trained_with), trained_with)
        models = finish(candidate, choice, self._given())
        for model in models:
            assert isinstance(model, AdaCoMed)
            if verdict.best == trained_with:
                settle(model.weighting, judged)
            else:
                model.weighting = fitted_weighting(verdict.best, self.preset, judged)
        spec = {
            **self._spec("adacomed"),
            "preset": {**asdict(self.preset), "strategy": strategy},
            "strategy": verdict.best,
            "bank": _bank_size(models[0]),
        }
        weighed = replace(choice, output=verdict.output, score=verdict.scores[verdict.best])
        trained = self.stages.trained(models, weighed, spec, "adacomed")
        trained.history = [("small", *row) for row in small.history] + trained.history
        trained.choices |= {
            "strategy": verdict.best,
            "small": self.smalls.experiment.small.kind,
            "small_epochs": small.epochs,
            f"strategy_{self.plan.outcome.metric}_on_validation": {
                s: round(v, 4) for s, v in verdict.scores.items()
            },
        }
        return trained

    def small(self) -> Trained:
        """The small multimodal model alone: the one that AdaCoMed starts from, seed for seed."""
        smalls = self.smalls
        return self.stages.trained(smalls.kept, smalls.choice, self._spec("small"), "small")

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
                return start_at_base(model, self.K) if self.stages.sigmoids else model

            candidate = self._candidate(stage, build)
            choice = choose(candidate, self.plan)
            models = finish(candidate, choice, self.plan)
            self._plain[stage] = self.stages.trained(models, choice, spec, stage)
        return self._plain[stage]

    def average(self) -> Trained:
        """Mean of the logits of large-ensemble and small, each trained alone."""
        large, small = self.plain("large-ensemble"), self.small()
        model = Average(large.model, small.model).eval()
        logits = (large.val_output.logits + small.val_output.logits) / 2
        output = Output(logits=logits)
        made = self.stages.calibrated(output)
        return replace(
            large,
            model=model,
            log_prior=(large.log_prior + small.log_prior) / 2,  # of the mean of both logits
            spec={**large.spec, **self._spec("average")},
            val_output=output,
            history=large.history + small.history,
            threshold=made.threshold,
            calibrator=made.calibrator,
            sets=made.sets,
            choices={"large": large.choices, "small": small.choices, **made.found},
        )

    def watch(self, strategy: str, on_step: Callable[[Output], None], epochs: int) -> nn.Module:
        """Train AdaCoMed on the kept part and show every step's output (Fig. 6, Fig. 2)."""
        built = self._fusion(strategy)

        def build(part: Part, seed: int) -> nn.Module:
            model = built(part, seed)
            model.watched = True  # type: ignore[assignment]
            return model

        candidate = self._candidate("adacomed", build, strategy)
        recipe = replace(candidate.recipe, epochs=epochs, patience=None)
        return candidate.train(self._given().kept, recipe, on_step=on_step)[0]

    # ---- their parts ----------------------------------------------------------------------------
    def _spec(self, model: str) -> dict[str, Any]:
        return {
            "model": model,
            "preset": asdict(self.preset),
            "small": self._small_settings(model),
            "baselines": self.experiment.baselines.model_dump(mode="json"),
            **self.stages.asked,
        }

    def _small_settings(self, model: str) -> dict[str, Any]:
        """Of the small model that is in `model`; for one without, as the experiment has them."""
        within = model in ("adacomed", "small", "average")
        return (self.smalls if within else self).experiment.small.model_dump(mode="json")

    @cached_property
    def smalls(self) -> SmallModels:
        """The small models; with "auto" their kind is chosen on validation.

        Only where inner folds judge: on one held-out set the network has already picked its best
        epoch, and would look better than a stack that has picked nothing there.
        """
        kind = self.experiment.small.kind or self.preset.small
        kinds = (kind,) if kind != "auto" else AUTO if self.plan.members else AUTO[:1]
        if self.plan.streamed and kind == "auto":
            kinds = ("shallow",)  # classical models would need every patient in memory
        best, *others = [self._smalls_of(k) for k in kinds]
        for other in others:
            if clearly_better(other.choice.output.logits, best.choice.output.logits, self.plan):
                best = other
        return best

    def _smalls_of(self, kind: str) -> SmallModels:
        small = self.experiment.small.model_copy(update={"kind": kind})
        named = self.experiment.model_copy(update={"small": small})
        made = SmallModels(replace(self.stages, experiment=named))
        made = self._shared.setdefault(made.key, made)
        made.tick = lambda: self.tick("small")
        return made

    def _given(self) -> Plan:
        """The plan with what the small models of its parts say of their training patients."""
        parts, members = self.plan.parts, self.plan.members
        given = self.smalls.given
        return replace(self.plan, parts=[*map(given, parts)], members=[*map(given, members)])

    def _choose_fusion(self, strategy: str) -> Choice:
        if strategy not in self._fusions:
            candidate = self._candidate("adacomed", self._fusion(strategy), strategy)
            self._fusions[strategy] = choose(candidate, self._given())
        return self._fusions[strategy]

    def _fusion(self, strategy: str) -> Callable[[Part, int], nn.Module]:
        def build(part: Part, seed: int) -> nn.Module:
            small = copy.deepcopy(self.smalls.of(part))
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
        return self.stages.candidate(stage, build, lambda: self.tick(name or stage))


def fill_bank(model: AdaCoMed, train: Patients, seed: int) -> None:
    """Put a seeded sample of the training patients into the bank of Eq. 4."""
    assert model.bank is not None
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(train), generator=generator)[: len(model.bank.z_small)]
    with torch.no_grad():
        known = train.rows(rows)
        e_small = known.e_small
        if e_small is None:
            e_small = model.small.eval().embed(known)
    assert known.index is not None
    model.bank.fill(e_small, known.index)


def _bank_size(model: nn.Module) -> int:
    assert isinstance(model, AdaCoMed)
    return 0 if model.bank is None else len(model.bank.z_small)
