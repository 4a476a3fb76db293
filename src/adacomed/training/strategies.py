"""Which weighting strategy, and the constants of those that are fitted: on validation patients.

The fusion is trained with equal weights and then weighed anew: its branches have losses of their
own, so that no strategy needs a training of its own to be judged. A strategy that is named is
trained with, as Algorithm 1 has it, except `reliable`, which exists only once there is something to
fit it on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, softmax
from torch import Tensor

from adacomed.models.batch import Output
from adacomed.models.presets import Preset, build_weighting
from adacomed.models.weighting import (
    RELIABLE,
    STRATEGIES,
    TABLE_1,
    Weighting,
    cues_of,
    mixture,
    to_ranks,
)
from adacomed.training.plan import Plan
from adacomed.training.selection import clearly_better

# Nats for a whole unit of θ, against the sum of the patients' losses: of the constant, of a cue.
LEAN, TILT = 0.5, 2.0
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Judged:
    """Validation patients, as a fusion trained with equal weights sees them out of fold.

    Attributes:
        output: of all of them, in the order of `Plan.val_rows`.
        present: (N, M).
        target: (N,) classes, or (N, J) of sigmoids.
        part: (N,), which part of the plan each was held out from.
        candidates: (N,), of Eq. 4: the parts' banks may differ in size.
        log_prior: (K,), see `correct_prior`.
    """

    output: Output
    present: Tensor
    target: NDArray[Any]
    part: NDArray[np.int64]
    candidates: Tensor
    log_prior: Tensor

    @classmethod
    def of(cls, plan: Plan, output: Output, preset: Preset, log_prior: Tensor) -> Judged:
        """The validation patients of a plan."""
        parts = [(part.val, candidates(preset, len(part.train))) for part in plan.parts if part.val]
        lengths = [len(val) for val, _ in parts]
        return cls(
            output,
            torch.cat([val.present for val, _ in parts]),
            plan.val_target,
            np.repeat(np.arange(len(parts)), lengths),
            torch.tensor([n for _, n in parts]).repeat_interleave(torch.tensor(lengths)),
            log_prior,
        )

    def weighed(self, weighting: Weighting, preset: Preset) -> Output:
        """The same patients under another weighting."""
        o = self.output
        assert o.s is not None
        assert o.logits_large is not None
        assert o.logits_small is not None
        with torch.no_grad():
            weights = weighting(o.s, o.logits_large, o.logits_small, self.present, self.candidates)
        logits = mixture(o.logits_large, o.logits_small, weights, preset.mix)
        return replace(o, logits=logits, w_large=weights[0], w_small=weights[1])

    def rows(self, index: Tensor) -> Judged:
        """The patients at `index` (bool mask)."""
        o = self.output
        fields = ("logits", "logits_large", "logits_small", "s", "w_large", "w_small")
        output = Output(**{name: getattr(o, name)[index] for name in fields})
        keep = index.numpy()
        return Judged(
            output,
            self.present[index],
            self.target[keep],
            self.part[keep],
            self.candidates[index],
            self.log_prior,
        )


def candidates(preset: Preset, patients: int) -> int:
    """Of Eq. 4 in a model trained on so many patients; 1 where they are whoever is in the batch."""
    return 1 if preset.bank_size == "batch" else min(preset.bank_size, patients) + 1


@dataclass(frozen=True)
class Verdict:
    """The strategy that was chosen, the validation patients under it, and every one's score."""

    best: str
    output: Output
    scores: dict[str, float]


def training_strategy(strategy: str) -> str:
    """What the fusion is trained with (see the module's first lines)."""
    return "ensemble" if strategy in ("auto", RELIABLE) else strategy


def judge(strategy: str, preset: Preset, judged: Judged, plan: Plan) -> Verdict:
    """The named strategy; with "auto" the best, if it clearly beats the first, plain ensemble."""
    if strategy == training_strategy(strategy):
        outputs = {strategy: judged.output}
    else:
        every = STRATEGIES if plan.outcome.kind == "classes" else TABLE_1  # cues are of classes
        tried = every if strategy == "auto" else (strategy,)
        outputs = {name: cross_weighed(name, preset, judged) for name in tried}
    scores = {name: plan.score(o.logits) for name, o in outputs.items()}
    incumbent, best = next(iter(outputs)), max(scores, key=lambda name: scores[name])
    if not clearly_better(outputs[best].logits, outputs[incumbent].logits, plan):
        best = incumbent
    return Verdict(best, outputs[best], scores)


