from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist, pdist
from scipy.stats import ortho_group

from adacomed.evaluation.domination import Domination, domination

NAMES = ("image", "text", "series")


def clouds(n=200, d=6, spread=0.3, gap=3.0, seed=0):
    """Three clouds at the corners of an equilateral triangle with sides gap · √2."""
    rng = np.random.default_rng(seed)
    return {
        name: gap * np.eye(d)[m] + spread * rng.normal(size=(n, d)) for m, name in enumerate(NAMES)
    }


def centre(n=200, d=6, gap=3.0, spread=0.3, seed=9):
    """Points around the triangle's middle, equally far from its corners on average."""
    rng = np.random.default_rng(seed)
    return gap * np.eye(d)[:3].mean(axis=0) + spread * rng.normal(size=(n, d))


def mixed(n=120, seed=3):
    """Overlapping clouds, fused points nearer to text."""
    alone = clouds(n, gap=0.8, spread=0.6, seed=seed)
    fused = 0.2 * alone["image"] + 0.6 * alone["text"] + 0.2 * alone["series"]
    return fused, alone


def by_hand(fused, alone, k):
    """Shares and distances by sorting every distance of every patient, one at a time."""
    pooled = np.concatenate(list(alone.values()))
    owner = np.repeat(np.arange(len(alone)), len(fused))
    shares, near = [], []
    for point in fused:
        distance = cdist(point[None], pooled)[0]
        first = owner[np.argsort(distance)[: k * len(alone)]]
        shares.append([(first == m).mean() for m in range(len(alone))])
        near.append([np.sort(distance[owner == m])[:k].mean() for m in range(len(alone))])
    return np.mean(shares, axis=0), np.mean(near, axis=0) / pdist(pooled).mean()


def test_fused_points_on_one_cloud_are_dominated_by_it():
    alone = clouds()
    rng = np.random.default_rng(1)
    found = domination(alone["text"] + 1e-3 * rng.normal(size=alone["text"].shape), alone)
    assert found.domination == pytest.approx((1, 1, 1))
    assert found.share["text"] == pytest.approx((1, 1, 1))
    assert found.share["image"] == pytest.approx((0, 0, 0))
    assert found.distance["text"] < 0.2 < 0.8 < found.distance["image"]
    assert found.note == ""


def test_fused_points_in_the_middle_are_balanced():
    """On the axis through the middle, the clouds are mirror images: shares differ by chance."""
    alone = clouds(n=400)
    axis = np.ones((400, 6)) * np.linspace(-1, 1, 400)[:, None]
    found = domination(axis, alone)
    for share in found.share.values():
        assert share.value == pytest.approx(1 / 3, abs=0.1)
        assert share.low <= share.value <= share.high
    assert found.domination.value < 0.1
    assert list(found.distance.values()) == pytest.approx([found.distance["text"]] * 3, rel=0.05)


def test_exact_symmetry_is_exactly_zero():
    """Clouds that are reflections of each other and fused points on the mirror."""
    rng = np.random.default_rng(0)
    left = rng.normal(size=(60, 3)) + np.array([2, 0, 0])
    fused = rng.normal(size=(60, 3)) * [0, 1, 1]
    found = domination(fused, {"a": left, "b": left * [-1, 1, 1]}, k=7)
    assert found.domination.value == pytest.approx(0, abs=1e-12)
    assert found.share["a"] == pytest.approx((0.5, 0.5, 0.5))


def test_points_at_one_distance_share_the_last_places():
    """Of 30 places 12 go to the nearer points; left and right tie for the other 18."""
    alone = {
        "near": np.repeat([[1.0, 0.0], [9.0, 0.0]], [12, 18], axis=0),
        "left": np.tile([0.0, 2.0], (30, 1)),
        "right": np.tile([0.0, -2.0], (30, 1)),
    }
    found = domination(np.zeros((30, 2)), alone, k=10)
    assert [s.value for s in found.share.values()] == pytest.approx([0.4, 0.3, 0.3])
    assert found.domination.value == pytest.approx(0.1)


def test_the_order_of_the_modalities_does_not_matter():
    fused, alone = mixed()
    one = domination(fused, alone)
    other = domination(fused, dict(reversed(alone.items())))
    assert list(other.share) == ["series", "text", "image"]
    for name in alone:
        assert one.share[name] == pytest.approx(other.share[name])


