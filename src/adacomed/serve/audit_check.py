"""Whether an audit log is whole: read once from its first line to its last, a line in memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

from adacomed.errors import InputError
from adacomed.serve.audit_lines import GENESIS, LONGEST, beside, noted_head, read_entry, read_head

Kind = Literal[
    "changed",
    "missing",
    "reordered",
    "duplicated",
    "not JSON",
    "torn",
    "cut",
    "rewritten",
    "no head",
]
PATIENCE = 0.2  # seconds that a service which is writing its last line is given to finish it


@dataclass(frozen=True)
class Verdict:
    """What was found.

    Attributes:
        entries: whole entries in their order, from the first line on.
        head: SEQ:HASH of the last of them, to be noted elsewhere.
        kind, line, told: the first thing wrong, its line (None: the end, or another file), and a
            sentence; None where the log is whole.
        behind: entries after the one that `LOG.head` speaks of; more than 0 after a crash, or while
            the log is written.
    """

    entries: int
    head: str
    kind: Kind | None = None
    line: int | None = None
    told: str | None = None
    behind: int = 0

    @property
    def whole(self) -> bool:
        """Nothing is wrong."""
        return self.kind is None


@dataclass
class _Reading:
    """Where the reading is, and which entries must have which hash."""

    path: Path
    heads: dict[int, list[tuple[str, str]]] = field(default_factory=dict)  # seq → hash, who says so
    seq: int = 0
    hash: str = GENESIS
    behind: int = 0

    def verdict(self, kind: Kind | None = None, told: str = "", line: int | None = None) -> Verdict:
        where = "" if line is None else f"line {line:,}: "
        words = None if kind is None else f"{where}{told}"
        return Verdict(self.seq, f"{self.seq}:{self.hash}", kind, line, words, self.behind)

    def expect(self, seq: int, digest: str, source: str) -> None:
        self.heads.setdefault(seq, []).append((digest, source))

    def rewritten(self) -> str | None:
        """Who says that the entry just read has another hash."""
        told = self.heads.get(self.seq, ())
        return next((source for digest, source in told if digest != self.hash), None)


def verify(path: Path, *, head: str | None = None) -> Verdict:
    """Read an audit log and say whether it is whole, or what is the first thing wrong.

    A million lines need a minute or two, and no more memory than a thousand. A log may be read
    while a service writes it.

    Args:
        head: SEQ:HASH, noted when the log was seen before; LOG.head is then not needed.
    Raises:
        InputError: there is no such file, or the head is not one.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such audit log; expected a file of JSON lines")
    reading = _Reading(path)
    if head is not None:
        reading.expect(*noted_head(head), "the --head given")
    kept = read_head(path)  # before the log, which may grow meanwhile
    if kept is not None:
        reading.expect(kept.seq, kept.hash, beside(path, "head").name)
    elif head is None:
        return reading.verdict(
            "no head",
            f"{beside(path, 'head')} is missing, so that a tail cut off could not be seen; put it "
            f"back, or give the last entry that you know of as --head SEQ:HASH",
        )
    with path.open("rb") as file:
        found = _walk(reading, file, path.stat().st_size)
    if kept is not None:
        found = Verdict(
            **{**vars(found), "behind": max(0, found.entries - kept.seq) if found.whole else 0}
        )
    return found


def _walk(reading: _Reading, file: BinaryIO, end: int) -> Verdict:
    if reading.rewritten():  # a head of no entry, with a hash that is none
        return reading.verdict("rewritten", f"{reading.rewritten()} is not the start of any log")
    for number, line in _lines(file, end):
        if not line.endswith(b"\n") and len(line) < LONGEST:
            return _unfinished(reading, number)
        try:
            entry = read_entry(line)
        except ValueError as error:
            kind: Kind = "not JSON" if str(error) == "not JSON" else "changed"
            told = "is not JSON" if kind == "not JSON" else "was changed: its hash is another"
            return reading.verdict(kind, told, number)
        if entry["seq"] != reading.seq + 1:
            return _out_of_order(reading, file, entry, line, number)
        if entry["prev"] != reading.hash:
            told = "does not follow the line before it: one of the two was changed, hash and all"
            return reading.verdict("changed", told, number)
        reading.seq, reading.hash = entry["seq"], entry["hash"]
        if source := reading.rewritten():
            told = f"is not the entry that {source} speaks of: the chain was written anew"
            return reading.verdict("rewritten", told, number)
    return _ended(reading)


def _lines(file: BinaryIO, end: int) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers from 1, up to the one that holds byte `end`."""
    at = number = 0
    while at < end:
        line = file.readline(LONGEST)
        if not line.endswith(b"\n") and len(line) < LONGEST:
            time.sleep(PATIENCE)
            line += file.readline(LONGEST - len(line))
        if not line:
            return  # it became shorter while it was read
        at, number = at + len(line), number + 1
        yield number, line


def _ended(reading: _Reading) -> Verdict:
    """The end of a log without a bad line: whether there should be more."""
    most = max(reading.heads)
    if most <= reading.seq:
        return reading.verdict()
    source = reading.heads[most][0][1]
    told = (
        f"the log ends with entry {reading.seq:,}, but {source} says that there were {most:,}: "
        f"its end was cut off"
    )
    return reading.verdict("cut", told)


def _unfinished(reading: _Reading, number: int) -> Verdict:
    if max(reading.heads) > reading.seq:  # it had been finished once
        return _ended(reading)
    told = (
        "is unfinished, as a power cut leaves it; every entry that was answered for is whole (the "
        "service moves the rest to .torn when it opens the log)"
    )
    return reading.verdict("torn", told, number)


def _out_of_order(
    reading: _Reading, file: BinaryIO, entry: dict[str, Any], line: bytes, number: int
) -> Verdict:
    """An entry with another number than the one expected; the rest of the log says why."""
    seq, wanted, end = entry["seq"], reading.seq + 1, reading.path.stat().st_size
    if seq < wanted:
        file.seek(0)
        same = any(n == seq and other == line for n, other in _lines(file, end))
        told = f"repeats entry {seq:,}" if same else f"is another entry {seq:,} than the one before"
        return reading.verdict("duplicated" if same else "changed", told, number)
    for later, other in _lines(file, end):
        try:
            found = read_entry(other)["seq"]
        except ValueError:
            continue
        if found == wanted:
            told = f"is entry {seq:,}; entry {wanted:,} stands {later:,} lines below"
            return reading.verdict("reordered", told, number)
    gone = f"entry {wanted:,}" if seq == wanted + 1 else f"entries {wanted:,} to {seq - 1:,}"
    return reading.verdict("missing", f"is entry {seq:,}; {gone} before it missing", number)
