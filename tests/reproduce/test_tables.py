"""Tables 2–5 on a simulated cohort and on MMIST: every method and strategy, beside the paper's."""

import polars as pl
import pytest

from adacomed.datasets import mmist_ccrcc
from adacomed.models.weighting import STRATEGIES
from adacomed.reproduce import tables
from adacomed.reproduce.study import ALIVE_COLUMNS, PAPER_COLUMNS
from tests.conftest import shared


def test_strategies_on_simulated_patients(study):
    artefact = tables.strategies(study())
    assert artefact.title.startswith("Simulated patients (no real data)")
    ours, pairs, paper = artefact.tables.values()
    named = [f"AdaCoMed, {s}" for s in STRATEGIES]
    around = [f"AdaCoMed with MultimodalPred, {s}" for s in STRATEGIES]
    last = "AdaCoMed with MultimodalPred-Small"
    assert ours["method"].to_list() == [*named, "AdaCoMed", *around, last]
    assert ours.columns == ["method", "n", "n_events", *PAPER_COLUMNS]
    assert ours["n"].unique().to_list() == [30]
    assert set(pairs["method"]) == {*named, *around, last}
    assert paper.filter(method="Threshold Contrastive").height == 3  # tasks of MIMIC-IV-MM
    assert "not a result" in artefact.notes[0]


def test_the_plain_ensemble_is_what_auto_trains_seed_for_seed(study):
    """Nothing is clearly better on 30 patients: AdaCoMed's row equals the row of the ensemble."""
    mine = study()
    tables.strategies(mine)
    experiment = mine.experiment("split.kind=auto")
    prepared = mine.prepared(experiment)
    from adacomed.reproduce.study import one_split

    names = ["adacomed?model.strategy=ensemble", "adacomed"]
    found = mine.predictions(names, experiment, prepared, [one_split(experiment, prepared)])
    test = found.filter(pl.col("split") == "test")
    probs = {m: test.filter(method=m)["prob"].to_list() for m in names}
    assert probs["adacomed"] == probs[names[0]]


def test_all_methods_on_simulated_patients(study):
    artefact = tables.compared(study())
    ours = next(iter(artefact.tables.values()))
    assert {"AdaCoMed", "MultimodalPred-Small", "M1-Large", "Large-Ensemble", "flex-moe"} <= set(
        ours["method"]
    )
    assert any("random weights" in name for name in ours["method"])  # it says what it started from
    assert artefact.tables["The paper's, on MIMIC-IV-MM (other patients)"].height == 24


@pytest.fixture(scope="module")
def mmist(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mmist") / "mmist-ccrcc"
    mmist_ccrcc.build(shared("mmist-ccrcc"), folder)
    return folder


def test_mmist_is_tested_as_in_the_paper(study, mmist):
    artefact = tables.strategies(study("model.strategy=ensemble", cohort=mmist))
    headings = [h for h in artefact.tables if "less each" not in h]
    assert headings == [
        "Trained on the paper's complete cases, tested on its 58",
        "Trained on all, missing modalities allowed; the same 58",
        "Trained on all, missing modalities allowed; all 121 test patients",
        "1 × 5-fold cross-validation on all 618",
        "The paper's (58 patients, 4 deaths; Auprc of being alive)",
    ]
    sizes = [artefact.tables[h][0, "n"] for h in headings[:-1]]
    assert sizes == [58, 58, 121, 618]
    events = [artefact.tables[h][0, "n_events"] for h in headings[:-1]]
    assert events == [4, 4, 16, 75]
    assert list(ALIVE_COLUMNS)[2] in artefact.tables[headings[0]].columns
    assert artefact.tables[headings[-1]].filter(method="Threshold Contrastive")[0, "Auroc"] == 0.898
