"""A run in one file: the same bytes, nothing of a patient's, and no file from elsewhere trusted."""

from __future__ import annotations

import json
import re
import stat
import time
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from adacomed import __version__
from adacomed.errors import InputError
from adacomed.inference import forward
from adacomed.schema import RunFiles
from adacomed.training import bundle
from adacomed.training.bundle import OF_PATIENTS, open_run, unpacked, write_bundle
from adacomed.training.checkpoint import load_run, save_run, written_whole
from adacomed.training.methods import Problem, run_method

from .conftest import CARD, make_experiment, make_fold, make_inputs


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with predictions of its patients, trained on a machine with paths of its own."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    inputs = make_inputs()
    experiment = make_experiment(
        cohort="/home/doctor/cohorts/mine.yaml",
        training={"epochs": 1, "inner_folds": 2, "members": 1},
        model={"strategy": "ensemble", "H": 8, "d": 8},
        small={"kind": "shallow", "width": 8},
        evidence={"stress": False},
    )
    result = run_method("adacomed", Problem(experiment, inputs, make_fold(), "task", 0))
    card = CARD.model_copy(update={"table": Path("/home/doctor/t.csv")})
    with written_whole(folder) as out:
        save_run(
            out,
            result.trained,
            experiment=experiment,
            card=card,
            task="task",
            classes=inputs.classes,
            method="adacomed",
            encoders={},
        )
        result.predictions.write_parquet(out / RunFiles.PREDICTIONS)
        (out / RunFiles.REPORT).write_text("<p>p001</p>")
        (out / RunFiles.MODEL_CARD).write_text("# card\n")
        (out / "notes.txt").write_text("p001 was a hard one\n")
    return folder


@pytest.fixture
def packed(run, tmp_path):
    file = tmp_path / "first.adacomed"
    write_bundle(run, file)
    return file


def rewritten(file: Path, change, *, compress=zipfile.ZIP_STORED) -> Path:
    """The bundle with its entries, name → bytes, changed; checksums as they were."""
    with zipfile.ZipFile(file) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(file, "w", compress) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return file


def test_a_bundle_is_the_run(run, packed):
    inputs = make_inputs()
    wanted, found = load_run(run), open_run(packed)
    assert found.model_hash == wanted.model_hash
    a, b = forward(wanted.trained, inputs), forward(found.trained, inputs)
    assert np.array_equal(a.logits.numpy(), b.logits.numpy())
    assert (found.folder / RunFiles.CONFIG).is_file(), "the files stay while the process lives"


def test_the_same_run_is_the_same_bytes_however_often(run, packed, tmp_path):
    time.sleep(1.1)  # a clock in the file would show
    other = tmp_path / "other.adacomed"
    sizes = write_bundle(run, other)
    assert other.read_bytes() == packed.read_bytes()
    assert sizes.keys() == set(zipfile.ZipFile(other).namelist())
    with unpacked(packed) as folder:
        write_bundle(folder, other)
    assert other.read_bytes() == packed.read_bytes()
    assert not folder.exists()


def test_nothing_of_a_patient_is_in_it(run, packed):
    names = set(zipfile.ZipFile(packed).namelist())
    assert not names & {*OF_PATIENTS, "notes.txt"}
    content = packed.read_bytes()  # stored, so that ids would be seen
    ids = pl.read_parquet(run / RunFiles.PREDICTIONS)["sample_id"].to_list()
    assert not [i for i in ids if i.encode() in content]


def test_predictions_come_along_when_asked_for(run, tmp_path):
    file = tmp_path / "with.adacomed"
    assert {RunFiles.PREDICTIONS, RunFiles.REPORT} <= write_bundle(
        run, file, with_predictions=True
    ).keys()
    with unpacked(file) as folder:
        assert (folder / RunFiles.PREDICTIONS).read_bytes() == (
            run / RunFiles.PREDICTIONS
        ).read_bytes()
        assert not (folder / "notes.txt").exists()


