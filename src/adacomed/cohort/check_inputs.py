"""Every problem of a cohort's modalities: columns, vectors, files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from adacomed.cohort.items import inside, listed
from adacomed.cohort.problems import CheckReport
from adacomed.cohort.reading import SAMPLE, SUBJECT, read_statistics, tabular_source
from adacomed.cohort.table import code_column
from adacomed.cohort.vectors import Vector, list_items, usual_width, wrong_width
from adacomed.errors import InputError
from adacomed.readers.series import SeriesTable
from adacomed.schema import CohortCard, EmbeddingCard, SeriesCard, TabularCard


def check_modality(
    report: CheckReport,
    card: CohortCard,
    root: Path,
    samples: pl.DataFrame,
    modality: str,
    targets: dict[str, np.ndarray],
) -> np.ndarray:
    """Which samples have the modality, (N,) bool; its problems go to the report.

    Args:
        targets: task → class of every sample, to find a column that is the label by another name.
    """
    part, where = card.modalities[modality], f"modality {modality!r}"
    if isinstance(part, TabularCard):
        describe = _tabular if part.summarise is None else _statistics
        frame = describe(report, card, part, root, samples, modality)
        if not frame.width:
            return np.zeros(len(samples), bool)
        report.warnings += [f"{where}: {copy}" for copy in _copies(frame, targets)]
        return frame.select(pl.any_horizontal(pl.all().is_not_null())).to_series().to_numpy()
    if isinstance(part, EmbeddingCard):
        return _embedding(report, part, root, samples, where)
    if isinstance(part, SeriesCard):
        return _series(report, part, root, samples, where)
    table = None if part.table is None else root / part.table
    beside = [c for c in (part.time, getattr(part, "view", None)) if c]
    found = listed(samples, [part.column, *beside], table, card.keys, where)
    cells = [[str(row[0]) for row in mine] for mine in found]
    if part.root is not None:
        _files(report, root / part.root, cells, where)
        _shared(report, samples[SUBJECT].to_list(), cells, where)
    return np.array([bool(mine) for mine in cells])


def _series(
    report: CheckReport, part: SeriesCard, root: Path, samples: pl.DataFrame, where: str
) -> np.ndarray:
    """Read the whole table once; what its limits and window leave out is said."""
    table = SeriesTable(root / part.table, part)
    here = np.array([s is not None for s in table.content(samples[SAMPLE].to_list())])
    if not here.any():
        report.errors.append(
            f"{where}: no sample has a measurement in {part.table}; its column {part.sample!r} "
            f"must hold sample ids such as {samples[SAMPLE][0]!r}"
        )
    for name, n in ((name, n) for name, n in table.dropped.items() if n):
        report.warnings.append(f"{where}: {n} values of {name!r} lie outside its limits: left out")
    if table.outside:
        report.warnings.append(f"{where}: {table.outside} values lie outside the window: left out")
    return here


def _shared(report: CheckReport, subjects: list[str], cells: list[list[str]], where: str) -> None:
    """A file of two subjects: one person under two ids would be on both sides of a split."""
    owners: dict[str, set[str]] = {}
    for subject, mine in zip(subjects, cells, strict=True):
        for name in mine:
            owners.setdefault(name, set()).add(subject)
    several = {name: sorted(who) for name, who in owners.items() if len(who) > 1}
    if several:
        name, who = next(iter(several.items()))
        report.warnings.append(
            f"{where}: {len(several)} files belong to more than one subject, first {name!r} to "
            f"{' and '.join(who)}; if that is one person, give one id, or train and test may share "
            f"a patient"
        )


def _files(report: CheckReport, folder: Path, cells: list[list[str]], where: str) -> None:
    folder = folder.resolve()
    lost = []
    for name in (name for mine in cells for name in mine):
        try:
            inside(folder, name)
        except InputError:
            lost.append(name)
    if lost:
        report.errors.append(
            f"{where}: {len(lost)} files are not in {folder.name}, first {lost[0]!r}"
        )


def _tabular(
    report: CheckReport,
    card: CohortCard,
    part: TabularCard,
    root: Path,
    samples: pl.DataFrame,
    modality: str,
) -> pl.DataFrame:
    """The columns that can be read, typed; their description and problems go to the report."""
    where, ids = f"modality {modality!r}", samples[SAMPLE].to_list()
    for name in sorted(set(part.categorical) - set(part.columns)):
        report.errors.append(f"{where}: {name!r} is under categorical: but not under columns:")
    columns = []
    for name in dict.fromkeys(part.columns):
        one = part.model_copy(update={"columns": [name]})
        frame = report.attempt(tabular_source, card, one, root, samples, modality)
        coded = (
            None if frame is None else report.attempt(code_column, frame[name], part, ids, where)
        )
        if coded is None:
            continue
        columns.append(coded)
        kind = "number" if coded.dtype.is_numeric() else "category"
        distinct = _describe(report, modality, coded, kind)
        if distinct < 2:
            word = "is empty" if distinct == 0 else "is constant"
            report.warnings.append(f"{where}: column {name!r} {word}")
    return pl.DataFrame(columns)


def _statistics(
    report: CheckReport,
    card: CohortCard,
    part: TabularCard,
    root: Path,
    samples: pl.DataFrame,
    modality: str,
) -> pl.DataFrame:
    """The summary statistics of a series; one line a variable goes to the report."""
    frame = report.attempt(read_statistics, card, part, root, samples, modality)
    if frame is None:
        return pl.DataFrame()
    first: dict[str, pl.Series] = {}
    for column in frame:
        first.setdefault(column.name.rpartition(" ")[0], column)
    for variable, column in first.items():
        if not _describe(report, modality, column.alias(variable), "statistics"):
            report.warnings.append(f"modality {modality!r}: {variable!r} was never observed")
    return frame


def _describe(report: CheckReport, modality: str, column: pl.Series, kind: str) -> int:
    """A line of the report about a column; how many distinct values it has."""
    distinct = column.drop_nulls().n_unique()
    row = {"modality": modality, "column": column.name, "type": kind, "distinct": distinct}
    report.columns.append({**row, "missing": column.null_count() / max(len(column), 1)})
    return distinct


def _copies(frame: pl.DataFrame, targets: dict[str, np.ndarray]) -> Iterator[str]:
    """Columns from whose value the label can be told without fail, and the other way round."""
    for task, target in targets.items():
        labelled = frame.with_columns(pl.Series("", target)).filter(pl.col("") >= 0)
        for name in frame.columns:
            pairs = labelled.select(name, "").drop_nulls()
            distinct = pairs[name].n_unique()
            if distinct == pairs[""].n_unique() == pairs.n_unique() > 1:
                yield f"column {name!r} tells the label of task {task!r} without fail; is it one?"


def _embedding(
    report: CheckReport, part: EmbeddingCard, root: Path, samples: pl.DataFrame, where: str
) -> np.ndarray:
    """Read every vector; an unreadable one, or one of another width, is one error each."""
    items, strangers = list_items(part, root / part.root, samples, where)
    if strangers:
        report.warnings.append(
            f"{where}: {len(strangers)} vectors belong to no sample, first {strangers[0]!r}"
        )
    if not items:
        report.errors.append(f"{where}: no sample has a vector in {part.root}")
    problems: list[str] = []
    read: list[tuple[str, str, Vector]] = []
    for item in items:
        try:
            read.append((item.sample_id, item.name, item.read()))
        except InputError as error:
            problems.append(f"{where}: {error}")
    usual = usual_width([v for _, _, v in read]) if read else 0
    problems += [f"{where}: {wrong_width(n, len(v), usual)}" for _, n, v in read if len(v) != usual]
    report.add(problems, f"vectors of {where}")
    if usual and np.ptp(np.stack([v for _, _, v in read if len(v) == usual]), axis=0).max() == 0:
        report.warnings.append(f"{where}: all vectors are the same")
    return samples[SAMPLE].is_in([s for s, _, _ in read]).to_numpy()
