"""Opening an audit log: a new one, or the end of an old one found again and gone on from."""

from __future__ import annotations

import os
import re
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from adacomed.errors import InputError
from adacomed.serve.audit_lines import (
    LONGEST,
    START,
    Head,
    beside,
    read_entry,
    read_head,
    sync,
    write_all,
    write_head,
)

_CHECK = "; see what is wrong with: adacomed audit verify"
_KEY = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Opened:
    """A log, ready to be written.

    Attributes:
        file: descriptor, to be closed by whoever opened it; it appends.
        key: see `audit_lines.keyed`.
        head: the last entry.
        torn: bytes after it that were moved to `LOG.torn`.
    """

    file: int
    key: bytes
    head: Head
    torn: int


def open_log(path: Path) -> Opened:
    """Open a log, or make it with its head and its key (mode 0600).

    It must end as its head says; whole entries behind that are taken on, and what is no whole entry
    there was never answered for: it is moved to `LOG.torn`.

    Raises:
        InputError: its head or key is missing, or it does not end as its head says.
        OSError: it cannot be written.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"{path}: not a file; an audit log is a file of its own")
        head = _head(path, found.st_size)
        key = _key(beside(path, "key"), new=head.seq == 0 and found.st_size == 0)
        if not _ends_as(file, head, found.st_size):
            raise InputError(f"{path}: does not end as its .head says{_CHECK}")
        good = _whole_entries(file, head, found.st_size)
        if good != head:
            write_head(path, good)
        torn = found.st_size - good.size
        if torn:
            _set_aside(path, file, good.size, found.st_size)
    except (InputError, OSError):
        os.close(file)
        raise
    return Opened(file, key, good, torn)


def _head(path: Path, size: int) -> Head:
    head = read_head(path)
    if head is not None:
        return head
    if size:
        raise InputError(f"{beside(path, 'head')} is missing; put it back{_CHECK}")
    if beside(path, "key").exists():
        raise InputError(f"{path}: the log of {beside(path, 'key')} is gone; put it back")
    write_head(path, START)
    return START


def _whole_entries(file: int, head: Head, size: int) -> Head:
    """The last of the whole entries that follow the head: written, but the head came no further."""
    good = head
    while good.size < size:
        piece = os.pread(file, LONGEST, good.size)
        line = piece[: piece.find(b"\n") + 1]
        try:
            entry = read_entry(line)
        except ValueError:
            break
        if (entry["seq"], entry["prev"]) != (good.seq + 1, good.hash):
            break
        good = Head(entry["seq"], entry["hash"], good.size + len(line))
    return good


def _set_aside(path: Path, file: int, start: int, end: int) -> None:
    """Move the bytes of the log from `start` to `end` to the end of `LOG.torn`."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    torn = os.open(beside(path, "torn"), flags, 0o600)
    try:
        for at in range(start, end, LONGEST):
            write_all(torn, os.pread(file, min(LONGEST, end - at), at))
        write_all(torn, b"\n")
        sync(torn)
    finally:
        os.close(torn)
    os.ftruncate(file, start)
    sync(file)


def _ends_as(file: int, head: Head, size: int) -> bool:
    """Whether the entry that the head speaks of stands where it says."""
    if head.seq == 0:
        return head == START
    if head.size > size:
        return False
    before = max(0, head.size - LONGEST)
    piece = os.pread(file, head.size - before, before)
    line = piece[piece.rfind(b"\n", 0, -1) + 1 :]
    try:
        entry = read_entry(line)
    except ValueError:
        return False
    return (entry["seq"], entry["hash"]) == (head.seq, head.hash)


def _key(path: Path, *, new: bool) -> bytes:
    """The log's key, 32 random bytes; made with a new log."""
    if new and not path.exists():
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            write_all(file, secrets.token_hex(32).encode("ascii") + b"\n")
            sync(file)
        finally:
            os.close(file)
    try:
        mode, text = path.stat().st_mode, path.read_text("ascii", errors="replace").strip()
    except FileNotFoundError:
        raise InputError(f"{path} is missing; put it back, or begin a new audit log") from None
    if os.name == "posix" and mode & 0o077:
        raise InputError(f"{path}: others may read the key of the audit log; chmod 600 {path}")
    if not _KEY.fullmatch(text):
        raise InputError(f"{path}: expected 64 hex digits, the key of the audit log")
    return bytes.fromhex(text)
