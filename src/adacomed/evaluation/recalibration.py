"""Probabilities made to mean what they say: maps fitted on validation patients, never on test ones.

| kind | what it may change |
|---|---|
| none | nothing |
| temperature | one slope of the log-odds: too sure or too unsure |
| platt | that slope, and an intercept: too high or too low |
| isotonic | any rising curve; needs many patients |

Each has a K-class form: log-probabilities times one common slope, plus K intercepts; for isotonic a
curve per class against the rest, then normalised. With K = 2 every kind keeps the patients' order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.isotonic import IsotonicRegression

from adacomed.evaluation.intervals import Interval, bootstrap, percentile
from adacomed.evaluation.scored import EPS, Floats, Ints

NONE, TEMPERATURE, PLATT, ISOTONIC, AUTO = "none", "temperature", "platt", "isotonic", "auto"
KINDS = (NONE, TEMPERATURE, PLATT, ISOTONIC)
MANY = 1000  # labelled validation patients from which "auto" tries isotonic
FOLDS = 5
# Deviations of a normal prior on the log of the slope and on an intercept. They stand against the
# sum of the patients' losses: a dozen events outweigh them, separated classes do not.
SLOPE_PRIOR, INTERCEPT_PRIOR = 1.0, 5.0
ROUNDING = 1e-9  # the mean of many 1.0 may be a little more
PSEUDO = 2.0  # patients who vouch for the uncalibrated probability, in isotonic

Knots = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class Calibrator:
    """A fitted map of probabilities.

    Attributes:
        kind: one of `KINDS`.
        slope: of the log-probabilities, > 0.
        intercepts: (K,), added to them; sum to 0. Empty: none.
        knots: isotonic: per curve (one where K = 2, else K) its corners, x and y.
        trust: isotonic: weight of the curves against the uncalibrated probability, in [0, 1).
    """

    kind: str = NONE
    slope: float = 1.0
    intercepts: tuple[float, ...] = ()
    knots: tuple[Knots, ...] = ()
    trust: float = 0.0

    def apply(self, prob: ArrayLike) -> Floats:
        """Calibrated probabilities.

        Args:
            prob: (N, K), rows summing to 1; 0 and 1 are moved in by 1e-12.
        Returns:
            (N, K), rows summing to 1. A patient's row depends on that row alone.
        Raises:
            ValueError: prob is not (N, K), or K is another than in fitting.
        """
        p = np.asarray(prob, dtype=np.float64)
        if p.ndim != 2 or p.shape[1] != (self._classes or p.shape[1]):
            raise ValueError(f"prob is {p.shape}, expected (N, {self._classes or 'K'})")
        if self.kind == NONE:
            return p
        if self.kind == ISOTONIC:
            return self._curves(p)
        shift = np.asarray(self.intercepts) if self.intercepts else 0.0
        return np.asarray(softmax(self.slope * _logs(p) + shift, axis=1))

    @property
    def _classes(self) -> int:
        """K, 0 where any will do."""
        if self.knots:
            return max(2, len(self.knots))
        return len(self.intercepts)

    def _curves(self, p: Floats) -> Floats:
        share = p[:, 1:] if len(self.knots) == 1 else p
        out = np.empty_like(share)
        for k, (x, y) in enumerate(self.knots):
            out[:, k] = self.trust * np.interp(share[:, k], x, y) + (1 - self.trust) * share[:, k]
        if len(self.knots) == 1:
            return np.concatenate([1 - out, out], axis=1)
        out = np.maximum(out, EPS)  # a row of zeros could not be normalised
        return np.asarray(out / out.sum(axis=1, keepdims=True))

    def to_dict(self) -> dict[str, Any]:
        """JSON values; `from_dict` gives back the same numbers bit for bit."""
        return {
            "kind": self.kind,
            "slope": self.slope,
            "intercepts": list(self.intercepts),
            "knots": [[list(x), list(y)] for x, y in self.knots],
            "trust": self.trust,
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Calibrator:
        """What `to_dict` wrote.

        Raises:
            ValueError: an unknown kind; KeyError: a value is missing.
        """
        _known(state["kind"], KINDS)
        knots = tuple((tuple(x), tuple(y)) for x, y in state["knots"])
        return cls(state["kind"], state["slope"], tuple(state["intercepts"]), knots, state["trust"])


def fit_calibrator(kind: str, label: ArrayLike, prob: ArrayLike) -> Calibrator:
    """Fit a map of one kind on validation patients.

    Args:
        kind: one of `KINDS`.
        label: (N,) class, 0 … K−1.
        prob: (N, K) uncalibrated probabilities of patients that the model was not trained on.
    Returns:
        temperature, platt: the most probable slope and intercepts under a weak normal prior, which
        keeps them finite where the classes are separated or one is missing. isotonic:
        (N · curve + 2 · prob) / (N + 2): it is strictly rising and never 0 or 1 by itself.
    Raises:
        ValueError: an unknown kind, wrong shapes, no patient, or a probability outside [0, 1].
    Source: Platt 1999 (binary); Guo et al., ICML 2017 (temperature; platt with K > 2 is their
        vector scaling with a common slope); Zadrozny & Elkan, KDD 2002 (isotonic, one against the
        rest).
    """
    _known(kind, KINDS)
    y, p = _checked(label, prob)
    if kind == NONE:
        return Calibrator()
    if kind == ISOTONIC:
        curves = [1] if p.shape[1] == 2 else range(p.shape[1])
        knots = tuple(_isotonic(y == k, p[:, k]) for k in curves)
        return Calibrator(ISOTONIC, knots=knots, trust=len(y) / (len(y) + PSEUDO))
    slope, intercepts = _scaling(y, _logs(p), shifted=kind == PLATT)
    return Calibrator(kind, slope, intercepts)


class Chosen(NamedTuple):
    """A calibrator fitted on all validation patients, and how it was chosen, for people (JSON)."""

    calibrator: Calibrator
    found: dict[str, Any]


def choose_calibrator(
    kind: str, label: ArrayLike, prob: ArrayLike, subjects: ArrayLike, seed: int
) -> Chosen:
    """The calibrator that is asked for, or with "auto" the one that clearly helps.

    Every kind is judged by the log loss of patients that it was not fitted on (5 folds by subject).
    "none" is replaced only by one whose log loss is lower beyond doubt: the 95 % interval of the
    paired difference (1,000 resamples of the subjects, within classes) is above 0. Of several the
    lowest log loss counts. Isotonic is tried from 1,000 subjects on.

    Args:
        kind: one of `KINDS`, or "auto".
        label: (N,) class, 0 … K−1, of the validation patients.
        prob: (N, K) uncalibrated.
        subjects: (N,) subject of each row.
        seed: of the folds and the resamples.
    Returns:
        `found` has `kind` and `why`; with "auto" also `log_loss` and `gain`: kind → log loss less
        than "none", with its limits, nats per patient.
    Raises:
        ValueError: as `fit_calibrator`, or subjects have another length.
    """
    _known(kind, (*KINDS, AUTO))
    y, p = _checked(label, prob)
    who = np.asarray(subjects)
    if who.shape != y.shape:
        raise ValueError(f"subjects is {who.shape}, expected {y.shape}")
    if kind != AUTO:
        return Chosen(fit_calibrator(kind, y, p), {"kind": kind, "why": "named in the settings"})
    folds, fewest = _folds(y, p.shape[1], who, seed)
    if fewest < FOLDS:
        why = f"a class has {fewest} validation subjects, fewer than the {FOLDS} folds"
        return Chosen(Calibrator(), {"kind": NONE, "why": f"not tried: {why}"})
    tried = KINDS if len(np.unique(who)) >= MANY else KINDS[:-1]
    losses = {name: _cross_fitted(name, y, p, folds) for name in tried}
    gains = _gains(losses, y, who, seed)
    means = {name: float(loss.mean()) for name, loss in losses.items()}
    clear = [name for name, gain in gains.items() if gain.low > 0]
    best = min(clear, key=lambda name: means[name]) if clear else NONE
    why = f"log loss clearly lower by {best}" if clear else "no kind lowers the log loss clearly"
    found = {
        "kind": best,
        "why": f"{why} (folds by subject, {len(y)} validation samples)",
        "log_loss": {name: round(mean, 5) for name, mean in means.items()},
        "gain": {name: [round(x, 5) for x in gain] for name, gain in gains.items()},
    }
    return Chosen(fit_calibrator(best, y, p), found)


# ---- judging ------------------------------------------------------------------------------------
def _folds(y: Ints, K: int, who: NDArray[Any], seed: int) -> tuple[Ints, int]:
    """Fold of each row, a subject in one fold; and how many subjects the rarest class has.

    A subject with several classes is dealt out with the highest, as in the bootstrap.
    """
    names, row = np.unique(who, return_inverse=True)
    highest = np.zeros(len(names), dtype=np.int64)
    np.maximum.at(highest, row, y)
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(highest[order], kind="stable")]  # class by class, shuffled within
    fold = np.empty(len(names), dtype=np.int64)
    fold[order] = np.arange(len(names)) % FOLDS
    return fold[row], min(len(np.unique(row[y == k])) for k in range(K))


def _cross_fitted(kind: str, y: Ints, p: Floats, folds: Ints) -> Floats:
    """(N,) log loss of each row under a map fitted on the other folds."""
    out = np.empty_like(p)
    for fold in range(FOLDS):
        here = folds == fold
        out[here] = fit_calibrator(kind, y[~here], p[~here]).apply(p[here])
    return -np.log(np.clip(out[np.arange(len(y)), y], EPS, 1))


def _gains(losses: dict[str, Floats], y: Ints, who: NDArray[Any], seed: int) -> dict[str, Interval]:
    """Kind → mean log loss of "none" less the kind's, with its 95 % limits."""
    names = [name for name in losses if name != NONE]
    less = np.stack([losses[NONE] - losses[name] for name in names], axis=1)  # (N, kinds)

    def mean(columns: Any, weight: Floats) -> Floats:
        return np.asarray(weight @ less / weight.sum(axis=1, keepdims=True))

    low, high = percentile(bootstrap(mean, {}, who, y, seed=seed))
    values = zip(less.mean(axis=0), low, high, strict=True)
    return {n: Interval(*map(float, v)) for n, v in zip(names, values, strict=True)}


