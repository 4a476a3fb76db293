"""From raw files to a prediction through the command line: every kind, broken files, real data.

The image, volume, slide and series models here are tiny ones with RANDOM weights.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import polars as pl
import pytest
import yaml
from PIL import Image

from adacomed.readers.tissue import OUTLINE
from tests.conftest import shared
from tests.encoders.test_dinov2 import save_tiny_dinov2
from tests.encoders.test_merlin import save_checkpoint
from tests.encoders.test_moirai import save_tiny as save_tiny_moirai
from tests.encoders.test_uni import save_tiny as save_tiny_uni
from tests.readers.dicom_files import ct_array, write_ct_series, write_xray
from tests.readers.slide_files import save_slide, tissue_image
from tests.test_embed import content

N = 12


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models of every kind, random weights, in their hub's layout."""
    folder = tmp_path_factory.mktemp("models")
    save_tiny_dinov2(folder / "dinov2")
    save_checkpoint(folder / "merlin")
    save_tiny_uni(folder / "uni")
    save_tiny_moirai(folder / "moirai", max_seq_len=512)
    return folder


@pytest.fixture
def cohort(tmp_path: Path, models: Path) -> Path:
    """Twelve patients with an X-ray (DICOM or PNG), a CT (NIfTI or DICOM), a slide and a series;
    the last two lack one thing each."""
    for name in ("xray", "ct", "wsi"):
        (tmp_path / name).mkdir()
    rows, long = [], []
    rng = np.random.default_rng(0)
    for i in range(N):
        write_xray(tmp_path / f"xray/{i}.dcm")
        ct, wsi = f"{i}.nii.gz", f"{i}.tif"
        if i % 2:
            ct = f"series{i}"
            write_ct_series(tmp_path / "ct" / ct, ct_array(seed=i))
        else:
            image = nibabel.Nifti1Image(ct_array(seed=i), np.diag([1.5, 1.5, 3, 1]))
            nibabel.save(image, tmp_path / "ct" / ct)
        save_slide(tmp_path / "wsi" / wsi, tissue_image(seed=i))
        rows.append([f"p{i}", "YN"[i % 2], f"{i}.dcm", ct, wsi])
        hours = np.sort(rng.uniform(0, 48, 30))
        long += [(f"p{i}", h, ("hr", "map")[k % 2], 70.0 + i + k) for k, h in enumerate(hours)]
    rows[10][3] = rows[11][4] = None
    names = ["patient", "icu", "xray", "ct", "wsi"]
    pl.DataFrame(rows, schema=names, orient="row").write_csv(tmp_path / "patients.csv")
    schema = ["sample_id", "hours", "variable", "value"]
    pl.DataFrame(long, schema=schema, orient="row").write_parquet(tmp_path / "vitals.parquet")
    card = {
        "name": "raw",
        "table": "patients.csv",
        "subject": "patient",
        "tasks": {"icu": {"column": "icu", "positive": "Y"}},
        "modalities": {
            "xray": {"kind": "image", "column": "xray", "root": "xray"},
            "ct": {"kind": "volume", "column": "ct", "root": "ct"},
            "wsi": {"kind": "slide", "column": "wsi", "root": "wsi"},
            "vitals": {"kind": "series", "table": "vitals.parquet"},
        },
    }
    for name, model in (("xray", "dinov2"), ("ct", "merlin"), ("wsi", "uni"), ("vitals", "moirai")):
        card["modalities"][name]["encoder"] = f"{model}:{models / model}"
    (tmp_path / "cohort.yaml").write_text(yaml.safe_dump(card))
    return tmp_path


