"""What all stages of one fold share: how a stage is optimised, and how its models are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from adacomed.config import Experiment
from adacomed.models.batch import Output
from adacomed.models.members import Members
from adacomed.models.presets import Preset
from adacomed.training.calibrated import Calibrated, calibrate, uncalibrated
from adacomed.training.engine import ALONE, Engine
from adacomed.training.objective import Objective
from adacomed.training.plan import Part, Plan
from adacomed.training.recipes import objective_of, recipe_of
from adacomed.training.seed import derive
from adacomed.training.selection import Candidate, Choice, Snapshots, Watch
from adacomed.training.trained import Trained, correct_prior


@dataclass(frozen=True)
class Stages:
    """The stages ("small", "adacomed", a baseline's name) of one fold, before any is trained.

    Attributes:
        experiment, preset: settings.
        plan: parts to train and validate on.
        K: classes, or the width of the plan's outcome.
        seed: of this fold and repetition.
        task: name of the task (MultimodalPred's authors give class weights by task).
        watch, engine, snapshots: as for a `Candidate`.
    """

    experiment: Experiment
    preset: Preset
    plan: Plan
    K: int
    seed: int
    task: str
    watch: Watch = lambda *_: None
    engine: Engine = ALONE
    snapshots: Snapshots = lambda *_: None

    @property
    def sigmoids(self) -> bool:
        """Whether every logit is a log-odds of its own: several findings, or survival."""
        return self.plan.outcome.kind != "classes"

    @property
    def asked(self) -> dict[str, Any]:
        """What a spec says of a head of sigmoids; nothing where it is of classes."""
        return {"sigmoids": True, "asked": self.plan.outcome.kind} if self.sigmoids else {}

    def candidate(
        self,
        stage: str,
        build: Callable[[Part, int], nn.Module],
        tick: Callable[[], None],
    ) -> Candidate:
        """A stage to train: its own seed, loss and constants."""
        return Candidate(
            stage=stage,
            build=build,
            objective=lambda part: self.objective(stage, part),
            recipe=recipe_of(stage, self.experiment, self.preset),
            seed=derive(self.seed, stage),
            tick=tick,
            watch=self.watch,
            engine=self.engine,
            snapshots=self.snapshots,
        )

    def objective(self, stage: str, part: Part) -> Objective:
        """What a stage minimises on a part's training patients."""
        assert part.train.target is not None
        target, base = part.train.target, self.plan.outcome.base
        return objective_of(stage, self.experiment, self.preset, target, self.K, self.task, base)

    def log_prior(self, stage: str) -> Tensor:
        """(K,) what the class weights of a stage's loss have added to its logits.

        Of sigmoids: less the base that they are trained beyond, so that it is added.
        """
        if self.sigmoids:
            return -torch.tensor(self.plan.outcome.base)
        weights: Tensor | None = self.objective(stage, self.plan.kept).class_weights
        if weights is None or not self.preset.prior_correction:
            return torch.zeros(self.K)
        return weights.log()

    def trained(
        self, models: Sequence[nn.Module], choice: Choice, spec: dict[str, Any], stage: str
    ) -> Trained:
        """The models of a stage, averaged where there are several, with what a prediction needs."""
        log_prior = self.log_prior(stage)
        output = correct_prior(choice.output, log_prior)
        made = self.calibrated(output)
        judged_by = f"{self.plan.outcome.metric}_on_validation"
        choices = {"epochs": choice.epochs, judged_by: round(choice.score, 4)}
        one = Members(models, sigmoids=self.sigmoids) if len(models) > 1 else models[0]
        return Trained(
            model=one.eval(),
            outcome=self.plan.outcome,
            fitted=self.plan.kept.fitted,
            spec={**spec, "members": len(models)},
            log_prior=log_prior,
            val_output=output,
            history=[(stage, *row) for row in choice.history],
            threshold=made.threshold,
            calibrator=made.calibrator,
            sets=made.sets,
            choices=choices | made.found,
        )

    def calibrated(self, output: Output) -> Calibrated:
        """Calibrator, prediction sets and threshold, from the plan's validation patients."""
        outcome = self.plan.outcome
        prob = outcome.probabilities(output.logits)
        if self.sigmoids:
            return uncalibrated(prob, outcome.threshold(prob, self.plan.val_seen))
        subjects = np.concatenate([part.val_subjects for part in self.plan.parts])
        return calibrate(self.plan.val_target, prob, subjects, self.experiment)
