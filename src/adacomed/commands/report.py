"""`adacomed report`: the HTML page of a run or a comparison, its model card, its tables."""

from __future__ import annotations

import webbrowser
from pathlib import Path

from adacomed.commands.console import note
from adacomed.errors import InputError
from adacomed.report.export import as_json, write_csv
from adacomed.report.report import read_page, write_page
from adacomed.schema import RunFiles


def report(
    run: Path,
    out: Path | None = None,
    open_: bool = False,
    json: bool = False,
    csv: Path | None = None,
    title: str | None = None,
    task: str | None = None,
) -> Path:
    """Write one HTML file with a run's numbers and pictures; it needs no network to be read.

    Beside it are written a model card (model_card.md) and a TRIPOD+AI checklist (tripod_ai.md) from
    the same facts.

    Args:
        run: folder of `adacomed train` (a run) or of `adacomed compare` and `demo` (a comparison).
        out: file to write [default: report.html in that folder].
        open_: show it in the browser when written.
        json: print every table as one JSON object on stdout.
        csv: folder to write every table to, a csv file each.
        title: of the page [default: the cohort's].
        task: whose charts are shown, where there are several tasks or findings.

    Example:
        adacomed report runs/demo --out demo.html --csv runs/demo/tables --json > demo.json
    """
    if out is not None and out.is_dir():
        raise InputError(f"{out}: is a folder; --out takes a file, such as {out / RunFiles.REPORT}")
    if csv is not None and csv.exists() and not csv.is_dir():
        raise InputError(f"{csv}: is a file; --csv takes a folder")
    page = read_page(run, title=title, task=task)
    path = write_page(page, out if out is not None else run / RunFiles.REPORT)
    note(f"report: {path}")
    if csv is not None:
        note(f"{len(write_csv(page.sections, csv))} tables: {csv}")
    if json:
        print(as_json(page.title, page.sections))
    if open_:
        webbrowser.open(path.resolve().as_uri())
    return path
