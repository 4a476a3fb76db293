"""Methods by name: which there are, what a name's settings change, what each of them reads."""

from __future__ import annotations

from collections.abc import Sequence

from adacomed.config import Experiment, override, parse
from adacomed.errors import InputError, nearest
from adacomed.models.baselines import kinds
from adacomed.models.small.scores import SCORED
from adacomed.schema import CEILING
from adacomed.training.loader import Inputs

TABLE_ONLY = tuple(kind for kind in kinds.KINDS if kind not in kinds.ON_REQUEST)
EVERYTHING = tuple(f"{kind}-all" for kind in TABLE_ONLY)
LATE_FUSION = ("late-fusion", "weighted-late-fusion")
HAIM = "haim"
BAYES = CEILING
SINGLE = "-large"
ON_REQUEST = (
    *("meta-transformer", "onellm", "multimodal-pred", "gru", "flex-moe", "healnet", HAIM),
    *(name for kind in kinds.ON_REQUEST for name in (kind, f"{kind}-all")),
)
READ_RAW = ("meta-transformer", "onellm", "multimodal-pred", "gru")  # series, images and notes
WITH_SMALL = ("adacomed", "small", "average")
FAMILY = (*WITH_SMALL, "large-ensemble")
# of the methods, those that are made of classifiers; of the others, those that are named only
CLASSICAL = (
    *(*TABLE_ONLY, *EVERYTHING, *LATE_FUSION, HAIM, BAYES),
    *(name for kind in kinds.ON_REQUEST for name in (kind, f"{kind}-all")),
)
IN_MEMORY = tuple(name for name in CLASSICAL if name != BAYES)  # they need every patient at once
PLAIN_ON_REQUEST = tuple(name for name in ON_REQUEST if name not in CLASSICAL)
VARIED = ("preset", "model.", "small.", "training.", "baselines.", "inputs.")


def method_names(inputs: Inputs, *, all_: bool = True) -> list[str]:
    """Every method that can run on these inputs, the headline first.

    Args:
        all_: False leaves out those that run only where they are named (`ON_REQUEST`).
    """
    names = ["adacomed", "small", "large-ensemble", "average"]
    names += [f"{m}{SINGLE}" for m in inputs.vectors]
    names += [*TABLE_ONLY, *EVERYTHING] if inputs.tables else [*TABLE_ONLY]
    named = [name for name in ON_REQUEST if inputs.tables or not name.endswith("-all")]
    names += [*LATE_FUSION, *(named if all_ else [])]
    return [*names, *([BAYES] if inputs.bayes_prob is not None else [])]


def check_methods(asked: Sequence[str] | None, inputs: Inputs, experiment: Experiment) -> list[str]:
    """`asked`, the usual ones where nothing was, or InputError that names what is wrong."""
    known = method_names(inputs)
    if inputs.streamed:
        _check_streamed(asked or ["adacomed"], experiment)
        asked = asked or [m for m in method_names(inputs, all_=False) if m not in IN_MEMORY]
    if inputs.outcome.kind != "classes":
        _check_outcome(asked or ["adacomed"], inputs, experiment)
        asked = asked or outcome_methods(inputs)
    for name in asked or []:
        base, _ = variant(name, experiment)
        if base == BAYES != name:
            raise InputError(f"method {name!r}: {BAYES} has no settings, it is what is true")
        if base not in known:
            raise InputError(f"no method {base!r}{nearest(base, known)}")
    return list(dict.fromkeys(asked or method_names(inputs, all_=False)))


def outcome_methods(inputs: Inputs) -> list[str]:
    """Of the usual methods those that can say findings or hazards: the neural ones."""
    return [*FAMILY, *(f"{m}{SINGLE}" for m in inputs.vectors)]


def _check_outcome(asked: Sequence[str], inputs: Inputs, experiment: Experiment) -> None:
    """Raise an InputError for a method or a setting that only reads class tasks."""
    kind = {"findings": "several findings", "survival": "survival"}[inputs.outcome.kind]
    for name in asked:
        base, settings = variant(name, experiment)
        if base in CLASSICAL:
            works = ", ".join([*outcome_methods(inputs), *PLAIN_ON_REQUEST])
            raise InputError(f"{name} reads class tasks only, this one is {kind}; use {works}")
        if base == "adacomed" and settings.model.strategy == "reliable":
            raise InputError(
                f"model.strategy reliable reads class tasks only, this one is {kind}; use auto or "
                f"one of Table 1"
            )


def _check_streamed(asked: Sequence[str], experiment: Experiment) -> None:
    """Raise an InputError for what needs every patient in memory, where vectors are on disk."""
    way = "or keep the vectors in memory with training.stream=no"
    for name in asked:
        base, settings = variant(name, experiment)
        if base in IN_MEMORY:
            raise InputError(
                f"method {name!r} is fitted on every patient at once, but the vectors stay on disk "
                f"(training.stream); name neural methods only, {way}"
            )
        if base in WITH_SMALL and settings.small.kind in SCORED:
            raise InputError(
                f"small.kind {settings.small.kind} is fitted on every patient at once, but the "
                f"vectors stay on disk (training.stream); use small.kind=shallow, {way}"
            )


def variant(name: str, experiment: Experiment) -> tuple[str, Experiment]:
    """A method's base name and its settings: `adacomed?model.lambda=0&training.epochs=5`.

    Raises:
        InputError: a setting that is unknown, wrong, or would change whom the method is given.
    """
    base, _, words = name.partition("?")
    changes = [word for word in words.split("&") if word]
    for word in changes:
        if not word.startswith(VARIED):
            raise InputError(
                f"method {name!r}: {word!r} cannot vary between methods; what can begins with "
                f"{', '.join(VARIED)}"
            )
    if changes:
        settings = experiment.model_dump(mode="json", by_alias=True, exclude_unset=True)
        experiment = parse(Experiment, override(settings, changes), f"method {name!r}")
    if base == "multimodal-pred":
        small = experiment.small.model_copy(update={"kind": base})
        experiment = experiment.model_copy(update={"small": small})
    return base, experiment


def family(name: str, experiment: Experiment) -> str:
    """Methods of one family share what they train in a fold: one process should have them all."""
    base, settings = variant(name, experiment)
    if base in LATE_FUSION:  # one set of members
        return f"{LATE_FUSION[0]} {shared_settings(settings)}"
    if base not in FAMILY:
        return name
    return shared_settings(settings)


def shared_settings(settings: Experiment) -> str:
    """What two methods must agree in to share a trainer: all but the strategy, named later."""
    free = settings.model.model_copy(update={"strategy": None})
    return settings.model_copy(update={"model": free}).model_dump_json()


def reads_raw(name: str, experiment: Experiment) -> bool:
    """Whether a method reads series, images and notes themselves."""
    base, settings = variant(name, experiment)
    return base in READ_RAW or (base in WITH_SMALL and settings.small.kind == "multimodal-pred")


def reads_vectors(name: str, experiment: Experiment) -> bool:
    """Whether a method reads the large encoders' vectors of series, images and notes."""
    base, settings = variant(name, experiment)
    raw_small = base == "small" and settings.small.kind == "multimodal-pred"
    return base not in READ_RAW and not raw_small
