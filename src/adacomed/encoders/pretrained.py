"""Models and tokenizers of transformers out of a local folder, every parameter from the file.

No code from a hub repository is ever run.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Iterable, Iterator, Mapping
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError

from adacomed.encoders.base import hash_json
from adacomed.encoders.weights import Weights, file_sha256, quiet
from adacomed.errors import InputError

BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError)


def load_model(
    weights: Weights,
    *,
    model_class: str = "AutoModel",
    extra: str = "text",
    device: str = "cpu",
    attention: str | None = None,
    optional: str = "pooler",
    **config: Any,
) -> Any:
    """Any model class of transformers in evaluation mode, every parameter out of the file.

    Args:
        weights: a folder as save_pretrained writes it.
        model_class: its name in transformers.
        extra: of this package, that brings transformers.
        device: "cpu" (float32) or "cuda" (bfloat16 where it can).
        attention: transformers' name of the kernel; None: the best that the model has.
        optional: parameters whose name holds this word may be missing: the output ignores them.
        config: entries of config.json that are set otherwise.
    Raises:
        InputError: unreadable, another type of model, no such device, or a parameter that the file
            does not have (transformers leaves it at random).
    """
    transformers = _transformers(extra)
    if not device.startswith("cpu") and not torch.cuda.is_available():
        raise InputError(f"device {device!r}: torch sees no CUDA device here; use device='cpu'")
    folder = str(weights.folder)
    with _readable(folder), quiet():
        settings = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        for name, value in config.items():
            setattr(settings, name, value)
        model, info = getattr(transformers, model_class).from_pretrained(
            folder,
            config=settings,
            attn_implementation=attention,
            dtype=device_dtype(device),
            trust_remote_code=False,
            output_loading_info=True,
        )
    absent = sorted(str(name) for name in info["missing_keys"] if optional not in str(name))
    absent += sorted(str(name) for name, *_ in info.get("mismatched_keys", ()))
    if absent:
        raise InputError(
            f"{folder}: {len(absent)} parameters are not in the weights file ({absent[0]}, …), the "
            f"model would be partly random; the weights do not belong to config.json"
        )
    return model.eval().requires_grad_(False).to(device)


def load_tokenizer(weights: Weights, *, extra: str = "text") -> Any:
    """The fast tokenizer in a model's folder.

    Raises:
        InputError: none there that transformers can read, or a slow one.
    """
    folder = str(weights.folder)
    transformers = _transformers(extra)
    with _readable(folder), quiet():
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if not tokenizer.is_fast:
        raise InputError(f"{folder}: no fast tokenizer (tokenizer.json) in it")
    return tokenizer


def device_dtype(device: str) -> torch.dtype:
    """float32 on a CPU; bfloat16 on a CUDA device that has it."""
    whole = device.startswith("cpu") or not torch.cuda.is_bf16_supported()
    return torch.float32 if whole else torch.bfloat16


def measured(
    weights: Weights, settings: Mapping[str, Any], *, files: Iterable[str], libraries: Iterable[str]
) -> dict[str, Any]:
    """The measured fields of a card: what its numbers depend on.

    Args:
        weights: of the model.
        settings: the preprocessing, JSON values.
        files: names of the files in the model's folder that change the numbers beside the weights.
        libraries: PyPI packages that compute.
    """
    folder = weights.folder
    hashed = {name: file_sha256(folder / name) for name in files if (folder / name).is_file()}
    return {
        "revision": weights.revision,
        "preprocessing": dict(settings),
        "preprocessing_hash": hash_json({**settings, **hashed}),
        "weights_hash": weights.sha256(),
        "libraries": {name: importlib.metadata.version(name) for name in libraries},
    }


def _transformers(extra: str) -> Any:
    try:
        import transformers
    except ImportError:
        raise InputError(
            f"this encoder needs transformers: pip install 'adacomed[{extra}]'"
        ) from None
    return transformers


@contextlib.contextmanager
def _readable(folder: str) -> Iterator[None]:
    """What transformers raises over a folder that it cannot load, as one sentence."""
    try:
        yield
    except (SafetensorError, UnpicklingError, *BROKEN) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise InputError(f"{folder}: not a model that transformers can load ({reason})") from None
