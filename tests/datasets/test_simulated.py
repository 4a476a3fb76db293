from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from tests.conftest import Ran

from adacomed.cohort.check import check
from adacomed.cohort.cohort import load_cohort
from adacomed.cohort.split import official
from adacomed.datasets.simulated import TASK, build, simulate
from adacomed.errors import InputError


@pytest.mark.parametrize("modalities", [1, 2, 4])
def test_builds_a_sound_cohort(tmp_path: Path, modalities: int) -> None:
    card = build(tmp_path / "sim", samples=300, modalities=modalities, seed=1)
    assert "Simulated" in card.title
    assert card.simulated
    report = check(tmp_path / "sim")
    assert report.errors == []
    cohort = load_cohort(tmp_path / "sim")
    assert cohort.card == card
    vectors = [cohort.vectors(f"m{k + 1}") for k in range(modalities)]
    assert vectors[-1].shape == (300, 256)
    assert (~np.isnan(np.stack([v[:, 0] for v in vectors]))).any(axis=0).all()
    fold = official(cohort, cohort.target(TASK))
    assert (len(fold.train), len(fold.test)) == (240, 60)
    assert cohort.table("clinical")["ward"].dtype == pl.String


def test_one_seed_one_cohort(tmp_path: Path) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        build(tmp_path / name, samples=80, seed=seed)
    files = ["samples.parquet", "labels.parquet", "vectors/m1.parquet", "cohort.yaml"]
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert not pl.read_parquet(tmp_path / "a" / files[1]).equals(
        pl.read_parquet(tmp_path / "c" / files[1])
    )


@pytest.mark.parametrize(("modalities", "missing"), [(1, None), (3, None), (4, 0.6), (2, 0.9)])
def test_bayes_prob_is_calibrated_for_every_missingness_pattern(
    modalities: int, missing: float | None
) -> None:
    people = simulate(8000, modalities, seed=0, missing=missing)
    prob = people.evidence.posterior()
    patterns = np.stack(list(people.present.values()), axis=1) @ (2 ** np.arange(modalities))
    groups = [patterns == p for p in np.unique(patterns)]
    groups += [(prob >= low) & (prob < low + 0.1) for low in np.arange(0, 1, 0.1)]
    for rows in groups:
        n, p = rows.sum(), prob[rows]
        if n >= 50:
            z = (people.label[rows].sum() - p.sum()) / np.sqrt((p * (1 - p)).sum())
            assert abs(z) < 3.5


@pytest.mark.parametrize("missing", [None, 0.5])
def test_bayes_prob_leaves_nothing_to_explain(missing: float | None) -> None:
    """label − P(label | seen) is orthogonal to every function of what is seen, by definition."""
    n = 8000
    people = simulate(n, 3, seed=2, missing=missing)
    residual = people.label - people.evidence.posterior()
    seen: list[np.ndarray] = []
    hidden = {"m1": people.a, "m2": people.b, "m3": people.severity}
    for name, truth in hidden.items():
        here, view = people.present[name], people.vectors[name]
        weights, *_ = np.linalg.lstsq(view, np.c_[truth, people.severity], rcond=None)
        seen += [here.astype(float), *(here[:, None] * (view @ weights)).T]
    seen += [seen[1] * seen[4], np.sign(seen[1] * seen[4])]  # the interaction, as views show it
    for values in people.table.values():
        if values.dtype == pl.String:
            seen += [(values == ward).fill_null(False).to_numpy().astype(float) for ward in "ABCD"]
        else:
            seen += [values.is_null().to_numpy().astype(float)]
            seen += [values.fill_null(values.mean()).to_numpy() - values.mean()]
    for x in seen:
        z = (residual * x).sum() / np.sqrt((residual**2 * x**2).sum())
        assert abs(z) < 3.5


def test_the_interaction_shows_in_no_single_sign() -> None:
    people = simulate(20_000, 3, seed=0)
    for sign in (people.a, people.b):
        assert abs(people.label[sign > 0].mean() - people.label[sign < 0].mean()) < 0.02
    product = people.a * people.b
    assert people.label[product > 0].mean() - people.label[product < 0].mean() > 0.2
    missing_sicker = people.severity[people.present["m2"]].mean()
    assert missing_sicker > people.severity[~people.present["m2"]].mean() + 0.3
    assert abs(people.severity[people.present["m3"]].mean()) < 0.05


@pytest.mark.parametrize("missing", [None, 0.0, 0.3])
def test_no_model_beats_the_ceiling(missing: float | None) -> None:
    people = simulate(6000, 2, seed=0, missing=missing)
    ceiling = roc_auc_score(people.label, people.evidence.posterior())
    seen = np.where(people.present["m1"][:, None], people.vectors["m1"], 0)
    fit = LogisticRegression(C=0.01, max_iter=500).fit(seen[:3000], people.label[:3000])
    assert roc_auc_score(people.label[3000:], fit.decision_function(seen[3000:])) < ceiling
    truth = expit(-1.4 + 1.2 * people.severity + 1.2 * people.a * people.b)
    assert roc_auc_score(people.label, truth) > ceiling > 0.7


