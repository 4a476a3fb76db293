"""The audit log: who asked what of which patient, and what the model said, in an order that holds.

Append-only JSON lines, hash-chained (`audit_lines` has the format, `audit_check` the check), one
per answer: no answer goes out before its line is on the disk. An entry has ids, digests and numbers
only; a text, an image or a value of a patient cannot get in.

What the chain shows: a line changed, missing, moved or repeated, and with `LOG.head` a tail cut
off. What it cannot show: whoever may write the log, its head and its key can write a whole new
log, chain and all, or go back to an older copy of the three. Against that, note the head that
`adacomed audit verify` prints somewhere else, on paper or on another machine, and give it back
later as `--head SEQ:HASH`: a log rewritten before that point then fails.
"""

from __future__ import annotations

import errno
import math
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from adacomed.errors import InputError
from adacomed.serve.audit_check import Verdict, verify
from adacomed.serve.audit_lines import (
    LONGEST,
    Head,
    beside,
    keyed,
    seal,
    sync,
    write_all,
    write_head,
)
from adacomed.serve.audit_opening import open_log

__all__ = ["AuditLog", "Verdict", "output_of", "verify"]

_SHA256 = re.compile(r"[0-9a-f]{64}")
MOST_TEXT = 300  # characters of an id


@dataclass
class _Waiting:
    """An entry that is chained but not yet on the disk."""

    line: bytes
    settled: bool = False
    error: OSError | None = None


