"""The audit log on a real disk: threads, processes, kill -9, a full disk, and every tampering."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adacomed.errors import InputError
from adacomed.serve.audit import AuditLog, output_of, verify
from adacomed.serve.audit_lines import read_head, seal, write_head

SHA = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("xray", "note")}
OUTPUT = {"predictions": {"death": {"prob": [0.25, 0.75], "prediction_set": [1]}}, "s": 0.5}


def add(log: AuditLog, n: int = 1, **changed: Any) -> None:
    for i in range(n):
        entry = {
            "who": "token",
            "what": "predict",
            "sample_id": f"p{i}",
            "model_hash": "ab" * 32,
            "inputs": SHA,
            "output": OUTPUT,
        }
        log.append(**(entry | changed))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
def ten(path: Path) -> Path:
    """A log of ten entries, closed."""
    log = AuditLog(path)
    add(log, 10)
    log.close()
    return path


def test_the_chain_is_what_the_docs_say(ten: Path) -> None:
    """Checked with nothing of ours: json and sha256."""
    before = "0" * 64
    for n, line in enumerate(ten.read_text().splitlines(), 1):
        entry = json.loads(line)
        said = entry.pop("hash")
        text = json.dumps(entry, sort_keys=True, separators=(",", ":"))
        assert hashlib.sha256(text.encode()).hexdigest() == said
        assert (entry["seq"], entry["prev"]) == (n, before)
        assert entry["output"] == OUTPUT
        assert entry["time"].endswith("+00:00")
        before = said
    found = verify(ten)
    assert found.whole
    assert (found.entries, found.head, found.behind) == (10, f"10:{before}", 0)


def test_inputs_are_keyed_digests(ten: Path) -> None:
    key = Path(f"{ten}.key")
    assert key.stat().st_mode & 0o777 == 0o600
    secret = bytes.fromhex(key.read_text().strip())
    text = ten.read_text()
    for name, digest in SHA.items():
        assert digest not in text
        expected = hmac.new(secret, digest.encode(), "sha256").hexdigest()
        assert json.loads(text.splitlines()[0])["inputs"][name] == expected


@pytest.mark.parametrize(
    "changed",
    [
        {"output": {"note": "Seen for chest pain"}},
        {"output": {"prob": [0.5, {"deeper": ["text"]}]}},
        {"inputs": {"note": "Seen for chest pain"}},
        {"inputs": {"age": "71"}},
        {"sample_id": "p" * 301},
    ],
)
def test_no_text_or_value_gets_in(path: Path, changed: dict[str, Any]) -> None:
    log = AuditLog(path)
    with pytest.raises(ValueError) as told:
        add(log, **changed)
    assert "chest" not in str(told.value)
    add(log)
    log.close()
    assert verify(path).entries == 1


def test_a_record_becomes_numbers() -> None:
    record = {
        "predictions": [
            {
                "task": "stage",
                "classes": ["I", "II"],
                "prob": {"I": 0.25, "II": 0.75},
                "prediction_set": ["II"],
                "threshold": 0.5,
            },
            {"task": "t", "classes": ["x", "y"], "prob": {"x": 1.0, "y": 0.0}},
        ],
        "s": 0.5,
        "w_large": None,
        "sample_id": "p1",
    }
    assert output_of(record) == {
        "predictions": {
            "stage": {"prob": [0.25, 0.75], "prediction_set": [1], "threshold": 0.5},
            "t": {"prob": [1.0, 0.0], "prediction_set": None, "threshold": None},
        },
        "s": 0.5,
        "w_large": None,
        "w_small": None,
    }


def test_many_threads_make_one_chain(path: Path) -> None:
    log, seen = AuditLog(path), []

    def client() -> None:
        for _ in range(25):
            before = log.head.seq
            add(log)
            head = log.head
            seen.append((before, head.seq, path.stat().st_size >= head.size))

    threads = [threading.Thread(target=client) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert len(seen) == 800
    assert all(after > before and on_disk for before, after, on_disk in seen)
    found = verify(path)
    assert found.whole
    assert found.entries == 800


def test_a_new_process_goes_on_with_the_chain(ten: Path) -> None:
    log = AuditLog(ten)
    add(log, 2)
    log.close()
    log.close()
    assert verify(ten).entries == 12
    with pytest.raises(OSError, match="closed"):
        add(log)


def test_one_writer_at_a_time(ten: Path) -> None:
    log = AuditLog(ten)
    code = (
        "import sys; from pathlib import Path; from adacomed.serve.audit import AuditLog\n"
        "AuditLog(Path(sys.argv[1]))"
    )
    ran = subprocess.run([sys.executable, "-c", code, ten], capture_output=True, text=True)
    assert "InputError" in ran.stderr
    assert "another process writes this audit log" in ran.stderr
    with pytest.raises(InputError, match="another process"):
        AuditLog(ten)
    add(log)
    log.close()
    AuditLog(ten).close()


WRITER = """
import sys, threading
from pathlib import Path
from adacomed.serve.audit import AuditLog
log = AuditLog(Path(sys.argv[1]))
def client(name):
    for i in range(100_000):
        log.append(who=name, what="predict", sample_id=f"{name}-{i}", model_hash="", inputs={},
                   output={"prob": [0.5]})
        sys.stdout.write(f"{name}-{i}\\n"); sys.stdout.flush()