def test_every_kind_to_a_prediction(cohort: Path, cli) -> None:
    pictures = cohort / "pictures"
    ran = cli("embed", cohort / "cohort.yaml", "--json", "--overviews", pictures)
    assert ran.exit_code == 0, ran.output
    drawn = [np.asarray(Image.open(p)) for p in sorted((pictures / "wsi").iterdir())]
    assert len(drawn) == 11
    assert all((image == OUTLINE).all(axis=-1).any() for image in drawn)
    rows = {row["modality"]: row for row in map(json.loads, ran.stdout.splitlines())}
    have = {name: (row["present"], row["new"]) for name, row in rows.items()}
    assert have == {"xray": (12, 12), "ct": (11, 11), "wsi": (11, 11), "vitals": (12, 12)}
    before = content(cohort / "store")
    again = cli("embed", cohort / "cohort.yaml", "--json")
    assert [json.loads(line)["new"] for line in again.stdout.splitlines()] == [0, 0, 0, 0]
    assert content(cohort / "store") == before

    (cohort / "experiment.yaml").write_text("cohort: cohort.yaml\n")
    quick = [
        "training.epochs=2",
        "training.inner_folds=2",
        "training.members=1",
        "small.kind=shallow",
    ]
    ran = cli("train", cohort / "experiment.yaml", *quick, "--out", cohort / "run")
    assert ran.exit_code == 0, ran.output
    assert "embedding" not in ran.stderr
    ran = cli("predict", cohort / "run", cohort / "cohort.yaml", "--out", cohort / "p.parquet")
    assert ran.exit_code == 0, ran.output
    present = pl.read_parquet(cohort / "p.parquet").sort("sample_id")["present"].to_list()
    assert sorted(map(len, present)) == [3, 3] + [4] * 10


def test_other_weights_at_prediction_are_refused(cohort: Path, models: Path, cli) -> None:
    """The same encoder with other weights gives other vectors: named, not used."""
    (cohort / "experiment.yaml").write_text("cohort: cohort.yaml\nmodalities: [vitals]\n")
    quick = [
        "training.epochs=1",
        "training.inner_folds=2",
        "training.members=1",
        "small.kind=shallow",
    ]
    cli("train", cohort / "experiment.yaml", *quick, "--out", cohort / "run")
    moved = shutil.copytree(models / "moirai", cohort / "moved")
    words = ["predict", cohort / "run", cohort / "cohort.yaml", "--out", cohort / "p.parquet"]
    ran = cli(*words, "--encoder", f"vitals=moirai:{moved}")
    assert ran.exit_code == 0, ran.output
    other = save_tiny_moirai(cohort / "other", seed=8, max_seq_len=512)
    ran = cli(*words, "--encoder", f"vitals=moirai:{other}")
    assert ran.exit_code == 2
    assert "modality 'vitals'" in ran.stderr
    assert "other weights" in ran.stderr


BROKEN = [
    ("xray", "3.dcm", "truncated"),
    ("xray", "../secret.dcm", "lies outside"),
    ("xray", "nowhere.dcm", "no such file"),
    ("ct", "4.nii.gz", "truncated"),
    ("wsi", "5.tif", "noise"),
]


@pytest.mark.parametrize(("modality", "file", "what"), BROKEN)
def test_a_broken_file(cohort: Path, cli, modality: str, file: str, what: str) -> None:
    """An error that names patient and file; skipped if asked for, and then absent with a reason."""
    path = cohort / modality / file
    if what == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif what == "noise":
        path.write_bytes(np.random.default_rng(0).bytes(5000))
    else:
        (cohort / "secret.dcm").write_bytes(b"x")
        table = pl.read_csv(cohort / "patients.csv")
        named = pl.when(pl.col("patient") == "p3").then(pl.lit(file)).otherwise(modality)
        table.with_columns(named.alias(modality)).write_csv(cohort / "patients.csv")
    patient = "p3" if modality == "xray" else f"p{file[0]}"
    words = ["embed", cohort / "cohort.yaml", "--modality", modality, "--json"]
    ran = cli(*words)
    assert ran.exit_code == 2
    assert len(ran.stderr.strip().splitlines()[-1:]) == 1
    assert f"modality '{modality}', sample {patient}" in ran.stderr
    assert file in ran.stderr
    assert what not in ("lies outside", "no such file") or what in ran.stderr
    ran = cli(*words, "--on-error", "skip")
    assert ran.exit_code == 0, ran.output
    row = json.loads(ran.stdout)
    assert row["skipped"] == 1
    assert f"skipped: sample {patient}" in ran.stderr
    index = next((cohort / "store" / modality).glob("*/index.parquet"))
    [lost] = pl.read_parquet(index).filter(pl.col("reason").is_not_null()).to_dicts()
    assert lost["sample_id"] == patient
    ran = cli(*words)  # it stays as it was decided
    assert json.loads(ran.stdout)["new"] == 0
    ran = cli(*words, "--retry")
    assert ran.exit_code == 2


