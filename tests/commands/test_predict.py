"""`adacomed predict`: a patient's numbers are the patient's own, whatever the cohort looks like."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from adacomed.schema import RunFiles

from .conftest import TINY

EXACT = 1e-9


@pytest.fixture
def predicted(cli, tmp_path: Path) -> Callable[..., pl.DataFrame]:
    """Predictions of `adacomed predict WORDS`, in the order of the file."""

    def call(*words: object) -> pl.DataFrame:
        ran = cli("predict", *words, "--out", tmp_path / "new" / "p.parquet")
        assert ran.exit_code == 0, ran.output
        return pl.read_parquet(tmp_path / "new" / "p.parquet")

    return call


@pytest.fixture
def changed(simulated: Path, tmp_path: Path) -> Path:
    """A copy of the cohort that a test may change."""
    return Path(shutil.copytree(simulated, tmp_path / "changed"))


def edit_card(cohort: Path, change: Callable[[dict[str, Any]], object]) -> None:
    card = yaml.safe_load((cohort / "cohort.yaml").read_text())
    change(card)
    (cohort / "cohort.yaml").write_text(yaml.safe_dump(card))


def edit_table(cohort: Path, change: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    change(pl.read_parquet(cohort / "samples.parquet")).write_parquet(cohort / "samples.parquet")


def gap(one: pl.DataFrame, other: pl.DataFrame) -> float:
    """Largest difference of any number of the patients in both."""
    numbers = ["prob", "logit_large", "logit_small", "s", "w_large", "w_small"]
    both = one.select("sample_id", *numbers).join(other, on="sample_id")
    assert len(both) == min(len(one), len(other))
    return max((both[c] - both[f"{c}_right"]).abs().max() for c in numbers)


def test_the_runs_own_test_patients_come_out_the_same(run, simulated, predicted) -> None:
    found = predicted(run, simulated)
    assert len(found) == 120
    own = pl.read_parquet(run / RunFiles.PREDICTIONS).filter(pl.col("split") == "test")
    assert gap(own, found) <= EXACT
    assert set(found["split"]) == {"train", "test"}
    assert found["label"].null_count() == 0


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_batch_mates_do_not_matter(batch_size, run, simulated, predicted) -> None:
    together = predicted(run, simulated)
    apart = predicted(run, simulated, "--batch-size", batch_size)
    assert apart["sample_id"].equals(together["sample_id"])
    assert gap(together, apart) <= EXACT


def test_alone_and_in_another_order(run, simulated, predicted) -> None:
    everyone = predicted(run, simulated)
    ids = np.random.default_rng(0).permutation(everyone["sample_id"].to_list()).tolist()
    shuffled = predicted(run, simulated, "--samples", ",".join(ids))
    assert shuffled["sample_id"].to_list() == ids
    assert gap(everyone, shuffled) <= EXACT
    for patient in ids[:3]:
        alone = predicted(run, simulated, "--samples", f" {patient},{patient}")
        assert alone["sample_id"].to_list() == [patient]
        assert gap(everyone, alone) <= EXACT


def test_the_authors_preset_fails_that_check(experiment, simulated, tmp_path, cli, predicted):
    small = ["preset=authors", "model.H=16", "model.d=16", "small.width=16", *TINY]
    ran = cli("train", experiment, *small, "training.lr=.01", "--out", tmp_path / "run")
    assert ran.exit_code == 0, ran.output
    together = predicted(tmp_path / "run", simulated)
    assert gap(together, predicted(tmp_path / "run", simulated, "--batch-size", 7)) > 1e-6


def test_a_run_can_be_moved(run, simulated, tmp_path, predicted) -> None:
    moved = shutil.copytree(run, tmp_path / "elsewhere" / "my run")
    assert gap(predicted(run, simulated), predicted(moved, simulated)) == 0.0


def test_labels_are_not_needed(run, simulated, changed, predicted) -> None:
    (changed / "labels.parquet").unlink()
    edit_card(changed, lambda card: card.pop("labels"))
    edit_table(changed, lambda table: table.drop("split"))
    edit_card(changed, lambda card: card.pop("split"))
    found = predicted(run, changed)
    assert found["label"].null_count() == 120
    assert set(found["split"]) == {"new"}
    assert gap(predicted(run, simulated), found) <= EXACT


def test_one_patient_is_a_cohort(run, simulated, changed, predicted) -> None:
    (changed / "labels.parquet").unlink()
    edit_table(changed, lambda table: table[3])
    alone = predicted(run, changed)
    assert len(alone) == 1
    assert gap(predicted(run, simulated), alone) <= EXACT


def test_columns_and_modalities_in_another_order(run, simulated, changed, predicted) -> None:
    edit_table(changed, lambda table: table.select(table.columns[::-1]).reverse())

    def reverse(card: dict[str, Any]) -> None:
        card["modalities"]["clinical"]["columns"].reverse()
        card["modalities"] = dict(reversed(card["modalities"].items()))

    edit_card(changed, reverse)
    assert gap(predicted(run, simulated), predicted(run, changed)) <= EXACT


def test_a_modality_that_nobody_has(run, simulated, changed, predicted) -> None:
    everyone = predicted(run, simulated)
    edit_card(changed, lambda card: card["modalities"].pop("m2"))
    without = predicted(run, changed)
    assert not any("m2" in present for present in without["present"])
    assert without["prob"].is_finite().all()
    never = everyone.filter(~pl.col("present").list.contains("m2"))
    assert 0 < len(never) < 120
    assert gap(never, without) <= EXACT  # for them nothing has changed


def test_a_category_never_seen_is_no_error(run, changed, predicted) -> None:
    edit_table(changed, lambda table: table.with_columns(ward=pl.lit("Zeppelin")))
    assert predicted(run, changed)["prob"].is_between(0, 1).all()


def drop_column(cohort: Path) -> None:
    edit_table(cohort, lambda table: table.drop("lactate"))


def drop_column_and_its_name(cohort: Path) -> None:
    drop_column(cohort)
    edit_card(cohort, lambda card: card["modalities"]["clinical"]["columns"].remove("lactate"))


def narrow_vectors(cohort: Path) -> None:
    file = cohort / "vectors" / "m1.parquet"
    vector = pl.col("vector").arr.to_list().list.head(3)
    pl.read_parquet(file).with_columns(vector).write_parquet(file)


def only_strange_modalities(cohort: Path) -> None:
    edit_card(cohort, lambda c: c.update(modalities={"eeg": c["modalities"]["m1"]}))


def text_for_age(cohort: Path) -> None:
    edit_table(cohort, lambda table: table.with_columns(age=pl.lit("old")))


def another_kind(cohort: Path) -> None:
    edit_card(cohort, lambda c: c["modalities"].update(m1={"kind": "text", "column": "ward"}))


@pytest.mark.parametrize(
    ("change", "helps"),
    [
        (drop_column, ["'lactate'", "sodium"]),
        (drop_column_and_its_name, ["'lactate'", "sodium"]),
        (narrow_vectors, ["'m1'", "width 3", "32"]),
        (only_strange_modalities, ["m1, m2, m3, clinical", "eeg"]),
        (text_for_age, ["'age'", "text"]),
        (another_kind, ["'m1'", "text", "embedding"]),
    ],
)
def test_a_cohort_that_does_not_fit(change, helps, run, changed, tmp_path, cli) -> None:
    change(changed)
    ran = cli("predict", run, changed, "--out", tmp_path / "p.parquet")
    assert ran.exit_code == 2
    assert all(words in ran.stderr for words in helps), ran.stderr
    assert len(ran.stderr.splitlines()) == 1
    assert not (tmp_path / "p.parquet").exists()


@pytest.mark.parametrize(
    ("words", "helps"),
    [
        (["--samples", "s0O3"], ["'s0O3'", "did you mean 's"]),
        (["--samples", "nobody-we-know"], ["nobody-we-know", "120 samples"]),
        (["--samples", ","], ["separated by commas"]),
        (["--batch-size", "0"], ["1 or more"]),
    ],
)
def test_a_request_that_cannot_be_met(words, helps, run, simulated, tmp_path, cli) -> None:
    ran = cli("predict", run, simulated, *words, "--out", tmp_path / "p.parquet")
    assert ran.exit_code == 2
    assert all(w in ran.stderr for w in helps), ran.stderr


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def scramble(file: Path) -> None:
    file.write_bytes(np.random.default_rng(0).bytes(5000))


def empty_list(file: Path) -> None:
    file.write_text("[]")


@pytest.mark.parametrize("damage", [truncate, scramble, Path.unlink, empty_list])
@pytest.mark.parametrize("name", [RunFiles.MODEL, RunFiles.INPUTS])
def test_a_damaged_run(name, damage, run, simulated, tmp_path, cli) -> None:
    broken = shutil.copytree(run, tmp_path / "run")
    damage(broken / name)
    ran = cli("predict", broken, simulated, "--out", tmp_path / "p.parquet")
    assert ran.exit_code == 2
    assert str(broken) in ran.stderr
    assert "damaged" in ran.stderr or "not a run folder" in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


def test_a_run_of_a_newer_version(run, simulated, tmp_path, cli) -> None:
    newer = shutil.copytree(run, tmp_path / "run")
    meta = json.loads((newer / RunFiles.INPUTS).read_text())
    (newer / RunFiles.INPUTS).write_text(json.dumps(meta | {"format": meta["format"] + 1}))
    ran = cli("predict", newer, simulated, "--out", tmp_path / "p.parquet")
    assert ran.exit_code == 2
    assert "newer adacomed" in ran.stderr


def test_the_demo_folder_says_where_its_run_is(run, simulated, tmp_path, cli) -> None:
    shutil.copytree(run, tmp_path / "demo" / "run")
    ran = cli("predict", tmp_path / "demo", simulated, "--out", tmp_path / "p.parquet")
    assert ran.exit_code == 2
    assert f"did you mean {tmp_path / 'demo' / 'run'}" in ran.stderr
