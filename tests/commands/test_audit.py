"""`adacomed audit verify` as a person runs it; tests/serve/test_audit.py has the tampering."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from adacomed.serve.audit import AuditLog


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log of 1,200 entries."""
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)

    def client(name: str) -> None:
        for _ in range(75):
            log.append(
                who=name, what="view", sample_id="p", model_hash="", inputs={}, output={"p": 0.5}
            )

    threads = [threading.Thread(target=client, args=(f"c{n}",)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    return path


def test_a_whole_log(log: Path, cli) -> None:
    ran = cli("audit", "verify", log)
    assert ran.exit_code == 0, ran.output
    head = json.loads(log.read_text().splitlines()[-1])["hash"]
    assert ran.stdout == f"1,200 entries, chain whole, head 1200:{head}\n"
    assert cli("audit", "verify", log, "--head", f"1200:{head}").exit_code == 0
    old = json.loads(log.read_text().splitlines()[499])["hash"]
    assert cli("audit", "verify", log, "--head", f"500:{old}").exit_code == 0


def test_json_says_the_same(log: Path, cli) -> None:
    ran = cli("audit", "verify", log, "--json")
    found = json.loads(ran.stdout)
    assert (ran.exit_code, found["whole"], found["entries"]) == (0, True, 1200)
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:700] + lines[701:]))
    ran = cli("audit", "verify", log, "--json")
    found = json.loads(ran.stdout)
    assert (ran.exit_code, found["whole"]) == (2, False)
    assert (found["kind"], found["line"], found["entries"]) == ("missing", 701, 700)
    assert "line 701: is entry 702; entry 701 before it missing" in ran.stderr


def test_what_it_cannot_check(log: Path, tmp_path: Path, cli) -> None:
    for words, helps in (
        ((tmp_path / "none.jsonl",), "no such audit log"),
        ((tmp_path,), "no such audit log"),
        ((log, "--head", "12"), "expected SEQ:HASH"),
        ((log, "--head", f"1300:{'0' * 64}"), "the --head given says that there were 1,300"),
        ((log, "--head", f"12:{'0' * 64}"), "line 12: "),
    ):
        ran = cli("audit", "verify", *words)
        assert ran.exit_code == 2
        assert helps in ran.stderr
    Path(f"{log}.head").unlink()
    ran = cli("audit", "verify", log)
    assert ran.exit_code == 2
    assert "a tail cut off could not be seen" in ran.stderr