@pytest.mark.parametrize("k", [1, 4, 15])
def test_against_every_distance_sorted(k):
    fused, alone = mixed()
    found = domination(fused, alone, k=k)
    share, distance = by_hand(fused, alone, k)
    assert [s.value for s in found.share.values()] == pytest.approx(share)
    assert list(found.distance.values()) == pytest.approx(distance, rel=0.01)
    assert found.domination.value == pytest.approx((share.max() - 1 / 3) * 1.5)
    assert 0.1 < found.domination.value < 0.9  # the case says something
    assert found.domination.low < found.domination.value < found.domination.high


def test_location_scale_and_rotation_do_not_matter():
    fused, alone = mixed()
    turn = ortho_group.rvs(6, random_state=0)
    before = domination(fused, alone).frame()
    moved = domination(
        fused @ turn * 250 + 40, {name: cloud @ turn * 250 + 40 for name, cloud in alone.items()}
    ).frame()
    for name in before.columns[1:]:
        np.testing.assert_allclose(before[name], moved[name], rtol=1e-9)


def test_chunks_of_rows_change_nothing(monkeypatch):
    fused, alone = mixed()
    whole = domination(fused, alone)
    monkeypatch.setattr("adacomed.evaluation.domination.CELLS", 1000)
    parts = domination(fused, alone)
    np.testing.assert_allclose(whole.frame().drop("cloud"), parts.frame().drop("cloud"), rtol=1e-12)


def test_a_seed_gives_the_same_numbers_and_another_seed_another_interval():
    fused, alone = mixed()
    one, again = domination(fused, alone, seed=4), domination(fused, alone, seed=4)
    assert one == again
    other = domination(fused, alone, seed=5)
    assert other.share["text"].value == one.share["text"].value
    assert other.share["text"] != one.share["text"]


def test_the_interval_is_that_of_a_mean_over_patients():
    """Shares of 0 or 1 (k·M = N points of one cloud): the interval is the binomial's."""
    n = 300
    alone = {"a": np.tile([0.0], (n, 1)), "b": np.tile([10.0], (n, 1))}
    fused = np.where(np.arange(n) < 90, 10.0, 0.0)[:, None]
    found = domination(fused, alone, n=4000)
    half = 1.96 * np.sqrt(0.3 * 0.7 / n)
    assert found.share["b"].value == pytest.approx(0.3)
    assert found.share["b"] == pytest.approx((0.3, 0.3 - half, 0.3 + half), abs=0.006)
    assert found.domination == pytest.approx((0.4, 0.4 - 2 * half, 0.4 + 2 * half), abs=0.012)


def test_few_patients_make_k_smaller_and_say_so():
    alone = {name: cloud[:20] for name, cloud in clouds().items()}
    found = domination(alone["text"], alone)
    assert found.k == 6  # 3 · 6 of 20: one cloud can still hold all places
    assert found.note == "20 patients: k = 6 instead of 15"
    assert found.domination.value == pytest.approx(1)


def test_points_that_all_coincide_are_balanced_without_a_distance():
    same = np.ones((40, 4))
    found = domination(same, {"a": same, "b": same})
    assert found.domination.value == pytest.approx(0)
    assert np.isnan(found.distance["a"])


def test_frame():
    fused, alone = mixed()
    found = domination(fused, alone)
    assert isinstance(found, Domination)
    frame = found.frame()
    assert frame.columns == [
        *("cloud", "share", "share_low", "share_high", "distance"),
        *("domination", "domination_low", "domination_high"),
    ]
    assert frame["cloud"].to_list() == list(NAMES)
    assert frame["share"].sum() == pytest.approx(1)
    assert frame["domination"].n_unique() == 1
    assert frame.row(1)[1:4] == found.share["text"]


@pytest.mark.parametrize(
    ("fused", "alone", "more", "message"),
    [
        (np.ones((9, 2)), {"a": np.ones((9, 2))}, {}, "2 modalities or more"),
        (np.ones((9, 2)), {"a": np.ones((9, 2)), "b": np.ones((9, 3))}, {}, r"one shape \(N, D\)"),
        (np.ones((9, 2)), {"a": np.ones((8, 2)), "b": np.ones((9, 2))}, {}, r"one shape \(N, D\)"),
        (np.ones(9), {"a": np.ones(9), "b": np.ones(9)}, {}, r"one shape \(N, D\)"),
        (np.ones((9, 2)), {"a": np.full((9, 2), np.nan), "b": np.ones((9, 2))}, {}, "finite"),
        (np.ones((1, 2)), {"a": np.ones((1, 2)), "b": np.ones((1, 2))}, {}, "as many patients"),
        (np.ones((9, 2)), {"a": np.ones((9, 2)), "b": np.ones((9, 2))}, {"k": 0}, "k ≥ 1"),
    ],
)
def test_errors(fused, alone, more, message):
    with pytest.raises(ValueError, match=message):
        domination(fused, alone, **more)
