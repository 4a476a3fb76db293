"""From series to predictions: a table of their statistics, and the GRU that reads them raw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import yaml

from adacomed.cohort.cohort import load_cohort
from adacomed.cohort.split import Fold
from adacomed.errors import InputError
from adacomed.inference import forward, probabilities
from adacomed.intake import gather_for
from adacomed.training.checkpoint import Run
from adacomed.training.methods import Problem, run_method
from adacomed.training.names import reads_raw, reads_vectors
from adacomed.training.prepare import prepare

from .conftest import make_experiment, saved_run
from .raw_cohort import Files, random_files, write

FOLD = Fold(0, 0, train=np.arange(13), test=np.arange(13, 18))
QUICK = {
    "training": {"epochs": 2, "inner_folds": 2, "members": 1},
    "model": {"strategy": "ensemble", "H": 8, "d": 8},
}
STATS = {"kind": "tabular", "summarise": "labs"}


def cohort_at(folder: Path, files: Files, **cards: dict[str, Any]) -> Path:
    """A cohort of laboratory values and a table, and of `cards`."""
    path = write(folder, files, names=("labs", "clinical"))
    card = yaml.safe_load(path.read_text())
    card["modalities"] |= cards
    path.write_text(yaml.safe_dump(card, sort_keys=False))
    return path


def trained(folder: Path, method: str, path: Path, **settings: Any) -> Run:
    """The method's run, saved and loaded again, on the first 18 patients."""
    experiment = make_experiment(**{**QUICK, "cohort": str(path), **settings})
    prepared = prepare(experiment, methods=[method])
    result = run_method(method, Problem(experiment, prepared.inputs, FOLD, prepared.task, 0))
    run = saved_run(folder / "run", result, experiment, prepared, method)
    test = result.predictions.filter(pl.col("split") == "test")["prob"].to_numpy()
    again = predict(run, path)[FOLD.test]
    assert test == pytest.approx(again, abs=1e-6)
    return run


def predict(run: Run, path: Path, rows: list[int] | None = None) -> np.ndarray:
    cohort = load_cohort(path, labels=False)
    cohort = cohort if rows is None else cohort.take(np.array(rows))
    output = forward(run.trained, gather_for(run, cohort))
    return probabilities(output, run.trained)[:, 1]


@pytest.fixture(scope="module")
def files() -> Files:
    files = random_files(18)
    files.labs = [row for row in files.labs if row["sample_id"] < "p18"]
    return files


@pytest.fixture(scope="module", params=["adacomed", "gru"])
def run(
    request: pytest.FixtureRequest, files: Files, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """AdaCoMed on tables alone (the statistics are its large side too), and the GRU.

    Neither may run an encoder: the one that the YAML names for the series does not exist.
    """
    folder = tmp_path_factory.mktemp(request.param)
    path = cohort_at(folder, files, stats=STATS)
    large = ["labs", "clinical"] if request.param == "gru" else ["stats"]
    return trained(folder, request.param, path, modalities=large)


def test_a_variable_that_new_patients_lack_or_have_beside_is_nothing(
    run: Run, files: Files, tmp_path: Path
) -> None:
    """Six patients without a heart rate, among others who have one, and in a table without any."""
    few = {row["patient"] for row in files.patients[:6]}
    among, alone = files.copy(), files.copy()
    among.labs = [r for r in files.labs if r["sample_id"] not in few or r["variable"] != "heart"]
    alone.patients = files.patients[:6]
    alone.labs = [r for r in among.labs if r["sample_id"] in few]
    alone.labs += [{**r, "variable": "a new one", "value": 1e6} for r in alone.labs]
    wanted = predict(run, cohort_at(tmp_path / "among", among, stats=STATS))[:6]
    found = predict(run, cohort_at(tmp_path / "alone", alone, stats=STATS))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-9)
    usual = predict(run, cohort_at(tmp_path / "usual", files, stats=STATS))[:6]
    assert np.abs(usual - wanted).max() > 1e-4  # a heart rate does say something


def test_alone_and_among_others(run: Run, files: Files, tmp_path: Path) -> None:
    path = cohort_at(tmp_path, files, stats=STATS)
    everyone = predict(run, path)
    assert np.ptp(everyone) > 0.01
    for i in (0, 3, 9):  # 3 and 9 have no series
        np.testing.assert_allclose(predict(run, path, [i]), everyone[[i]], rtol=0, atol=1e-9)


def test_a_cohort_that_does_not_list_them(run: Run, files: Files, tmp_path: Path) -> None:
    """Without statistics, and without series, patients are those of whom nothing was measured."""
    nothing = files.copy()
    nothing.labs = [{**row, "sample_id": "nobody"} for row in files.labs]
    wanted = predict(run, cohort_at(tmp_path / "nothing", nothing, stats=STATS))
    bare = write(tmp_path / "bare", files, names=("clinical",))
    np.testing.assert_allclose(predict(run, bare), wanted, rtol=0, atol=1e-9)


def test_statistics_of_another_name_or_in_a_table_of_their_own(
    run: Run, files: Files, tmp_path: Path
) -> None:
    """The run asks for its own columns: a smaller choice in the new card does not take any away."""
    usual = predict(run, cohort_at(tmp_path / "usual", files, stats=STATS))
    less = {**STATS, "columns": ["lactate max"]}
    found = predict(run, cohort_at(tmp_path / "less", files, stats=less))
    np.testing.assert_allclose(found, usual, rtol=0, atol=1e-9)
    path = cohort_at(tmp_path / "own", files, stats=STATS)
    table = load_cohort(path).table("stats")
    ids = pl.Series("patient", [row["patient"] for row in files.patients])
    table.insert_column(0, ids).write_csv(tmp_path / "own" / "stats.csv")
    own = {"kind": "tabular", "table": "stats.csv", "columns": table.columns[1:]}
    found = predict(run, cohort_at(tmp_path / "own", files, stats=own))
    np.testing.assert_allclose(found, usual, rtol=0, atol=1e-9)


def test_the_gru_reads_series_and_no_vectors_and_needs_one(files: Files, tmp_path: Path) -> None:
    experiment = make_experiment()
    assert reads_raw("gru", experiment)
    assert not reads_vectors("gru", experiment)
    path = write(tmp_path, files, names=("clinical",))
    with pytest.raises(InputError, match="gru reads series, and there is none among clinical"):
        trained(tmp_path, "gru", path)


def test_the_gru_trains_in_half_precision(files: Files, tmp_path: Path) -> None:
    path = cohort_at(tmp_path, files)
    whole, half = (
        predict(trained(tmp_path / name, "gru", path, training={"precision": name}), path)
        for name in ("float32", "bfloat16")
    )
    assert 0 < np.abs(whole - half).max() < 0.05


def test_an_ensemble_of_grus_is_saved_and_loaded(files: Files, tmp_path: Path) -> None:
    path = cohort_at(tmp_path, files)
    settings = {**QUICK["training"], "members": 2, "epochs": 1}
    first, second = trained(tmp_path, "gru", path, training=settings).trained.model.members
    assert not torch.equal(first.head.weight, second.head.weight)
