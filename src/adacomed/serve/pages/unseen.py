"""A patient of the list whose inputs are not on this machine: what was predicted before stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adacomed.report.page import NONE, Row, Table
from adacomed.schema import Predictions
from adacomed.serve.pages.account import experts, led, said
from adacomed.serve.pages.told import Told, curves, provenance
from adacomed.serve.record import Case, record
from adacomed.serve.service import nobody
from adacomed.training.checkpoint import Run
from adacomed.training.outcome import Survival


def unseen_case(run: Run, sample_id: str) -> Case:
    """A case without inputs, to write down who was looked at."""
    inputs = nobody(run)
    return Case(sample_id=sample_id, cohort=None, inputs=inputs)  # type: ignore[arg-type]


def told_of_rows(
    run: Run, case: Case, rows: Sequence[Mapping[str, Any]], *, base_url: str, note: str, why: str
) -> tuple[Told, dict[str, Any]]:
    """The page, and the record behind it, from rows of a predictions table.

    Args:
        rows: of one sample: one, or one a finding.
        why: the sentence why its inputs are not here.
    """
    found = record(run, case, rows) | {"used": [], "absent": []}
    present = set(rows[0].get(Predictions.PRESENT) or [])
    names = run.trained.fitted.native
    used = [Row([m, "used" if m in present else "absent"]) for m in names]
    told = Told(
        sample_id=case.sample_id,
        base_url=base_url,
        note=note,
        said=said(run, found, None, outcomes_of(run, rows)),
        led=led(run, found),
        experts=experts(found),
        provenance=provenance(found),
        curves=curves(found),
        task=run.task,
        unexplained="This needs the patient's inputs, which are not here.",
        account=Table("What was used", ["modality", "use"], used) if used else None,
        unseen=f"{why[:1].upper()}{why[1:]}.",
        similar_said="This needs the patient's inputs, which are not here.",
        downloads=False,
    )
    return told, found


def outcomes_of(run: Run, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What happened, for each row: "" where it is not known."""
    return [_outcome(run, row) for row in rows]


def _outcome(run: Run, row: Mapping[str, Any]) -> str:
    label, outcome = row.get(Predictions.LABEL), run.trained.outcome
    if label is None:
        return ""
    if isinstance(outcome, Survival):
        time = row.get(Predictions.TIME)
        when = NONE if time is None else f"{time:.4g} {outcome.unit}".rstrip()
        return f"{run.classes[-1]} at {when}" if label else f"last seen at {when}, no event so far"
    if outcome.kind == "findings":
        return "present" if label else "absent"
    return run.classes[int(label)]
