"""Shapley values from what a model says under every subset of the modalities: numbers, no model.

v(S) is the probability with only the modalities S kept. A modality's value is the mean of what it
adds to v, over all orders in which the modalities could have arrived, so the values of a patient
add up to the prediction less v(∅), which is what the model says of a patient it knows nothing of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import factorial
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from adacomed.errors import InputError
from adacomed.evaluation.predictions import prob_columns
from adacomed.schema import Predictions

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
MOST = 10  # players with an exact value: 1,024 subsets
PAIRS = 32  # random orders, each also backwards, where there are more


@dataclass(frozen=True)
class Shapley:
    """What each of M modalities did to N patients' probabilities of K classes.

    Attributes:
        names: of the modalities.
        sample_id, subject_id: (N,).
        prob: (N, K), the prediction.
        base: (N, K), v(∅): the same for every patient, but for presets that look at the batch.
        values: (N, M, K); they add up to `prob − base`, and are 0 for an absent modality.
        without: (N, M, K), the prediction without that modality alone.
        present: (N, M).
        interaction: (N, M, M, K), how two modalities overlap: below 0 they say the same thing,
            above 0 they say more together; None where the values are an estimate.
        error: (N, M, K), standard error of an estimate; None where the values are exact.
        findings: the columns are findings, each with a probability of its own, not classes.
    """

    names: tuple[str, ...]
    sample_id: NDArray[np.str_]
    subject_id: NDArray[np.str_]
    prob: Floats
    base: Floats
    values: Floats
    without: Floats
    present: Bools
    interaction: Floats | None = None
    error: Floats | None = None
    findings: bool = False

    def __len__(self) -> int:
        return len(self.sample_id)

    @property
    def shown(self) -> tuple[int, ...]:
        """Columns worth a row: of two classes the positive one, of more classes or findings all."""
        K = self.prob.shape[1]
        return (1,) if K == 2 and not self.findings else tuple(range(K))


def patterns(M: int) -> Bools:
    """(2^M, M): row b keeps modality m where bit m of b is set; the first row keeps none.

    >>> patterns(2).astype(int).tolist()
    [[0, 0], [1, 0], [0, 1], [1, 1]]
    """
    kept: Bools = (np.arange(2**M)[:, None] >> np.arange(M)) & 1 == 1
    return kept


def shapley(v: Floats) -> Floats:
    """Exact Shapley values.

    Args:
        v: (2^M, …), a game's value of every subset, in the order of `patterns`.
    Returns:
        (M, …).
    Raises:
        ValueError: the length is not a power of two.
    Source: Shapley, Contributions to the Theory of Games II, 1953.
    """
    M = _players(v)
    kept = patterns(M)
    size = kept.sum(axis=1)
    weight = np.array([factorial(s) * factorial(M - s - 1) / factorial(M) for s in range(M)])
    found = np.empty((M, *v.shape[1:]))
    for m in range(M):
        before = np.flatnonzero(~kept[:, m])
        gain = v[before | 1 << m] - v[before]
        found[m] = np.tensordot(weight[size[before]], gain, axes=1)
    return found


def interactions(v: Floats) -> Floats:
    """Shapley interaction index of every two players, 0 on the diagonal.

    Args:
        v: (2^M, …), as `shapley` takes it.
    Returns:
        (M, M, …), symmetric.
    Source: Grabisch & Roubens, Int. J. Game Theory 1999.
    """
    M = _players(v)
    kept = patterns(M)
    size = kept.sum(axis=1)
    weight = [factorial(s) * factorial(M - s - 2) / factorial(M - 1) for s in range(M - 1)]
    found = np.zeros((M, M, *v.shape[1:]))
    for i in range(M):
        for j in range(i):
            S = np.flatnonzero(~kept[:, i] & ~kept[:, j])
            both = v[S | 1 << i | 1 << j] - v[S | 1 << i] - v[S | 1 << j] + v[S]
            found[i, j] = found[j, i] = np.tensordot(np.array(weight)[size[S]], both, axes=1)
    return found


def _players(v: Floats) -> int:
    M = len(v).bit_length() - 1
    if len(v) != 2**M:
        raise ValueError(f"need a value of each of 2^M subsets, got {len(v)}")
    return M


def attribute(
    value: Callable[[int], Floats],
    present: Bools,
    *,
    seed: int = 0,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """The fields `prob`, `base`, `values`, `without`, `interaction`, `error` of a `Shapley`.

    Up to `MOST` modalities the values are exact; above that they are the mean over `PAIRS` random
    orders and their reverses, with a standard error.

    Args:
        value: bits of the modalities kept → v, (N, K) of all patients.
        present: (N, M).
        seed: of the random orders.
        tick: called with subsets done, and how many there are to do.
    """
    N, M = present.shape
    cache: dict[int, Floats] = {}
    # To a patient without a modality it makes no difference whether that is kept: of these equal
    # subsets the largest stands for all, so that 0 is 0 and not a rounding error.
    absent = (~present * (1 << np.arange(M))).sum(axis=1)  # (N,) bits

    def v(kept: NDArray[np.int64]) -> Floats:
        """Value of a subset of each patient's own, (N,) bits → (N, K)."""
        own, out = kept | absent, None
        for bits in np.unique(own):
            if int(bits) not in cache:
                cache[int(bits)] = value(int(bits))
            out = np.empty_like(cache[int(bits)]) if out is None else out
            out[own == bits] = cache[int(bits)][own == bits]
        assert out is not None
        return out

    def subset(bits: int) -> Floats:
        return v(np.full(N, bits, np.int64))

    full = (1 << M) - 1
    found = {"prob": subset(full), "base": subset(0)}
    found["without"] = np.stack([subset(full & ~(1 << m)) for m in range(M)], axis=1)
    if M > MOST:
        return found | _estimated(subset, M, seed, tick)
    table = []
    for bits in range(2**M):
        table.append(subset(bits))
        tick(bits + 1, 2**M)
    game = np.stack(table)
    exact = {
        "values": np.moveaxis(shapley(game), 0, 1),
        "interaction": np.moveaxis(interactions(game), 2, 0),
    }
    return found | exact