class AuditLog:
    """The one writer of a log; any number of threads may append.

    Threads that append at the same time share one write and one sync, so that many clients do not
    queue behind the disk. A new process goes on with the chain. A last line that a power cut left
    unfinished is moved to `LOG.torn`, and an entry of its own ("set aside") says so.

    Args:
        path: the log; made if there is none, with its head and its key (mode 0600).
    Attributes:
        torn: bytes that were set aside on opening; 0 as a rule.
    Raises:
        InputError: another process writes it, it cannot be written, its head or key is missing, or
            it does not end as its head says.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._turn = threading.Condition()  # guards what follows
        self._pending: list[_Waiting] = []
        self._writing = self._broken = self._closed = False
        self._lock = FileLock(str(beside(path, "lock")), thread_local=False)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
            opened = open_log(path)
        except Timeout:
            raise InputError(f"{path}: another process writes this audit log") from None
        except OSError as error:
            self._lock.release()
            raise InputError(f"{path}: cannot be written ({error.strerror})") from None
        except InputError:
            self._lock.release()
            raise
        self._file, self._key, self.torn = opened.file, opened.key, opened.torn
        self._last = self._on_disk = opened.head
        if self.torn:
            told = {"who": "adacomed", "what": "set aside", "sample_id": "", "model_hash": ""}
            try:
                self.append(**told, inputs={}, output={"bytes": self.torn})
            except OSError as error:
                self.close()
                raise InputError(f"{path}: cannot be written ({error.strerror})") from None

    def append(
        self,
        *,
        who: str,
        what: str,
        sample_id: str,
        model_hash: str,
        inputs: Mapping[str, str],
        output: Mapping[str, Any],
    ) -> None:
        """Add an entry; returns once it is on the disk, within its group of entries.

        Args:
            who: who asked, by name or role; never a token.
            what: "predict", "explain" or "view".
            inputs: modality → sha256 of its canonical input; only a keyed digest is written.
            output: numbers, and lists and mappings of numbers; `output_of` makes it of a record.
        Raises:
            OSError: it could not be written, or the log is closed; the log is as it was before.
            ValueError: an input is no sha256, or the output holds text or a number JSON lacks.
        """
        rest = {
            "who": _short(who),
            "what": _short(what),
            "sample_id": _short(sample_id),
            "model_hash": _short(model_hash),
            "inputs": {_short(m): keyed(self._key, _digest(d)) for m, d in inputs.items()},
            "output": _numbers(output),
        }
        with self._turn:
            mine = self._chain(rest)
            self._settle(mine)
        if mine.error is not None:
            raise OSError(mine.error.errno, mine.error.strerror, str(self.path))

    @property
    def head(self) -> Head:
        """The last entry that is on the disk."""
        return self._on_disk

    def close(self) -> None:
        """Write what waits, and let another process have the log."""
        with self._turn:
            if self._closed:
                return
            self._closed = True
            while self._pending or self._writing:
                self._turn.wait()
            os.close(self._file)
            self._lock.release()

    def _chain(self, rest: dict[str, Any]) -> _Waiting:
        """Give the entry its number and its place in the chain; the caller holds the turn."""
        if self._closed:
            raise OSError(errno.EBADF, "the audit log is closed", str(self.path))
        if self._broken:
            raise OSError(errno.EIO, "the audit log is broken", str(self.path))
        last = self._last
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        line, digest = seal({**rest, "seq": last.seq + 1, "time": now, "prev": last.hash})
        if len(line) > LONGEST:
            raise ValueError(f"an audit entry of {len(line)} bytes; at most {LONGEST}")
        self._last = Head(last.seq + 1, digest, last.size + len(line))
        mine = _Waiting(line)
        self._pending.append(mine)
        return mine

    def _settle(self, mine: _Waiting) -> None:
        """Wait for the entry, or write it with all that are waiting by then."""
        while not mine.settled:
            if self._writing:
                self._turn.wait()
                continue
            self._writing = True
            group, self._pending, last = self._pending, [], self._last
            self._turn.release()  # others may queue behind the disk meanwhile
            try:
                failed = self._write(group, last)
            finally:
                self._turn.acquire()
                self._writing = False
            if failed is None:
                self._on_disk = last
            else:
                group = self._roll_back(group)
            for one in group:
                one.settled, one.error = True, failed
            self._turn.notify_all()

    def _write(self, group: list[_Waiting], last: Head) -> OSError | None:
        try:
            write_all(self._file, b"".join(one.line for one in group))
            sync(self._file)
            write_head(self.path, last)  # after the lines: it never speaks of one that is not there
        except OSError as error:
            return error
        except Exception as error:  # whoever waits must hear of it, whatever it is
            return OSError(errno.EIO, type(error).__name__)
        return None

    def _roll_back(self, group: list[_Waiting]) -> list[_Waiting]:
        """Back to what the head says; whoever was chained behind the group fails with it."""
        failed, self._pending, self._last = group + self._pending, [], self._on_disk
        try:
            os.ftruncate(self._file, self._on_disk.size)
            sync(self._file)
        except OSError:
            self._broken = True
        return failed


def output_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a prediction record (`record.record`): classes by their place, no text."""
    predictions = {}
    for one in record["predictions"]:
        names, inside = list(one["classes"]), one.get("prediction_set")
        predictions[one["task"]] = {
            "prob": list(one["prob"].values()),
            "prediction_set": None if inside is None else [names.index(name) for name in inside],
            "threshold": one.get("threshold"),
        }
    weights = {key: record.get(key) for key in ("s", "w_large", "w_small")}
    return {"predictions": predictions, **weights}


def _short(text: str) -> str:
    if len(text) > MOST_TEXT:
        raise ValueError(f"an id of {len(text)} characters in an audit entry; at most {MOST_TEXT}")
    return text


def _digest(text: str) -> str:
    if not _SHA256.fullmatch(text):
        raise ValueError("an input of an audit entry is not a sha256 of 64 hex digits")
    return text


def _numbers(value: Any) -> Any:
    """The same value; a ValueError where it holds anything but numbers."""
    if isinstance(value, Mapping):
        return {_short(str(key)): _numbers(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_numbers(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, int | float):
        return value
    raise ValueError(f"an audit entry holds numbers only, not {type(value).__name__}")
