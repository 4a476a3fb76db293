"""`adacomed report`: the HTML page of a run or a comparison."""

from __future__ import annotations

import webbrowser
from pathlib import Path

from adacomed.report.report import write_report


def report(run: Path, out: Path | None = None, open_: bool = False) -> Path:
    """Write one HTML file with a run's numbers and pictures; it needs no network to be read.

    Args:
        run: folder of `adacomed train` (a run) or of `adacomed compare` and `demo` (a comparison).
        out: file to write [default: report.html in that folder].
        open_: show it in the browser when written.

    Example:
        adacomed report runs/demo --open
    """
    path = write_report(run, out)
    if open_:
        webbrowser.open(path.resolve().as_uri())
    return path
