"""A prediction record in words and bars: what is said, how sure, and which model led."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.special import expit

from adacomed.report.page import number
from adacomed.training.checkpoint import Run

WHY = {
    "ensemble": "This run weighs both alike, for every patient.",
    "learnable": "The weights were learnt and are the same for every patient.",
    "inverse": "The weight follows how alike the two views of this patient are.",
    "gaussian": "The weight follows how alike the two views of this patient are.",
    "threshold": "The weight tips where the two views of this patient are alike enough.",
    "reliable": "The weights were fitted on validation patients, to how alike the two views are, "
    "how sure each is, and what is present.",
}


@dataclass(frozen=True)
class Bar:
    """A probability as a bar; `at`, `cut` (threshold) and `base` are percent of its length."""

    name: str
    text: str
    at: float
    cut: float | None = None
    base: float | None = None


@dataclass(frozen=True)
class Said:
    """What is said of one question: the task, or one of its findings.

    Attributes:
        title: the question.
        headline: the number that is asked for, as text.
        of: what it is the probability of.
        decision, inside: sentences; `inside` is the prediction set.
        abstains: the set holds several classes, or none.
        outcome: what happened, if it is known.
    """

    title: str
    headline: str
    of: str
    bars: list[Bar]
    decision: str
    inside: str
    abstains: bool
    outcome: str = ""
    cut: str = ""  # threshold and base rate as text
    base: str = ""


def said(
    run: Run, record: Mapping[str, Any], base: Sequence[float] | None, outcomes: Sequence[str]
) -> list[Said]:
    """What a record says, question by question.

    Args:
        base: probabilities of a patient of whom nothing is known: of K classes, or of each finding.
        outcomes: of each question what happened, "" where it is not known.
    """
    found = []
    for i, prediction in enumerate(record["predictions"]):
        several = record["kind"] == "findings"
        mine = base if base is None or not several else [1 - base[i], base[i]]
        outcome = outcomes[i] if i < len(outcomes) else ""
        found.append(_said(run, record["kind"], prediction, mine, outcome))
    return found


def _said(
    run: Run, kind: str, one: Mapping[str, Any], base: Sequence[float] | None, outcome: str
) -> Said:
    classes = list(one["prob"])
    prob = [float(one["prob"][c]) for c in classes]
    cut = one.get("threshold")
    known = base is not None and len(base) == len(classes)
    bars = [
        Bar(
            name,
            number(p),
            round(100 * p, 2),
            round(100 * cut, 2) if cut is not None and len(classes) == 2 else None,
            round(100 * base[k], 2) if known and base is not None else None,
        )
        for k, (name, p) in enumerate(zip(classes, prob, strict=True))
    ]
    best = max(range(len(classes)), key=prob.__getitem__)
    shown = len(classes) - 1 if len(classes) == 2 else best
    of = f"{classes[shown]}{_by(one)}"
    inside, abstains = _inside(run, one["prediction_set"])
    return Said(
        title=str(one["task"]),
        headline=number(prob[shown]),
        of=of,
        bars=bars[-1:] if len(classes) == 2 else bars,
        decision=_decision(one, classes, best),
        inside=inside,
        abstains=abstains,
        outcome=outcome,
        cut=number(cut) if cut is not None and len(classes) == 2 else "",
        base=number(base[shown]) if known and base is not None else "",
    )


def _by(one: Mapping[str, Any]) -> str:
    horizon = one.get("horizon")
    return "" if horizon is None else f" by {horizon:g} {one.get('unit') or ''}".rstrip()


def _decision(one: Mapping[str, Any], classes: Sequence[str], best: int) -> str:
    cut = one.get("threshold")
    if len(classes) != 2 or cut is None or one.get("positive") is None:
        return f"The likeliest is {classes[best]}."
    if one["positive"]:
        return f"At or above the threshold of {number(cut)}: counted as {classes[-1]}."
    return f"Below the threshold of {number(cut)}: counted as {classes[0]}."


def _inside(run: Run, names: Sequence[str] | None) -> tuple[str, bool]:
    """The prediction set in words, and whether the model abstains."""
    if names is None:
        return "This run has no prediction sets for this question.", False
    if not names:
        sentence = "No class fits: the patient is unlike those the model knows, so it abstains."
        return sentence, True
    held = _coverage(run)
    if len(names) > 1:
        listed = f"{', '.join(names[:-1])} or {names[-1]}"
        return f"Cannot be ruled out: {listed}. With several left the model abstains.{held}", True
    return f"Cannot be ruled out: {names[0]}, and nothing else.{held}", False


def _coverage(run: Run) -> str:
    sets = run.trained.sets
    if sets is None:
        return ""
    return f" Such a set holds the truth for about {sets.coverage:.0%} of patients."


# ---- which model led ----------------------------------------------------------------------------
def led(run: Run, record: Mapping[str, Any]) -> list[str]:
    """Two or three sentences: which model led, why, and what each says alone."""
    if record.get("leads") is None:
        return ["This method is a single model: there are no two to be weighed."]
    large, small = number(record["w_large"], 2), number(record["w_small"], 2)
    who = {
        "large": f"The large models lead: they weigh {large}, the small model {small}.",
        "small": f"The small model leads: it weighs {small}, the large models {large}.",
        "neither": f"Neither leads: the large models weigh {large}, the small model {small}.",
    }
    strategy = str((run.trained.choices or {}).get("strategy") or run.trained.spec.get("strategy"))
    s = "" if record.get("s") is None else f" Their views agree by s = {number(record['s'], 2)}"
    how = f"{s}, of at most 1." if s else ""
    return [who[record["leads"]], WHY.get(strategy, "") + how, *_alone(record)]


def _alone(record: Mapping[str, Any]) -> list[str]:
    """What each of the two says by itself, where that is one number, and how far they spread."""
    told = []
    one = record["predictions"][0]
    logits = one.get("logit_large"), one.get("logit_small")
    if len(record["predictions"]) == 1 and None not in logits and record["kind"] == "classes":
        large, small = (number(float(expit(x))) for x in logits)
        of = list(one["prob"])[-1]
        told.append(f"Alone the large models say {large} for {of}, the small model {small}.")
    if record.get("spread") is not None:
        told.append(
            f"The models that are averaged differ by {number(record['spread'], 2)} in log-odds "
            f"(standard deviation)."
        )
    return told


def experts(record: Mapping[str, Any]) -> list[Bar]:
    """Weights of the router's experts, the largest first."""
    weights = sorted((record.get("router") or {}).items(), key=lambda pair: -pair[1])
    return [Bar(name, number(w, 2), round(100 * w, 2)) for name, w in weights]
