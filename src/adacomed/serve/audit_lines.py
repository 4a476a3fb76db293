"""The format of the audit log: one entry a line, each holding the hash of the one before it.

A line is the canonical JSON of an entry (keys sorted, no spaces, ASCII) with its `hash` put last:
sha256 over that canonical JSON without the hash. Whoever wants to check a log with other tools
takes `hash` out, writes the rest canonically and compares; `prev` is the hash of the line before,
64 zeros in the first.

Beside `LOG` lie `LOG.head` (the last entry's number, hash and end, so that a cut tail is seen),
`LOG.key` (see `keyed`), `LOG.lock` (one writer) and, after a power cut, `LOG.torn`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from adacomed.errors import InputError

GENESIS = "0" * 64  # `prev` of the first entry
LONGEST = 1 << 20  # bytes of a line, so that a reader needs no more memory than that
FIELDS = frozenset(
    ("seq", "time", "who", "what", "sample_id", "model_hash", "inputs", "output", "prev", "hash")
)
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)
_HEAD = re.compile(r"(\d{1,18}):([0-9a-f]{64}):(\d{1,18})\n")
_NOTED = re.compile(r"(\d{1,18}):([0-9a-f]{64})")


class Head(NamedTuple):
    """Where a log ends: its last entry's number and hash, and the byte after its line."""

    seq: int
    hash: str
    size: int

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash}"


START = Head(0, GENESIS, 0)


def beside(log: Path, ending: str) -> Path:
    """The file of a log that has this ending: head, key, lock or torn."""
    return log.with_name(f"{log.name}.{ending}")


def seal(rest: Mapping[str, Any]) -> tuple[bytes, str]:
    """An entry without its hash → its line, and its hash.

    Raises:
        ValueError: NaN, infinity, or what JSON does not know.
    """
    text = _CANONICAL.encode(rest)
    digest = hashlib.sha256(text.encode("ascii")).hexdigest()
    return f'{text[:-1]},"hash":"{digest}"}}\n'.encode("ascii"), digest


def read_entry(line: bytes) -> dict[str, Any]:
    """The entry of a whole line, byte for byte as it was sealed.

    Raises:
        ValueError: with "not JSON", or "changed" for JSON that is not what its hash says.
    """
    try:
        entry = json.loads(line.decode("ascii"))
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    if not isinstance(entry, dict):
        raise ValueError("not JSON")
    if entry.keys() != FIELDS or type(entry["seq"]) is not int:
        raise ValueError("changed")
    try:
        sealed, _ = seal({key: value for key, value in entry.items() if key != "hash"})
    except (ValueError, RecursionError):
        raise ValueError("changed") from None
    if sealed != line:
        raise ValueError("changed")
    return entry


def keyed(key: bytes, digest: str) -> str:
    """HMAC-SHA256 of an input's sha256 under the log's key, both as 64 hex digits.

    An age has a hundred possible values, so that anyone could find it from a plain sha256 by trying
    them all. With the key, which stays where the log was written, an input can still be shown to be
    the one that an entry speaks of.
    """
    return hmac.new(key, digest.encode("ascii"), "sha256").hexdigest()


def read_head(log: Path) -> Head | None:
    """What `LOG.head` says; None where there is none.

    Raises:
        InputError: it says something else.
    """
    path = beside(log, "head")
    try:
        text = path.read_bytes()[:200].decode("ascii", errors="replace")
    except FileNotFoundError:
        return None
    found = _HEAD.fullmatch(text)
    if found is None:
        raise InputError(f"{path}: expected SEQ:HASH:BYTES in one line; the file was changed")
    return Head(int(found[1]), found[2], int(found[3]))


def noted_head(text: str) -> tuple[int, str]:
    """SEQ:HASH as a person noted it elsewhere.

    Raises:
        InputError: it is not that.
    """
    found = _NOTED.fullmatch(text.strip())
    if found is None:
        raise InputError("--head: expected SEQ:HASH, a number and 64 hex digits, as verify prints")
    return int(found[1]), found[2]


def write_head(log: Path, head: Head) -> None:
    """Replace `LOG.head` as a whole; a power cut leaves the old or the new one.

    Raises:
        OSError: it cannot be written; the old one stands.
    """
    path, new = beside(log, "head"), beside(log, "head.new")
    file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        write_all(file, f"{head}:{head.size}\n".encode("ascii"))
        sync(file)
    finally:
        os.close(file)
    new.replace(path)


def write_all(file: int, data: bytes) -> None:
    """All of `data` to a file descriptor.

    Raises:
        OSError: such as no space; some of it may be written.
    """
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


# The file's length is data here too: fdatasync writes it where it has changed.
sync = getattr(os, "fdatasync", os.fsync)
