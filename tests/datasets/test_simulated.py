from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

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


@pytest.mark.parametrize("modalities", [1, 3])
def test_bayes_prob_is_calibrated_for_every_missingness_pattern(modalities: int) -> None:
    people = simulate(8000, modalities, seed=0)
    prob = people.evidence.posterior()
    patterns = np.stack(list(people.present.values()), axis=1) @ (2 ** np.arange(modalities))
    groups = [patterns == p for p in np.unique(patterns)]
    groups += [(prob >= low) & (prob < low + 0.1) for low in np.arange(0, 1, 0.1)]
    for rows in groups:
        n, p = rows.sum(), prob[rows]
        if n >= 50:
            z = (people.label[rows].sum() - p.sum()) / np.sqrt((p * (1 - p)).sum())
            assert abs(z) < 3.5


def test_bayes_prob_leaves_nothing_to_explain() -> None:
    """label − P(label | seen) is orthogonal to every function of what is seen, by definition."""
    n = 8000
    people = simulate(n, 3, seed=2)
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


def test_no_model_beats_the_ceiling() -> None:
    people = simulate(6000, 2, seed=0)
    ceiling = roc_auc_score(people.label, people.evidence.posterior())
    seen = np.where(people.present["m1"][:, None], people.vectors["m1"], 0)
    fit = LogisticRegression(C=0.01, max_iter=500).fit(seen[:3000], people.label[:3000])
    assert roc_auc_score(people.label[3000:], fit.decision_function(seen[3000:])) < ceiling
    truth = expit(-1.4 + 1.2 * people.severity + 1.2 * people.a * people.b)
    assert roc_auc_score(people.label, truth) > ceiling > 0.7


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
