"""What is known of a run, in one place: the limits of use, the model card and TRIPOD+AI read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl
import yaml

from adacomed.report.encoders import Encoder, as_dict, encoders
from adacomed.report.mechanism import has
from adacomed.report.page import finite, measured
from adacomed.report.source import Source
from adacomed.schema import SPLITS, TEST, Predictions

FEW_EVENTS = 100  # below, an external validation is imprecise: Collins et al., Stat Med 2016
NOT_KNOWN = "not recorded"


@dataclass(frozen=True)
class Facts:
    """Plain facts of a run or a comparison.

    Attributes:
        counts: split → (subjects, samples, events or None with K > 2), labelled rows of the task.
        present: modality → share of the test patients who have it; empty: not recorded.
        scores: metric → "value [low, high]" of the headline method.
        settings: config.yaml as a dict.
        cohort: the cohort card, as far as inputs.json has it.
    """

    title: str
    task: str
    headline: str
    methods: tuple[str, ...]
    K: int
    counts: dict[str, tuple[int, int, int | None]]
    present: dict[str, float]
    encoders: tuple[Encoder, ...]
    scores: dict[str, str]
    settings: dict[str, Any]
    cohort: dict[str, Any]
    choices: dict[str, Any]
    flow: tuple[dict[str, Any], ...]
    groups: tuple[str, ...]
    simulated: bool = False
    random_weights: bool = False
    survival: bool = False
    repeated: bool = False
    folds: int = 1
    has_sets: bool = False
    has_stress: bool = False

    @property
    def events(self) -> int | None:
        """Test patients with the event; None for K > 2 classes."""
        return self.counts[TEST][2]

    @property
    def rarer(self) -> int | None:
        """Test samples in the rarer of two classes; of a survival task those with the event."""
        _, n, events = self.counts[TEST]
        if self.survival:
            return events
        return None if events is None else min(events, n - events)

    @property
    def nominal(self) -> float | None:
        """Coverage that the prediction sets were made for; None where not recorded."""
        evidence = self.settings.get("evidence")
        return finite(evidence.get("coverage")) if isinstance(evidence, dict) else None


def facts(source: Source, title: str, table: pl.DataFrame) -> Facts:
    """Collect the facts of a folder; `table` is `compare.summarise`'s of the test patients."""
    mine = source.predictions.filter(pl.col(Predictions.METHOD) == source.headline)
    settings = read_settings(source.config)
    cohort = source.inputs.get("cohort")
    return Facts(
        title=title,
        task=source.task,
        headline=source.headline,
        methods=tuple(source.methods),
        K=max(2, len(source.prob_columns)),
        counts={split: _counted(source, mine, split) for split in SPLITS},
        present=_present(source),
        encoders=encoders(source),
        scores=_scores(source, table),
        settings=settings,
        cohort=cohort if isinstance(cohort, dict) else {},
        choices=as_dict(source.inputs.get("choices")) or as_dict(source.metrics.get("choices")),
        flow=tuple(s for s in source.flow.get("steps") or [] if isinstance(s, dict)),
        groups=tuple(source.groups),
        simulated=source.simulated,
        random_weights=bool(source.metrics.get("random_weights")),
        survival=source.survival,
        repeated=source.repeated,
        folds=_folds(mine),
        has_sets=has(source.predictions, Predictions.SET),
        has_stress=source.stress is not None and not source.survival,
    )


def read_settings(config: str) -> dict[str, Any]:
    """config.yaml as a dict; empty where it cannot be read, as it is shown verbatim anyway."""
    try:
        return as_dict(yaml.safe_load(config) if config else {})
    except yaml.YAMLError:
        return {}


def _counted(source: Source, mine: pl.DataFrame, split: str) -> tuple[int, int, int | None]:
    rows = mine.filter(
        pl.col(Predictions.SPLIT) == split, pl.col(Predictions.LABEL).is_not_null()
    ).unique(Predictions.SAMPLE_ID)
    binary = len(source.prob_columns) == 1
    events = int((rows[Predictions.LABEL] == 1).sum()) if binary else None
    return rows[Predictions.SUBJECT_ID].n_unique(), len(rows), events


