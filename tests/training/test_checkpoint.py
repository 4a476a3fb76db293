"""A run on disk: bit for bit the model in memory, whole or absent, damage is named."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from adacomed.errors import InputError
from adacomed.inference import forward, probabilities
from adacomed.models.baselines import meta_transformer
from adacomed.models.raw import VectorShape
from adacomed.schema import RunFiles
from adacomed.training import neural
from adacomed.training.checkpoint import load_run, save_run, write_json, written_whole
from adacomed.training.methods import Problem, run_method

from .conftest import CARD, make_experiment, make_fold, make_inputs

FUSED = ["adacomed", "small", "large-ensemble", "average", "b-large"]
RIVALS = ["flex-moe", "healnet", "meta-transformer", "onellm", "multimodal-pred"]
VARIANTS = ["adacomed?small.kind=multimodal-pred", "average?small.kind=multimodal-pred"]
ONE = {"epochs": 1, "inner_folds": 2, "members": 1}


def trained(method, *, training=None, baselines=None, **inputs_settings):
    experiment = make_experiment(
        model={"strategy": "threshold"},
        training=training or {},
        small={"width": 16},
        baselines={"size": "tiny", **(baselines or {})},
        inputs=inputs_settings,
    )
    inputs = make_inputs()
    result = run_method(method, Problem(experiment, inputs, make_fold(), "task", 0))
    return result.trained, experiment, inputs


def saved(path, model, experiment, inputs, method):
    with written_whole(path) as folder:
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
    return path


@pytest.mark.parametrize(
    ("method", "pca"),
    [*((m, p) for m in FUSED for p in (None, 3)), *((m, None) for m in RIVALS + VARIANTS)],
)
def test_a_loaded_run_predicts_bit_for_bit_the_same(method, pca, tmp_path):
    """Of three members (FUSED) or two."""
    settings = {} if method in FUSED else {**ONE, "members": 2}
    model, experiment, inputs = trained(method, training=settings, pca=pca)
    run = load_run(saved(tmp_path / "run", model, experiment, inputs, method))
    before, after = forward(model, inputs), forward(run.trained, inputs)
    assert np.array_equal(probabilities(before), probabilities(after))
    assert run.trained.threshold == model.threshold
    assert run.method == method


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    return saved(folder / "run", *trained("adacomed"), "adacomed")


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


def weights_of(folder):
    return load_file(folder / RunFiles.MODEL)


def test_onellms_frozen_models_are_not_in_the_file(tmp_path):
    """What is trained is; CLIP and the language model come from where they came from before."""
    for members in (1, 2):
        model, *about = trained("onellm", training={**ONE, "members": members})
        names = set(weights_of(saved(tmp_path / f"{members}", model, *about, "onellm")))
        first = "model.members.0." if members == 2 else "model."
        assert not [n for n in names if n.startswith((f"{first}lm.", f"{first}encoder.clip."))]
        learned = {f"model.{n}" for n, p in model.model.named_parameters() if p.requires_grad}
        assert learned <= names
        assert any(n.startswith(f"{first}projection.") for n in names)


@pytest.mark.parametrize("method", ["adacomed", "onellm"])
@pytest.mark.parametrize("damage", ["missing", "unknown", "frozen", "of another shape"])
def test_weights_that_do_not_fit_are_refused(method, damage, tmp_path, run_folder):
    if method == "onellm":
        folder = saved(tmp_path / "run", *trained(method, training=ONE), method)
    else:
        folder = copy(run_folder, tmp_path)
    tensors = weights_of(folder)
    name = next(n for n in tensors if n.endswith("head.weight") or n.endswith("f.weight"))
    if damage == "missing":
        del tensors[name]
    elif damage == "unknown":
        tensors["model.nothing.weight"] = torch.zeros(2)
    elif damage == "frozen":  # of a part that is never saved
        tensors["model.lm.norm.weight"] = torch.zeros(32)
    else:
        tensors[name] = tensors[name][:, :-1].contiguous()
    save_file(tensors, folder / RunFiles.MODEL)
    with pytest.raises(InputError, match="damaged"):
        load_run(folder)


# ---- published weights --------------------------------------------------------------------------
@pytest.fixture
def trunk(tmp_path, monkeypatch):
    """A file as the published encoder's, of a model that is published in this test only."""
    monkeypatch.setitem(meta_transformer.SIZES, "published", meta_transformer.SIZES["tiny"])
    model = meta_transformer.build_meta_transformer({"a": VectorShape(6)}, classes=2)
    tensors = {k: torch.full_like(v, 0.01) for k, v in model.trunk.state_dict().items()}
    torch.save(tensors, tmp_path / "trunk.pth")
    save_file(tensors, tmp_path / "trunk.safetensors")
    return tmp_path / "trunk.pth"


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_every_training_starts_from_the_published_weights(trunk, suffix, tmp_path, monkeypatch):
    """Two inner folds, and two members on everyone; a loaded run needs the file no more."""
    starts = []
    train = neural.Candidate.train

    def watched(self, part, recipe, **watch):
        model = self.build(part, 0)
        starts.append((part.name, model.trunk.state_dict(), model.head.weight))
        return train(self, part, recipe, **watch)

    monkeypatch.setattr(neural.Candidate, "train", watched)
    file = trunk.with_suffix(suffix)
    settings = {"size": "published", "weights": str(file)}
    about = trained("meta-transformer", training={**ONE, "members": 2}, baselines=settings)
    assert [name for name, *_ in starts] == ["inner 0", "inner 1", "all 0", "all 1"]
    for _, weights, _ in starts:
        assert weights
        assert all((v == 0.01).all() for v in weights.values())
    ours = about[0].model.members[0].trunk.state_dict()
    assert any((v != 0.01).any() for v in ours.values())  # all of it is fine-tuned
    folder = saved(tmp_path / "run", *about, "meta-transformer")
    file.unlink()
    again = load_run(folder).trained.model.members[0].trunk.state_dict()
    assert all(torch.equal(again[k], v) for k, v in ours.items())


def test_a_wrong_file_of_published_weights(trunk):
    def train(size="published"):
        settings = {"size": size, "weights": str(trunk)}
        trained("meta-transformer", training=ONE, baselines=settings)

    whole = torch.load(trunk)
    for message, tensors in (
        ("missing", {k: v for k, v in whole.items() if not k.startswith("1.")}),
        ("not of a ViT block", {**whole, "head.weight": torch.zeros(2)}),
        ("of another shape", {**whole, "0.norm1.weight": torch.zeros(5)}),
        ("missing", {"model": whole}),
    ):
        torch.save(tensors, trunk)
        with pytest.raises(InputError, match=message):
            train()
    trunk.write_bytes(b"nonsense")
    with pytest.raises(InputError, match=r"trunk\.pth"):
        train()
    torch.save(whole, trunk)
    with pytest.raises(InputError, match="4 blocks, 128 wide"):
        train("small")
    trunk.unlink()
    with pytest.raises(InputError, match=r"trunk\.pth: not readable"):
        train()


def test_json_has_no_nan(tmp_path):
    file = tmp_path / "a.json"
    write_json(file, {"a": [float("nan"), 1.5], "b": {"c": float("inf")}, "d": (2, None)})
    assert json.loads(file.read_text()) == {"a": [None, 1.5], "b": {"c": None}, "d": [2, None]}
