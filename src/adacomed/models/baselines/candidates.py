"""What each candidate of a kind says of patients it has not seen; what they share is done once.

The columns are prepared once for all of them. Where a constant is a number of stages — the trees of
a boosted model — the longest model holds the shorter ones, and is the only one to be fitted. The
numbers are those of a fit of the whole pipeline for every candidate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.pipeline import Pipeline

Floats = NDArray[np.float64]
Constants = Mapping[str, Any]  # constant, as the pipeline names it → its value


@dataclass(frozen=True)
class Stages:
    """A constant of a kind's last step that counts stages, each built upon those before it.

    Attributes:
        constant: its name, without the step's.
        read: (fitted last step, (N, P) features, numbers of stages) → (N, K) probabilities of each
            number. A model that stopped early has as many stages as it has.
    """

    constant: str
    read: Callable[[Any, Floats, Sequence[int]], list[Floats]]


def candidate_probabilities(
    model: Pipeline,
    candidates: Sequence[Constants],
    x: Floats,
    y: NDArray[np.int64],
    new: Floats,
    *,
    weight: Floats | None = None,
    stages: Stages | None = None,
) -> list[Floats]:
    """Fit each candidate on x (N, P) and y (N,); what it says of `new` (n, P), (n, K) each.

    Args:
        model: untrained, and left so.
        candidates: constants of its last step, such as `ParameterGrid` gives.
        weight: (N,) of the rows; None: all alike. Only the last step hears it.
        stages: of the model's last step, if it has any.
    Returns:
        In the candidates' order; columns are the classes in y, increasing.
    """
    name, last = model.steps[-1]
    for _, step in model.steps[:-1]:
        prepare = clone(step)
        x = prepare.fit_transform(x, y)
        new = prepare.transform(new)
    how = {} if weight is None else {"sample_weight": weight}

    def fitted(constants: Constants) -> Any:
        return clone(last).set_params(**constants).fit(x, y, **how)

    own = [{key.removeprefix(f"{name}__"): v for key, v in c.items()} for c in candidates]
    if stages is None:
        return [fitted(constants).predict_proba(new) for constants in own]
    said: list[Floats] = [np.empty(0)] * len(own)
    for where in _alike(own, stages.constant):
        numbers = [own[i][stages.constant] for i in where]
        longest = fitted({**own[where[0]], stages.constant: max(numbers)})
        for i, prob in zip(where, stages.read(longest, new, numbers), strict=True):
            said[i] = prob
    return said


def _alike(candidates: Sequence[Constants], but: str) -> list[list[int]]:
    """Positions of the candidates that differ in one constant only, together."""
    groups: dict[str, list[int]] = {}
    for i, constants in enumerate(candidates):
        rest = sorted((name, repr(v)) for name, v in constants.items() if name != but)
        groups.setdefault(str(rest), []).append(i)
    return list(groups.values())