def _present(source: Source) -> dict[str, float]:
    rows = source.patients(source.headline)
    if rows.is_empty() or not has(rows, Predictions.PRESENT):
        return {}
    named = rows[Predictions.PRESENT].explode().drop_nulls().value_counts(sort=True)
    every = {str(name): count / len(rows) for name, count in named.iter_rows()}
    for modality in source.flow.get("modalities") or []:
        every.setdefault(str(modality.get("name")), 0.0)
    return dict(sorted(every.items()))


def _scores(source: Source, table: pl.DataFrame) -> dict[str, str]:
    mine = table.filter(pl.col(Predictions.METHOD) == source.headline)
    if mine.is_empty():
        return {}
    row = mine.row(0, named=True)
    named = [c for c in table.columns if f"{c}_low" in table.columns]
    return {
        c: measured(row, c, f"{c}_low", f"{c}_high") for c in named if finite(row[c]) is not None
    }


def _folds(mine: pl.DataFrame) -> int:
    if Predictions.FOLD not in mine.columns:
        return 1
    test = mine.filter(pl.col(Predictions.SPLIT) == TEST)
    return max(1, test[Predictions.FOLD].drop_nulls().n_unique())


# ---- limits of use ------------------------------------------------------------------------------
def limits(known: Facts) -> list[str]:
    """What the numbers cannot carry, each sentence drawn from a fact."""
    subjects, n, events = known.counts[TEST]
    said = [
        "Research use only: this is not a medical device, and no one has tested whether patients "
        "fare better with it."
    ]
    if known.simulated:
        said.append("The cohort is simulated: nothing here is about patients.")
    if known.random_weights:
        said.append("An encoder had random weights: the numbers say nothing of the method.")
    if n == 0:
        return [*said, "No test patient has a label, so nothing is known of how well it predicts."]
    counted = f"{n} test samples of {subjects} patients" if n != subjects else f"{n} test patients"
    if known.rarer is not None and known.rarer < FEW_EVENTS:
        said.append(
            f"There are {counted}, {events} of them with the event; with {known.rarer} of the "
            f"rarer kind every figure is imprecise (a validation wants about {FEW_EVENTS})."
        )
    said.append(
        "Training and test patients come from the same cohort: there is no external validation, "
        "and another hospital, scanner or year may give other numbers."
    )
    if known.folds > 1:
        said.append(
            f"The test figures pool {known.folds} folds, each with a model of its own; no single "
            "saved model was tested on all of these patients."
        )
    return said + _limits_of_inputs(known) + _limits_of_use(known)


def _limits_of_inputs(known: Facts) -> list[str]:
    said = [
        f"{name} is there for {share:.0%} of the test patients; for others the model has to do "
        "without it."
        for name, share in known.present.items()
        if share < 0.995
    ]
    said += [
        f"The encoder of {e.name} has seen {', '.join(e.contaminated)} in its training: its "
        "figures here may be too good."
        for e in known.encoders
        if e.contaminated
    ]
    unknown = [e.name for e in known.encoders if e.model and e.seen is None]
    if unknown:
        said.append(
            f"What the encoder of {', '.join(unknown)} was trained on is not known, so it may have "
            "seen these patients."
        )
    return said


def _limits_of_use(known: Facts) -> list[str]:
    said = []
    if not known.groups:
        said.append(
            "The predictions have no columns of sex, age or site, so nothing is known of how "
            "evenly the model serves them (groups: in the cohort's YAML)."
        )
    if not known.has_stress:
        said.append("How it does without a modality was not measured (no stress.parquet).")
    if not known.has_sets:
        said.append("There are no prediction sets: the model never says that it does not know.")
    if known.repeated:
        said.append(
            "Repeats and seeds share their patients; intervals resample patients, not runs."
        )
    return said
