"""The MEDS dataset of a built cohort, against the meds package, the truth, and ACES itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from adacomed.cohort.cohort import load_cohort
from adacomed.cohort.meds_files import PARTS
from adacomed.datasets.meds import from_meds
from adacomed.datasets.mimic import meds as writer
from adacomed.datasets.mimic.build import build
from adacomed.datasets.mimic.variables import DEMOGRAPHICS, EVENTS
from adacomed.datasets.mimic_release.build import FEWEST
from adacomed.datasets.mimic_release.build import build as generate
from adacomed.errors import InputError

meds = pytest.importorskip("meds")
ROOT = Path(__file__).parents[3]
NAMES = [v.name for v in EVENTS]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with release/, cohort/ and meds/; shards of 20 patients."""
    folder = tmp_path_factory.mktemp("meds")
    generate(folder / "release", stays=FEWEST + 20, seed=2, compress=False)
    parts = [folder / "release" / n for n in ("mimic-iv", "mimic-cxr-jpg", "mimic-iv-note")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "SUBJECTS", 20)
        build(*parts, folder / "cohort", meds=folder / "meds")
    return folder


def rows(made: Path) -> pl.DataFrame:
    return pl.read_parquet(made / "meds/data/*/*.parquet")


def test_every_file_is_as_the_standard_wants(made: Path) -> None:
    from pyarrow import parquet

    shards = sorted((made / "meds/data").rglob("*.parquet"))
    assert len(shards) > 3
    owners: dict[int, Path] = {}
    for shard in shards:
        meds.DataSchema.validate(parquet.read_table(shard))
        frame = pl.read_parquet(shard)
        for (subject,), mine in frame.group_by("subject_id"):
            assert owners.setdefault(int(str(subject)), shard) == shard
            assert mine["time"].is_sorted(nulls_last=False)
        assert frame["subject_id"].is_sorted()
    codes = parquet.read_table(made / "meds" / meds.code_metadata_filepath)
    meds.CodeMetadataSchema.validate(codes)
    assert set(rows(made)["code"]) <= set(codes["code"].to_pylist())
    splits = parquet.read_table(made / "meds" / meds.subject_splits_filepath)
    meds.SubjectSplitSchema.validate(splits)
    ours = pl.read_parquet(made / "cohort/samples.parquet")
    ours = ours.select(pl.col("subject_id").cast(pl.Int64), pl.col("split").replace(PARTS)).unique()
    assert ours.sort("subject_id").rows() == pl.DataFrame(splits.to_pylist()).rows()
    for subject, split in ours.iter_rows():
        assert owners[subject].parent.name == split
    about = (made / "meds" / meds.dataset_metadata_filepath).read_text()
    assert '"dataset_name": "mimic-iv-mm (simulated)"' in about


def test_events_are_those_of_the_truth(made: Path) -> None:
    """Every value that was planned, once, at its time; nothing else with a variable's code."""
    truth = pl.read_parquet(made / "release/truth/events_default.parquet")
    admitted = pl.read_csv(made / "release/mimic-iv/hosp/admissions.csv", try_parse_dates=True)
    stays = pl.read_parquet(made / "cohort/samples.parquet").select("sample_id", "hadm_id")
    planned = truth.join(stays, on="sample_id").join(
        admitted.select("hadm_id", "subject_id", "admittime"), on="hadm_id"
    )
    time = pl.col("admittime") + pl.duration(seconds=(pl.col("hours") * 3600).round())
    key = ["subject_id", "time", "code", "hadm_id", "numeric_value"]
    wanted = planned.select(
        "subject_id",
        time.cast(pl.Datetime("us")).alias("time"),
        pl.col("variable").alias("code"),
        "hadm_id",
        pl.col("value").cast(pl.Float32).alias("numeric_value"),
    )
    found = rows(made).filter(pl.col("code").is_in(NAMES)).select(key)
    assert len(found) > 10_000
    assert wanted.unique().sort(key).equals(found.sort(key))


def test_admissions_deaths_and_static_facts(made: Path) -> None:
    samples = pl.read_parquet(made / "cohort/samples.parquet")
    all_ = pl.read_csv(made / "release/mimic-iv/hosp/admissions.csv", try_parse_dates=True)
    mine = all_.filter(pl.col("subject_id").cast(pl.String).is_in(samples["subject_id"].implode()))
    found = rows(made)
    for code, column in (("HOSPITAL_ADMISSION", "admittime"), ("HOSPITAL_DISCHARGE", "dischtime")):
        times = found.filter(pl.col("code") == code).select("hadm_id", "time").sort("hadm_id")
        wanted = mine.select("hadm_id", pl.col(column).alias("time")).sort("hadm_id")
        assert times.rows() == wanted.rows()
    dead = found.filter(pl.col("code") == "MEDS_DEATH")
    died = (pl.col("hospital_expire_flag") == 1) | pl.col("deathtime").is_not_null()
    assert set(dead["subject_id"]) == set(mine.filter(died)["subject_id"])
    assert dead["subject_id"].is_unique().all()
    static = found.filter(pl.col("time").is_null())
    kinds = static["code"].str.split("//").list.first().str.to_lowercase().unique()
    assert set(kinds) == set(DEMOGRAPHICS)
    assert (
        static.select("subject_id", pl.col("code").str.split("//").list.first()).is_unique().all()
    )


