"""`simulated-mimic`: a fake MIMIC-IV release in the real layout, and the true cohort beside it.

Severity and frailty of each patient decide death, length of stay and readmission, and show a
little in vital signs, blood, X-rays and reports, so that a model has something to learn. Around the
ordinary patients lie traps (`trap_stays.py`, `trap_values.py`, `trap_events.py`,
`trap_items.py`).

It resembles the real release in: layouts, columns, ids, labels, irregular times, missing results,
late storing, mistakes. It does not in: numbers are drawn independently over time, drugs and
diagnoses are not there, reports are a few sentences, pictures are ellipses. It says nothing about
any method's worth on patients.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from adacomed.datasets.mimic_release.charts import fill_charts, fill_procedures
from adacomed.datasets.mimic_release.images import fill_images
from adacomed.datasets.mimic_release.labs import fill_labs
from adacomed.datasets.mimic_release.notes import fill_notes
from adacomed.datasets.mimic_release.people import ordinary_patient
from adacomed.datasets.mimic_release.plan import HOUR, Book, Stay, Trap
from adacomed.datasets.mimic_release.trap_events import EVENT_TRAPS, EVENT_TRAPS_OF
from adacomed.datasets.mimic_release.trap_items import ITEM_TRAPS, ITEM_TRAPS_OF
from adacomed.datasets.mimic_release.trap_stays import STAY_TRAPS
from adacomed.datasets.mimic_release.trap_values import VALUE_TRAPS
from adacomed.datasets.mimic_release.truth import row_place, stay_place, write_truth
from adacomed.datasets.mimic_release.vocabulary import RELEASES
from adacomed.datasets.mimic_release.write import FOLDERS, MARK, Form, Progress, write_release
from adacomed.errors import InputError, nearest

FEWEST = 80  # stays: the traps, and ordinary ones to plant rows in
ROUND = 250  # stays per round of the traps that are people
PLANTED = 40  # stays per planting of a trap that is rows
TRUTH = "truth"


def build(
    out: Path,
    *,
    stays: int = 400,
    release: str = "3.1",
    seed: int = 0,
    compress: bool = True,
    rows: int = 0,
    progress: Progress | None = None,
) -> Book:
    """Write OUT/{mimic-iv, mimic-cxr-jpg, mimic-iv-note, truth}, whole or not at all.

    Args:
        out: folder to write; a release generated there before is replaced.
        stays: in intensive care, ≥ 80; most, not all, are samples.
        release: 1.0, 2.2 or 3.1: the layout, columns and spellings.
        seed: decides everything; one seed gives one release, byte for byte.
        compress: tables as csv.gz, else csv.
        rows: further rows of chartevents, none of which counts.
        progress: called with rows written and `rows`.
    Returns:
        The plan.
    Raises:
        InputError: too few stays, another release, or `out` holds something else.
    """
    _check(stays, release, seed, rows)
    assert_ours(out)
    book = plan(stays, seed)
    what = {name: _line(trap) for name, trap in _all_traps().items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as temporary:
        new, old = Path(temporary) / "new", Path(temporary) / "old"
        write_release(book, new, Form(release, compress, rows, seed), progress)
        write_truth(book, release, what, new / TRUTH)
        if out.exists():
            shutil.move(out, old)
        shutil.move(new, out)
    return book


def _check(stays: int, release: str, seed: int, rows: int) -> None:
    if release not in RELEASES:
        raise InputError(f"simulated-mimic: no release {release!r}{nearest(release, RELEASES)}")
    if stays < FEWEST or seed < 0 or rows < 0:
        asked = f"{stays} stays, seed {seed}, {rows} rows"
        raise InputError(
            f"simulated-mimic: asked for {asked}; at least {FEWEST}, 0 and 0 would work"
        )


def assert_ours(out: Path) -> None:
    """Raise an InputError where `out` holds anything but a release that was generated there."""
    if out.is_dir():
        names = {path.name for path in out.iterdir()}
        ours = names <= {*FOLDERS, TRUTH} and (out / FOLDERS[0] / MARK).is_file()
        if names and not ours:
            raise InputError(
                f"{out}: holds something else than a simulated release; give another --out, or an "
                f"empty folder"
            )
    elif out.exists():
        raise InputError(f"{out}: is a file, expected a folder for the release")


def plan(stays: int, seed: int) -> Book:
    """Plan a release of that many stays: traps first, ordinary patients, then everyone's rows."""
    book = Book(np.random.default_rng([seed, 0]))
    for _ in range(1 + stays // ROUND):
        for name, trap in STAY_TRAPS.items():
            places = [stay_place(stay) for stay in trap(book)]
            book.traps.setdefault(name, []).extend(places)
    left = stays - len(book.stays)
    while left > 0:
        left -= ordinary_patient(book, left)
    for patient in book.patients:
        for admission in patient.admissions:
            fill_labs(book, admission)
            fill_images(book, admission)
            fill_notes(book, admission)
            for stay in admission.stays:
                fill_charts(book, stay)
                fill_procedures(book, stay)
    _plant(book)
    return book


def _plant(book: Book) -> None:
    """Plant the rows that are traps: in ordinary samples of patients with one admission."""
    pool = [
        s
        for s in book.stays
        if not s.tag
        and s.left_out is None
        and len(s.admission.patient.admissions) == 1
        and s.admission.discharge > s.admission.admit + 60 * HOUR
    ]
    number = min(1 + len(pool) // PLANTED, len(pool))
    for name, trap in {**VALUE_TRAPS, **EVENT_TRAPS, **ITEM_TRAPS}.items():
        picked = book.rng.permutation(len(pool))[:number]
        _record(book, name, trap, [pool[int(k)] for k in picked])
    for name, (tag, trap) in {**EVENT_TRAPS_OF, **ITEM_TRAPS_OF}.items():
        _record(book, name, trap, [s for s in book.stays if s.tag == tag])


def _record(book: Book, name: str, trap: Trap, stays: Sequence[Stay]) -> None:
    rows = [row_place(row, kept) for stay in stays for row, kept in trap(book, stay)]
    book.traps.setdefault(name, []).extend(rows)


def _all_traps() -> dict[str, Callable[..., object]]:
    special = {name: trap for name, (_, trap) in {**EVENT_TRAPS_OF, **ITEM_TRAPS_OF}.items()}
    return {**STAY_TRAPS, **VALUE_TRAPS, **EVENT_TRAPS, **ITEM_TRAPS, **special}


def _line(trap: Callable[..., object]) -> str:
    return (trap.__doc__ or "").partition("\n")[0]