for n in range(8):
    threading.Thread(target=client, args=(f"c{n}",)).start()
"""


def test_killed_under_load_nothing_that_was_answered_is_lost(path: Path) -> None:
    for _ in range(2):  # the second life goes on where the first was ended
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            answered = [process.stdout.readline().strip() for _ in range(200)]
            process.send_signal(signal.SIGKILL)
            answered += process.stdout.read().splitlines()[:-1]
        log = AuditLog(path)  # the lock went with the process
        log.close()
        found = verify(path)
        assert found.whole, found
        logged = {json.loads(line)["sample_id"] for line in path.read_text().splitlines()}
        assert set(answered) <= logged


FULL = """
import resource, sys
from pathlib import Path
from adacomed.serve.audit import AuditLog, verify
path = Path(sys.argv[1])
log = AuditLog(path)
entry = dict(who="w", what="predict", sample_id="p", model_hash="", inputs={}, output={"p": 0.5})
log.append(**entry)
size = path.stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, resource.RLIM_INFINITY))
for _ in range(2):
    try:
        log.append(**entry)
    except OSError as error:
        print("refused", error.filename == str(path), path.stat().st_size == size)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.append(**entry)
log.close()
print(verify(path).whole, verify(path).entries)
"""


def test_without_room_it_raises_and_stays_whole(path: Path) -> None:
    """A real limit of the kernel's: the write ends in the middle of a line."""
    ran = subprocess.run([sys.executable, "-c", FULL, path], capture_output=True, text=True)
    assert ran.stdout.splitlines() == ["refused True True"] * 2 + ["True 2"], ran.stderr


def test_a_torn_last_line_is_kept_aside(ten: Path) -> None:
    whole, line = ten.read_bytes(), b'{"half":"an ent'
    ten.write_bytes(whole + line)
    found = verify(ten)
    assert (found.kind, found.line, found.entries) == ("torn", 11, 10)
    log = AuditLog(ten)
    assert log.torn == len(line)
    add(log)
    log.close()
    assert Path(f"{ten}.torn").read_bytes() == line + b"\n"
    assert verify(ten).entries == 12
    told = json.loads(ten.read_text().splitlines()[10])
    assert (told["what"], told["output"]) == ("set aside", {"bytes": len(line)})


def test_entries_after_the_head_are_taken_on(ten: Path) -> None:
    """A crash between the lines and the head: the lines are whole and stay."""
    head = read_head(ten)
    assert head is not None
    log = AuditLog(ten)
    add(log, 3)
    log.close()
    write_head(ten, head)
    found = verify(ten)
    assert (found.whole, found.entries, found.behind) == (True, 13, 3)
    AuditLog(ten).close()
    assert verify(ten).behind == 0


