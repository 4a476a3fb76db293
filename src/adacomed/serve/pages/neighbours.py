"""Training patients near one patient, for the page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adacomed.errors import InputError
from adacomed.explain.similar import Neighbour, similar
from adacomed.report.page import NONE, number
from adacomed.schema import Predictions
from adacomed.serve.pages.frame import patient_url
from adacomed.serve.pages.told import Similar
from adacomed.training.checkpoint import Run
from adacomed.training.loader import Inputs

if TYPE_CHECKING:
    from adacomed.serve.patients import Patients

K = 5


def neighbours(run: Run, patients: Patients | None, inputs: Inputs) -> tuple[str, list[Similar]]:
    """A sentence, and the `K` training patients nearest to the one of `inputs`; blocking."""
    reference = None if patients is None else patients.reference()
    if patients is None or reference is None:
        why = "there are no training patients here" if patients is None else patients.similar_note
        return f"{why[:1].upper()}{why[1:]}.", []
    try:
        found = similar(reference, run, inputs, k=K, without_subject=str(inputs.subject_id[0]))
    except InputError as error:
        return f"{error}.", []
    ids = patients.rows.get_column(Predictions.SAMPLE_ID, default=None)
    listed = set() if ids is None else set(ids.filter(ids.is_in([n.sample_id for n in found])))
    return _said(run, found), [_shown(one, one.sample_id in listed) for one in found]


def _said(run: Run, found: list[Neighbour]) -> str:
    where = (
        "The training patients nearest to this one in what the model makes of them; that is no "
        "reason for its prediction."
    )
    known = [one.label for one in found if one.label is not None]
    if len(run.classes) != 2 or not known:
        return where
    had = sum(label == 1 for label in known)
    return f"{where} The outcome of {had} of these {len(known)} was {run.classes[-1]}."


def _shown(one: Neighbour, listed: bool) -> Similar:
    return Similar(
        sample_id=one.sample_id,
        url=patient_url(one.sample_id) if listed else "",
        similarity=number(one.similarity),
        outcome=one.seen or NONE,
        present=", ".join(one.present) or NONE,
    )
