"""A finished run at work: what arrives becomes a case, a case becomes a prediction.

Reading and embedding block and belong in a thread; predicting is asynchronous and goes through one
batcher, so that everyone's patients share the model's passes.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import uuid
import weakref
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from adacomed.cohort.cohort import Cohort
from adacomed.embed import ADVICE
from adacomed.encoders.base import fingerprint
from adacomed.errors import InputError
from adacomed.explain.patient import Patient, explain_patients
from adacomed.intake import gather_for, refuse_code
from adacomed.schema import EmbeddingCard
from adacomed.serve.arrival import Arrival, placed, received
from adacomed.serve.batching import Batcher
from adacomed.serve.encoders import Encoders
from adacomed.serve.home import home
from adacomed.serve.patients import Patients
from adacomed.serve.record import Case, record
from adacomed.training.checkpoint import Run
from adacomed.training.loader import Inputs
from adacomed.training.perturb import modalities, without

__all__ = ["Case", "Service"]


class _Folder:
    """A temporary folder that is made when something is written into it, and goes with its case."""

    def __init__(self) -> None:
        self.path = Path(tempfile.gettempdir()) / f"adacomed-case-{uuid.uuid4().hex}"
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


class Service:
    """One run, ready for many callers.

    Args:
        encoders: modality → where its encoder is here, if not where it was in training.
        max_batch: rows of every pass of the model.
        patients: those that the page lists.
    Attributes:
        run: with its model in double precision.
        ready: True once `warm` is done.
        unavailable: modality → why its encoder cannot be had here; ready vectors still do.
    """

    def __init__(
        self,
        run: Run,
        *,
        encoders: Mapping[str, str] | None = None,
        max_batch: int = 16,
        patients: Patients | None = None,
    ) -> None:
        self._batcher = Batcher(run, max_batch)
        self.run = self._batcher.run
        self.patients = patients
        self.ready = False
        self.unavailable: dict[str, str] = {}
        self._specs = dict(encoders or {})
        self._load = Encoders() if patients is None else patients.load

    def on_batch(self, told: Callable[[int], None]) -> None:
        """Have every pass of the model told: how many patients it had, without padding."""
        self._batcher.on_batch = told

    def warm(self) -> None:
        """Load every encoder that is here and pass one patient through the model; blocks."""
        cards = self.run.card.modalities
        root = home(self.run.folder) or self.run.folder
        samples = pl.DataFrame({"sample_id": ["warm"]})
        for name, mark in self.run.meta.get("encoders", {}).items():
            spec = self._specs.get(name) or getattr(cards[name], "encoder", None)
            if not spec:
                continue
            self.unavailable.pop(name, None)
            try:
                if name not in self._specs:
                    refuse_code(self.run, name, spec)
                cohort = Cohort(self.run.card, root, samples, pl.DataFrame(), {})
                there = fingerprint(self._load(cohort, name, spec).card)
            except InputError as error:
                self.unavailable[name] = str(error)
                continue
            if there != mark:
                self.unavailable[name] = (
                    f"modality {name!r}: the encoder {spec} here is {there}, the run was trained "
                    f"with {mark}"
                )
        self._batcher.submit(nobody(self.run)).result()
        self.ready = True
        if self.patients is not None:
            self.patients.start()

    def case(self, arrival: Arrival) -> Case:
        """Read a new patient: embeds what needs it, and so blocks.

        Raises:
            InputError: the patient cannot be used, in one sentence without a value of theirs.
        """
        keep = _Folder() if arrival.folder is None else None
        folder = arrival.folder if keep is None else keep.path
        assert folder is not None
        try:
            found = received(self.run, arrival)
            cohort = placed(self.run, arrival.patient.sample_id, found, folder)
            inputs = self._gathered(cohort)
        except InputError as error:
            raise InputError(_plain(str(error), arrival, folder)) from None
        return Case(
            sample_id=arrival.patient.sample_id,
            cohort=cohort,
            inputs=inputs,
            hashes={name: given.digest for name, given in found.items()},
            items={name: given.items for name, given in found.items()},
            unknown={name: given.unknown for name, given in found.items() if given.unknown},
            keep=keep,
        )

    async def predict(self, case: Case, without: Collection[str] = ()) -> dict[str, Any]:
        """The prediction record of a case.

        Args:
            without: modalities to take away: absent, not zero.
        Raises:
            InputError: an unknown modality, or the model gives no number for what is left.
            batching.ClosedError: the service is stopping.
        """
        inputs = taken_away(case.inputs, without)
        rows = await asyncio.wrap_future(self._batcher.submit(inputs))
        return record(self.run, case, rows, without)

    def explain(self, case: Case) -> Patient:
        """What each modality did to a case's prediction; blocks.

        Raises:
            InputError: the model gives no number for a patient without any modality.
        """
        return explain_patients(self.run, case.inputs)[0][0]

    async def close(self) -> None:
        """Take nothing more, and finish what was taken."""
        await asyncio.to_thread(self._batcher.close)
        if self.patients is not None:
            await asyncio.to_thread(self.patients.close)

    def _gathered(self, cohort: Cohort) -> Inputs:
        cards = cohort.card.modalities
        raw = [m for m in cards if not isinstance(cards[m], EmbeddingCard)]
        specs = {m: spec for m, spec in self._specs.items() if m in raw}
        return gather_for(self.run, cohort, encoders=specs, load=self._load)


def taken_away(inputs: Inputs, names: Collection[str]) -> Inputs:
    """The same patients without some modalities.

    Raises:
        InputError: none of their modalities.
    """
    known = modalities(inputs)
    for name in names:
        if name not in known:
            raise InputError(f"no modality {name!r} to take away; known: {', '.join(known)}")
    return without(inputs, names) if names else inputs


def nobody(run: Run) -> Inputs:
    """One patient of whom nothing is known."""
    fitted = run.trained.fitted
    return Inputs(
        sample_id=np.array(["nobody"]),
        subject_id=np.array(["nobody"]),
        vectors={m: np.full((1, 1), np.nan, np.float32) for m in fitted.native},
        tables={
            m: pl.DataFrame({c.name: [None] for c in encoder.columns})
            for m, encoder in fitted.tables.items()
        },
        small=fitted.small,
        own=fitted.own,
        target=np.array([-1]),
        classes=(),
    )


def _plain(message: str, arrival: Arrival, folder: Path) -> str:
    """A reader's message for the caller: the file as the caller named it, no place of ours."""
    for upload in arrival.uploads:
        for ours in (str(upload.path), upload.path.name):
            message = message.replace(ours, upload.name)
    for place in (str(folder.resolve()), str(folder)):
        message = message.replace(f"{place}/", "").replace(place, "the upload")
    return message.replace(ADVICE, "")
