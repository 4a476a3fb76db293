"""The parts of a cohort, each read on its own, so that a check can report every problem."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from adacomed.cohort import labels as coding
from adacomed.cohort import tasks
from adacomed.cohort.table import as_text, code_column, read_table, require_columns
from adacomed.config import parse, read_yaml
from adacomed.errors import InputError, nearest
from adacomed.readers.series import SeriesTable
from adacomed.readers.statistics import statistics_table
from adacomed.schema import (
    SPLITS,
    CohortCard,
    CohortFiles,
    FileCard,
    Labels,
    Samples,
    SeriesCard,
    TabularCard,
    TextCard,
)

SAMPLE, SUBJECT, SPLIT = Samples.SAMPLE_ID, Samples.SUBJECT_ID, Samples.SPLIT


def read_card(path: Path) -> tuple[CohortCard, Path]:
    """The card and the YAML it came from."""
    file = path / CohortFiles.CARD if path.is_dir() else path
    if path.is_dir() and not file.is_file():
        raise InputError(f"{path}: no {CohortFiles.CARD} in this folder")
    return parse(CohortCard, read_yaml(file), str(file)), file.resolve()


def read_samples(card: CohortCard, root: Path) -> pl.DataFrame:
    """The cohort's table with sample_id, subject_id, split first; every sample has an id.

    Raises:
        InputError: a column is missing, a row has no id, a split name is unknown.
    """
    path = root / card.table
    ids = list(dict.fromkeys([card.subject, *card.sample_columns]))
    frame = read_table(path, ids=ids)
    require_columns(frame, ids + ([card.split] if card.split else []), str(path))
    if not len(frame):
        raise InputError(f"{path}: has a header but no row; expected one row per sample")
    for column in ids:
        nameless = as_text(frame[column]).is_null().arg_true().to_list()
        if nameless:
            raise InputError(f"{path}: no {column!r} in row {nameless[0] + 1}")
    split = pl.lit(None, pl.String) if card.split is None else as_text(frame[card.split])
    if isinstance(split, pl.Series):
        split = split.str.to_lowercase()
        unknown = split.filter(~split.is_in(list(SPLITS))).drop_nulls().unique().sort().to_list()
        if unknown:
            raise InputError(
                f"{path}: column {card.split!r} names the split {unknown[0]!r}, "
                f"expected one of {', '.join(SPLITS)} (or empty)"
            )
    own = frame.select(c for c in frame.columns if c not in (SAMPLE, SUBJECT, SPLIT))
    return frame.select(
        pl.concat_str([as_text(frame[c]) for c in card.sample_columns], separator="/").alias(
            SAMPLE
        ),
        as_text(frame[card.subject]).alias(SUBJECT),
        split.alias(SPLIT),
    ).hstack(own)


def duplicates(samples: pl.DataFrame) -> list[str]:
    """Sample ids that occur more than once."""
    return samples.filter(pl.col(SAMPLE).is_duplicated())[SAMPLE].unique().sort().to_list()


def assert_unique(samples: pl.DataFrame, card: CohortCard) -> None:
    """Raise an InputError that names the sample ids that occur twice."""
    twice = duplicates(samples)
    if twice:
        named = ", ".join(twice[:5]) + (f" and {len(twice) - 5} more" if len(twice) > 5 else "")
        column = " and ".join(map(repr, card.sample_columns))
        way = "; for several rows a patient, write sample: COLUMN, or sample: [COLUMN, COLUMN]"
        if card.sample and len(card.sample_columns) > 1:
            way = ""
        raise InputError(f"{card.table}: {column} must be unique, but {named} occurs twice{way}")


def input_columns(card: CohortCard, modality: str) -> list[str]:
    """Columns whose values a modality feeds to a model."""
    part = card.modalities[modality]
    if isinstance(part, TabularCard):
        return part.columns
    if isinstance(part, TextCard | FileCard) and part.table is None:
        beside = (part.time, part.view if isinstance(part, FileCard) else None)
        # of a file too: its name may tell the label
        return [part.column, *(c for c in beside if c)]
    return []


def leaks(card: CohortCard, modality: str) -> list[str]:
    """One message for each label, id or split column (or a column twice) among the inputs."""
    inputs = input_columns(card, modality)
    found = [
        f"modality {modality!r}: column {column!r} is the label of task {name!r}, take it out"
        for name, task in card.tasks.items()
        for column in tasks.label_columns(task)
        if column in inputs
    ]
    found += [
        f"modality {modality!r}: column {column!r} is listed twice"
        for column in dict.fromkeys(inputs)
        if inputs.count(column) > 1
    ]
    return found + [
        f"modality {modality!r}: column {column!r} is the {what}, not an input; take it out"
        for column, what in (
            (card.subject, "patient id"),
            *((column, "sample id") for column in card.sample_columns if column != card.subject),
            (card.split, "split"),
        )
        if column in inputs and not hasattr(card.modalities[modality], "root")  # a file's name may
    ]


def assert_no_leak(card: CohortCard) -> None:
    """Raise an InputError where a label, an id or the split is among the inputs."""
    for modality in card.modalities:
        for message in leaks(card, modality):
            raise InputError(message)


def read_task(
    card: CohortCard, task: str, root: Path, samples: pl.DataFrame, *, strict: bool
) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """One task's labels (sample_id, task, label[, time, bayes_prob]) and the names of its classes.

    The labels of several findings are one task each, `schema.finding_task`, and the names theirs.

    Args:
        strict: False for new patients: labels may be absent.
    Raises:
        InputError: no such column or file, a value that never occurs, an unclear coding.
    """
    part = card.tasks[task]
    tasks.assert_meaning(part, task)
    if part.findings is not None:
        columns = {
            finding: _label_column(card, task, column, root, samples, strict)
            for finding, column in tasks.finding_columns(part).items()
        }
        return tasks.code_findings(samples, columns, task, part, strict=strict)
    if part.column is None:
        return _labels_file(card, task, root, samples, strict)
    column = _label_column(card, task, part.column, root, samples, strict)
    if part.time is not None:
        time = _label_column(card, task, part.time, root, samples, strict)
        return tasks.code_survival(samples, column, time, task, part, strict=strict)
    target, names = coding.code_task(column, task, part, strict=strict)
    coded = samples.select(
        SAMPLE, pl.lit(task).alias(Labels.TASK), pl.Series(Labels.LABEL, target, dtype=pl.Int64)
    )
    return coded.filter(pl.col(Labels.LABEL) != coding.UNLABELLED), names


def _label_column(
    card: CohortCard, task: str, column: str, root: Path, samples: pl.DataFrame, strict: bool
) -> pl.Series:
    """The column that holds a task's labels, (N,); null for new patients who have none."""
    table, where = card.tasks[task].table, f"task {task!r}"
    there = column in samples.columns if table is None else (root / table).is_file()
    if not there and not strict:
        return pl.Series(column, [None] * len(samples), dtype=pl.String)
    if table is None:
        require_columns(samples, [column], f"{where}: {card.table}")
        return samples[column]
    return keyed_columns(card, [column], root / table, samples, where)[column]


