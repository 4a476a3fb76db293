"""Patients of many callers through one model, a fixed number of rows at a time.

One thread takes what is queued, fills the batch up to its fixed size with repeats of the first
patient, and throws their rows away. So the model and all that follows it see one shape only, and
what else is in flight changes no answer. There is no waiting window: an idle batcher takes a
patient at once, and a busy one finds company in its queue.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from adacomed.inference import forward_batch, in_double, predicted_rows
from adacomed.models.batch import Batch, Output
from adacomed.training.checkpoint import Run
from adacomed.training.loader import Inputs

Rows = list[dict[str, Any]]


class ClosedError(RuntimeError):
    """The batcher takes no more patients: the service is stopping."""


@dataclass
class _Job:
    inputs: Inputs
    answer: Future[Rows] = field(default_factory=Future)
    batch: Batch | None = None


class Batcher:
    """A run's model behind a queue.

    Args:
        run: its model is made double once, here.
        size: rows of every pass, at least 1. A preset whose patients depend on each other gets
            every patient alone.
        on_batch: told how many patients a pass had, without padding.
    """

    def __init__(
        self, run: Run, size: int, on_batch: Callable[[int], None] = lambda patients: None
    ) -> None:
        self.run = replace(run, trained=in_double(run.trained))
        self.size = 1 if depends_on_others(run) else max(1, size)
        self.on_batch = on_batch
        self._queue: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="adacomed-model", daemon=True)
        self._thread.start()

    def submit(self, inputs: Inputs) -> Future[Rows]:
        """Queue one patient; the future holds its rows of predictions.parquet, one a finding.

        Raises:
            ClosedError: after `close`.
        """
        job = _Job(inputs)
        with self._changed:
            if self._closed:
                raise ClosedError("the service is stopping and takes no more patients")
            self._queue.append(job)
            self._changed.notify()
        return job.answer

    def close(self) -> None:
        """Finish everything that is queued, then stop; blocks until then."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while jobs := self._take():
            ready = [job for job in jobs if self._prepared(job)]
            stacked = [job for job in ready if not _raw(job)]
            alone = [job for job in ready if _raw(job)]  # series do not stack
            for group in (stacked, *([job] for job in alone)):
                if group:
                    self._answer(group)

    def _take(self) -> list[_Job]:
        """The next patients, at most `size`; waits for the first. None are left: an empty list."""
        with self._changed:
            while not self._queue and not self._closed:
                self._changed.wait()
            return [self._queue.popleft() for _ in range(min(self.size, len(self._queue)))]

    def _prepared(self, job: _Job) -> bool:
        """Tensors of one patient; what is wrong with them is this caller's alone."""
        if not job.answer.set_running_or_notify_cancel():
            return False  # the caller has gone
        try:
            batch = self.run.trained.fitted.batch(job.inputs).to("cpu", torch.float64)
            job.batch = replace(batch, target=None)
        except Exception as error:
            job.answer.set_exception(error)
            return False
        return True

    def _answer(self, jobs: list[_Job]) -> None:
        try:
            self.on_batch(len(jobs))
            padding = 0 if _raw(jobs[0]) else self.size - len(jobs)
            whole = [*jobs, *([jobs[0]] * padding)]
            batches = [job.batch for job in whole if job.batch is not None]
            batch = batches[0] if len(batches) == 1 else Batch.concatenate(batches)
            output = forward_batch(self.run.trained, batch, batch_size=len(whole))
            rows = _frame_rows(self.run, [job.inputs for job in whole], output)
        except Exception as error:
            for job in jobs:
                job.answer.set_exception(error)
            return
        for n, job in enumerate(jobs):  # several findings stand in blocks of all patients
            job.answer.set_result(rows[n :: len(whole)])


def depends_on_others(run: Run) -> bool:
    """Whether a patient's numbers depend on its batch, as in the presets `paper` and `authors`."""
    preset = run.meta.get("spec", {}).get("preset", {})
    return (
        run.meta.get("preset") in ("paper", "authors")
        or preset.get("attention") == "patients"
        or preset.get("bank_size") == "batch"
        or bool(preset.get("batch_mean"))
    )


def _raw(job: _Job) -> bool:
    return job.batch is not None and bool(job.batch.raw)


def _frame_rows(run: Run, patients: list[Inputs], output: Output) -> Rows:
    """What `predict` writes of these patients, of whom only ids and presence matter by now."""
    first = patients[0]
    vectors = {
        name: np.concatenate([_presence(one.vectors[name]) for one in patients])
        for name in first.vectors
    }
    light = replace(
        first,
        sample_id=np.concatenate([one.sample_id for one in patients]),
        subject_id=np.concatenate([one.subject_id for one in patients]),
        vectors=vectors,
        tables={},
        raw={},
        encoders={},
        target=np.full(len(patients), -1),
        truth=None,
        bayes_prob=None,
    )
    return predicted_rows(run, light, output).to_dicts()


def _presence(x: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(x).any(axis=1), np.nan, 0.0).astype(np.float32)[:, None]