def test_a_cut_tail_is_not_a_torn_line(ten: Path) -> None:
    whole = ten.read_bytes()
    for cut in (10, len(whole.splitlines()[-1]) + 1, len(whole)):
        ten.write_bytes(whole[:-cut])
        found = verify(ten)
        assert found.kind == "cut", cut
        with pytest.raises(InputError, match=r"does not end as its \.head says"):
            AuditLog(ten)
    assert "there were 10" in str(found.told)


Lines = list[bytes]
WAYS: dict[str, tuple[Callable[[Lines], Lines], str, int]] = {
    "a number": (
        lambda x: [*x[:3], x[3].replace(b"0.75", b"0.76"), *x[4:]],
        "changed",
        4,
    ),
    "a blank": (lambda x: [*x[:3], x[3].replace(b",", b", ", 1), *x[4:]], "changed", 4),
    "a key twice": (
        lambda x: [*x[:3], x[3].replace(b"{", b'{"who":"x",', 1), *x[4:]],
        "changed",
        4,
    ),
    "NaN": (lambda x: [*x[:3], x[3].replace(b"0.75", b"NaN"), *x[4:]], "changed", 4),
    "first gone": (lambda x: x[1:], "missing", 1),
    "two gone": (lambda x: x[:4] + x[6:], "missing", 5),
    "last gone": (lambda x: x[:-1], "cut", 0),
    "all gone": (lambda x: [], "cut", 0),
    "swapped": (lambda x: [*x[:3], x[4], x[3], *x[5:]], "reordered", 4),
    "moved": (lambda x: [*x[:2], x[8], *x[2:8], x[9]], "reordered", 3),
    "repeated": (lambda x: [*x[:5], x[4], *x[5:]], "duplicated", 6),
    "repeated later": (lambda x: [*x[:8], x[2], *x[8:]], "duplicated", 9),
    "repeated at the end": (lambda x: [*x, x[9]], "duplicated", 11),
    "no JSON": (lambda x: [*x[:6], b"hello\n", *x[7:]], "not JSON", 7),
    "a list": (lambda x: [*x[:6], b"[1]\n", *x[7:]], "not JSON", 7),
    "deep": (lambda x: [*x[:6], b"[" * 100_000 + b"\n", *x[7:]], "not JSON", 7),
    "a huge number": (lambda x: [*x[:6], b"9" * 9_000 + b"\n", *x[7:]], "not JSON", 7),
    "a blank line": (lambda x: [*x[:6], b"\n", *x[6:]], "not JSON", 7),
    "another object": (lambda x: [*x[:6], b'{"seq":7}\n', *x[7:]], "changed", 7),
    "binary": (lambda x: [*x[:6], b"\xff\x00\n", *x[7:]], "not JSON", 7),
    "very long": (lambda x: [*x[:6], b"7" * 3_000_000 + b"\n", *x[7:]], "not JSON", 7),
}


@pytest.mark.parametrize("way", WAYS)
def test_tampering_is_found_and_told(way: str, ten: Path, cli) -> None:
    change, kind, line = WAYS[way]
    ten.write_bytes(b"".join(change(ten.read_bytes().splitlines(keepends=True))))
    found = verify(ten)
    assert (found.kind, found.line or 0) == (kind, line)
    ran = cli("audit", "verify", ten)
    assert ran.exit_code == 2
    assert str(found.told) in ran.stderr
    assert "Traceback" not in ran.output
    assert kind == "cut" or f"line {line}: " in ran.stderr


def resealed(path: Path, start: int, change: Callable[[dict[str, Any]], None]) -> None:
    """Rewrite the chain from one line on, hashes and all, as someone who knows the format can."""
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    change(entries[start])
    prev, lines = entries[start]["prev"], path.read_bytes().splitlines(keepends=True)[:start]
    for entry in entries[start:]:
        line, prev = seal({k: v for k, v in entry.items() if k != "hash"} | {"prev": prev})
        lines.append(line)
    path.write_bytes(b"".join(lines))


