"""The patients that the page lists: of a cohort that was named, or those held out by the run."""

from __future__ import annotations

import atexit
import hashlib
import logging
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import polars as pl

from adacomed.cohort.cohort import Cohort, load_cohort
from adacomed.embed import known_store
from adacomed.errors import InputError, nearest
from adacomed.explain.similar import Reference, reference_of
from adacomed.inference import predict
from adacomed.intake import gather_for
from adacomed.schema import TEST, EmbeddingCard, FileCard, Predictions, RunFiles, Samples, TextCard
from adacomed.serve.encoders import Encoders
from adacomed.serve.home import home_cohort
from adacomed.serve.record import Case
from adacomed.training.checkpoint import Run
from adacomed.training.loader import Inputs
from adacomed.training.perturb import modalities

LOG = logging.getLogger("adacomed.serve")
SAMPLE = Samples.SAMPLE_ID
NICER = 10  # what is made in the background gives way to callers
LAST_PIECE_S = 20.0  # that the end of the service waits for it
NEAREST_OF = 10_000  # ids; of more, no near one is looked for


class Patients:
    """Predicted patients, with their inputs where these are on this machine.

    Attributes:
        rows: schema.Predictions of one method, a row per sample (findings: sample × finding).
        cohort: where their inputs are; None: not on this machine.
        note: who they are and, without a cohort, why their inputs are missing.
        load: the encoders that are loaded, for whoever else needs them.
        similar_note: why there is no `reference` (yet); empty once there is.
    """

    def __init__(
        self,
        run: Run,
        rows: pl.DataFrame,
        cohort: Cohort | None,
        note: str,
        *,
        inputs: Inputs | None = None,
        load: Encoders | None = None,
        encoders: Mapping[str, str] | None = None,
        store: Path | None = None,
    ) -> None:
        self._run, self._inputs, self._store = run, inputs, store
        self.rows, self.cohort, self.note = rows, cohort, note
        self.load = load or Encoders()
        self.similar_note = "the training patients are still being read"
        self._specs = dict(encoders or {})
        self._reference: Reference | None = None
        ids = [] if cohort is None else cohort.samples[SAMPLE].to_list()
        self._place = {sample: i for i, sample in enumerate(ids)}
        self._listed = set(rows[SAMPLE]) if SAMPLE in rows.columns else set()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def case(self, sample_id: str) -> Case:
        """One of the patients, as the run reads them; blocks where something must be embedded.

        Raises:
            InputError: unknown, or its inputs are not here.
        """
        if sample_id not in self._listed:
            hint = nearest(sample_id, self._listed) if len(self._listed) <= NEAREST_OF else ""
            raise InputError(
                f"no patient {sample_id!r} among the {len(self._listed)} listed"
                f"{hint if 'did you mean' in hint else ''}"
            )
        if self.cohort is None or sample_id not in self._place:
            raise InputError(f"the inputs of patient {sample_id!r} are not here: {self.note}")
        row = np.array([self._place[sample_id]])
        cohort = self.cohort.take(row)
        inputs = self._gathered(cohort) if self._inputs is None else self._inputs.take(row)
        return Case(
            sample_id=sample_id,
            cohort=cohort,
            inputs=inputs,
            label=self._label(sample_id),
            hashes=digests(inputs),
            items=_items(cohort),
        )

    def reference(self) -> Reference | None:
        """The training patients in the joint space; None: not yet, or never (`similar_note`)."""
        return self._reference

    def start(self) -> None:
        """Read the training patients in the background; once."""
        if self._thread is None and not self._stop.is_set():
            self._thread = threading.Thread(target=self._read, name="adacomed-known", daemon=True)
            self._thread.start()
            # the interpreter's end would abort a thread that is in native code
            atexit.register(self.close)

    def wait(self) -> None:
        """Until the background work is done."""
        if self._thread is not None:
            self._thread.join()

    def close(self) -> None:
        """End the background work, which stops between two pieces; blocks for a while at most."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(LAST_PIECE_S)
        atexit.unregister(self.close)

    @property
    def busy(self) -> bool:
        """Whether the background work still runs."""
        return self._thread is not None and self._thread.is_alive()

    def _label(self, sample_id: str) -> int | None:
        if self._run.trained.outcome.kind == "findings":
            return None
        mine = self.rows.filter(pl.col(SAMPLE) == sample_id)[Predictions.LABEL]
        return None if mine[0] is None else int(mine[0])

    def _gathered(self, cohort: Cohort) -> Inputs:
        cards = cohort.card.modalities
        mine = {m for m in cards if not isinstance(cards[m], EmbeddingCard)}
        specs = {m: spec for m, spec in self._specs.items() if m in mine}
        return gather_for(
            self._run, cohort, self._tick, encoders=specs, store=self._store, load=self.load
        )

    def _tick(self, modality: str, done: int, total: int) -> None:
        if self._stop.is_set():
            raise _StoppedError

    def _read(self) -> None:
        """Training patients → `reference`; a failure is a note, never the service's end."""
        with suppress(OSError, AttributeError):  # not every system has it
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICER)
        try:
            train = training_patients(self._run)
            if isinstance(train, str):
                self.similar_note = train
                return
            self._reference = reference_of(self._run, self._gathered(train))
            self.similar_note = ""
        except _StoppedError:
            pass
        except InputError as error:
            self.similar_note = f"the training patients cannot be read here: {error}"
        except Exception as error:  # a page without neighbours is better than none
            LOG.error("similar patients: %s", type(error).__name__)
            self.similar_note = "the training patients cannot be compared on this machine"


