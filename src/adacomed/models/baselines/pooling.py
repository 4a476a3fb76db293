"""Several modalities' probabilities of a patient as one: the mean of their logs, weighed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from adacomed.models.baselines.candidates import Floats


def pool(prob: Floats, w: Floats, prior: Floats) -> Floats:
    """Weighted mean of log-probabilities over the modalities that a patient has.

    Args:
        prob: (M, N, K) calibrated probabilities, NaN where a patient lacks the modality.
        w: (M,) weights ≥ 0. They are normalised over the modalities that are there; those without
            weight are heard, equally, by a patient who has no other.
        prior: (K,) for who has none.
    Returns:
        (N, K) probabilities. For K = 2 it is the weighted mean of the log-odds.
    """
    z, _, total = _pooled(prob, w)
    return np.where(total[:, None] > 0, softmax(z, axis=1), prior)


def fit_weights(prob: Floats, y: NDArray[np.int64], *, penalty: float = 1.0) -> Floats:
    """Weights of `pool`, ≥ 0 and summing to one, by its log loss and L2 towards equal weights.

    Args:
        prob: (M, N, K), as for `pool`.
        y: (N,) classes.
        penalty: nats for a modality at none, or at twice, its equal share 1/M. They stand against
            the *sum* of the patients' losses, so that few patients stay near equal weights.
    """
    M, N, K = prob.shape
    target = np.eye(K)[y]

    def loss(w: Floats) -> tuple[float, Floats]:
        z, away, total = _pooled(prob, w)  # (N, K), (M, N, K), (N,)
        p = softmax(z, axis=1)
        nats = -(target * log_softmax(z, axis=1)).sum() + penalty * ((M * w - 1) ** 2).sum()
        slope = (away * ((p - target) / np.maximum(total, _FLOOR)[:, None])).sum(axis=(1, 2))
        return nats / N, (slope + penalty * 2 * M * (M * w - 1)) / N

    if M < 2:
        return np.ones(M)
    one = {"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(M)}
    start, bounds = np.full(M, 1 / M), [(0.0, 1.0)] * M
    fit = minimize(loss, start, jac=True, bounds=bounds, constraints=one, options={"ftol": 1e-9})
    w = np.clip(fit.x, 0, 1)
    return np.asarray(w / w.sum())


_FLOOR = 1e-6


def _pooled(prob: Floats, w: Floats) -> tuple[Floats, Floats, Floats]:
    """z (N, K), each modality's distance from it (M, N, K; 0 where absent), total weight (N,)."""
    logs = np.log(np.clip(prob, 1e-6, 1))
    speaks = ~np.isnan(logs).any(axis=2, keepdims=True)  # (M, N, 1)
    logs, share = np.where(speaks, logs, 0.0), speaks * (w + _FLOOR)[:, None, None]
    total = share.sum(axis=0)  # (N, 1)
    z = (share * logs).sum(axis=0) / np.maximum(total, _FLOOR)
    return z, np.where(speaks, logs - z, 0.0), total[:, 0]
