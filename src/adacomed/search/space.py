"""What is searched: settings with their ranges, each active only where it is read.

A search starts from the experiment as it is, so every range holds the experiment's own value: one
that lies outside is taken in. σ, t and k are constants of one strategy of Table 1 and are drawn
only where that strategy is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import yaml

from adacomed.config import Experiment, parse
from adacomed.errors import InputError
from adacomed.models.weighting import TABLE_1
from adacomed.training.recipes import resolve_preset

if TYPE_CHECKING:
    from optuna.trial import Trial

STRATEGY = "model.strategy"
GROUPS = ("model.", "small.", "inputs.", "training.")
# who validates: a score under one value cannot be compared with a score under another. How many
# models are averaged in the end: no validation score depends on it
FIXED = ("validation", "inner_folds", "val_fraction", "members")
WORKS = "--search NAME=LOW:HIGH, NAME=LOW:HIGH:log, NAME=A,B,C or NAME=VALUE"


@dataclass(frozen=True)
class Parameter:
    """One setting that is searched.

    Attributes:
        name: the setting's key, such as model.lambda.
        start: the experiment's own value; trial 0 has it.
        low, high: both ends are in; None for choices.
        log: drawn evenly on the logarithm.
        whole: only integers.
        choices: what there is to choose from; empty for a range.
        strategies: active under these only; empty: always.
    """

    name: str
    start: Any
    low: float | None = None
    high: float | None = None
    log: bool = False
    whole: bool = False
    choices: tuple[Any, ...] = ()
    strategies: tuple[str, ...] = ()

    def active(self, strategy: str) -> bool:
        """Whether anything reads the setting under this strategy."""
        return not self.strategies or strategy in self.strategies

    def suggest(self, trial: Trial) -> Any:
        """A value of the trial's."""
        if self.choices:
            return trial.suggest_categorical(self.name, self.choices)
        assert self.low is not None
        assert self.high is not None
        if self.whole:
            return trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)

    def text(self) -> str:
        """The range in a few words.

        >>> Parameter("model.tau", 0.07, 0.02, 0.5, log=True).text()
        '0.02 to 0.5 (log)'
        """
        if self.choices:
            return ", ".join(str(choice) for choice in self.choices)
        return f"{self.low:g} to {self.high:g}" + (" (log)" if self.log else "")


def _range(low: float, high: float, *, log: bool, only: str = "") -> Callable[[str, Any], Any]:
    strategies = (only,) if only else ()

    def make(name: str, start: Any) -> Parameter:
        return _reaching(Parameter(name, start, low, high, log, strategies=strategies))

    return make


def _around(low: float, high: float) -> Callable[[str, Any], Any]:
    """From `low` to `high` times the start."""

    def make(name: str, start: Any) -> Parameter:
        return Parameter(name, start, low * start, high * start, log=True)

    return make


