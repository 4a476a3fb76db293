"""`adacomed audit verify`: whether the audit log of a service is whole."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

from adacomed.errors import InputError
from adacomed.serve.audit_check import verify as check
from adacomed.strict_json import dumps


def verify(file: Path, head: str = "", json: bool = False) -> None:
    """Check that an audit log is whole: no line changed, missing, moved, repeated or cut off.

    Exit 0 for a whole log; exit 2 with the first line that is wrong. The file's `.head`, beside it,
    is needed to see that the end was cut off. Someone who may write the log and what lies beside it
    can still write a whole new one: note the head that is printed here elsewhere, and give it back
    the next time.

    Args:
        file: the audit log that adacomed serve wrote.
        head: SEQ:HASH of an entry, printed by an earlier check, that must still be in the log.
        json: print JSON instead of a sentence.

    Example:
        adacomed audit verify audit.jsonl --head 1234:5f0c…
    """
    found = check(file, head=head or None)
    if json:
        print(dumps({"file": str(file), "whole": found.whole, **asdict(found)}))
    if found.told is not None:
        raise InputError(f"{file}: {found.told}")
    if not json:
        print(f"{found.entries:,} entries, chain whole, head {found.head}")
        if found.behind:
            why = "being written, or a crash before it was"
            print(f"{found.behind:,} of them after .head: {why}", file=sys.stderr)