def keyed_columns(
    card: CohortCard, columns: list[str], table: Path, samples: pl.DataFrame, where: str
) -> pl.DataFrame:
    """Columns of a table of their own, N rows in the samples' order; null where it lacks one.

    Raises:
        InputError: no such table or column, or two rows of one sample.
    """
    frame = read_table(table, ids=card.keys)
    key = next((k for k in card.keys if k in frame.columns), SAMPLE)
    require_columns(frame, [key, *columns], f"{where}: {table.name}")
    frame = frame.select(as_text(frame[key]).alias(SAMPLE), *columns)
    mine = frame.filter(pl.col(SAMPLE).is_in(samples[SAMPLE].implode()))
    twice = duplicates(mine)
    if twice:
        raise InputError(f"{where}: {table.name} has two rows of sample {twice[0]!r}")
    joined = samples.select(SAMPLE).join(mine, on=SAMPLE, how="left", maintain_order="left")
    return joined.select(columns)


def _labels_file(
    card: CohortCard, task: str, root: Path, samples: pl.DataFrame, strict: bool
) -> tuple[pl.DataFrame, tuple[str, ...]]:
    path = None if card.labels is None else root / card.labels
    if strict and path is None:
        raise InputError(f"task {task!r}: write column: NAME, or labels: FILE for the cohort")
    if path is None or (not strict and not path.is_file()):
        schema = {SAMPLE: pl.String, Labels.TASK: pl.String, Labels.LABEL: pl.Int64}
        found = pl.DataFrame(schema=schema)
    else:
        found = coding.read_labels(path, samples[SAMPLE].to_list(), [task])
    return found, coding.class_names(card.tasks[task], found[Labels.LABEL], task)


def tabular_source(
    card: CohortCard, part: TabularCard, root: Path, samples: pl.DataFrame, modality: str
) -> pl.DataFrame:
    """N rows, in the samples' order, that hold the columns of a table, as read.

    Raises:
        InputError: a column is missing, or a sample has two rows in the modality's own table.
    """
    where = f"modality {modality!r}"
    if part.table is None:
        require_columns(samples, part.columns, where)
        return samples.select(part.columns)
    return keyed_columns(card, part.columns, root / part.table, samples, where)


def read_statistics(
    card: CohortCard,
    part: TabularCard,
    root: Path,
    samples: pl.DataFrame,
    modality: str,
    *,
    strict: bool = True,
) -> pl.DataFrame:
    """The summary statistics of a series, N rows of Float64, null where not observed.

    Args:
        strict: False for new patients: their series may lack a variable.
    Raises:
        InputError: no such series modality, an unreadable table, or a column that it does not give.
    """
    where, cards = f"modality {modality!r}", card.modalities
    series = cards.get(part.summarise or "")
    if not isinstance(series, SeriesCard):
        known = [name for name, other in cards.items() if isinstance(other, SeriesCard)]
        hint = nearest(part.summarise or "", known) or "; the cohort has none"
        raise InputError(f"{where}: summarise: {part.summarise!r} names no series{hint}")
    table = SeriesTable(root / series.table, series)
    try:
        return statistics_table(table, samples[SAMPLE].to_list(), part.columns, strict=strict)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def read_columns(
    card: CohortCard,
    part: TabularCard,
    root: Path,
    samples: pl.DataFrame,
    modality: str,
    *,
    strict: bool = True,
) -> pl.DataFrame:
    """A tabular modality, N rows: amounts as Float64, categories as String, missing as null.

    Args:
        strict: as for `read_statistics`.
    """
    if part.summarise is not None:
        return read_statistics(card, part, root, samples, modality, strict=strict)
    where = f"modality {modality!r}"
    require_columns(
        pl.DataFrame(schema=dict.fromkeys(part.columns, pl.Null)), part.categorical, where
    )
    frame = tabular_source(card, part, root, samples, modality)
    ids = samples[SAMPLE].to_list()
    return pl.DataFrame([code_column(frame[c], part, ids, where) for c in part.columns])
