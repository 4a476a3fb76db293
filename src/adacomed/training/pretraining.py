"""The small models of one fold: trained before the fusion, on each part's training patients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from adacomed.models.batch import Batch, Output
from adacomed.models.small.scores import SCORED, ScoreSmall
from adacomed.training.build import build_from_spec, start_at_base
from adacomed.training.fit import evaluate
from adacomed.training.plan import Part
from adacomed.training.scores import fit_scores
from adacomed.training.seed import derive
from adacomed.training.selection import Candidate, Choice, choose, finish
from adacomed.training.stages import Stages

AUTO = ("stack", "shallow")  # kinds that are tried; a later one has to be clearly better


class SmallModels:
    """Small models of one fold: the choice of their epochs, and a model per part.

    Args:
        stages: of the fold; `experiment.small.kind` is one kind, never "auto".
    Attributes:
        key: everything that they depend on, beside the fold.
        tick: called after every epoch.
    """

    def __init__(self, stages: Stages) -> None:
        self.stages, self.experiment, self.plan = stages, stages.experiment, stages.plan
        self.tick: Callable[[], None] = lambda: None
        self._models: dict[str, nn.Module] = {}
        self._scored: dict[str, tuple[nn.Module, Tensor]] = {}
        e, p = stages.experiment, stages.preset
        settings = [s.model_dump_json() for s in (e.small, e.training, e.inputs)]
        constants = (p.small_epochs, p.lr, p.weight_decay, p.optimizer, p.label_smoothing)
        self.key = f"{settings} {constants} {p.members} {bool(self.plan.kept.fitted.raw.shapes)}"

    @property
    def scored(self) -> bool:
        """Whether they are made of classical models: no epochs, nothing to average."""
        return self.experiment.small.kind in SCORED

    @property
    def spec(self) -> dict[str, Any]:
        """What rebuilds an untrained small model (`build_from_spec`)."""
        settings = self.experiment.small.model_dump(mode="json")
        return {"model": "small", "small": settings, **self.stages.asked}

    @cached_property
    def choice(self) -> Choice:
        """Trained on every part; the epoch count is chosen on the validation patients."""
        if not self.scored:
            return choose(self._candidate(), self.plan, keep=True)
        models = [self._fitted(part)[0] for part in self.plan.parts]
        said = [
            evaluate(model, part.val)
            for model, part in zip(models, self.plan.parts, strict=True)
            if part.val
        ]
        output = Output.concatenate(said)
        return Choice(0, self.plan.score(output.logits), output, models, [])

    @property
    def kept(self) -> list[nn.Module]:
        """The models to keep where the small model is the method: one for each member."""
        parts = [self.plan.kept] if self.scored else self.plan.members or self.plan.parts
        return [self.of(part) for part in parts]

    def of(self, part: Part) -> nn.Module:
        """The small model of a part's training patients, for the chosen epochs."""
        if part.name not in self._models:
            self._models[part.name] = self._make(part)
        return self._models[part.name]

    def given(self, part: Part) -> Part:
        """The part with what its training patients' small model says of them without them."""
        if not self.scored:
            return part
        return replace(part, train=replace(_whole(part), e_small=self._fitted(part)[1]))

    def _make(self, part: Part) -> nn.Module:
        if self.scored:
            return self._fitted(part)[0]
        known = {p.name: m for p, m in zip(self.plan.parts, self.choice.models, strict=True)}
        candidate = self._candidate()
        whole = self.choice.epochs == candidate.recipe.epochs
        if part.name in known and (whole or not self.plan.members):
            return known[part.name]
        [model] = finish(candidate, self.choice, replace(self.plan, members=[part]))
        return model

    def _fitted(self, part: Part) -> tuple[nn.Module, Tensor]:
        """A small model of classical parts and its e_small; parts of the same patients share it."""
        patients = part.name if part.val else "all"
        if patients not in self._scored:
            model = build_from_spec(self.spec, part.fitted, self.stages.K)
            assert isinstance(model, ScoreSmall)
            weights = self.stages.objective("small", part).class_weights
            seed = derive(self.stages.seed, "small", patients)
            base = self.plan.outcome.base
            e_small = fit_scores(
                model, _whole(part), part.train_subjects, weights=weights, base=base, seed=seed
            )
            self._scored[patients] = (model.eval().requires_grad_(False), e_small)
            self.tick()
        return self._scored[patients]

    def _untrained(self, part: Part) -> nn.Module:
        model = build_from_spec(self.spec, part.fitted, self.stages.K)
        return start_at_base(model, self.stages.K) if self.stages.sigmoids else model

    def _candidate(self) -> Candidate:
        return self.stages.candidate(
            "small", lambda part, _: self._untrained(part), lambda: self.tick()
        )


def _whole(part: Part) -> Batch:
    """All training patients of a part, as classical models need them."""
    assert isinstance(part.train, Batch), "names.check_methods lets no scored kind get here"
    return part.train