def test_paths_of_the_maker_are_cut(packed):
    with unpacked(packed) as folder:
        assert yaml.safe_load((folder / RunFiles.CONFIG).read_text())["cohort"] == "mine.yaml"
        assert json.loads((folder / RunFiles.INPUTS).read_text())["cohort"]["table"] == "t.csv"
    assert b"/home/doctor" not in packed.read_bytes()


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("/models/dinov2", "dinov2"),
        ("dinov2-small:/models/mine", "dinov2-small"),
        ("C:\\models\\dinov2", "dinov2"),
        ("dinov2-small:C:\\models\\mine", "dinov2-small"),
        ("my_module:function", "my_module:function"),
        ("../shared/x.csv", "../shared/x.csv"),
    ],
)
def test_an_absolute_path_becomes_its_last_part(given, wanted):
    assert bundle._cut({"modalities": {"x": {"encoder": given}}}) == {
        "modalities": {"x": {"encoder": wanted}}
    }
    assert bundle._cut({"values": [given]}) == {"values": [given]}


def damage(entries, **_):
    entries[RunFiles.MODEL] = entries[RunFiles.MODEL][:-1] + b"?"


def newer(entries):
    entries[RunFiles.CHECKSUMS] = entries[RunFiles.CHECKSUMS].replace(
        b'"format": 1', b'"format": 9'
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (damage, "model.safetensors was changed"),
        (lambda e: e.pop(RunFiles.CONFIG), "config.yaml is missing"),
        (lambda e: e.pop(RunFiles.CHECKSUMS), "not a bundle"),
        (lambda e: e.update({RunFiles.FLOW: b"{}"}), "flow.json is not in the bundle's"),
        (lambda e: e.update({"../evil.sh": b"x"}), "'../evil.sh' is no file of a bundle"),
        (lambda e: e.update({"/etc/passwd": b"x"}), "no file of a bundle"),
        (lambda e: e.update({"sub/config.yaml": b"x"}), "no file of a bundle"),
        (newer, rf"made by a newer adacomed \({re.escape(__version__)}\)"),
        (lambda e: e.update({RunFiles.CHECKSUMS: b"{"}), "not a whole .adacomed bundle"),
        (lambda e: e.update({RunFiles.CHECKSUMS: b"[]"}), "not a whole .adacomed bundle"),
        (
            lambda e: e.update(
                {
                    RunFiles.CHECKSUMS: e[RunFiles.CHECKSUMS].replace(
                        b'"environment.json"', b'"../x"'
                    )
                }
            ),
            "'../x' is no file of a bundle",
        ),
    ],
)
def test_what_was_changed_is_named(packed, change, said):
    with pytest.raises(InputError, match=said) as caught:
        open_run(rewritten(packed, change))
    assert str(packed) in str(caught.value)


def test_a_bomb_is_not_unpacked(packed):
    def bomb(entries):
        entries[RunFiles.HISTORY] = bytes(50 * 2**20)

    file = rewritten(packed, bomb, compress=zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match=r"history\.parquet would take 52,428,800 bytes"):
        open_run(file)


def test_a_link_a_twin_and_a_torn_file_are_refused(packed, tmp_path):
    link = zipfile.ZipInfo(RunFiles.FLOW)
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    file = tmp_path / "link.adacomed"
    file.write_bytes(packed.read_bytes())
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(InputError, match=r"flow\.json is a link"):
        open_run(file)
    file.write_bytes(packed.read_bytes())
    with zipfile.ZipFile(file, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(RunFiles.CONFIG, "cohort: other")
    with pytest.raises(InputError, match=r"config\.yaml is in the bundle twice"):
        open_run(file)
    file.write_bytes(packed.read_bytes()[:5000])
    with pytest.raises(InputError, match=r"not a whole \.adacomed bundle"):
        open_run(file)
    file.write_text("not a zip")
    with pytest.raises(InputError, match=r"not a whole \.adacomed bundle"):
        open_run(file)


def test_a_bundle_zipped_anew_is_still_one(packed):
    file = rewritten(packed, lambda entries: None, compress=zipfile.ZIP_DEFLATED)
    assert open_run(file).method == "adacomed"


def test_a_run_of_a_newer_format_is_named_by_its_bundle(run, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for path in run.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    meta = json.loads((other / RunFiles.INPUTS).read_text())
    (other / RunFiles.INPUTS).write_text(json.dumps(meta | {"format": 99}))
    file = tmp_path / "newer.adacomed"
    write_bundle(other, file)
    with pytest.raises(InputError, match=f"^{file}: written by a newer adacomed"):
        open_run(file)


def test_a_folder_is_taken_as_it_is(run, tmp_path):
    with unpacked(run) as folder:
        assert folder == run
    with pytest.raises(InputError, match=r"it has no model\.safetensors"):
        write_bundle(tmp_path, tmp_path / "x.adacomed")
    with pytest.raises(InputError, match="not a run folder"):
        open_run(tmp_path)