def test_a_chain_written_anew_fails_at_its_head(ten: Path, cli) -> None:
    noted = verify(ten).head
    resealed(ten, 3, lambda entry: entry.update(sample_id="someone else"))
    found = verify(ten)
    assert (found.kind, found.line) == ("rewritten", 10)
    lines = ten.read_bytes().splitlines(keepends=True)
    head = read_head(ten)
    assert head is not None
    write_head(ten, head._replace(hash=json.loads(lines[-1])["hash"], size=sum(map(len, lines))))
    # whoever holds log and head can do this, and only a head noted elsewhere shows it
    assert verify(ten).whole
    assert verify(ten, head=noted).kind == "rewritten"
    assert cli("audit", "verify", ten, "--head", noted).exit_code == 2


def test_one_changed_line_with_its_own_hash_breaks_the_next(ten: Path) -> None:
    lines = ten.read_bytes().splitlines(keepends=True)
    entry = json.loads(lines[3])
    lines[3], _ = seal({k: v for k, v in entry.items() if k != "hash"} | {"who": "nobody"})
    ten.write_bytes(b"".join(lines))
    found = verify(ten)
    assert (found.kind, found.line) == ("changed", 5)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("audit") / "three.jsonl"
    log = AuditLog(path)
    add(log, 3)
    log.close()
    return path


@settings(max_examples=300, deadline=None)
@given(at=st.integers(0), byte=st.integers(0, 255))
def test_any_changed_byte_is_found(three: Path, at: int, byte: int) -> None:
    whole = three.read_bytes()
    at %= len(whole)
    try:
        three.write_bytes(whole[:at] + bytes([byte]) + whole[at + 1 :])
        assert verify(three).whole == (whole[at] == byte)
    finally:
        three.write_bytes(whole)


def test_what_lies_beside_the_log(ten: Path) -> None:
    key, head = Path(f"{ten}.key"), Path(f"{ten}.head")
    key.chmod(0o644)
    with pytest.raises(InputError, match="others may read the key"):
        AuditLog(ten)
    key.rename(f"{key}.old")
    with pytest.raises(InputError, match="key is missing"):
        AuditLog(ten)
    Path(f"{key}.old").rename(key)
    key.chmod(0o600)
    text = head.read_text()
    head.write_text("10:abc:1\n")
    for read in (AuditLog, verify):
        with pytest.raises(InputError, match="expected SEQ:HASH:BYTES"):
            read(ten)
    head.unlink()
    with pytest.raises(InputError, match="head is missing"):
        AuditLog(ten)
    found = verify(ten)
    assert found.kind == "no head"
    assert verify(ten, head=text.rpartition(":")[0]).whole
    ten.unlink()
    with pytest.raises(InputError, match="is gone"):
        AuditLog(ten)


def test_where_no_log_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "file" / "audit.jsonl", tmp_path / "pipe"):
        with pytest.raises(InputError):
            AuditLog(path)


def test_a_log_can_be_read_while_it_is_written(path: Path) -> None:
    log, stop = AuditLog(path), threading.Event()
    add(log)

    def write() -> None:
        while not stop.is_set():
            add(log)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        seen, until = [verify(path)], time.monotonic() + 60
        while len(seen) < 40 or (seen[-1].entries < seen[0].entries + 20):
            assert time.monotonic() < until, "nobody writes"
            seen.append(verify(path))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        log.close()
    assert [one for one in seen if not one.whole] == []


def test_memory_does_not_grow_with_the_log(path: Path) -> None:
    AuditLog(path).close()
    prev, size, peaks = "0" * 64, 0, {}
    rest = {"time": "t", "who": "w", "what": "predict", "sample_id": "p", "model_hash": "m"}
    with path.open("wb") as file:
        for seq in range(1, 20_001):
            entry = {**rest, "inputs": {}, "output": {}, "seq": seq, "prev": prev}
            line, prev = seal(entry)
            size += file.write(line)
            if seq in (1_000, 20_000):
                file.flush()
                head = read_head(path)
                assert head is not None
                write_head(path, head._replace(seq=seq, hash=prev, size=size))
                tracemalloc.start()
                assert verify(path).entries == seq
                peaks[seq] = tracemalloc.get_traced_memory()[1]
                tracemalloc.stop()
    assert peaks[20_000] < peaks[1_000] + 100_000
    assert os.path.getsize(path) > 5_000_000
