"""The plan of a generated release: people, their rows, and which rows count, decided as it is made.

Whoever adds a row says whether it counts. The true cohort is what was said, never what the
builder's rules would make of the files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np

from adacomed.datasets.mimic.variables import EVENTS, Variable

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
WINDOW = 48 * HOUR
BY_NAME: dict[str, Variable] = {v.name: v for v in EVENTS}


@dataclass(eq=False)
class Patient:
    """One person; `severity` and `frailty`, standard normal, are what the outcomes depend on."""

    subject_id: int
    gender: str
    anchor_age: int
    anchor_year: int
    severity: float
    frailty: float
    group: str = "2014 - 2016"
    dod: date | None = None
    notes: int = 0  # reports numbered so far
    admissions: list[Admission] = field(default_factory=list)


@dataclass(eq=False)
class Admission:
    """A stay in the hospital, with the labels that were planned for it.

    Attributes:
        words: index into each demographic's words (see `vocabulary.py`); −1: not recorded.
        longstay: 1 above 7 days, 0 from 3 days on, None below 3 days.
        readmitted: within 30 days, whatever the admission.
        readmitted_paper: within 30 days, into a stay that is a sample.
        lacks: any of "image", "note", "event": nothing of it counts.
    """

    hadm_id: int
    patient: Patient
    admit: datetime
    discharge: datetime
    words: dict[str, int]
    longstay: int | None
    died: bool = False
    readmitted: bool = False
    readmitted_paper: bool = False
    deathtime: datetime | None = None
    expire_flag: int = 0
    lacks: frozenset[str] = frozenset()
    stays: list[Stay] = field(default_factory=list)

    @property
    def end(self) -> datetime:
        """Nothing after this moment counts."""
        return min(self.admit + WINDOW, self.discharge)


@dataclass(eq=False)
class Stay:
    """A stay in intensive care; `left_out` says why it is no sample."""

    stay_id: int
    admission: Admission
    intime: datetime
    outtime: datetime
    left_out: str | None = None
    tag: str = ""  # the trap that it was made for; "" for an ordinary one


class ChartRow(NamedTuple):
    """A row of chartevents; value and number as they are written."""

    stay: Stay
    item: int
    time: datetime
    store: datetime | None
    value: str | None
    number: str | None
    unit: str | None


class LabRow(NamedTuple):
    """A row of labevents; `hadm` None where the release leaves it empty."""

    subject: int
    hadm: int | None
    specimen: int
    item: int
    time: datetime
    store: datetime | None
    value: str | None
    number: str | None
    unit: str | None


class ProcedureRow(NamedTuple):
    """A row of procedureevents."""

    stay: Stay
    item: int
    time: datetime
    end: datetime
    store: datetime | None
    order: int


class ImageRow(NamedTuple):
    """A row of the X-ray metadata; `haze` is what the picture shows, `file` whether it exists."""

    subject: int
    study: int
    dicom: str
    view: str | None
    time: datetime
    haze: float
    file: bool

    @property
    def path(self) -> str:
        """Below the folder of MIMIC-CXR-JPG."""
        folder = f"files/p{str(self.subject)[:2]}/p{self.subject}/s{self.study}"
        return f"{folder}/{self.dicom}.jpg"


class NoteRow(NamedTuple):
    """A row of the radiology reports."""

    subject: int
    hadm: int | None
    note_id: str
    time: datetime
    store: datetime | None
    text: str


Row = ChartRow | LabRow | ProcedureRow | ImageRow | NoteRow
Owner = Stay | Admission
Planted = list[tuple[Row, bool]]  # rows of a trap, and whether each counts


@dataclass
class Book:
    """Everything of one release, in the making.

    Attributes:
        events: (whose, time, variable, value) of each event that counts.
        kept_images, kept_notes: (of which admission, row) likewise.
        traps: name → places, each with ids that find its row.
    """

    rng: np.random.Generator
    patients: list[Patient] = field(default_factory=list)
    charts: list[ChartRow] = field(default_factory=list)
    labs: list[LabRow] = field(default_factory=list)
    procedures: list[ProcedureRow] = field(default_factory=list)
    images: list[ImageRow] = field(default_factory=list)
    notes: list[NoteRow] = field(default_factory=list)
    events: list[tuple[Owner, datetime, str, float]] = field(default_factory=list)
    kept_images: list[tuple[Admission, ImageRow]] = field(default_factory=list)
    kept_notes: list[tuple[Admission, NoteRow]] = field(default_factory=list)
    traps: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    _used: set[Any] = field(default_factory=set)

    @property
    def stays(self) -> list[Stay]:
        """Every stay, in the order in which it was planned."""
        return [s for p in self.patients for a in p.admissions for s in a.stays]

    def number(self, first: int) -> int:
        """A new id of eight digits, from `first` to `first` + 9,999,999."""
        while True:
            found = first + int(self.rng.integers(10_000_000))
            if found not in self._used:
                self._used.add(found)
                return found

    def chance(self, p: float) -> bool:
        """True with probability p."""
        return bool(self.rng.random() < p)

    def between(self, low: float, high: float) -> float:
        """Uniform in [low, high)."""
        return float(self.rng.uniform(low, high))

    def minutes(self, low: float, high: float) -> timedelta:
        """A whole number of minutes, from `low` to `high` (both included where whole)."""
        return MINUTE * int(self.rng.integers(int(low), int(high) + 1))

    def moment(self, owner: Owner, room: float = 2.0) -> datetime:
        """A time inside the window at which nothing else happens: its seconds are not 0.

        Args:
            room: hours left before the window's end, so that results can be stored in time.
        """
        admission = owner.admission if isinstance(owner, Stay) else owner
        start = max(owner.intime, admission.admit) if isinstance(owner, Stay) else owner.admit
        start = start.replace(second=0, microsecond=0) + HOUR
        span = (admission.end - start) / MINUTE - 60 * room
        while True:
            time = start + self.minutes(0, span) + timedelta(seconds=int(self.rng.integers(1, 60)))
            if (admission.hadm_id, time) not in self._used:
                self._used.add((admission.hadm_id, time))
                return time

    def keep(self, owner: Owner, time: datetime, variable: str, value: float) -> None:
        """Say that an event counts; a lab's, of an admission, does in each of its stays."""
        self.events.append((owner, time, variable, value))


Trap = Callable[[Book, Stay], Planted]