def test_a_changed_file_is_another_item(cohort: Path, cli) -> None:
    words = ["embed", cohort / "cohort.yaml", "--modality", "xray", "--json"]
    cli(*words)
    write_xray(cohort / "xray/7.dcm", np.arange(1200, dtype=np.uint16).reshape(40, 30))
    assert json.loads(cli(*words).stdout)["new"] == 1


def write_covid(folder: Path, models: Path) -> Path:
    """The real X-rays and notes of ../shared/data/covid-cxr through one YAML."""
    source = Path(__file__).parents[2] / "configs/cohorts/covid-cxr.yaml"
    card = yaml.safe_load(source.read_text())
    data = shared("covid-cxr")
    card["table"] = str(data / "metadata_open.csv")
    card["modalities"]["xray"] |= {"root": str(data / "images")}
    card["modalities"]["xray"]["encoder"] = f"dinov2:{models / 'dinov2'}"
    (folder / "cohort.yaml").write_text(yaml.safe_dump(card))
    (folder / "experiment.yaml").write_text("cohort: cohort.yaml\ntask: icu\n")
    return folder / "cohort.yaml"


def test_covid_cxr_killed_resumed_trained(tmp_path: Path, models: Path, cli) -> None:
    """SIGKILL at three moments of the real command, then the same store as without, and a run."""
    card = write_covid(tmp_path, models)
    store = tmp_path / "store"
    command = [sys.executable, "-m", "adacomed", "embed", str(card), "--out", str(store)]
    for shards in (1, 2, 3):
        job = subprocess.Popen(
            command,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until = time.monotonic() + 90
        while len(list(store.rglob("shard-*"))) < shards and time.monotonic() < until:
            if job.poll() is not None:
                break
            time.sleep(0.002)
        job.send_signal(signal.SIGKILL)
        job.wait()
        assert len(list(store.rglob("shard-*"))) >= shards
    assert cli("embed", card, "--out", store).exit_code == 0
    assert cli("embed", card, "--out", tmp_path / "whole").exit_code == 0
    assert content(store) == content(tmp_path / "whole")

    quick = [
        "training.epochs=2",
        "training.inner_folds=2",
        "training.members=1",
        "small.kind=shallow",
    ]
    run = tmp_path / "run"
    words = ["train", tmp_path / "experiment.yaml", *quick, "--store", store, "--out", run]
    ran = cli(*words)
    assert ran.exit_code == 0, ran.output
    assert (run / "report.html").stat().st_size > 10_000
    patterns = pl.read_parquet(run / "predictions.parquet")["present"].list.len().unique().to_list()
    assert sorted(patterns) == [1, 2]  # with and without a note


def test_icu_demo_series(tmp_path: Path, models: Path, cli) -> None:
    """120 real stays, hourly vital signs and laboratory values, to a report."""
    data = shared("icu-demo")
    card = yaml.safe_load((Path(__file__).parents[2] / "configs/cohorts/icu-demo.yaml").read_text())
    outcome = pl.read_parquet(data / "outc.parquet")
    some = pl.concat([outcome.filter(label=1)[:30], outcome.filter(label=0)[:90]])
    stays = pl.read_parquet(data / "sta.parquet").join(some.select("stay_id"), on="stay_id")
    stays.write_csv(tmp_path / "stays.csv")
    card["table"] = "stays.csv"
    card["tasks"]["death"]["table"] = str(data / "outc.parquet")
    card["modalities"]["vitals"]["table"] = str(data / "dyn.parquet")
    card["modalities"]["vitals"]["encoder"] = f"moirai:{models / 'moirai'}"
    (tmp_path / "cohort.yaml").write_text(yaml.safe_dump(card))
    (tmp_path / "experiment.yaml").write_text("cohort: cohort.yaml\n")
    quick = [
        "training.epochs=2",
        "training.inner_folds=2",
        "training.members=1",
        "small.kind=shallow",
    ]
    words = ["train", tmp_path / "experiment.yaml", *quick, "--out", tmp_path / "run"]
    ran = cli(*words)
    assert ran.exit_code == 0, ran.output
    assert (tmp_path / "run/report.html").is_file()
