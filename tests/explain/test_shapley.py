"""Shapley values of games and of stress tables, against captum and the definition."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import polars as pl
import pytest
import torch

from adacomed.errors import InputError
from adacomed.explain.shapley import (
    MOST,
    attribute,
    from_stress,
    interactions,
    patterns,
    shapley,
)

NAMES = ["ct", "notes", "wsi"]


def random_game(M: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(2**M, 4, 3))


@pytest.mark.parametrize("M", [1, 2, 3, 5])
def test_values_are_captums(M: int) -> None:
    captum = pytest.importorskip("captum.attr")
    game = random_game(M)

    def play(mask: torch.Tensor) -> torch.Tensor:
        bits = (mask.numpy() > 0.5) @ (1 << np.arange(M))
        return torch.from_numpy(game[bits, 0, 0])

    theirs = captum.ShapleyValues(play).attribute(torch.ones(1, M))[0].numpy()
    np.testing.assert_allclose(shapley(game)[:, 0, 0], theirs, atol=1e-6)


def test_values_are_the_mean_over_all_orders() -> None:
    game = random_game(4)
    mean = np.zeros((4, 4, 3))
    orders = list(permutations(range(4)))
    for order in orders:
        bits = 0
        for m in order:
            mean[m] += (game[bits | 1 << m] - game[bits]) / len(orders)
            bits |= 1 << m
    np.testing.assert_allclose(shapley(game), mean, atol=1e-12)


def test_values_add_up_and_a_dummy_has_none() -> None:
    game = random_game(4)
    kept = patterns(4)
    dummy = game[kept[:, :3] @ np.array([1, 2, 4])]  # the fourth player changes nothing
    assert (shapley(dummy)[3] == 0).all()
    np.testing.assert_allclose(shapley(game).sum(axis=0), game[-1] - game[0], atol=1e-12)


def test_interactions_of_a_known_game() -> None:
    kept = patterns(3)
    game = kept.sum(axis=1) + 2.0 * (kept[:, 0] & kept[:, 1])  # additive, and a bonus for 0 and 1
    expected = np.zeros((3, 3))
    expected[0, 1] = expected[1, 0] = 2.0
    np.testing.assert_allclose(interactions(game), expected, atol=1e-12)
    np.testing.assert_allclose(shapley(game), [2, 2, 1], atol=1e-12)


def test_interactions_by_brute_force() -> None:
    game = random_game(4)[:, 0, 0]
    both = 0.0  # of 1 and 3, as one player against its parts, over all orders of what is left
    for order in permutations([0, 2, "pair"]):
        bits = sum(1 << m for m in order[: order.index("pair")])
        both += game[bits | 2 | 8] - game[bits | 2] - game[bits | 8] + game[bits]
    assert interactions(game)[1, 3] == pytest.approx(both / 6)


def test_a_length_that_is_no_game() -> None:
    with pytest.raises(ValueError, match="2\\^M"):
        shapley(np.zeros(6))


def test_many_players_are_estimated_with_their_error() -> None:
    M, N = MOST + 1, 40
    rng = np.random.default_rng(0)
    worth, present = rng.normal(size=(N, M)), rng.random((N, M)) < 0.95
    pair = rng.normal(size=N)

    def value(bits: int) -> np.ndarray:
        kept = (bits >> np.arange(M) & 1 == 1) & present
        total = (worth * kept).sum(axis=1) + pair * (kept[:, 0] & kept[:, 1]) ** 1.0
        total += np.sin(3 * (worth * kept).sum(axis=1))  # not additive: an order matters
        return np.stack([-total, total], axis=1)

    found = attribute(value, present, seed=1)
    again = attribute(value, present, seed=1)
    assert (found["values"] == again["values"]).all()
    assert (found["values"][~present] == 0).all()
    np.testing.assert_allclose(
        found["values"].sum(axis=1), found["prob"] - found["base"], atol=1e-9
    )
    assert "interaction" not in found
    game = np.stack([value(bits)[:, 1] for bits in range(2**M)])
    off = np.abs(found["values"][..., 1] - shapley(game).T)[present]
    z = off / np.maximum(found["error"][..., 1][present], 1e-12)
    assert np.mean(z < 3) > 0.95  # 97.3 % were it normal with a known error; t with 31 df: less
    assert off.max() > 1e-3  # an estimate it is


def stress_table(game: np.ndarray, present: np.ndarray, binary: bool = True) -> pl.DataFrame:
    """The table that a stress run of `game` (8, N, K) would write, rows shuffled."""
    rows = []
    for bits, kept in enumerate(patterns(3)):
        for i in range(game.shape[1]):
            prob = game[bits, i]
            names = [n for n, k in zip(NAMES, kept, strict=True) if k]
            row = {"sample_id": f"p{i}", "subject_id": f"s{i // 2}", "task": "t", "method": "m"}
            row |= {"prob": prob[1] if binary else prob.max(), "kept": names, "noise": 0.0}
            row["present"] = [n for n, h in zip(NAMES, present[i], strict=True) if h and n in names]
            rows.append(row | ({} if binary else {f"prob_{k}": p for k, p in enumerate(prob)}))
    rows.append(rows[-1] | {"noise": 0.5, "prob": 0.0})
    return pl.DataFrame(rows).sample(fraction=1, shuffle=True, seed=0)


@pytest.mark.parametrize("K", [2, 3])
def test_a_stress_table_needs_no_model(K: int) -> None:
    rng = np.random.default_rng(0)
    game = rng.dirichlet(np.ones(K), size=(8, 6))
    present = rng.random((6, 3)) < 0.7
    present[0] = True
    for i in range(6):  # an absent modality changes nothing
        own = (present[i] * np.array([1, 2, 4])).sum()
        game[:, i] = game[np.arange(8) & own, i]
    found = from_stress(stress_table(game, present, binary=K == 2))
    assert found.names == tuple(NAMES)
    assert found.interaction is not None
    order = [int(s[1:]) for s in found.sample_id]
    np.testing.assert_allclose(found.values, np.moveaxis(shapley(game), 0, 1)[order], atol=1e-12)
    assert (found.values[~found.present] == 0).all()
    assert (found.present == present[order]).all()
    np.testing.assert_allclose(found.prob, game[-1][order])
    np.testing.assert_allclose(found.without[:, 0], game[6][order])


def test_a_stress_table_that_lacks_something() -> None:
    game, present = random_game(3)[..., :2], np.ones((4, 3), bool)
    table = stress_table(game, present)
    fewer = table.filter(pl.col("kept").list.len() != 2)
    with pytest.raises(InputError, match="all 2\\^3 subsets of the modalities, 32 rows"):
        from_stress(fewer)
    two = pl.concat([table, table.with_columns(method=pl.lit("other"))])
    with pytest.raises(InputError, match="of one method, the stress table has 2"):
        from_stress(two)
    alone = table.filter(pl.col("kept").list.len() == 1, pl.col("noise") == 0)
    twice = pl.concat([table.filter(pl.col("kept").list.len() != 1), alone[:1], alone[:-1]])
    with pytest.raises(InputError, match="twice"):
        from_stress(twice)
