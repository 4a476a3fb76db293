"""`adacomed explain`: from a run and a cohort to explanations, every set of modalities."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from adacomed.explain.patient import SCHEMA
from adacomed.schema import Explanations, RunFiles

from .conftest import QUICK, adacomed


@pytest.fixture(scope="session")
def explained(run: Path, simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Explanations of everyone in the simulated cohort."""
    out = tmp_path_factory.mktemp("explained") / "here"
    adacomed("explain", run, simulated, "--out", out)
    return out


def test_everyone_is_explained(explained: Path, run: Path) -> None:
    table = pl.read_parquet(explained / RunFiles.EXPLANATIONS)
    assert dict(table.schema) == SCHEMA
    data = json.loads((explained / "explanations.json").read_text())
    assert len(data["patients"]) == 120
    assert data["modalities"] == "exact"
    predictions = pl.read_parquet(run / RunFiles.PREDICTIONS).filter(pl.col("split") == "test")
    known = dict(predictions.select("sample_id", "prob").iter_rows())
    values = table.filter(pl.col("level") == "modality")
    total = dict(
        values.group_by(Explanations.SAMPLE_ID).agg(pl.col(Explanations.VALUE).sum()).iter_rows()
    )
    patterns = set()
    for patient in data["patients"]:
        sample, prob, base = patient["sample_id"], patient["prob"][1], patient["base"][1]
        assert total[sample] == pytest.approx(prob - base, abs=1e-5)
        if sample in known:
            assert prob == pytest.approx(known[sample], abs=1e-9)
        effects = patient["modalities"]
        assert all(e["present"] or e["shapley"] == [0.0, 0.0] for e in effects.values())
        patterns.add(tuple(m for m, e in effects.items() if e["present"]))
        assert all(set(x.split(" + ")) <= set(patterns_of(effects)) for x in patient["router"])
    assert len(patterns) > 3
    assert known


def patterns_of(effects: dict[str, dict[str, object]]) -> list[str]:
    return [m for m, e in effects.items() if e["present"]]


def test_the_cohorts_averages(explained: Path) -> None:
    cohort = json.loads((explained / "explanations.json").read_text())["cohort"]
    assert {row["modality"] for row in cohort["shapley"]} == {"m1", "m2", "m3", "clinical"}
    for row in cohort["shapley"]:
        assert row["mean_abs_low"] <= row["mean_abs"] <= row["mean_abs_high"]
    assert cohort["trajectories"]
    assert {"before training", "after training"} == cohort["domination"].keys()


def test_what_is_said(run, simulated, tmp_path, cli) -> None:
    ran = cli("explain", run, simulated, "--out", tmp_path / "out")
    assert ran.exit_code == 0, ran.output
    assert ran.stdout.count("probability of") == 5
    assert "and 115 more in the files; over all 120:" in ran.stdout
    assert "mean |Shapley|" in ran.stdout
    assert "simulated" in ran.stderr
    assert "\x1b" not in ran.output


def test_one_patient_inside_a_table(run, simulated, tmp_path, cli) -> None:
    pytest.importorskip("captum")
    names = pl.read_parquet(simulated / "samples.parquet")["sample_id"].to_list()[:2]
    words = ["--samples", ",".join(names), "--within", "clinical", "--out", tmp_path]
    ran = cli("explain", run, simulated, *words)
    assert ran.exit_code == 0, ran.output
    assert "inside clinical" in ran.stdout
    table = pl.read_parquet(tmp_path / RunFiles.EXPLANATIONS)
    assert table["sample_id"].unique(maintain_order=True).to_list() == names
    inside = table.filter(pl.col("level") == "variable")
    assert set(inside["modality"]) == {"clinical"}
    assert {"age", "lactate"} <= set(inside["name"])
    ran = cli("explain", run, simulated, *words, "--json")
    told = json.loads(ran.stdout)
    assert [one["sample_id"] for one in told["patients"]] == names
    assert told["within"][0]["method"].startswith("integrated gradients")