def test_without_a_rate_the_patients_are_those_of_before_there_were_rates() -> None:
    """Rounded, and of each vector its length only: a rotation's last digits vary with the BLAS."""
    digest = hashlib.sha256()
    for modalities in (1, 2, 4):
        people = simulate(150, modalities, seed=7)
        numbers = [people.severity, people.evidence.posterior()]
        numbers += [np.linalg.norm(view, axis=1) for view in people.vectors.values()]
        numbers += [
            v.fill_null(-1).to_numpy() for v in people.table.values() if v.dtype != pl.String
        ]
        for x in (people.label, *people.present.values()):
            digest.update(x.astype(np.uint8).tobytes())
        for x in numbers:
            digest.update(np.round(x * 1e6).astype(np.int64).tobytes())
        digest.update("".join(w or "-" for w in people.table["ward"]).encode())
    assert digest.hexdigest()[:16] == "90933a429e2b0fa8"


@pytest.mark.parametrize(("modalities", "missing"), [(3, 0.3), (4, 0.6), (3, 0.9), (2, 0.0)])
def test_a_rate_of_missing_modalities(modalities: int, missing: float) -> None:
    """Absent with chance r, less r^M / M: who would have none keeps one of M, drawn at random."""
    n = 4000
    people = simulate(n, modalities, seed=1, missing=missing)
    here = np.stack(list(people.present.values()))
    assert here.any(axis=0).all()
    expected = missing - missing**modalities / modalities
    error = np.sqrt(expected * (1 - expected) / n)
    assert np.abs((~here).mean(axis=1) - expected).max() <= 4 * error
    for row in here if missing else ():
        assert abs(np.corrcoef(row, people.severity)[0, 1]) < 4 / np.sqrt(n)
    if missing == 0.9:  # who keeps which says nothing either
        alone = here[:, here.sum(axis=0) == 1]
        assert np.abs(alone.mean(axis=1) - 1 / 3).max() < 4 * np.sqrt(2 / 9 / alone.shape[1])


def test_what_is_missing_at_a_rate_tells_nothing() -> None:
    """Who has everything at rate .5 has, to the last digit, the probability of rate 0."""
    whole, some = (simulate(3000, 3, seed=4, missing=rate) for rate in (0.0, 0.5))
    for name, view in whole.vectors.items():
        np.testing.assert_array_equal(view, some.vectors[name])
    has_all = np.stack(list(some.present.values())).all(axis=0)
    assert 0.1 < has_all.mean() < 0.15  # .5³
    before, after = (people.evidence.posterior() for people in (whole, some))
    np.testing.assert_array_equal(before[has_all], after[has_all])
    assert (before != after)[~has_all].mean() > 0.99
    assert roc_auc_score(some.label, before) > roc_auc_score(some.label, after) + 0.02


def test_a_cohort_with_a_rate(tmp_path: Path, cli: Callable[..., Ran]) -> None:
    out = tmp_path / "sim"
    words = ("cohort", "build", "simulated", "--samples", 200, "--modalities", 2, "--out", out)
    assert cli(*words, "--missing", 0.4).exit_code == 0
    assert check(out).errors == []
    cohort = load_cohort(out)
    assert cohort.card.source.endswith("seed 0, missing 0.4")
    absent = np.isnan(cohort.vectors("m1")[:, 0])
    np.testing.assert_array_equal(absent, ~simulate(200, 2, 0, 0.4).present["m1"])
    assert "missing" not in build(tmp_path / "plain", samples=60).source
    wrong = cli(*words, "--missing", 1)
    assert (wrong.exit_code, wrong.stdout) == (2, "")
    assert "rate of missing modalities of 1; 0 to 0.9 would work" in wrong.stderr


@pytest.mark.parametrize("missing", [-0.01, 0.91, math.nan, math.inf])
def test_a_rate_out_of_range(tmp_path: Path, missing: float) -> None:
    with pytest.raises(InputError, match=r"0 to 0\.9 would work"):
        build(tmp_path / "x", samples=60, missing=missing)
    assert not (tmp_path / "x").exists()


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least 50, 1 and 0"):
        build(tmp_path / "x", samples=10)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"thesis\.tex"):
        build(tmp_path / "mine", samples=60)
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]
    build(tmp_path / "x", samples=60)
    (tmp_path / "x" / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"thesis\.tex"):
        build(tmp_path / "x", samples=60)
