"""TRIPOD+AI, filled from the facts of a run: what the software knows, and what people must state.

The 27 items are in our words; the wording that counts is the statement's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from adacomed import __version__
from adacomed.report.facts import NOT_KNOWN, Facts
from adacomed.report.model_card import STATE, setting, table
from adacomed.schema import TEST, TRAIN, VAL


class Item(NamedTuple):
    """One item: its number, its topic, what is known of it and where on the page that stands."""

    number: int
    topic: str
    say: Callable[[Facts], str]
    where: str = "–"


def markdown(known: Facts) -> str:
    """The checklist as a Markdown table.

    Source: Collins et al., BMJ 2024;385:e078378.
    """
    rows = [(item.number, item.topic, item.say(known), item.where) for item in ITEMS]
    people = sum(row[2].startswith(STATE) for row in rows)
    return "\n".join(
        [
            f"# TRIPOD+AI checklist: {known.title}",
            "",
            "The items of Collins et al., BMJ 2024;385:e078378, in short words of our own, filled "
            f"from the files of this run. {len(rows) - people} of {len(rows)} are answered, in "
            f"part or whole; {people} only people can answer. Sections are those of report.html.",
            "",
            *table(["item", "topic", "what this run says", "section"], rows),
            "",
        ]
    )


def _state(what: str) -> Callable[[Facts], str]:
    return lambda known: f"{STATE} {what}"


def _title(known: Facts) -> str:
    did = "Development and internal validation"
    return f"{did} of {known.headline} for {known.task}; {STATE} the target population"


def _objectives(known: Facts) -> str:
    rivals = len(known.methods) - 1
    compared = f", and compare it with {rivals} other methods on the same patients" * (rivals > 0)
    return f"Develop and internally validate {known.headline} for {known.task}{compared}"


def _data(known: Facts) -> str:
    if known.simulated:
        return "Simulated cohort; no dates"
    source = known.cohort.get("source")
    return f"Source: {source or NOT_KNOWN}; {STATE} the dates of recruitment and follow-up"


def _participants(known: Facts) -> str:
    steps = [
        f"{s.get('what')}: {s.get('left_out')} left out" for s in known.flow if s.get("left_out")
    ]
    found = "; ".join(steps) or "no exclusions recorded"
    return f"{found}; {STATE} setting, eligibility and treatments"


def _preparation(known: Facts) -> str:
    names = ", ".join(f"{e.name} by {e.model}" for e in known.encoders if e.model)
    read = f"frozen encoders ({names}); " if names else ""
    return f"{read}scalers, vocabularies and encodings fitted on training patients only"


def _outcome(known: Facts) -> str:
    card = known.cohort.get("tasks")
    task = card.get(known.task) if isinstance(card, dict) else None
    about = task.get("description") if isinstance(task, dict) else ""
    kind = "time to an event" if known.survival else f"{known.K} classes"
    said = f"{known.task}, {kind}{f': {about}' if about else ''}"
    return f"{said}; {STATE} who assessed it, and whether blinded"


def _predictors(known: Facts) -> str:
    names = [e.name for e in known.encoders] or list(known.present)
    said = f"Modalities: {', '.join(names) or NOT_KNOWN}"
    return f"{said}; {STATE} why these, and how they were measured"


def _size(known: Facts) -> str:
    parts = [
        f"{split} {n} samples" + (f" ({events} events)" if events is not None else "")
        for split in (TRAIN, VAL, TEST)
        for _, n, events in [known.counts[split]]
        if n
    ]
    said = "; ".join(parts) or NOT_KNOWN
    return f"{said}; no size was calculated beforehand: {STATE} why it is enough"


def _missing(known: Facts) -> str:
    some = [f"{name} {1 - share:.0%}" for name, share in known.present.items() if share < 0.995]
    lacking = f"Absent in test patients: {', '.join(some)}. " if some else ""
    return f"{lacking}An absent modality is masked, not imputed; nobody is left out for one"


def _analysis(known: Facts) -> str:
    how = f"{known.folds}-fold cross-validation" if known.folds > 1 else "one split by subject"
    return (
        f"{how}; preset {setting(known, 'preset')}, seed {setting(known, 'seed')}; choices on "
        "validation patients; intervals by DeLong and a subject bootstrap; comparisons paired, "
        "Holm-adjusted"
    )


def _imbalance(known: Facts) -> str:
    weighed = setting(known, "training", "class_weights")
    return f"Class weights in the loss: {weighed}; probabilities corrected for them"


def _fairness(known: Facts) -> str:
    if known.groups:
        names = ", ".join(g.removeprefix("group_") for g in known.groups)
        return f"Metrics and gaps by {names}; {STATE} why these groups"
    return f"{STATE} how fairness was looked at (the predictions have no group columns)"


def _output(known: Facts) -> str:
    sets = " and a prediction set" if known.has_sets else ""
    what = "Risk by the horizon and a survival curve" if known.survival else "Probability"
    return f"{what}{sets}; the threshold is chosen on validation patients"


def _apart(known: Facts) -> str:
    return "Same cohort, split by subject: no difference in setting, eligibility, outcome or inputs"


def _flow(known: Facts) -> str:
    subjects, n, events = known.counts[TEST]
    tested = f"{subjects} test patients, {n} samples"
    tested += "" if events is None else f", {events} events"
    return f"{tested}; {STATE} their characteristics"


def _specification(known: Facts) -> str:
    files = "model.safetensors, inputs.json and config.yaml of the run"
    return f"{files}; adacomed {__version__}, Apache-2.0"


def _performance(known: Facts) -> str:
    named = (
        ("auroc", "AUROC"),
        ("auprc", "AUPRC"),
        ("c_index", "C-index"),
        ("calibration_slope", "slope"),
    )
    found = [f"{label} {known.scores[name]}" for name, label in named if name in known.scores]
    return "; ".join(found) or "no test patient has a label"


def _limitations(known: Facts) -> str:
    return f"Sentences drawn from the facts of the run; {STATE} those of the study"


ITEMS = (
    Item(1, "Title", _title),
    Item(2, "Abstract", _state("it, by TRIPOD+AI for abstracts")),
    Item(3, "Background: context, purpose, users, inequalities", _state("them")),
    Item(4, "Objectives", _objectives),
    Item(5, "Data: sources and dates", _data, "Data flow"),
    Item(6, "Participants: setting, eligibility, treatments", _participants, "Data flow"),
    Item(7, "Data preparation", _preparation, "Encoders"),
    Item(8, "Outcome", _outcome, "To rerun"),
    Item(9, "Predictors", _predictors, "Encoders"),
    Item(10, "Sample size", _size, "Data flow"),
    Item(11, "Missing data", _missing, "Missing modalities and noise"),
    Item(12, "Analytical methods", _analysis, "To rerun"),
    Item(13, "Class imbalance", _imbalance, "Calibration"),
    Item(14, "Fairness", _fairness, "Subgroups"),
    Item(15, "Model output", _output, "Decisions; Prediction sets"),
    Item(16, "Training against evaluation", _apart, "Data flow"),
    Item(17, "Ethical approval", _state("the committee and the consent, or the waiver")),
    Item(
        18,
        "Open science: funding, conflicts, protocol, registration, data, code",
        _state("them; the code is adacomed, Apache-2.0"),
    ),
    Item(19, "Patient and public involvement", _state("it, or that there was none")),
    Item(20, "Participants: flow and characteristics", _flow, "Data flow; Subgroups"),
    Item(21, "Model development: patients and events in each analysis", _size, "Data flow"),
    Item(22, "Model specification", _specification, "To rerun"),
    Item(23, "Model performance, also in subgroups", _performance, "Results; Subgroups"),
    Item(
        24, "Model updating", lambda known: "None: the model was not updated after its evaluation"
    ),
    Item(25, "Interpretation", _state("it, with fairness and earlier studies")),
    Item(26, "Limitations", _limitations, "Limits of use"),
    Item(
        27,
        "Usability: poor or missing inputs, user skill, next steps",
        lambda known: (
            f"What a missing modality costs was {'' if known.has_stress else 'not '}measured; "
            f"{STATE} the rest"
        ),
        "Missing modalities and noise",
    ),
)
