"""Everything that the page of one patient shows, as plain data for its templates."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adacomed.explain.patient import Patient
from adacomed.report.page import NONE, Figure, Row, Spec, Table
from adacomed.serve.pages.account import Bar, Said, experts, led, said
from adacomed.serve.pages.effects import effect_figure, effects, overlaps, survival_figure
from adacomed.serve.views.inputs import KINDS, View
from adacomed.training.checkpoint import Run

EXPERTS = 4  # that are compared


@dataclass(frozen=True)
class Similar:
    """One training patient near this one; `url` is empty where the patient has no page here."""

    sample_id: str
    url: str
    similarity: str
    outcome: str
    present: str


@dataclass(frozen=True)
class Told:
    """What the templates of a patient's page show.

    Attributes:
        base_url: address of the page, without a slash at its end.
        note: who the patient is of.
        effects, overlaps: None where there is no explanation.
        switches: modalities that can be taken away; gone: those that are.
        account: what was used and what was missing.
        unseen: why there are no inputs to show, or "".
    """

    sample_id: str
    base_url: str
    note: str
    said: list[Said]
    led: list[str]
    experts: list[Bar]
    provenance: list[tuple[str, str]]
    curves: list[Figure] = field(default_factory=list)
    effects: Figure | None = None
    effects_table: Table | None = None
    overlaps: Table | None = None
    unexplained: str = ""
    task: str = ""
    switches: list[str] = field(default_factory=list)
    gone: Collection[str] = ()
    account: Table | None = None
    views: list[View] = field(default_factory=list)
    unseen: str = ""
    similar: list[Similar] = field(default_factory=list)
    similar_said: str = ""
    downloads: bool = True

    @property
    def contents(self) -> list[tuple[str, str]]:
        """Sections of the page: anchor and title."""
        parts = [("prediction", "Prediction", True), ("contributions", "Modalities", True)]
        parts += [("switches", "Without", bool(self.switches)), ("inputs", "Inputs", True)]
        parts += [("similar", "Similar patients", True), ("provenance", "Record", True)]
        return [(anchor, title) for anchor, title, there in parts if there]

    @property
    def specs(self) -> dict[str, Spec]:
        """Charts of the page by their ids."""
        figures = [*self.curves, *([self.effects] if self.effects else [])]
        figures += [figure for view in self.views for figure in view.figures]
        return {figure.id: figure.spec for figure in figures}


def told_of(
    run: Run,
    record: Mapping[str, Any],
    *,
    base_url: str,
    note: str,
    outcomes: Sequence[str],
    explanation: Patient | str,
    views: Sequence[View],
    similar: tuple[str, list[Similar]],
) -> Told:
    """The page of a patient whose inputs are here.

    Args:
        outcomes: of each prediction what happened, "" where it is not known.
        explanation: or a sentence why there is none.
        similar: a sentence, and the patients.
    """
    explained = explanation if isinstance(explanation, Patient) else None
    return Told(
        sample_id=str(record["sample_id"]),
        base_url=base_url,
        note=note,
        said=said(run, record, None if explained is None else explained.base, outcomes),
        led=led(run, record),
        experts=experts(record),
        provenance=provenance(record),
        curves=curves(record),
        task=str(record["task"]),
        effects=None if explained is None else effect_figure(explained),
        effects_table=None if explained is None else effects(explained),
        overlaps=None if explained is None else overlaps(explained),
        unexplained="" if explained is not None else str(explanation),
        switches=[one["modality"] for one in record["used"]],
        account=account(record),
        views=list(views),
        similar=similar[1],
        similar_said=similar[0],
    )


def curves(record: Mapping[str, Any]) -> list[Figure]:
    """The survival curve, where the task has one."""
    found = survival_figure(record["predictions"][0])
    return [] if found is None else [found]


def account(record: Mapping[str, Any]) -> Table:
    """Every modality that the model reads: what was used of it, and what was missing."""
    rows = []
    for one in record["used"]:
        what = KINDS.get(one["kind"], one["kind"])
        told = [f"{one['items']} of {what}" if one["items"] > 1 else what]
        if "cells" in one:
            columns = one["cells"] + len(one["missing"])
            told = [f"{one['cells']} of {columns} columns recorded"]
        told += [f"never seen in training: {', '.join(x)}" for x in [one.get("unseen")] if x]
        told += [f"unknown and left out: {', '.join(x)}" for x in [one.get("unknown")] if x]
        rows.append(Row([one["modality"], "used", "; ".join(told), str(one["source"])]))
    rows += [Row([m, "absent", NONE, NONE]) for m in record["absent"]]
    rows += [Row([m, "taken away", NONE, NONE]) for m in record["without"]]
    return Table("What was used", ["modality", "use", "what", "read by"], rows)


def provenance(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Which model, which version, which encoders."""
    made = record["provenance"]
    rows = [
        ("Run", str(made["title"])),
        ("Method", str(made["method"])),
        ("Model", f"sha256 {made['model_hash']}"),
        ("adacomed", str(made["adacomed"])),
    ]
    sources = [f"{u['modality']}: {u['source']}" for u in record["used"] if "@" in str(u["source"])]
    return rows + ([("Encoders", "; ".join(sources))] if sources else [])


