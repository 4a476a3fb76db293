"""The three tasks are learned on a built cohort: raw, and on tiny encoders (RANDOM weights)."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from tests.encoders.conftest import save_tiny
from tests.encoders.test_dinov2 import save_tiny_dinov2
from tests.encoders.test_moirai import save_tiny as save_tiny_moirai

from adacomed.datasets.mimic.build import build
from adacomed.datasets.mimic_release import build as simulated_mimic

TASKS = ("mortality", "longstay", "readmission")
QUICK = [
    *("small.kind=multimodal-pred", "small.modalities=[xray, note, time, clinical]"),
    *("small.width=8", "small.resnet=tiny", "small.epochs=1"),
    *("training.epochs=1", "training.inner_folds=2", "training.members=1"),
    *("model.strategy=ensemble", "model.H=8", "model.d=8"),
    *("evidence.stress=false", "evidence.calibration=none"),
]
PARTS = ("mimic-iv", "mimic-cxr-jpg", "mimic-iv-note")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort of 80 generated stays, and an experiment on it."""
    folder = tmp_path_factory.mktemp("learn")
    simulated_mimic.build(folder / "release", stays=80, seed=2)
    build(*(folder / "release" / p for p in PARTS), folder / "cohort")
    (folder / "experiment.yaml").write_text("cohort: cohort\nmodalities: [xray, note, time]\n")
    return folder


def test_the_small_model_on_raw_series_image_and_notes(folder: Path, cli) -> None:
    """By the cohort's own split; no encoder is asked for."""
    task = "mortality"
    words = ["train", folder / "experiment.yaml", f"task={task}", *QUICK]
    ran = cli(*words, "--method", "multimodal-pred", "--out", folder / task)
    assert ran.exit_code == 0, ran.output
    found = pl.read_parquet(folder / task / "predictions.parquet")
    truth = pl.read_parquet(folder / "cohort" / "labels.parquet").filter(pl.col("task") == task)
    samples = pl.read_parquet(folder / "cohort" / "samples.parquet")
    assert found["prob"].is_between(0, 1).all()
    assert found["prob"].n_unique() > 3
    both = found.join(truth, on="sample_id").join(samples, on="sample_id")
    assert len(both) == len(found) > 0
    assert both["label"].to_list() == both["label_right"].to_list()
    assert both["split"].to_list() == both["split_right"].to_list()


def test_all_tasks_with_the_large_side_on_tiny_encoders(folder: Path, cli) -> None:
    models = {
        "xray": f"dinov2:{save_tiny_dinov2(folder / 'dinov2')}",
        "note": f"text-encoder:{save_tiny(folder / 'bert')}",
        "time": f"moirai:{save_tiny_moirai(folder / 'moirai', max_seq_len=512)}",
    }
    given = [word for m, spec in models.items() for word in ("--encoder", f"{m}={spec}")]
    ran = cli("embed", folder / "cohort", "--workers", "0", *given)
    assert ran.exit_code == 0, ran.output
    methods = "adacomed,multimodal-pred"
    for task in TASKS:
        words = ["compare", folder / "experiment.yaml", f"task={task}", *QUICK, "--jobs", "1"]
        words += ["split.kind=official", "--resamples", "20", "--methods", methods]
        ran = cli(*words, "--out", folder / f"compare-{task}")
        assert ran.exit_code == 0, ran.output
        assert "imulated" in ran.stdout
        table = pl.read_csv(folder / f"compare-{task}" / "table.csv")
        assert set(table["method"]) == set(methods.split(","))
        found = pl.read_parquet(folder / f"compare-{task}" / "predictions.parquet")
        assert found["task"].unique().to_list() == [task]