# ---- fitting ------------------------------------------------------------------------------------
def _scaling(y: Ints, logs: Floats, *, shifted: bool) -> tuple[float, tuple[float, ...]]:
    """Slope and intercepts: softmax(slope · log p + intercept) by log loss and the weak prior."""
    N, K = logs.shape
    target = np.eye(K)[y]

    def loss(values: Floats) -> tuple[float, Floats]:
        slope, shift = np.exp(values[0]), values[1:]
        z = slope * logs + (shift if shifted else 0.0)
        away = softmax(z, axis=1) - target
        prior = values / np.array([SLOPE_PRIOR**2, *[INTERCEPT_PRIOR**2] * (len(values) - 1)])
        nats = -(target * log_softmax(z, axis=1)).sum() + prior @ values / 2
        by_shift = away.sum(axis=0) if shifted else np.empty(0)
        by_slope = slope * (away * logs).sum()
        return nats / N, (np.array([by_slope, *by_shift]) + prior) / N

    start = np.zeros(1 + (K if shifted else 0))
    bounds = [(-10.0, 10.0), *[(None, None)] * (len(start) - 1)]  # the line search may overshoot
    exact = {"ftol": 1e-15, "gtol": 1e-9, "maxiter": 500}
    fit = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=exact)
    return float(np.exp(fit.x[0])), tuple(fit.x[1:].tolist())