# ---- without a modality -------------------------------------------------------------------------
@dataclass(frozen=True)
class Change:
    """What taking modalities away changes: a sentence, a table, and which model leads then."""

    said: str
    table: Table | None = None
    led: list[str] = field(default_factory=list)


def change(run: Run, whole: Mapping[str, Any], less: Mapping[str, Any]) -> Change:
    """Two records of one patient, with everything and without some modalities."""
    gone = list(less["without"])
    if not gone:
        return Change("Nothing is left out: the numbers are those above.")
    name = "without " + " and ".join(gone)
    before, after = (said(run, r, None, ()) for r in (whole, less))
    rows, sentences = [], []
    pairs = zip(whole["predictions"], less["predictions"], before, after, strict=True)
    for one, other, old, new in pairs:
        several = len(before) > 1
        shown = list(one["prob"])[-1:] if len(one["prob"]) == 2 else list(one["prob"])
        for c in shown:
            p, q = float(one["prob"][c]), float(other["prob"][c])
            rows.append(Row([f"probability of {c}", f"{p:.3f}", f"{q:.3f}", _moved(p, q)]))
        if not several:
            rows.append(Row(["cannot be ruled out", _set(one), _set(other), _same(one, other)]))
            sentences.append(f"{name}: {new.headline} for {new.of}, {old.headline} with everything")
    for key, title in (
        ("w_large", "weight of the large models"),
        ("w_small", "weight of the small model"),
    ):
        if whole.get(key) is not None and less.get(key) is not None:
            a, b = float(whole[key]), float(less[key])
            rows.append(Row([title, f"{a:.2f}", f"{b:.2f}", _moved(a, b, 2)]))
    rows += _experts(whole["router"], less["router"])
    table = Table("What changes", ["what", "with everything", name, "change"], rows)
    sentence = "; ".join(sentences) or name
    return Change(f"{sentence[0].upper()}{sentence[1:]}.", table, led(run, less)[:1])


def _experts(before: Mapping[str, float], after: Mapping[str, float]) -> list[Row]:
    """Weights of the `EXPERTS` that weigh most, before or after."""
    names = sorted({*before, *after}, key=lambda n: -max(before.get(n, 0), after.get(n, 0)))
    pairs = [(name, before.get(name, 0.0), after.get(name, 0.0)) for name in names[:EXPERTS]]
    return [Row([f"expert {n}", f"{a:.2f}", f"{b:.2f}", _moved(a, b, 2)]) for n, a, b in pairs]


def _moved(before: float, after: float, digits: int = 3) -> str:
    moved = after - before
    if abs(moved) < 1e-9:
        return "none"
    if round(abs(moved), digits) == 0:
        return f"under {10**-digits:g}"
    return f"{moved:+.{digits}f}".replace("-", "−")


def _set(one: Mapping[str, Any]) -> str:
    names = one["prediction_set"]
    return NONE if names is None else " or ".join(names) or "no class"


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    return "none" if one["prediction_set"] == other["prediction_set"] else "another set"
