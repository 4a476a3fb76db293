"""The one exception that means: the user's input is wrong, and here is what would work."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

# A full disk, or a full quota, as the system says it; 112 is Windows' own number.
_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
_FULL_TEXTS = tuple(f"(os error {code})" for code in (*_FULL, 112))  # in polars and safetensors

DISK_IS_FULL = (
    "the disk is full; what was finished is kept: make room and run the same command again"
)


class InputError(Exception):
    """The user's input cannot be used; the message is one sentence or two that help.

    The command line prints the message without a traceback and exits with 2. The message says what
    was asked, what arrived and what would work, and names the file, row or patient id. It never
    holds a patient's values.
    """


class FullDiskError(InputError):
    """There is no room for a file; the message names it and says how to go on."""


def disk_is_full(error: BaseException) -> bool:
    """Whether an error of the system, or of a library that writes for us, says so.

    >>> disk_is_full(OSError(errno.ENOSPC, "No space left on device"))
    True
    """
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    return any(text in str(error) for text in _FULL_TEXTS)


@contextmanager
def room_for(path: Path) -> Iterator[None]:
    """What the block writes is, or goes into, `path`.

    Raises:
        FullDiskError: the disk is full.
    """
    try:
        yield
    except Exception as error:
        if not disk_is_full(error):
            raise
        raise FullDiskError(f"{path}: {DISK_IS_FULL}") from None


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which known name was probably meant: `"; did you mean 'epochs'?"`, else what is known.

    Args:
        name: what arrived.
        known: what would work.
    Returns:
        A clause to append to an error message, starting with "; ".
    """
    options = sorted(known)
    folded = {option.casefold(): option for option in options}
    close = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {folded[close[0]]!r}?"
    return f"; known: {', '.join(options)}" if options else ""
