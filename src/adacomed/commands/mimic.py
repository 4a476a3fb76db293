"""`adacomed cohort build mimic-iv-mm`: progress by file, and the account of it as tables."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from adacomed.commands.console import err, note
from adacomed.datasets.mimic import events, windows
from adacomed.datasets.mimic.build import build_from
from adacomed.datasets.mimic.database import DatabaseTables
from adacomed.datasets.mimic.release import Tables, find_files
from adacomed.datasets.mimic.scan import CsvTables
from adacomed.errors import InputError, nearest

FOLDERS = ("--mimic-iv", "--mimic-cxr-jpg", "--mimic-iv-note")
PRESETS, SPLITS = ("default", "paper"), ("grouped", "time")
# Columns of the printed table of rows; flow.json gives every reason in full.
REASONS = {
    "outside window": windows.OUTSIDE,
    "stored later": windows.LATER,
    "no number": events.NO_NUMBER,
    "other unit": events.OTHER_UNIT,
    "impossible": events.IMPOSSIBLE,
    "again": events.TWICE,
    "abnormal": events.ABNORMAL,
}


class Listing(NamedTuple):
    """A table to print."""

    title: str
    header: list[str]
    rows: list[list[Any]]


def build_mimic_iv_mm(
    folders: Sequence[Path | None],
    out: Path,
    preset: str,
    split: str,
    *,
    database: str | None = None,
    meds: Path | None = None,
) -> list[Listing]:
    """Build the cohort; the tables that tell how.

    Args:
        folders: of MIMIC-IV, MIMIC-CXR-JPG, MIMIC-IV-Note.
        out: folder to write.
        preset: default or paper.
        split: grouped or time.
        database: that holds the tables instead of the first folder.
        meds: folder for the events as a MEDS dataset.
    Raises:
        InputError: a folder is not given, or `build` refuses.
    """
    for name, value, known in (("preset", preset, PRESETS), ("split", split, SPLITS)):
        if value not in known:
            raise InputError(f"--{name} {value!r}{nearest(value, known)}")
    with reading_progress() as progress:
        tables, images = _tables(folders, database, progress)
        document = build_from(
            tables,
            images,
            out,
            preset="paper" if preset == "paper" else "default",
            split="time" if split == "time" else "grouped",
            meds=meds,
        )
    return listings(document)


def _tables(
    folders: Sequence[Path | None], database: str | None, progress: Callable[[str, int, int], None]
) -> tuple[Tables, Path]:
    """The tables of the release, and the folder of its X-rays."""
    iv, cxr, notes = folders
    if database is not None:
        if iv is not None or cxr is None:
            raise InputError(
                "mimic-iv-mm needs either --mimic-iv or --database, and --mimic-cxr-jpg, whose "
                "X-rays are files"
            )
        return DatabaseTables(database, cxr, notes, progress), cxr
    lacking = [flag for flag, folder in zip(FOLDERS, folders, strict=True) if folder is None]
    if iv is None or cxr is None or notes is None:
        raise InputError(f"mimic-iv-mm needs {' and '.join(lacking)}, the folders of the release")
    return CsvTables(find_files(iv, cxr, notes), progress), cxr


@contextmanager
def reading_progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar per file that is being read; when piped, a line at its end.

    Yields:
        (file, bytes done, its bytes or 0 before they are known), to be called as it is read.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    bars: dict[str, TaskID] = {}
    started: dict[str, float] = {}
    with Progress(
        *columns, TimeElapsedColumn(), console=err, disable=not err.is_terminal
    ) as progress:

        def update(name: str, done: int, total: int) -> None:
            if name not in bars:
                bars[name] = progress.add_task(f"reading {name}", total=total or None)
                started[name] = time.perf_counter()
            progress.update(bars[name], completed=done, total=total or None)
            if done == total and name in started and not err.is_terminal:
                seconds = time.perf_counter() - started.pop(name)
                note(f"read {name}: {total / 1e6:.1f} MB in {seconds:.1f} s")

        yield update


def listings(document: dict[str, Any]) -> list[Listing]:
    """The tables of a flow.json."""
    return [
        _steps(document["steps"]),
        Listing(
            "Split",
            ["part", "patients", "samples"],
            [[p["split"], p["subjects"], p["samples"]] for p in document["parts"]],
        ),
        Listing(
            "Labels",
            ["task", "labelled", "without a label", "positive", "share"],
            [
                [r[k] for k in ("task", "labelled", "unlabelled", "positive", "share")]
                for r in document["labels"]
            ],
        ),
        _rows(document),
        _items(document["items"]),
        _expected(document["expected"]),
        Listing("Notes", ["note"], [[text] for text in document["notes"]]),
    ]


def _steps(steps: Sequence[dict[str, Any]]) -> Listing:
    keys = ("what", "subjects", "admissions", "stays", "left_out", "why")
    header = ["step", "patients", "admissions", "stays", "left out", "why"]
    return Listing("Who is in the cohort", header, [[s[k] for k in keys] for s in steps])


def _rows(document: dict[str, Any]) -> Listing:
    """Rows that became inputs, and why the others did not, by variable and modality."""
    dropped = {(d["name"], d["why"]): d["rows"] for d in document["dropped"]}
    names = sorted({*document["kept"], *(name for name, _ in dropped)})
    rows = []
    for name in names:
        told = [dropped.get((name, why), 0) for why in REASONS.values()]
        every = sum(n for (mine, _), n in dropped.items() if mine == name)
        rows.append([name, document["kept"].get(name, 0), *told, every - sum(told)])
    return Listing("Rows of the stays", ["", "inputs", *REASONS, "else"], rows)


def _items(items: Sequence[dict[str, Any]]) -> Listing:
    """Variables of whose label the release has other items than those expected."""
    rows = [
        [i["variable"], *(", ".join(map(str, i[k])) or None for k in ("used", "further", "absent"))]
        for i in items
        if i["further"] or i["absent"]
    ]
    header = ["variable", "items used", "of the same label, not used", "expected, not there"]
    return Listing("Items that differ from those expected", header, rows)


def _expected(rows: Sequence[dict[str, Any]]) -> Listing:
    header = ["", "expected", "found", "difference", "why they may differ", "source"]
    return Listing(
        "Beside the literature",
        header,
        [
            [
                row["what"],
                row["expected"],
                row["found"],
                None if row["found"] is None else row["found"] - row["expected"],
                row["why"],
                row["source"],
            ]
            for row in rows
        ],
    )