def _estimated(
    subset: Callable[[int], Floats], M: int, seed: int, tick: Callable[[int, int], None]
) -> dict[str, Floats]:
    """Values (N, M, K) and their standard errors over pairs of opposite orders."""
    rng = np.random.default_rng(seed)
    first = subset(0)
    pairs = np.zeros((PAIRS, len(first), M, first.shape[1]))
    for pair in range(PAIRS):
        order = rng.permutation(M)
        for each in (order, order[::-1]):
            bits, before = 0, first
            for m in each:
                bits |= 1 << int(m)
                now = subset(bits)
                pairs[pair, :, m] += (now - before) / 2
                before = now
        tick(pair + 1, PAIRS)
    return {"values": pairs.mean(axis=0), "error": pairs.std(axis=0, ddof=1) / np.sqrt(PAIRS)}


def from_stress(stress: pl.DataFrame) -> Shapley:
    """Shapley values of a stress table: a report needs no model for them.

    Args:
        stress: schema.RunFiles.STRESS of one task and method, each sample once under every subset
            of the modalities; rows with noise are left out.
    Raises:
        InputError: several tasks or methods, a sample twice, or a subset that is missing.
    """
    rows = stress.filter(pl.col(Predictions.NOISE).fill_null(0.0) == 0)
    for column in (Predictions.TASK, Predictions.METHOD):
        if rows[column].n_unique() != 1:
            raise InputError(
                f"Shapley values are of one {column}, the stress table has "
                f"{rows[column].n_unique()}: filter it first"
            )
    names = rows[Predictions.KEPT].explode().drop_nulls().unique().sort()
    whole = rows.filter(pl.col(Predictions.KEPT).list.len() == len(names))
    bit = {name: 1 << i for i, name in enumerate(names)}
    bits = [sum(bit[m] for m in kept) for kept in rows[Predictions.KEPT]]
    game = _game(rows, whole, np.array(bits, np.int64), len(names))
    listed = whole[Predictions.PRESENT].to_list()
    told = {m for mine in listed for m in mine}  # a table that no vector stands for is not told of
    present = np.array([[m in mine or m not in told for m in names] for mine in listed])
    return Shapley(
        names=tuple(names),
        sample_id=whole[Predictions.SAMPLE_ID].to_numpy().astype(str),
        subject_id=whole[Predictions.SUBJECT_ID].to_numpy().astype(str),
        present=present,
        **attribute(lambda b: game[b], present),
    )


def _game(rows: pl.DataFrame, whole: pl.DataFrame, bits: NDArray[np.int64], M: int) -> Floats:
    """(2^M, N, K) probabilities, patients in the order of `whole`."""
    columns = prob_columns(rows)
    prob = rows.select(columns or Predictions.PROB).to_numpy().astype(np.float64)
    if not columns:
        prob = np.concatenate([1 - prob, prob], axis=1)
    ids = whole[Predictions.SAMPLE_ID].to_list()
    place = {s: i for i, s in enumerate(ids)}
    at = np.array([place.get(s, -1) for s in rows[Predictions.SAMPLE_ID]], np.int64)
    need = 2**M * len(ids)
    if M > MOST or len(place) < len(ids) or len(rows) != need or (at < 0).any():
        raise InputError(
            f"Shapley values need each sample once under all 2^{M} subsets of the modalities, "
            f"{need} rows for {len(ids)} samples; the stress table has {len(rows)}"
        )
    game = np.full((2**M, len(ids), prob.shape[1]), np.nan)
    game[bits, at] = prob
    if np.isnan(game).any():
        raise InputError("the stress table has a sample twice under a subset of the modalities")
    return game
