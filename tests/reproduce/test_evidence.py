"""The final protocol on one cohort: folds, figures and p against scikit-learn and scipy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold

from adacomed.commands.reproduce import write
from adacomed.errors import InputError
from adacomed.models.weighting import STRATEGIES
from adacomed.reproduce import evidence
from adacomed.reproduce.study import seeded_folds
from adacomed.schema import SeriesCard

QUICK = ("training.epochs=1", "split.folds=2")
HOW = "outcome, 2 × 2-fold cross-validation (split seeds 100, 101)"


@pytest.fixture
def quick(study_kept):
    return study_kept(*QUICK)


def predictions(folder) -> pl.DataFrame:
    """Test predictions on disk."""
    beside = (".history.parquet", ".stress.parquet")
    files = [f for f in folder.rglob("*~*.parquet") if not f.name.endswith(beside)]
    rows = pl.concat([pl.read_parquet(f) for f in files], how="diagonal")
    return rows.filter(split="test")


def test_a_split_seed_is_a_k_fold_of_its_own(quick):
    experiment = quick.experiment()
    prepared = quick.prepared(experiment)
    folds = seeded_folds(experiment, prepared, [100, 7])
    assert [(f.repeat, f.fold) for f in folds] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    y = prepared.inputs.target
    for repeat, seed in enumerate((100, 7)):
        oracle = StratifiedKFold(2, shuffle=True, random_state=np.random.RandomState(seed))
        for fold, (train, test) in zip(folds[2 * repeat :], oracle.split(y, y), strict=False):
            np.testing.assert_array_equal(fold.train, train)
            np.testing.assert_array_equal(fold.test, test)
    for wrong in ([], [1, 1], [-1]):
        with pytest.raises(InputError, match="split seeds"):
            seeded_folds(experiment, prepared, wrong)


def test_rivals(quick, tmp_path):
    artefact = evidence.rivals(quick, ["small", "logistic"], (100, 101))
    assert artefact.title.startswith("Simulated")
    scores, less = artefact.tables.values()
    assert list(artefact.tables) == [HOW, f"{HOW}: AdaCoMed less each rival"]
    assert scores.columns == ["method", "n", "n_events", "AUROC", "AUPRC (1)"]
    found = predictions(quick.out)
    long = artefact.data["rivals-outcome"]
    for method in ("adacomed", "small", "logistic"):
        for metric, oracle in (("auroc", roc_auc_score), ("auprc", average_precision_score)):
            repeats = found.filter(method=method).partition_by("repeat")
            assert [len(rows) for rows in repeats] == [150, 150]
            expected = np.mean([oracle(rows["label"], rows["prob"]) for rows in repeats])
            [row] = long.filter(method=method, metric=metric).rows(named=True)
            assert row["value"] == pytest.approx(expected, abs=1e-9)
            assert row["low"] <= row["value"] <= row["high"]
    assert scores["method"].to_list() == long.filter(metric="auroc")["method"].to_list()
    assert less["method"].to_list() == [m for m in scores["method"] if m != "adacomed"]
    assert less.columns[1:4] == ["AUROC", "AUROC p (Holm)", "AUPRC"]
    assert f"{tmp_path / 'rivals-outcome.svg'}" in map(str, write(artefact, tmp_path, "rivals"))


def test_the_corrected_t_test_is_over_the_folds(quick):
    pairs = evidence.rivals(quick, ["logistic"], (100, 101)).data["paired-outcome"]
    by = predictions(quick.out).partition_by("repeat", "fold", "method", as_dict=True)
    auroc = {key: roc_auc_score(rows["label"], rows["prob"]) for key, rows in by.items()}
    differences = np.array(
        [auroc[r, f, "adacomed"] - auroc[r, f, "logistic"] for r in (0, 1) for f in (0, 1)]
    )
    error = np.sqrt((1 / 4 + 75 / 75) * differences.var(ddof=1))
    expected = 2 * stats.t.sf(abs(differences.mean()) / error, 3)
    [row] = pairs.filter(metric="auroc").rows(named=True)
    assert row["folds"] == 4
    assert row["p_resampled"] == pytest.approx(expected, rel=1e-6)


def test_every_rival_that_can_run_is_asked_for(quick):
    prepared = quick.prepared(quick.experiment())
    names = set(evidence._every_rival(prepared))
    assert {"small", "average", "weighted-late-fusion", "boosting-all", "m1-large"} < names
    assert {*evidence.ALSO} < names
    assert not {"onellm", "multimodal-pred", "gru"} & names  # the cohort has no series
    card = prepared.cohort.card
    series = SeriesCard(kind="series", columns=["hr"], table=Path("x"))
    card = card.model_copy(update={"modalities": card.modalities | {"vitals": series}})
    cohort = replace(prepared.cohort, card=card)
    assert {*evidence._every_rival(replace(prepared, cohort=cohort))} == {*names, "gru"}


def test_weights(quick):
    artefact = evidence.weights(quick, (100, 101))
    table, less = artefact.tables.values()
    assert set(table["method"]) == set(STRATEGIES)
    assert set(less["method"]) == set(STRATEGIES) - {"ensemble"}
    by = {row["method"]: row for row in table.iter_rows(named=True)}
    assert by["ensemble"]["w_large, 5–95 %"] == "0.500–0.500"
    assert by["ensemble"]["w_large with the branch that is right"] == "–"
    assert "same for every patient" in by["learnable"]["note"]
    found = predictions(quick.out).filter(method="adacomed?model.strategy=gaussian")
    low, high = np.quantile(found["w_large"].to_numpy(), [0.05, 0.95])
    assert low < high
    assert by["gaussian"]["w_large, 5–95 %"] == f"{low:.3f}–{high:.3f}"
    data = artefact.data["weights-outcome"].filter(method="gaussian").row(0, named=True)
    assert -1 <= data["loss_correlation_low"] <= data["loss_correlation_high"] <= 1
    values = {  # half and half less gaussian, in the table below
        m: np.mean([roc_auc_score(r["label"], r["prob"]) for r in rows.partition_by("repeat")])
        for m in ("ensemble", "gaussian")
        for rows in [predictions(quick.out).filter(method=f"adacomed?model.strategy={m}")]
    }
    pairs = artefact.data["paired-outcome"].filter(method="gaussian", metric="auroc")
    expected = values["ensemble"] - values["gaussian"]
    assert pairs[0, "difference"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("rivals", "--methods", "forrest"), "did you mean 'forest'"),
        (("rivals", "--split-seeds", "100,x"), "--split-seeds 100,x"),
        (("rivals", "--split-seeds", "3,3"), "split seeds 3, 3"),
        (("weights", "--methods", "small"), "takes no --methods"),
        (("fig4", "--split-seeds", "1"), "takes no --split-seeds"),
        (("simulated-grid", "--methods", "adacomed"), "no rival"),
    ],
)
def test_mistakes_are_named(cli, patients, tmp_path, words, said):
    ran = cli("reproduce", *words, "--cohort", patients, "--out", tmp_path, "--jobs", 1, *QUICK)
    assert (ran.exit_code, ran.stdout) == (2, "")
    assert said in ran.stderr
