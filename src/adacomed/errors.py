"""The one exception that means: the user's input is wrong, and here is what would work."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(Exception):
    """The user's input cannot be used; the message is one sentence or two that help.

    The command line prints the message without a traceback and exits with 2. The message says what
    was asked, what arrived and what would work, and names the file, row or patient id. It never
    holds a patient's values.
    """


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
