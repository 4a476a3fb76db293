"""Write a planned release: csv tables (gzip or plain), pictures, and a mark that says simulated."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any, cast

from adacomed.datasets.mimic_release.filler import parts
from adacomed.datasets.mimic_release.images import jpeg
from adacomed.datasets.mimic_release.items import d_items, d_labitems
from adacomed.datasets.mimic_release.layout import columns, place
from adacomed.datasets.mimic_release.plan import Book, ChartRow, Stay
from adacomed.datasets.mimic_release.tables import CELLS, Cells, transfer_cells

MARK = "SIMULATED.txt"
FOLDERS = ("mimic-iv", "mimic-cxr-jpg", "mimic-iv-note")
LEVEL = 1  # of gzip: the tables are large, and made to be read
Progress = Callable[[int, int], None]  # filler rows written, rows to write


@dataclass(frozen=True)
class Form:
    """How a plan is written.

    Attributes:
        release: whose layout.
        compress: csv.gz, the same bytes each time, instead of csv.
        rows: of chartevents, none of which counts, beside the planned ones.
        seed: of those rows.
    """

    release: str
    compress: bool
    rows: int
    seed: int


def write_release(book: Book, folder: Path, form: Form, progress: Progress | None = None) -> None:
    """Write the three folders of a release below `folder`."""
    release = form.release
    for name in FOLDERS:
        (folder / name).mkdir(parents=True)
        text = f"Simulated in the layout of MIMIC-IV {release}: no real data.\nSeed {form.seed}.\n"
        (folder / name / MARK).write_text(text, encoding="utf-8")
    for name, cells in _tables(book, release).items():
        with _table(folder, name, form) as file:
            file.write(_csv(cells, columns(release, name)))
    _write_charts(book, folder, form, progress)
    for image in book.images:
        if image.file:
            path = folder / "mimic-cxr-jpg" / image.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(jpeg(image))


def _tables(book: Book, release: str) -> dict[str, Iterable[Cells]]:
    """Every table but chartevents, its rows in the order of the file."""
    people = sorted(book.patients, key=lambda p: p.subject_id)
    admissions = [a for p in people for a in sorted(p.admissions, key=lambda a: a.admit)]
    rows: dict[str, list[Any]] = {
        "patients": people,
        "admissions": admissions,
        "icustays": sorted_stays(book),
        "procedureevents": sorted(book.procedures, key=lambda r: _order(r.stay, r.time)),
        "labevents": sorted(book.labs, key=lambda r: (r.subject, r.time)),
        "metadata": sorted(book.images, key=lambda r: (r.subject, r.study)),
        "radiology": sorted(book.notes, key=lambda r: (r.subject, r.time)),
    }
    found: dict[str, Iterable[Cells]] = {
        name: [CELLS[name](row, release) for row in mine] for name, mine in rows.items()
    }
    return {
        **found,
        "labevents": [{"labevent_id": n, **c} for n, c in enumerate(found["labevents"], 1)],
        "transfers": [c for a in admissions for c in transfer_cells(a, release)],
        "d_items": d_items(),
        "d_labitems": d_labitems(),
    }


def sorted_stays(book: Book) -> list[Stay]:
    """Every stay in the order of the files: by patient, then by time."""
    return sorted(book.stays, key=lambda s: _order(s, s.intime))


def _order(stay: Stay, time: datetime) -> tuple[int, datetime, int, datetime]:
    admission = stay.admission
    return admission.patient.subject_id, admission.admit, stay.stay_id, time


def _write_charts(book: Book, folder: Path, form: Form, progress: Progress | None) -> None:
    """Planned rows and filler together, stay by stay."""
    own: dict[int, list[ChartRow]] = {}
    for row in sorted(book.charts, key=lambda r: r.time):
        own.setdefault(row.stay.stay_id, []).append(row)
    names = columns(form.release, "chartevents")
    done = 0
    with _table(folder, "chartevents", form) as file:
        for stays, part in parts(sorted_stays(book), form.rows, form.seed, names):
            planned = (row for s in stays for row in own.get(s.stay_id, ()))
            cells = (CELLS["chartevents"](row, form.release) for row in planned)
            file.write(_csv(cells, names, header=not done and not file.tell()))
            file.write(part)
            done += part.count(b"\n")
            if progress and form.rows:
                progress(done, form.rows)


@contextmanager
def _table(folder: Path, name: str, form: Form) -> Iterator[IO[bytes]]:
    path = folder / (place(form.release, name) + (".gz" if form.compress else ""))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as raw:
        if not form.compress:
            yield raw
            return
        # no name and no time in the header: the same seed gives the same bytes
        with gzip.GzipFile("", "wb", LEVEL, raw, mtime=0) as packed:
            yield cast(IO[bytes], packed)


def _csv(rows: Iterable[Cells], names: Sequence[str], *, header: bool = True) -> bytes:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    if header:
        writer.writerow(names)
    for row in rows:
        writer.writerow([row.get(name) for name in names])
    return buffer.getvalue().encode()
