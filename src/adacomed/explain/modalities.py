"""Shapley values of modalities from a model, which is asked again with modalities taken away."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from adacomed.errors import InputError
from adacomed.explain.shapley import Floats, Shapley, attribute
from adacomed.inference import forward, probabilities
from adacomed.models.batch import Output
from adacomed.training.loader import Inputs
from adacomed.training.perturb import modalities, presence, without
from adacomed.training.trained import Trained


def predicted(trained: Trained, inputs: Inputs) -> tuple[Output, NDArray[np.float64]]:
    """What the model says of N patients: its output, and the probabilities (N, K) it stands for."""
    output = forward(trained, inputs)
    return output, probabilities(output, trained)


def modality_shapley(
    trained: Trained,
    inputs: Inputs,
    *,
    seed: int = 0,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> Shapley:
    """The Shapley value of every modality for every patient, on the scale of the probability.

    A modality is taken away by the model's own masking: it is absent, not zero. All N patients go
    through together, 2^M times.

    Args:
        seed: of the random orders, where M is above `shapley.MOST`.
        tick: called with subsets done, and how many there are to do.
    Raises:
        InputError: the model gives no number for a patient without any modality.
    """
    names = modalities(inputs)
    present = presence(inputs)

    def value(bits: int) -> Floats:
        gone = [m for i, m in enumerate(names) if not bits >> i & 1]
        prob = predicted(trained, without(inputs, gone))[1]
        if not np.isfinite(prob).all():
            raise InputError(
                f"no probability for a patient without {', '.join(gone)}: this model has no "
                f"Shapley values of its modalities"
            )
        return prob

    return Shapley(
        names=tuple(names),
        sample_id=inputs.sample_id,
        subject_id=inputs.subject_id,
        present=present,
        findings=trained.outcome.kind == "findings",
        **attribute(value, present, seed=seed, tick=tick),
    )
