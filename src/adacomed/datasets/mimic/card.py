"""The card of a built MIMIC-IV-MM cohort."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from adacomed.datasets.mimic.labels import LONG, SHORT, SOON
from adacomed.datasets.mimic.release import Tables
from adacomed.datasets.mimic.variables import DEMOGRAPHICS, EVENTS
from adacomed.schema import (
    CohortCard,
    CohortFiles,
    FileCard,
    Samples,
    SeriesCard,
    TabularCard,
    TaskCard,
    TextCard,
)

RANGE = (1.0, 99.0)  # percentiles of a variable that become 0 and 1, as training's own
TASKS = {
    "mortality": TaskCard(
        positive="dead", negative="alive", description="death in hospital, whenever"
    ),
    "longstay": TaskCard(
        positive="long",
        negative="short",
        description=f"more than {LONG} days in hospital, among stays of {SHORT} days and more",
    ),
    "readmission": TaskCard(
        positive="readmitted",
        negative="not readmitted",
        description=f"next admission within {SOON} days of discharge",
    ),
}


def make_card(events: Path, images: Path, tables: Tables, *, paper: bool, split: str) -> CohortCard:
    """The card.

    Args:
        events: the events that were written; only variables that occur get a unit and limits.
        images: folder of MIMIC-CXR-JPG.
        tables: of the release; a simulated one makes a simulated cohort.
        paper: preset paper: scales of all data, and a split by sample.
        split: what kind of split it is, in words.
    """
    simulated = tables.simulated
    clinical = TabularCard(kind="tabular", columns=list(DEMOGRAPHICS))
    said, mark = ("SIMULATED release, no patients; ", " (simulated)") if simulated else ("", "")
    return CohortCard(
        name="mimic-iv-mm",
        title=f"MIMIC-IV-MM{mark}: X-ray, note and time series of the first 48 hours",
        simulated=simulated,
        source=f"{said}MIMIC-IV {tables.layout}, MIMIC-CXR-JPG, MIMIC-IV-Note",
        licence="none: simulated" if simulated else "PhysioNet Credentialed Health Data License",
        table=Path(CohortFiles.SAMPLES),
        subject=Samples.SUBJECT_ID,
        sample=Samples.SAMPLE_ID,
        split=Samples.SPLIT,
        split_by_sample=paper,
        labels=Path(CohortFiles.LABELS),
        tasks=TASKS,
        modalities={**_items(images), "time": _series(events, paper=paper), "clinical": clinical},
        groups=list(DEMOGRAPHICS),
        notes=f"Hour 0 is the hospital admission. Split: {split}. Built by adacomed.",
    )


def _items(images: Path) -> dict[str, FileCard | TextCard]:
    """X-rays, which stay in the release, and notes."""
    xray = FileCard(
        kind="image",
        table=Path(CohortFiles.IMAGES),
        column="path",
        root=images.resolve(),
        view="view",
        time="hours",
    )
    note = TextCard(kind="text", table=Path(CohortFiles.NOTES), column="text", time="hours")
    return {"xray": xray, "note": note}


def _series(events: Path, *, paper: bool) -> SeriesCard:
    """The events; only variables that occur have a unit and limits."""
    rows = pl.scan_parquet(events, glob=False)
    here = rows.select(pl.col("variable").unique()).collect(engine="streaming")["variable"]
    known = {v.name: v for v in EVENTS if v.name in set(here)}
    return SeriesCard(
        kind="series",
        table=Path(CohortFiles.EVENTS),
        units={name: v.unit for name, v in known.items()},
        limits={name: v.limits for name, v in known.items() if v.limits},
        bins=all_data_bins(rows) if paper else {},
    )


def all_data_bins(rows: pl.LazyFrame) -> dict[str, tuple[float, float]]:
    """Variable → RANGE of its values in ALL samples, the tested included, as in the original."""
    bins = {}
    for name in rows.select(pl.col("variable").unique().sort()).collect()["variable"]:
        values = rows.filter(pl.col("variable") == name).select("value").collect()["value"]
        low, high = np.percentile(values.to_numpy(), RANGE)
        bins[str(name)] = (float(low), float(high))
    return bins