def _isotonic(event: NDArray[np.bool_], x: Floats) -> Knots:
    curve = IsotonicRegression(y_min=0, y_max=1).fit(x, event.astype(np.float64))
    return tuple(curve.X_thresholds_.tolist()), tuple(curve.y_thresholds_.tolist())


# ---- checks -------------------------------------------------------------------------------------
def _logs(p: Floats) -> Floats:
    return np.asarray(np.log(np.clip(p, EPS, 1 - EPS)))


def _known(kind: str, kinds: tuple[str, ...]) -> None:
    if kind not in kinds:
        raise ValueError(f"no calibration {kind!r}; known: {', '.join(kinds)}")


def _checked(label: ArrayLike, prob: ArrayLike) -> tuple[Ints, Floats]:
    y, p = np.asarray(label), np.asarray(prob, dtype=np.float64)
    if p.ndim != 2 or p.shape[1] < 2 or y.shape != p.shape[:1] or not len(y):
        raise ValueError(f"label {y.shape} and prob {p.shape}: need (N,) and (N, K), N ≥ 1, K ≥ 2")
    if not np.isin(y, np.arange(p.shape[1])).all():
        raise ValueError(f"label must hold the classes 0 … {p.shape[1] - 1} only")
    if not ((p >= -ROUNDING) & (p <= 1 + ROUNDING)).all():
        raise ValueError("prob must lie in [0, 1]")
    return y.astype(np.int64), np.clip(p, 0, 1)
