"""Ray clusters: what is refused, and what one of our own does and leaves behind."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from adacomed.errors import InputError
from adacomed.scale.cluster import Devices, check_engine, joined
from tests.conftest import without
from tests.test_embed import write_cohort

from .conftest import CARD, NO_RAY

needs_ray = pytest.mark.skipif(NO_RAY, reason="needs Ray: pip install 'adacomed[scale]'")


def closed_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_an_address_is_a_ray_clusters(tmp_path: Path, cli) -> None:
    check_engine("local", None)
    card = write_cohort(tmp_path, 10, CARD)
    for verb in ("embed", "compare"):
        ran = cli(verb, card, "--address", "auto")
        assert ran.exit_code == 2
        assert ran.stderr == "error: --address auto is a Ray cluster's: add --engine ray\n"


@needs_ray
def test_addresses_that_do_not_work(tmp_path: Path, cli, monkeypatch: pytest.MonkeyPatch) -> None:
    card = write_cohort(tmp_path, 10, CARD)
    nobody = f"127.0.0.1:{closed_port()}"
    for address, message in {
        nobody: f"--address {nobody}: no Ray cluster answers there",
        "somewhere": "--address somewhere: expected auto, or HOST:PORT",
        "ray://head:10001": "Ray Data does not run through the Ray client",
        "127.0.0.1:99999": "no Ray cluster answers there",
    }.items():
        for verb in ("embed", "compare"):
            ran = cli(verb, card, "--engine", "ray", "--address", address)
            assert ran.exit_code == 2
            assert message in ran.stderr
    gone = rf"--address auto \({nobody}\): no Ray cluster answers"
    monkeypatch.setenv("RAY_ADDRESS", nobody)
    with pytest.raises(InputError, match=gone):
        check_engine("ray", "auto")
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(nobody)  # of one that was killed
    with pytest.raises(InputError, match=gone):
        check_engine("ray", "auto")


def test_ray_is_not_installed(tmp_path: Path) -> None:
    """One sentence that says what to install, before anything is read or trained."""
    card = write_cohort(tmp_path, 10, CARD)
    code = (
        "from adacomed.cli import main\n"
        "for verb in 'embed', 'compare':\n"
        "    try: main([verb, sys.argv[1], '--engine', 'ray'])\n"
        "    except SystemExit as stop: print(stop.code)\n"
    )
    ran = without("ray", code, card)
    assert ran.stdout.split() == ["2", "2"]
    sentence = "error: --engine ray: Ray is not installed; pip install 'adacomed[scale]'"
    assert ran.stderr.splitlines() == [sentence] * 2


def test_joining_again_stays_with_the_cluster(cluster: Devices) -> None:
    import ray

    with joined(None) as devices:
        assert devices == cluster == Devices(cpus=2, gpus=0)
    assert ray.is_initialized()


LIFE = """
import json, os, signal, psutil
from adacomed.scale.cluster import FOLDER, joined
before = dict(os.environ), signal.getsignal(signal.SIGTERM)
me = psutil.Process()
with joined(None, cpus=1):
    import ray
    ray.get(ray.remote(lambda: 1).remote())
    servers = [c.laddr.ip for p in me.children(recursive=True) for c in p.net_connections("inet")
               if c.status == psutil.CONN_LISTEN]
left = [p for p in me.children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]
same = (dict(os.environ), signal.getsignal(signal.SIGTERM)) == before
print(json.dumps({"servers": servers, "left": len(left), "same": same}))
"""


@needs_ray
def test_a_cluster_of_our_own_is_ours_alone_and_leaves_nothing(tmp_path: Path) -> None:
    """It listens on loopback only; in the end processes, folder, environment are as before."""
    place = Path("/tmp") / f"ada-{os.getpid()}"  # short: sockets lie in it
    place.mkdir()
    stale = place / "adacomed-ray-999999999-x"
    stale.mkdir()
    environment = {**os.environ, "TMPDIR": str(place)}
    command = [sys.executable, "-c", LIFE]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found = json.loads(ran.stdout)
    assert found["servers"]
    assert {ip.removeprefix("::ffff:") for ip in found["servers"]} <= {"127.0.0.1", "::1"}
    assert found["same"]
    assert found["left"] == 0
    assert ran.stderr == ""
    assert list(place.iterdir()) == []
    place.rmdir()
