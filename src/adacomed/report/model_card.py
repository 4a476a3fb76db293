"""The model card: what the model is, on whom it was tried and what it is not for, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from adacomed import __version__
from adacomed.evaluation.discrimination import METRICS
from adacomed.report.facts import NOT_KNOWN, Facts, limits
from adacomed.report.page import NONE
from adacomed.schema import SPLITS

STATE = "not reported by the software: state"  # what only people can say
LABELS = {"c_index": "C-index", "ibs": "Integrated Brier"}


def markdown(known: Facts) -> str:
    """The card; where a fact is not in the folder it says so, and what people have to add.

    Source: the headings follow Mitchell et al., FAT* 2019.
    """
    parts = [
        (None, _opening(known)),
        ("Intended use", _use(known)),
        ("Data", _data(known)),
        ("Inputs", _inputs(known)),
        ("Output", _output(known)),
        ("Performance on test patients", _performance(known)),
        ("Limits of use", [f"- {sentence}" for sentence in limits(known)]),
        ("Fairness", [_fairness(known)]),
        ("To rerun", _rerun(known)),
    ]
    lines = [f"# Model card: {known.title}", ""]
    for heading, body in parts:
        lines += [*([f"## {heading}", ""] if heading else []), *body, ""]
    return "\n".join(lines)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """A Markdown table; a bar inside a cell is escaped."""
    cells = [[str(c).replace("|", "\\|").replace("\n", " ") for c in row] for row in rows]
    head = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    return head + [f"| {' | '.join(row)} |" for row in cells]


def setting(known: Facts, *path: str) -> str:
    """A setting of config.yaml, or that it is not recorded."""
    value: Any = known.settings
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return NOT_KNOWN if value is None else str(value)


def _opening(known: Facts) -> list[str]:
    rivals = [m for m in known.methods if m != known.headline]
    compared = f" It was compared with {', '.join(rivals)}." if rivals else ""
    return [
        f"Model: {known.headline}, of adacomed {__version__}; task {known.task} ("
        f"{'time to an event' if known.survival else f'{known.K} classes'}).{compared}",
        "",
        "**For research use only. Not a medical device.** The numbers are in report.html; the "
        "checklist for a paper is in tripod_ai.md.",
    ]


def _use(known: Facts) -> list[str]:
    return [
        f"- Meant for: research on {known.cohort.get('title') or known.title}.",
        "- Not meant for: the care of a patient, patients unlike these, or a cohort where the "
        "model was not evaluated.",
        f"- Users and the decision it should inform: {STATE} them.",
    ]


def _data(known: Facts) -> list[str]:
    source = known.cohort.get("source") or NOT_KNOWN
    licence = known.cohort.get("licence") or NOT_KNOWN
    counts = [
        (split, *(NONE if v is None else v for v in known.counts[split]))
        for split in SPLITS
        if known.counts[split][1]
    ]
    flow = [
        f"- {step.get('what')}: {step.get('left_out')} left out ({step.get('why') or NOT_KNOWN})"
        for step in known.flow
        if step.get("left_out")
    ]
    said = "Simulated patients." if known.simulated else f"Source: {source}. Licence: {licence}."
    note = "" if known.folds == 1 else f"Cross-validation: {known.folds} folds, pooled."
    return [said, "", *table(["split", "patients", "samples", "events"], counts), "", note, *flow]


def _inputs(known: Facts) -> list[str]:
    if not known.encoders:
        shares = [
            f"- {name}: {share:.0%} of test patients" for name, share in known.present.items()
        ]
        return shares or [f"Modalities: {NOT_KNOWN}."]
    rows = [
        (
            e.name,
            e.kind or NOT_KNOWN,
            f"{known.present[e.name]:.0%}" if e.name in known.present else NONE,
            e.model or NONE,
            e.fingerprint or NONE,
            e.licence or NOT_KNOWN,
            "not known" if e.seen is None else ", ".join(e.seen) or "none of the known cohorts",
        )
        for e in known.encoders
    ]
    columns = ["modality", "kind", "test patients", "encoder", "fingerprint", "licence", "has seen"]
    warned = [
        f"**Contamination: the encoder of {e.name} has seen {', '.join(e.contaminated)}.**"
        for e in known.encoders
        if e.contaminated
    ]
    return [*table(columns, rows), "", *warned]


def _output(known: Facts) -> list[str]:
    what = "P(event by the horizon) and a survival curve" if known.survival else "a probability"
    sets = (
        f"Prediction sets, made for a coverage of {known.nominal or NOT_KNOWN}; anything but one "
        "class is an abstention."
        if known.has_sets
        else "No prediction sets."
    )
    chosen = known.choices.get("calibration")
    calibrator = setting(known, "evidence", "calibration")
    if isinstance(chosen, dict):
        calibrator = f"{chosen.get('kind')} ({chosen.get('why')})"
    return [f"For each patient {what}. Recalibration: {calibrator}. {sets}"]


def _performance(known: Facts) -> list[str]:
    if not known.scores:
        return ["No test patient has a label."]
    named = {name: METRICS[name].label for name in METRICS} | LABELS
    rows = [(named.get(name, name), value) for name, value in known.scores.items()]
    return table(["figure", "value [95 % interval]"], rows)


def _fairness(known: Facts) -> str:
    if known.groups:
        names = ", ".join(group.removeprefix("group_") for group in known.groups)
        return f"By {names}: report.html, Subgroups, with gaps and their intervals."
    return (
        "Not measured: no columns of sex, age or site. "
        f"{STATE.capitalize()} who may be served worse."
    )


def _rerun(known: Facts) -> list[str]:
    return [
        f"Preset {setting(known, 'preset')}, seed {setting(known, 'seed')}. Settings, versions and "
        "the hashes of the files are in report.html, To rerun."
    ]
