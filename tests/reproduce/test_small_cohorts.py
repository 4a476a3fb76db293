"""The grid of simulated cohorts: shares, the best rival and Holm's p against other software."""

from __future__ import annotations

import itertools

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from adacomed.errors import InputError
from adacomed.reproduce.small_cohorts import small_cohorts

SMALL = {"sizes": (40, 60), "tested": 80, "modalities": (3,), "rates": (0.0, 0.6)}
METHODS = ["logistic", "small"]


def cells(folder) -> pl.DataFrame:
    """Test predictions on disk, of which cohort (its cells' folder) they are."""
    beside = (".history.parquet", ".stress.parquet")
    files = [f for f in folder.rglob("*~*.parquet") if not f.name.endswith(beside)]
    rows = pl.concat(
        [pl.read_parquet(f).with_columns(cohort=pl.lit(f.parent.name)) for f in files],
        how="diagonal",
    )
    return rows.filter(split="test")


def test_shares_and_the_best_rival(study_kept):
    mine = study_kept("training.epochs=1")
    artefact = small_cohorts(mine, METHODS, **SMALL)
    assert artefact.title.startswith("Simulated")
    shares, best = artefact.data["shares"], artefact.data["best-rival"]
    assert shares.select("modalities", "missing", "n").unique(maintain_order=True).rows() == [
        (3, rate, n) for rate, n in itertools.product((0.0, 0.6), (40, 60))
    ]
    assert set(shares["method"]) == {"adacomed", *METHODS}
    assert (shares["low"] <= shares["share"]).all()
    assert (shares["share"] <= shares["high"]).all()
    found = {}
    for (cohort, repeat, method), rows in cells(mine.out).group_by("cohort", "repeat", "method"):
        assert len(rows) == 80
        found.setdefault((cohort, repeat), {})[method] = roc_auc_score(rows["label"], rows["prob"])
    expected = sorted(
        (auroc["adacomed"] - 0.5) / (auroc["bayes"] - 0.5) for auroc in found.values()
    )
    ours = shares.filter(method="adacomed")["share"]
    assert sorted(ours) == pytest.approx(expected, abs=1e-12)
    gaps = sorted(a["adacomed"] - max(a[m] for m in METHODS) for a in found.values())
    assert sorted(best["difference"]) == pytest.approx(gaps, abs=1e-12)
    verdicts = artefact.tables["AdaCoMed against the best rival of each cell"]
    assert set(verdicts["AdaCoMed"]) <= {"wins", "ties", "loses"}
    assert "favours the rival" in artefact.notes[1]
    assert "Share of the Bayes ceiling, M = 3, 60 % missing" in artefact.tables
    p = np.sort(best["p"].to_numpy()) * np.arange(len(best), 0, -1)  # Holm: over the cells
    np.testing.assert_allclose(
        np.sort(best["p_holm"].to_numpy()), np.minimum(1, np.maximum.accumulate(p))
    )


def test_a_second_run_trains_nothing_and_says_the_same(study_kept):
    mine = study_kept("training.epochs=1")
    first = small_cohorts(mine, ["logistic"], **SMALL)
    written = {f: f.stat().st_mtime_ns for f in mine.out.rglob("*.parquet")}
    again = small_cohorts(mine, ["logistic", "adacomed", "bayes"], **SMALL)
    assert {f: f.stat().st_mtime_ns for f in mine.out.rglob("*.parquet")} == written
    for name, table in first.tables.items():
        assert table.equals(again.tables[name])


def test_without_a_rival_it_says_so(study):
    with pytest.raises(InputError, match="no rival"):
        small_cohorts(study(), ["adacomed", "bayes"], **SMALL)
