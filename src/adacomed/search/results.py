"""What a search leaves behind: best.yaml, trials.csv, and the sentences that keep it honest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl
import yaml

from adacomed.config import Experiment
from adacomed.report.page import interval, number
from adacomed.search.run import Search
from adacomed.search.space import applied
from adacomed.search.study import INDEX, REASON, SECONDS, best, complete, finished
from adacomed.search.validation import Gain, gain
from adacomed.training.writing import replacing, write_csv, write_json

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

BEST, TRIALS, PAGE, SUMMARY = "best.yaml", "trials.csv", "search.html", "search.json"
COLUMNS = ("trial", "state", "score", "steps", "seconds", "reason")  # and one per parameter
DONE, STOPPED = "complete", "stopped"


@dataclass(frozen=True)
class Found:
    """A search as it stands.

    Attributes:
        title: of the cohort and task; a simulated cohort's says so.
        metric: what the scores are.
        table: a row per trial: trial, state, score, seconds, reason, and a column per parameter.
        start, best: rows of the table.
        gain: of the best over the start; None where the start is the best.
        values: of the best trial's active parameters.
    """

    title: str
    metric: str
    table: pl.DataFrame
    start: dict[str, Any]
    best: dict[str, Any]
    gain: Gain | None
    values: dict[str, Any]

    @property
    def clear(self) -> bool:
        """Whether the interval of the gain lies above 0."""
        return self.gain is not None and self.gain.low > 0

    @property
    def scored(self) -> int:
        """Trials with a score."""
        return int((self.table["state"] == DONE).sum())

    def sentences(self) -> list[str]:
        """What the numbers mean, and what they do not."""
        n, name = len(self.table), self.metric.replace("_", " ").upper()
        if self.gain is None:
            if n == 1:
                return ["Only the experiment's own values were tried."]
            return [
                f"None of the other {n - 1} trials scored higher than the experiment's own values."
            ]
        g = self.gain
        said = f"{name} {interval(g.difference, g.low, g.high)} (95 %, paired)"
        first = f"Best less default on the same {g.patients} validation patients: {said}."
        if not self.clear:
            first += " That is within the noise of these patients: keep the defaults."
        warning = (
            f"The score of the best of {n} trials is optimistic, and so is this difference: it was "
            f"picked for being the highest. Train {BEST} and the defaults, and compare them on "
            f"test patients, once."
        )
        return [first, warning]

    def to_dict(self) -> dict[str, Any]:
        """For `--json` and search.json."""
        return {
            "title": self.title,
            "metric": f"{self.metric} on validation",
            "trials": len(self.table),
            "scored": self.scored,
            "stopped_early": len(self.table) - self.scored,
            "best": {**_shown(self.best), "values": self.values},
            "default": _shown(self.start),
            "difference": None if self.gain is None else self.gain._asdict(),
            "clearly_better": self.clear,
            "notes": self.sentences(),
        }


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("trial", "score", "seconds")}


def collect(search: Search, study: Study, title: str) -> Found | None:
    """The search as it stands; None before the experiment's own values have a score."""
    if not any(trial.user_attrs[INDEX] == 0 for trial in complete(study)):
        return None
    table = trials_table(study, [p.name for p in search.space])
    top = best(study)
    index = int(top.user_attrs[INDEX])
    rows = {row["trial"]: row for row in table.iter_rows(named=True)}
    inputs = search.objective.inputs
    found = None if index == 0 else gain(search.out, index, inputs)
    metric = inputs.outcome.metric
    return Found(title, metric, table, rows[0], rows[index], found, dict(top.params))


def trials_table(study: Study, names: list[str]) -> pl.DataFrame:
    """A row per trial that ended by itself; a parameter that was not active is null."""
    rows = [_row(trial, names) for trial in finished(study)]
    columns = None if rows else [*COLUMNS, *names]
    return pl.DataFrame(rows, schema=columns, infer_schema_length=None)


def _row(trial: FrozenTrial, names: list[str]) -> dict[str, Any]:
    scored = trial.state.name == "COMPLETE"
    return {
        "trial": trial.user_attrs[INDEX],
        "state": DONE if scored else STOPPED,
        "score": trial.value if scored else None,
        "steps": len(trial.intermediate_values),
        "seconds": trial.user_attrs.get(SECONDS),
        "reason": trial.user_attrs.get(REASON, ""),
        **{name: trial.params.get(name) for name in names},
    }


def best_experiment(search: Search, found: Found) -> Experiment:
    """The experiment with the best trial's values; its cohort's path works from anywhere."""
    experiment = applied(search.objective.experiment, found.values)
    return experiment.model_copy(update={"cohort": experiment.cohort.resolve()})


def write(search: Search, found: Found) -> None:
    """best.yaml, trials.csv and search.json, each whole or as it was."""
    data = best_experiment(search, found).model_dump(mode="json", by_alias=True, exclude_none=True)
    score, start = number(found.best["score"], 4), number(found.start["score"], 4)
    head = (
        f"# adacomed tune: trial {found.best['trial']} of {len(found.table)}, {found.metric} on "
        f"validation {score} (experiment's own values: {start})\n"
    )
    with replacing(search.out / BEST) as partial:
        partial.write_text(
            head + yaml.safe_dump(data, sort_keys=False, allow_unicode=True), "utf-8"
        )
    write_csv(found.table, search.out / TRIALS)
    write_json(search.out / SUMMARY, found.to_dict())


def text_found(found: Found) -> str:
    """Best and default side by side, and the sentences, for the terminal."""
    names = [name for name in found.table.columns if "." in name]
    width = max(len(name) for name in ["score", *names])
    lines = [f"{'':{width}}  {'best':>12}  {'default':>12}"]
    lines.append(f"{'trial':{width}}  {found.best['trial']:>12}  {found.start['trial']:>12}")
    both = [number(row["score"], 4) for row in (found.best, found.start)]
    lines.append(f"{found.metric:{width}}  {both[0]:>12}  {both[1]:>12}")
    for name in names:
        cells = [_cell(row[name]) for row in (found.best, found.start)]
        lines.append(f"{name:{width}}  {cells[0]:>12}  {cells[1]:>12}")
    return "\n".join([*lines, "", *found.sentences()])


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
