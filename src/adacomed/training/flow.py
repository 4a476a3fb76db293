"""Who took part and who did not, with the reason, and where every modality's vectors came from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adacomed.cohort.split import Fold
from adacomed.encoders.choice import recall_encoders
from adacomed.store import CARD, store_folder
from adacomed.training.perturb import modalities
from adacomed.training.prepare import Prepared, Step


def data_flow(prepared: Prepared, folds: list[Fold]) -> dict[str, Any]:
    """What flow.json of an experiment holds (schema.RunFiles.FLOW).

    Returns:
        "cohort", "source", "licence" of the data; "steps": from the cohort's table to the test
        patients, each with `what`, `subjects`, `samples`, `left_out` (samples that the step before
        had) and `why`; "modalities": what each is, how many of the labelled samples have it, and
        what its encoder's card says.
    """
    inputs = prepared.inputs
    labelled = np.flatnonzero(inputs.target >= 0)
    left = len(inputs) - len(labelled)
    steps = [*prepared.steps]
    steps.append(_step(prepared, f"labelled for {prepared.task}", labelled, left, "no label"))
    steps += [_step(prepared, name, rows) for name, rows in _parts(folds)]
    seen = inputs.take(labelled)
    present = dict(zip(seen.vectors, seen.present.sum(axis=0).tolist(), strict=True))
    for name, table in seen.tables.items():
        present.setdefault(name, _with_a_cell(table))
    card = prepared.cohort.card
    return {
        "cohort": card.name,
        "source": card.source,
        "licence": card.licence,
        "steps": [step._asdict() for step in steps],
        "modalities": [
            {"name": name, "n_present": present.get(name), **_about(prepared, name)}
            for name in modalities(inputs)
        ],
    }


def _step(
    prepared: Prepared, what: str, rows: NDArray[np.int64], left_out: int = 0, why: str = ""
) -> Step:
    subjects = len(np.unique(prepared.inputs.subjects[rows]))
    return Step(what, subjects, len(rows), left_out, why if left_out else "")


def _parts(folds: list[Fold]) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Training, validation and test patients of one split; of several, who is ever tested."""
    if len(folds) == 1:
        [fold] = folds
        yield "training", fold.train
        if fold.val is not None:
            yield "validation", fold.val
        yield "test", fold.test
        return
    repeats = len({fold.repeat for fold in folds})
    times = "once" if repeats == 1 else f"{repeats} times"
    each = f"each tested {times}, by a model trained on the {len(folds) // repeats - 1} other folds"
    yield each, np.unique(np.concatenate([fold.test for fold in folds]))


def _with_a_cell(table: Any) -> int:
    """Rows of a data frame in which anything is recorded."""
    return sum(any(cell is not None for cell in row) for row in table.iter_rows())


def _about(prepared: Prepared, name: str) -> dict[str, Any]:
    """Kind, encoder, and what the card in the store says of it."""
    card = prepared.cohort.card.modalities[name]
    about: dict[str, Any] = {"kind": card.kind}
    mark = prepared.inputs.encoders.get(name)
    if mark is None:
        return about
    spec = str(getattr(card, "encoder", None))
    about |= {"encoder": spec, "fingerprint": mark}
    known = recall_encoders(prepared.store, name).get(spec)
    if known is None or prepared.store is None:
        return about
    file = store_folder(prepared.store, name, known["name"], known["fingerprint"]) / CARD
    if file.is_file():
        told = json.loads(file.read_text("utf-8"))
        kept = ("id", "revision", "licence", "pooling", "trained_on", "seen_datasets", "width")
        about |= {key: told.get(key) for key in (*kept, "weights_hash")}
    return about