def test_refused_before_anything_is_read(made: Path, tmp_path: Path) -> None:
    parts = [made / "release" / n for n in ("mimic-iv", "mimic-cxr-jpg", "mimic-iv-note")]
    with pytest.raises(InputError, match="--meds needs a split by patient"):
        build(*parts, tmp_path / "c", meds=tmp_path / "m", preset="paper")
    with pytest.raises(InputError, match="give two folders beside each other"):
        build(*parts, tmp_path / "c", meds=tmp_path / "c/meds")
    (tmp_path / "m").mkdir()
    (tmp_path / "m/thesis.doc").write_text("x")
    with pytest.raises(InputError, match=r"holds 'thesis\.doc', not only a MEDS dataset"):
        build(*parts, tmp_path / "c", meds=tmp_path / "m")
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


# ---- ACES ---------------------------------------------------------------------------------------
def aces(shard: Path, out: Path) -> None:
    """Run ACES, whose polars is another than ours, beside its own libraries."""
    libraries = Path(os.environ.get("ADACOMED_ACES", ROOT / ".venv" / "aces"))
    if not (libraries / "aces").is_dir():
        make = f"pip install --target {libraries} es-aces"
        assert os.environ.get("CI") != "true", f"no ACES to make labels with: {make}"
        pytest.skip(make)
    out.parent.mkdir(parents=True, exist_ok=True)
    config = Path(__file__).with_name("aces.yaml")
    words = [f"data.path={shard}", "data.standard=meds", f"config_path={config}"]
    words += [f"output_filepath={out}", f"cohort_dir={out.parent}", "cohort_name=death"]
    script = "from aces.run import main; main()"
    environment = {**os.environ, "PYTHONPATH": str(libraries)}
    command = [sys.executable, "-c", script, *words, f"hydra.run.dir={out.parent}/.hydra"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_labels_of_aces_become_a_cohort(made: Path, tmp_path: Path) -> None:
    """What ACES finds of the deaths equals what the release says of the admissions."""
    shards = sorted((made / "meds/data").rglob("*.parquet"))
    pl.concat(map(pl.read_parquet, shards)).write_parquet(tmp_path / "every.parquet")
    aces(tmp_path / "every.parquet", tmp_path / "labels/train/0.parquet")
    from_meds(made / "meds", tmp_path / "labels", tmp_path / "c", task="mortality", window=48)
    cohort = load_cohort(tmp_path / "c")
    assert cohort.card.simulated
    found = pl.read_parquet(tmp_path / "c/labels.parquet").join(
        pl.read_parquet(tmp_path / "c/samples.parquet"), on="sample_id"
    )
    both = pl.read_parquet(made / "cohort/samples.parquet").unique("hadm_id")
    labels = pl.read_parquet(made / "cohort/labels.parquet")
    both = both.join(labels.filter(pl.col("task") == "mortality"), on="sample_id")
    admitted = pl.read_csv(made / "release/mimic-iv/hosp/admissions.csv", try_parse_dates=True)
    at = (pl.col("admittime") + pl.duration(hours=48)).cast(pl.Datetime("us"))
    both = both.join(admitted.select("hadm_id", at.alias("prediction_time")), on="hadm_id")
    pairs = found.join(both, on=["subject_id", "prediction_time"], suffix="_mimic")
    assert len(pairs) > 50
    assert pairs["label"].sum() >= 3
    assert pairs["label"].to_list() == pairs["label_mimic"].to_list()
    series = pl.read_parquet(tmp_path / "c/events.parquet")
    mine = series.join(pairs.select("sample_id", "sample_id_mimic"), on="sample_id")
    theirs = pl.read_parquet(made / "cohort/events.parquet").rename(
        {"sample_id": "sample_id_mimic"}
    )
    every = pl.read_parquet(made / "cohort/samples.parquet")
    alone = every.filter(pl.len().over("subject_id") == 1)["sample_id"]  # no other stay's events
    alone = alone.filter(alone.is_in(pairs["sample_id_mimic"].implode()))
    assert len(alone) > 20
    key = ["sample_id_mimic", "variable", "hours"]
    one, other = (
        f.filter(pl.col("sample_id_mimic").is_in(alone.implode()))
        .with_columns(pl.col("hours").round(6), pl.col("value").cast(pl.Float32))
        .select(*key, "value")
        .unique()
        .sort(*key, "value")
        for f in (mine, theirs)
    )
    names = set(one["variable"])
    assert len(names) > 30
    assert one.rows() == other.filter(pl.col("variable").is_in(list(names))).rows()
