"""Any MEDS dataset and a label file, such as ACES makes, → a cohort."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl

from adacomed.cohort.meds import (
    AT,
    LABEL,
    NOW,
    RARE_CODE,
    SAMPLE,
    Flow,
    common_codes,
    find_known,
    read_labels,
    with_split,
)
from adacomed.cohort.meds_files import SIMULATED, SUBJECT, data_files, read_about
from adacomed.cohort.meds_static import static_table, with_age
from adacomed.datasets.write import assert_writable, whole_or_nothing, write_tables
from adacomed.errors import InputError
from adacomed.schema import (
    CohortCard,
    CohortFiles,
    Labels,
    ModalityCard,
    Samples,
    SeriesCard,
    TabularCard,
    TaskCard,
)

RARE = 0.01  # share of the training samples below which a code is no input


def from_meds(
    source: Path, labels: Path, out: Path, *, task: str = "outcome", window: float | None = None
) -> dict[str, Any]:
    """Build a cohort: a sample is a subject at a prediction time.

    Its series are the codes with a number and a time, up to and including the prediction time,
    which is hour 48; its table the static codes, and the age where the birth is known. The split is
    the dataset's own.

    Args:
        source: folder of the dataset, with data/ and metadata/.
        labels: Parquet or csv file, or a folder of Parquet files: subject_id, prediction_time,
            boolean_value.
        out: folder to write; a cohort built there before is replaced.
        task: name of what the labels say.
        window: hours before the prediction time that are looked at, > 0; None: all.
    Returns:
        What flow.json holds: cohort, source, licence, steps, dropped, codes.
    Raises:
        InputError: a file is not as expected, or nobody is left.
    """
    if window is not None and not window > 0:
        raise InputError(f"--window {window:g}: expected hours above 0")
    assert_writable(out)
    data_files(source)
    flow = Flow()
    samples = with_split(source, read_labels(labels, flow), flow)
    with whole_or_nothing(out) as folder:
        into = folder.parent / "read"
        into.mkdir()
        parts, facts = find_known(source, samples, window, into, flow)
        codes = common_codes(parts, samples, RARE)
        seen = _write_events(parts, codes, folder / CohortFiles.EVENTS, flow)
        samples = samples.filter(pl.col(SAMPLE).is_in(seen.implode())).sort(SAMPLE)
        flow.step("with a measurement: the samples", samples, "nothing measured in the window")
        if samples.is_empty():
            raise _nobody(source, labels, flow)
        card = _write_samples(folder, source, samples, facts, task)
        document = _account(card, flow, codes, window)
        text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
        (folder / CohortFiles.FLOW).write_text(text, encoding="utf-8")
    return document


def _write_samples(
    folder: Path, source: Path, samples: pl.DataFrame, facts: pl.DataFrame, task: str
) -> CohortCard:
    """Write the card, the samples with their static facts, and the labels."""
    table, age = with_age(facts, samples)
    table, numbers, categories = static_table(facts, table, RARE)
    card = _card(source, samples, task, [*age, *numbers], categories)
    label = pl.col(LABEL).cast(pl.Int64).alias(Labels.LABEL)
    known = table.select(SAMPLE, pl.lit(task).alias(Labels.TASK), label)
    rows = table.drop(LABEL).with_columns(pl.col(SUBJECT).cast(pl.String))
    write_tables(folder, card, rows, known)
    return card


def _write_events(parts: list[Path], codes: list[str], out: Path, flow: Flow) -> pl.Series:
    """Write the events of these codes; the samples that have one."""
    if not parts:
        return pl.Series(SAMPLE, [], dtype=pl.String)
    rows = pl.scan_parquet([str(p) for p in parts], glob=False)
    kept = rows.filter(pl.col("variable").is_in(codes))
    kept.sink_parquet(out)
    counts = [f.select(pl.len()).collect().item() for f in (rows, pl.scan_parquet(out, glob=False))]
    flow.dropped[RARE_CODE] += counts[0] - counts[1]
    written = pl.scan_parquet(out, glob=False).select(pl.col(SAMPLE).unique())
    return written.collect(engine="streaming")[SAMPLE]


def _nobody(source: Path, labels: Path, flow: Flow) -> InputError:
    steps = "; ".join(f"{s['what']}: {s['samples']}" for s in flow.steps)
    later = "".join(f"; {n} measurements {why}" for why, n in sorted(flow.dropped.items()))
    return InputError(
        f"{labels}: no sample is left ({steps}{later}); are its subjects those of {source}?"
    )


def _card(
    source: Path, samples: pl.DataFrame, task: str, numbers: list[str], categories: list[str]
) -> CohortCard:
    about = read_about(source)
    name = str(about.get("dataset_name") or source.resolve().name)
    simulated = name.endswith(SIMULATED)
    version = about.get("dataset_version")
    modalities: dict[str, ModalityCard] = {
        "time": SeriesCard(kind="series", table=Path(CohortFiles.EVENTS))
    }
    if columns := [*numbers, *categories]:
        modalities["clinical"] = TabularCard(
            kind="tabular", columns=columns, categorical=categories
        )
    split = samples[Samples.SPLIT].null_count() < len(samples)
    return CohortCard(
        name=name.removesuffix(SIMULATED),
        title=f"{name}: {task}",
        simulated=simulated,
        source=f"MEDS dataset {name}" + (f", {version}" if version else ""),
        licence=str(about.get("license") or ""),
        table=Path(CohortFiles.SAMPLES),
        subject=Samples.SUBJECT_ID,
        sample=SAMPLE,
        split=Samples.SPLIT if split else None,
        labels=Path(CohortFiles.LABELS),
        tasks={task: TaskCard(positive="yes", negative="no")},
        modalities=modalities,
        notes=f"Hour {NOW:g} is the {AT.replace('_', ' ')}. Built by adacomed.",
    )


def _account(
    card: CohortCard, flow: Flow, codes: list[str], window: float | None
) -> dict[str, Any]:
    """What flow.json holds."""
    return {
        "cohort": card.name,
        "source": card.source,
        "licence": card.licence,
        "window": window,
        "steps": flow.steps,
        "dropped": [{"why": why, "rows": n} for why, n in sorted(flow.dropped.items()) if n],
        "codes": codes,
    }
