"""The contract that every metric keeps, and predictions tables made from numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adacomed.evaluation.discrimination import METRICS, metrics
from adacomed.evaluation.scored import Scored

GRID = 8  # probabilities k / 8: many ties, and 1 − p is exact


def _check_metric(
    name: str,
    oracle: Callable[[np.ndarray, np.ndarray], float],
    undefined: tuple[tuple[list[int], list[float]], ...] = (),
    best: float | None = None,
    atol: float = 1e-12,
) -> None:
    """What any metric must do, whatever it measures.

    Args:
        oracle: (label, prob) → the metric by another implementation; NaN where it is undefined.
        undefined: (label, prob) for which there is no value.
        best: what perfect predictions get; default 1, or 0 where lower is better.
        atol: how near the oracle comes.
    """
    function, higher_is_better, label, _ = METRICS[name]
    assert label

    def one(y, p):
        return function(Scored.of(y, p))[0]

    perfect = metrics([0, 1, 0, 1, 1], [0.0, 1.0, 0.0, 1.0, 1.0])[name]
    best = float(higher_is_better) if best is None else best
    assert perfect == pytest.approx(best, abs=1e-12, nan_ok=True)
    for y, p in undefined:
        assert np.isnan(metrics(y, p)[name])

    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(
        st.lists(
            st.tuples(st.integers(0, 1), st.integers(0, GRID), st.integers(0, 3)),
            min_size=1,
            max_size=30,
        ),
        st.randoms(use_true_random=False),
    )
    def check(rows, random):
        y, p, count = (np.array(column) for column in zip(*rows, strict=True))
        p = p / GRID
        value = one(y, p)
        np.testing.assert_allclose(value, oracle(y, p), rtol=max(atol, 1e-7), atol=atol)
        order = random.sample(range(len(y)), len(y))
        np.testing.assert_allclose(one(y[order], p[order]), value, atol=atol)
        # a weight is a repetition: this is what the bootstrap relies on
        counted = function(Scored.of(y, p, weight=np.stack([count, np.ones(len(y))])))
        repeated = one(np.repeat(y, count), np.repeat(p, count))
        np.testing.assert_allclose(counted, [repeated, value], rtol=max(atol, 1e-7), atol=atol)

    check()


@pytest.fixture(scope="session")
def check_metric():
    return _check_metric


def _table(
    n: int = 120,
    methods: dict[str, float] | None = None,
    *,
    repeats: int = 1,
    events: int | None = None,
    seed: int = 0,
    task: str = "death",
) -> pl.DataFrame:
    """Binary predictions of methods of a given strength (logit shift of the events)."""
    rng = np.random.default_rng(seed)
    y = np.zeros(n, dtype=int)
    y[: n // 4 if events is None else events] = 1
    parts = []
    for method, strength in (methods or {"adacomed": 1.5, "small": 0.5}).items():
        for repeat in range(repeats):
            logit = strength * y + rng.normal(size=n) - 1
            columns = {
                "sample_id": [f"p{i:03d}" for i in range(n)],
                "subject_id": [f"p{i:03d}" for i in range(n)],
                "split": "test",
                "task": task,
                "label": y,
                "prob": 1 / (1 + np.exp(-logit)),
                "threshold": 0.4,
                "repeat": repeat,
                "fold": [i % 5 for i in range(n)],
                "seed": 0,
                "method": method,
            }
            parts.append(pl.DataFrame(columns))
    return pl.concat(parts)


@pytest.fixture(scope="session")
def table():
    return _table