def fitted_weighting(strategy: str, preset: Preset, judged: Judged) -> Weighting:
    """A strategy with its scale of s and its θ taken from validation patients."""
    weighting = build_weighting(preset, strategy, modalities=judged.present.shape[1]).eval()
    settle(weighting, judged)
    if strategy in (RELIABLE, "learnable"):
        fit_theta(weighting, judged)
    return weighting


def settle(weighting: Weighting, judged: Judged) -> None:
    """Fix the scale of s (those without a large modality have no s, unless nobody has one)."""
    assert judged.output.s is not None
    lift, here = judged.output.s * judged.candidates, judged.present.any(-1)
    weighting.rest(lift[here] if here.any() else lift)


def cross_weighed(strategy: str, preset: Preset, judged: Judged) -> Output:
    """Validation patients under a strategy that was fitted on the other parts' patients.

    With one part ("holdout") there are no others: θ has few numbers and a penalty, and the same
    patients chose the epoch too.
    """
    parts = np.unique(judged.part)
    if strategy not in (RELIABLE, "learnable") or len(parts) == 1:
        return judged.weighed(fitted_weighting(strategy, preset, judged), preset)
    outputs = []
    for part in parts:  # in order: a part's patients lie together
        here = torch.from_numpy(judged.part == part)
        weighting = fitted_weighting(strategy, preset, judged.rows(~here))
        outputs.append(judged.rows(here).weighed(weighting, preset))
    found = Output.concatenate(outputs)
    return replace(judged.output, logits=found.logits, w_large=found.w_large, w_small=found.w_small)


def fit_theta(weighting: Weighting, judged: Judged) -> None:
    """θ by the mixture's log loss and a penalty that pulls towards the plain ensemble."""
    o = judged.output
    large, small = (
        (logits - judged.log_prior).double().numpy()  # type: ignore[operator]
        for logits in (o.logits_large, o.logits_small)
    )
    if weighting.strategy == RELIABLE:
        assert o.s is not None
        lift = o.s * judged.candidates
        s = to_ranks(lift, weighting.ranks) if weighting.scale == "quantile" else o.s
        cues = cues_of(s, o.logits_large, o.logits_small, judged.present)  # type: ignore[arg-type]
        here = judged.present.any(-1)
        if not here.any():
            return  # nobody to learn from: it stays the plain ensemble
        centre = cues[here].mean(dim=0)
        centre[0] = 0.0  # the constant
        weighting.centre.copy_(centre)
        x = (cues - centre)[here].double().numpy()
        keep = here.numpy()
        theta = _minimise(x, large[keep], small[keep], judged.target[keep])
        weighting.theta.copy_(torch.from_numpy(theta))
    else:
        [theta] = _minimise(np.ones((len(large), 1)), large, small, judged.target)
        weighting.theta.data.copy_(torch.tensor([theta, 0.0]))


def _minimise(x: Floats, large: Floats, small: Floats, y: NDArray[Any]) -> Floats:
    """θ (F,), beside a common scale of the logits that calibration, not weighting, has to answer.

    Without it an overconfident mixture would be mended by leaning on the less confident branch.
    """
    sigmoids = y.ndim == 2
    target = np.nan_to_num(y) if sigmoids else np.eye(large.shape[1])[y]
    known = ~np.isnan(y) if sigmoids else np.ones_like(target, dtype=bool)
    apart = large - small  # (N, K)
    penalty = np.array([LEAN, *[TILT] * (x.shape[1] - 1)])

    def loss(values: Floats) -> tuple[float, Floats]:
        scale, theta = np.exp(values[0]), values[1:]
        w = expit(x @ theta)
        mixed = small + w[:, None] * apart
        z = scale * mixed
        away = known * (expit(z) - target) if sigmoids else softmax(z, axis=1) - target
        log_prob = target * z - np.logaddexp(0, z) if sigmoids else target * log_softmax(z, axis=1)
        nats = -(known * log_prob).sum() + (penalty * theta**2).sum()
        by_w = scale * (away * apart).sum(axis=1)  # (N,)
        slope = x.T @ (by_w * w * (1 - w)) + 2 * penalty * theta
        by_scale = (away * z).sum() + 2 * LEAN * values[0]
        nats += LEAN * values[0] ** 2
        return nats / len(y), np.concatenate([[by_scale], slope]) / len(y)

    fit = minimize(loss, np.zeros(1 + x.shape[1]), jac=True, method="L-BFGS-B")
    return np.asarray(fit.x[1:])