def test_the_words_of_a_note_stay_in_the_file(tmp_path: Path, cli) -> None:
    pytest.importorskip("captum")
    from tests.encoders.conftest import save_tiny
    from tests.training.raw_cohort import random_files, write

    folder = save_tiny(tmp_path / "bert")
    encoder = {"note": f"text-encoder:{folder}"}
    cohort = write(tmp_path / "c", random_files(), names=("note", "clinical"), encoders=encoder)
    experiment = tmp_path / "e.yaml"
    experiment.write_text(f"cohort: {cohort}\n")
    ran = cli("train", experiment, "--out", tmp_path / "run", *QUICK)
    assert ran.exit_code == 0, ran.output
    for words in ([], ["--json"]):
        ran = cli(
            *("explain", tmp_path / "run", cohort, "--within", "note", "--samples", "p00,p01"),
            *("--out", tmp_path / "out", *words),
        )
        assert ran.exit_code == 0, ran.output
        told = json.loads((tmp_path / "out" / "explanations.json").read_text())
        secret = {w for one in told["within"] for w in one["words"]} - {"[UNK]"}
        assert {"fever", "pain"} & secret
        assert not [w for w in secret if w in ran.output.replace(str(tmp_path), "")]
        file = pl.read_parquet(tmp_path / "out" / RunFiles.EXPLANATIONS)
        assert not secret & set(file["name"])
        assert file.filter(pl.col("level") == "token").height == sum(
            len(one["words"]) for one in told["within"]
        )


def test_a_patient_with_nothing_at_all(run, simulated, tmp_path, cli) -> None:
    changed = Path(shutil.copytree(simulated, tmp_path / "changed"))
    table = pl.read_parquet(changed / "samples.parquet")
    empty = [
        pl.lit(None).cast(table[c].dtype).alias(c) for c in ("age", "ward", "lactate", "sodium")
    ]
    here = [c for c in empty if c.meta.output_name() in table.columns]
    table.with_columns(here).write_parquet(changed / "samples.parquet")
    ran = cli("explain", run, changed, "--out", tmp_path / "out")
    assert ran.exit_code == 0, ran.output
    values = pl.read_parquet(tmp_path / "out" / RunFiles.EXPLANATIONS)
    assert values["value"].is_finite().all()


@pytest.mark.parametrize(
    ("words", "helps"),
    [
        (["--within", "clinicl"], ["no modality 'clinicl'", "did you mean 'clinical'"]),
        (["--within", "m1"], ["made elsewhere", "Shapley value of the whole modality"]),
        (["--samples", "nobody"], ["no sample 'nobody'"]),
        (["--encoder", "m1=uni"], ["no modality 'm1' with an encoder"]),
    ],
)
def test_a_request_that_cannot_be_met(words, helps, run, simulated, tmp_path, cli) -> None:
    ran = cli("explain", run, simulated, *words, "--out", tmp_path / "out")
    assert ran.exit_code == 2
    assert all(h in ran.stderr for h in helps), ran.stderr
    assert len(ran.stderr.splitlines()) == 1
    assert not (tmp_path / "out" / RunFiles.EXPLANATIONS).exists()


def test_out_is_a_file(run, simulated, tmp_path, cli) -> None:
    (tmp_path / "file").write_text("")
    ran = cli("explain", run, simulated, "--out", tmp_path / "file")
    assert ran.exit_code == 2
    assert "expected a folder" in ran.stderr


def test_three_classes(simulated, tmp_path, cli) -> None:
    changed = Path(shutil.copytree(simulated, tmp_path / "three"))
    labels = pl.read_parquet(changed / "labels.parquet")
    three = pl.Series("label", np.arange(len(labels)) % 3).cast(labels["label"].dtype)
    labels.with_columns(three).drop("bayes_prob", strict=False).write_parquet(
        changed / "labels.parquet"
    )
    card = (changed / "cohort.yaml").read_text()
    assert "tasks" in card
    experiment = tmp_path / "e.yaml"
    experiment.write_text(f"cohort: {changed}\n")
    ran = cli("train", experiment, "--out", tmp_path / "run", *QUICK)
    assert ran.exit_code == 0, ran.output
    ran = cli("explain", tmp_path / "run", changed, "--out", tmp_path / "out")
    assert ran.exit_code == 0, ran.output
    data = json.loads((tmp_path / "out" / "explanations.json").read_text())
    for patient in data["patients"]:
        values = np.array([e["shapley"] for e in patient["modalities"].values()]).sum(axis=0)
        np.testing.assert_allclose(values, np.subtract(patient["prob"], patient["base"]), atol=1e-5)
        assert patient["explained"] == int(np.argmax(patient["prob"]))
    classes = pl.read_parquet(tmp_path / "out" / RunFiles.EXPLANATIONS).filter(level="modality")
    assert set(classes["class"]) == {0, 1, 2}
