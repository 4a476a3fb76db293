"""A run on disk: bit for bit the model in memory, whole or absent, damage is named."""

import json

import numpy as np
import pytest

from adacomed.errors import InputError
from adacomed.inference import forward, probabilities
from adacomed.schema import CohortCard, RunFiles
from adacomed.training.checkpoint import load_run, save_run, written_whole
from adacomed.training.methods import Problem, run_method

from .conftest import make_experiment, make_fold, make_inputs

CARD = CohortCard.model_validate(
    {
        "name": "c",
        "table": "t.csv",
        "subject": "id",
        "tasks": {"task": {}},
        "modalities": {
            "a": {"kind": "embedding", "root": "a"},
            "b": {"kind": "embedding", "root": "b"},
            "clinical": {"kind": "tabular", "columns": ["age", "ward"]},
        },
    }
)


def trained(method, **inputs_settings):
    experiment = make_experiment(model={"strategy": "threshold"}, inputs=inputs_settings)
    inputs = make_inputs()
    result = run_method(method, Problem(experiment, inputs, make_fold(), "task", 0))
    return result.trained, experiment, inputs


@pytest.mark.parametrize("method", ["adacomed", "small", "large-ensemble", "average", "b-large"])
@pytest.mark.parametrize("pca", [None, 3])
def test_a_loaded_run_predicts_bit_for_bit_the_same(method, pca, tmp_path):
    model, experiment, inputs = trained(method, pca=pca)
    with written_whole(tmp_path / "run") as folder:
        save_run(
            folder,
            model,
            experiment=experiment,
            card=CARD,
            task="task",
            classes=inputs.classes,
            method=method,
            encoders={},
        )
    run = load_run(tmp_path / "run")
    before, after = forward(model, inputs), forward(run.trained, inputs)
    assert np.array_equal(probabilities(before), probabilities(after))
    assert run.trained.threshold == model.threshold
    assert run.method == method


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    model, experiment, inputs = trained("adacomed")
    folder = tmp_path_factory.mktemp("saved")
    with written_whole(folder / "run") as out:
        save_run(
            out,
            model,
            experiment=experiment,
            card=CARD,
            task="task",
            classes=inputs.classes,
            method="adacomed",
            encoders={},
        )
    return folder / "run"


def copy(run_folder, tmp_path):
    for file in run_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_the_bank_travels_with_the_model(run_folder):
    for member in load_run(run_folder).trained.model.members:
        assert member.bank.z_small.abs().sum() > 0
        assert member.bank.z_small.shape == (90, 64)  # 90 training patients, d = 64


def test_damage_is_one_sentence(run_folder, tmp_path):
    folder = copy(run_folder, tmp_path)
    blob = (folder / RunFiles.MODEL).read_bytes()
    for broken in (blob[:100], b"", blob[: len(blob) // 2]):
        (folder / RunFiles.MODEL).write_bytes(broken)
        with pytest.raises(InputError, match="damaged"):
            load_run(folder)


def test_a_newer_format_and_a_folder_that_is_no_run(run_folder, tmp_path):
    folder = copy(run_folder, tmp_path)
    meta = json.loads((folder / RunFiles.INPUTS).read_text())
    (folder / RunFiles.INPUTS).write_text(json.dumps({**meta, "format": 99}))
    with pytest.raises(InputError, match="newer"):
        load_run(folder)
    with pytest.raises(InputError, match="not a run"):
        load_run(tmp_path / "nothing")
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "run").mkdir()
    (tmp_path / "demo" / "run" / RunFiles.INPUTS).write_text("{}")
    with pytest.raises(InputError, match="did you mean"):
        load_run(tmp_path / "demo")


def test_nothing_is_left_of_a_run_that_failed(tmp_path):
    def fail():
        with written_whole(tmp_path / "run") as folder:
            (folder / "half").write_text("x")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_replacing_keeps_the_old_run_until_the_new_one_is_whole(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "old").write_text("x")
    with pytest.raises(InputError, match="exists"), written_whole(tmp_path / "run"):
        pass
    with pytest.raises(RuntimeError), written_whole(tmp_path / "run", replace=True):
        raise RuntimeError("stop")
    assert (tmp_path / "run" / "old").exists()
    with written_whole(tmp_path / "run", replace=True) as folder:
        (folder / "new").write_text("y")
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["new"]