class _StoppedError(Exception):
    """The service ends before the background work does."""


def open_patients(
    run: Run,
    cohort: Path | None,
    store: Path | None,
    *,
    encoders: Mapping[str, str] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Patients:
    """The patients to list.

    Args:
        cohort: predict all of its patients; None: the run's own held-out ones, with the inputs from
            the cohort that it was trained on, if that can be read here.
        store: embedding store [default: the cohort's own, if it has one].
        encoders: modality → where its encoder is here, if not where it was in training.
        progress: called with (modality, items embedded, items to embed).
    Raises:
        InputError: the cohort that was named cannot be read.
    """
    if cohort is None:
        return _held_out(run, store, encoders)
    known = load_cohort(cohort, labels=False)
    place, load = known_store(known, store), Encoders()
    inputs = gather_for(run, known, progress, encoders=encoders, store=place, load=load)
    rows = predict(run, inputs)
    split = known.samples[Samples.SPLIT].fill_null("new")
    split = pl.concat([split] * (len(rows) // max(1, len(split))))  # findings: a block each
    rows = rows.with_columns(split.alias(Predictions.SPLIT))
    note = f"{_counted(known.samples)} of {known.card.title or known.card.name}"
    more = {"encoders": encoders, "store": place, "load": load}
    return Patients(run, rows, known, note, inputs=inputs, **more)  # type: ignore[arg-type]


def _held_out(run: Run, store: Path | None, encoders: Mapping[str, str] | None) -> Patients:
    title = run.card.title or run.card.name
    rows = _own_rows(run)
    if rows is None:
        return Patients(run, pl.DataFrame(), None, "the run came without its patients' predictions")
    rows = rows.filter(pl.col(Predictions.SPLIT) == TEST)
    note = f"{_counted(rows, 'held-out ')} of {title}"
    found = home_cohort(run)
    if isinstance(found, str):
        return Patients(run, rows, None, f"{note}; {found}", encoders=encoders)
    place = known_store(found, store)
    return Patients(run, rows, found, note, encoders=encoders, store=place)


def _counted(rows: pl.DataFrame, kind: str = "") -> str:
    """`33 held-out samples of 16 patients`, or, one sample a patient, `121 held-out patients`."""
    samples, subjects = (rows[c].n_unique() for c in (SAMPLE, Samples.SUBJECT_ID))
    if samples == subjects:
        return f"{subjects} {kind}patients"
    return f"{samples} {kind}samples of {subjects} patients"


def _own_rows(run: Run) -> pl.DataFrame | None:
    file = run.folder / RunFiles.PREDICTIONS
    try:
        rows = pl.read_parquet(file)
        return rows.filter(pl.col(Predictions.METHOD) == run.method)
    except (OSError, pl.exceptions.PolarsError):
        return None


def training_patients(run: Run) -> Cohort | str:
    """Whom the run was trained on, or in words why they cannot be known here."""
    rows, found = _own_rows(run), home_cohort(run)
    if isinstance(found, str):
        return found
    if rows is None:
        return "the run came without its predictions, so nobody knows whom it was tested on"
    held_out = rows.filter(pl.col(Predictions.SPLIT) == TEST)[SAMPLE].unique().implode()
    train = ~found.samples[SAMPLE].is_in(held_out)
    return found.take(train.to_numpy())


def digests(inputs: Inputs) -> dict[str, str]:
    """Modality → sha256 of what the model reads of one patient, for those who did not arrive."""
    found = {}
    for name in modalities(inputs):
        digest = hashlib.sha256()
        if name in inputs.vectors:
            digest.update(np.ascontiguousarray(inputs.vectors[name]).tobytes())
        if name in inputs.tables:
            digest.update(inputs.tables[name].write_csv().encode())
        if name in inputs.raw:
            digest.update(inputs.raw[name].fingerprint())
        found[name] = digest.hexdigest()
    return found


def _items(cohort: Cohort) -> dict[str, int]:
    """Notes and files of a cohort of one, by modality."""
    cards = cohort.card.modalities
    listed = [m for m, card in cards.items() if isinstance(card, FileCard | TextCard)]
    return {m: len(cohort.cells(m)[0]) for m in listed}
