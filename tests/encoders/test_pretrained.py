from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tests.encoders.conftest import save_tiny_llama

from adacomed.encoders.pretrained import load_model, load_tokenizer, measured
from adacomed.encoders.weights import Weights
from adacomed.errors import InputError


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("llama"))


def changed(folder: Path, to: Path, **config: object) -> Weights:
    """A copy whose config.json says something else."""
    shutil.copytree(folder, to)
    stated = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps({**stated, **config}))
    return Weights(to, "")


def test_any_class_and_any_setting(llama: Path) -> None:
    weights = Weights(llama, "")
    model = load_model(weights, model_class="AutoModelForCausalLM", use_cache=False)
    assert type(model).__name__ == "LlamaForCausalLM"
    assert not model.config.use_cache
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert type(load_model(weights)).__name__ == "LlamaModel"
    assert load_tokenizer(weights)("a the")["input_ids"] == [1, 4, 5]


def test_every_parameter_is_from_the_file(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"9 parameters are not in the weights file.*random"):
        load_model(changed(llama, tmp_path / "deeper", num_hidden_layers=3))
    with pytest.raises(InputError, match=r"not a model that transformers can load|random"):
        load_model(changed(llama, tmp_path / "wider", intermediate_size=80))


def test_no_code_of_a_repository_is_run(llama: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    named = {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}
    weights = changed(llama, tmp_path / "remote", model_type="mine", auto_map=named)
    (weights.folder / "mine.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    with pytest.raises(InputError, match="not a model that transformers can load"):
        load_model(weights)
    assert not ran.exists()


def test_a_pickle_that_runs_code_is_refused(llama: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (open, (str(tmp_path / "ran"), "w"))

    weights = changed(llama, tmp_path / "evil")
    (weights.folder / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Evil()}, weights.folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="not a model that transformers can load"):
        load_model(weights)
    assert not (tmp_path / "ran").exists()


def test_no_such_device(llama: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    with pytest.raises(InputError, match="no CUDA device here; use device='cpu'"):
        load_model(Weights(llama, ""), device="cuda")


def test_no_tokenizer(llama: Path, tmp_path: Path) -> None:
    weights = changed(llama, tmp_path / "bare")
    for file in weights.folder.glob("*token*"):
        file.unlink()
    with pytest.raises(InputError, match=r"not a model that transformers can load|no fast tok"):
        load_tokenizer(weights)


def test_measured_follows_settings_and_files(llama: Path, tmp_path: Path) -> None:
    def of(weights: Weights, **settings: object) -> str:
        found = measured(weights, settings, files=("config.json",), libraries=("torch",))
        assert found["libraries"] == {"torch": torch.__version__}
        assert found["preprocessing"] == settings
        return str(found["preprocessing_hash"])

    same = Weights(shutil.copytree(llama, tmp_path / "copy"), "")
    weights = Weights(llama, "")
    other = changed(llama, tmp_path / "other", rms_norm_eps=0.1)
    assert of(weights, size=1) == of(same, size=1)
    assert len({of(weights, size=1), of(weights, size=2), of(other, size=1)}) == 3