def _widths(name: str, start: Any) -> Parameter:
    sizes = {max(2, start // 4), max(2, start // 2), start, 2 * start}
    return Parameter(name, start, choices=tuple(sorted(sizes)))


def _strategies(name: str, start: Any) -> Parameter:
    return Parameter(name, start, choices=tuple(dict.fromkeys(["auto", *TABLE_1, start])))


RANGES: dict[str, Callable[[str, Any], Parameter]] = {
    # first: which of the others are active depends on it
    STRATEGY: _strategies,
    # λ: the contrastive loss starts near log(batch) = 4 nats, the task's near .7: at .02 an eighth
    # of the task, at 2 twelve times it
    "model.lambda": _range(0.02, 2.0, log=True),
    # d: a quarter to twice the preset's; the bank and p grow with it
    "model.d": _widths,
    # τ: below .02 only the hardest negative counts, above .5 all of them count alike
    "model.tau": _range(0.02, 0.5, log=True),
    # σ: s lies in [0, 1]; w_large at s = 1 goes from 1 (σ = .1) to .12 (σ = 2)
    "model.sigma": _range(0.1, 2.0, log=True, only="gaussian"),
    # t: a quantile of s with the default scale, s itself with raw: all of both
    "model.t": _range(0.0, 1.0, log=False, only="threshold"),
    # k: at 1 the weights stay within .27 and .73 for t = .5, at 30 it is a switch
    "model.k": _range(1.0, 30.0, log=True, only="threshold"),
    # a decade on either side of the preset's
    "training.lr": _around(0.1, 10.0),
}


def _reaching(parameter: Parameter) -> Parameter:
    """The same with the start inside; a logarithm cannot reach 0, so that such a range has none."""
    if parameter.choices:
        choices = tuple(dict.fromkeys([*parameter.choices, parameter.start]))
        return replace(parameter, choices=choices)
    assert parameter.low is not None
    assert parameter.high is not None
    low, high = min(parameter.low, parameter.start), max(parameter.high, parameter.start)
    return replace(parameter, low=low, high=high, log=parameter.log and low > 0)


def search_space(
    experiment: Experiment, asked: Sequence[str] = ()
) -> tuple[Experiment, list[Parameter]]:
    """The experiment that a search starts from, and what it varies.

    Args:
        asked: `NAME=LOW:HIGH[:log]` and `NAME=A,B,C` give a setting a range of its own,
            `NAME=VALUE` fixes it.
    Raises:
        InputError: not such a word, a setting that cannot be searched, or a value it cannot have.
    """
    words = _words(asked)
    experiment = applied(experiment, {n: _value(t) for n, t in words.items() if _fixes(t)})
    names = dict.fromkeys([*RANGES, *words])
    found = []
    for name in names:
        text = words.get(name)
        if text is not None and _fixes(text):
            continue
        start = start_of(experiment, name)
        parameter = RANGES[name](name, start) if name in RANGES else Parameter(name, start)
        if text is not None:
            parameter = _asked(parameter, text)
        found.append(_possible(experiment, parameter))
    if not found:
        raise InputError("nothing is left to search: every setting is fixed")
    return experiment, found


def _words(asked: Sequence[str]) -> dict[str, str]:
    words: dict[str, str] = {}
    for word in asked:
        name, sign, text = word.partition("=")
        if not sign or not text.strip() or name in words:
            raise InputError(f"--search {word!r}: expected {WORKS}, each name once")
        last = name.rpartition(".")[2]
        if not name.startswith(GROUPS) or last in FIXED:
            raise InputError(
                f"--search {name}: cannot be searched; what can begins with {', '.join(GROUPS)} "
                f"and is none of {', '.join(FIXED)}"
            )
        words[name] = text.strip()
    return words


def _fixes(text: str) -> bool:
    return ":" not in text and "," not in text


def _value(text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise InputError(f"--search {text!r}: the value is not valid YAML") from None
    try:
        return float(value) if isinstance(value, str) else value  # YAML reads 1e-4 as text
    except ValueError:
        return value


def _asked(parameter: Parameter, text: str) -> Parameter:
    """The parameter with the range that the user named."""
    name = parameter.name
    if "," in text:
        choices = tuple(_value(part) for part in text.split(","))
        if any(not isinstance(choice, str | int | float) for choice in choices):
            raise InputError(f"--search {name}={text}: expected plain values between the commas")
        plain = replace(parameter, low=None, high=None, log=False, choices=choices)
        return _reaching(plain)
    low, *more = text.split(":")
    try:
        ends = float(low), float(more[0])
        if more[1:] not in ([], ["log"]) or not all(map(math.isfinite, ends)):
            raise ValueError
    except ValueError:
        raise InputError(f"--search {name}={text}: expected {WORKS}") from None
    log = more[1:] == ["log"]
    if ends[0] >= ends[1] or (log and ends[0] <= 0):
        above = "0 < LOW < HIGH for a logarithm" if log else "LOW < HIGH"
        raise InputError(f"--search {name}={text}: expected {above}")
    start = parameter.start
    if isinstance(start, bool) or not isinstance(start, int | float):
        raise InputError(f"--search {name}={text}: a choice, not a number; expected {name}=A,B,C")
    whole = isinstance(start, int) and all(end == int(end) for end in ends)
    made = replace(parameter, low=ends[0], high=ends[1], log=log, whole=whole, choices=())
    return _reaching(made)


def _possible(experiment: Experiment, parameter: Parameter) -> Parameter:
    """The parameter, once the settings have taken its ends; a step above 1 is cut to 1."""
    if parameter.name == "training.lr" and parameter.high is not None:
        parameter = replace(parameter, high=min(parameter.high, 1.0))
    kind = int if parameter.whole else float
    ends = [kind(end) for end in (parameter.low, parameter.high) if end is not None]
    for value in parameter.choices or ends:
        applied(experiment, {parameter.name: value})
    return parameter


def start_of(experiment: Experiment, name: str) -> Any:
    """A setting's value in an experiment, from its preset where it was left out.

    Raises:
        InputError: no such setting, or it has no value before training.
    """
    group, _, key = name.partition(".")
    field = "lambda_" if key == "lambda" else key
    value = getattr(getattr(experiment, group, None), field, None)
    if value is None and group in ("model", "training"):
        value = getattr(resolve_preset(experiment), field, None)
    if value is None:
        applied(experiment, {name: None})  # says which key was probably meant
        raise InputError(f"--search {name}: has no value to start from; give it one, {name}=…")
    return value


def start_values(space: Sequence[Parameter]) -> dict[str, Any]:
    """The experiment's own values of what is active there: those of trial 0."""
    strategy = next((p.start for p in space if p.name == STRATEGY), "")
    return {p.name: p.start for p in space if p.active(strategy)}


def suggest(trial: Trial, space: Sequence[Parameter], strategy: str) -> dict[str, Any]:
    """A value for every parameter that is active.

    Args:
        strategy: the experiment's own, where it is not searched.
    """
    values: dict[str, Any] = {}
    for parameter in space:
        if parameter.active(str(values.get(STRATEGY, strategy))):
            values[parameter.name] = parameter.suggest(trial)
    return values


def applied(experiment: Experiment, values: Mapping[str, Any]) -> Experiment:
    """The experiment with these settings in place of its own.

    Raises:
        InputError: an unknown setting, or a value that it cannot have.
    """
    data = experiment.model_dump(mode="json", by_alias=True, exclude_unset=True)
    for name, value in values.items():
        group, _, key = name.partition(".")
        data[group] = {**data.get(group, {}), key: value}
    changed = parse(Experiment, data, "--search")
    resolve_preset(changed)  # says which values do not go together
    return changed


def described(space: Sequence[Parameter]) -> list[dict[str, Any]]:
    """The space as plain JSON, to tell whether two searches are of one space."""
    return [
        {**asdict(p), "choices": list(p.choices), "strategies": list(p.strategies)} for p in space
    ]
