"""MMIST ccRCC, the published layout, as a cohort: 618 patients with kidney cancer, alive or dead.

Source: Mota et al., "MMIST-ccRCC: a real world medical dataset for the development of multi-modal
systems", CVPR Workshops 2024; patients of TCGA-KIRC and CPTAC-CCRCC.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from adacomed.cohort.table import read_table, require_columns
from adacomed.cohort.vectors import SUFFIXES, owner, read_vector
from adacomed.datasets.write import assert_writable, vector_table, write_cohort
from adacomed.errors import InputError
from adacomed.schema import (
    TEST,
    TRAIN,
    CohortCard,
    CohortFiles,
    EmbeddingCard,
    Labels,
    Samples,
    TabularCard,
    TaskCard,
)

TASK = "vital_12"
TABLE = "clinical+genomic_split.csv"
CASE, STATUS, SPLIT = "case_id", "vital_status_12", "Split"
FOLDERS = {"ct": "CT", "mri": "MRI", "wsi": "WSI"}
EXAMS = {"ct": "patients_with_labels_CT_final.csv", "mri": "patients_with_labels_MR_final.csv"}
FEATURES = [
    "gender",
    "age_diag",  # decade-wide bins 1 … 8
    "grade",
    "cancer_history",
    "ajcc_path_tumor_pt",
    "ajcc_path_nodes_pn",
    "ajcc_clin_metastasis_cm",
    "ajcc_path_metastasis_pm",
    "ajcc_path_tumor_stage",
    "race_Asian",
    "race_Black or African American",
    "race_Hispanic or Latino",
    "race_White",
    "race_other",
    "VHL_mutation",
    "PBMR1_mutation",
    "TTN_mutation",
]
# TNM codes are names, not amounts: pt counts T1, T1a, T1b, T2, … (a bare T2 is not less than T2a),
# and pn, cm, pm hold "X, not assessed" as one code among the stages. One-hot reads no distance in.
CATEGORICAL = FEATURES[4:8]

# What the release holds, as published and as the paper uses it (Tables 4 and 5: complete cases).
EXPECTED = {
    "patients": 618,
    "train": 497,
    "test": 121,
    "with CT": 239,
    "with MRI": 52,
    "with WSI": 618,
    "deaths": 75,
    "deaths in train": 59,
    "deaths in test": 16,
    "complete (CT + WSI) in train": 181,
    "complete (CT + WSI) in test": 58,
    "deaths among complete in train": 10,
    "deaths among complete in test": 4,
}


def build(source: Path, out: Path, *, items: Literal["all", "chosen"] = "all") -> CohortCard:
    """Build the cohort; task `vital_12`, positive = dead at 12 months (the raw file codes 1 alive).

    Args:
        source: folder of the release, with Features/ and clinical+genomic_split.csv.
        out: folder to write; a cohort built there before is replaced.
        items: `all` scans and slides of a patient (averaged at load), or the one `chosen` by the
            release. It names chosen scans by path; item k is taken to be the patient's k-th path in
            patients_with_labels_*.csv, whose counts agree for every patient. Slides of people who
            are not in the table (476 of 2,907) are left out.
    Raises:
        InputError: the layout is another one.
    Warns:
        UserWarning: a count differs from EXPECTED.
    """
    if items not in ("all", "chosen"):
        raise InputError(f"items {items!r}: expected 'all' or 'chosen'")
    assert_writable(out)
    table = _read(source, TABLE, [CASE, STATUS, SPLIT, *FEATURES])
    ids = table[CASE].to_list()
    vectors = {m: _vectors(source, m, ids, items) for m in FOLDERS}
    has = {m: set(frame["sample_id"]) for m, frame in vectors.items()}
    samples = table.select(
        pl.col(CASE).alias(Samples.SAMPLE_ID),
        pl.col(CASE).alias(Samples.SUBJECT_ID),
        pl.col(SPLIT).alias(Samples.SPLIT),
        pl.Series("complete", [i in has["ct"] and i in has["wsi"] for i in ids]),
        *FEATURES,
        *_groups(),
    )
    labels = table.filter(pl.col(STATUS).is_in([0, 1])).select(
        pl.col(CASE).alias(Labels.SAMPLE_ID),
        pl.lit(TASK).alias(Labels.TASK),
        (1 - pl.col(STATUS)).alias(Labels.LABEL),
    )
    card = _card(items)
    write_cohort(out, card, samples, labels, vectors)
    for what, expected, found in counts(samples, labels, has).rows():
        if expected != found:
            warnings.warn(f"MMIST ccRCC, {what}: expected {expected}, found {found}", stacklevel=2)
    return card


def _groups() -> list[pl.Expr]:
    """Columns to report by, none of them an input: project, race and age at diagnosis as text."""
    project = pl.when(pl.col(CASE).str.starts_with("TCGA-")).then(pl.lit("TCGA-KIRC"))
    races = [c for c in FEATURES if c.startswith("race_")]
    race = pl.coalesce(pl.when(pl.col(c) == 1).then(pl.lit(c.removeprefix("race_"))) for c in races)
    decade = pl.col("age_diag").cast(pl.Int64).cast(pl.String)  # a code: not an age to be banded
    return [
        project.otherwise(pl.lit("CPTAC-CCRCC")).alias("project"),
        race.alias("race"),
        (pl.lit("decade ") + decade).alias("age"),
    ]


def counts(samples: pl.DataFrame, labels: pl.DataFrame, has: dict[str, set[str]]) -> pl.DataFrame:
    """Expected and found, row by row: what, expected, found.

    Args:
        has: modality → samples that have a vector of it.
    """
    dead = labels.filter(pl.col(Labels.LABEL) == 1)[Labels.SAMPLE_ID].implode()
    people = samples.with_columns(pl.col(Samples.SAMPLE_ID).is_in(dead).alias("dead"))
    part = {s: people.filter(pl.col(Samples.SPLIT) == s) for s in (TRAIN, TEST)}
    whole = {s: frame.filter("complete") for s, frame in part.items()}
    found = [
        len(people),
        *(len(frame) for frame in part.values()),
        *(len(has[m]) for m in FOLDERS),
        int(people["dead"].sum()),
        *(int(frame["dead"].sum()) for frame in part.values()),
        *(len(frame) for frame in whole.values()),
        *(int(frame["dead"].sum()) for frame in whole.values()),
    ]
    return pl.DataFrame({"what": EXPECTED.keys(), "expected": EXPECTED.values(), "found": found})


def built_counts(folder: Path) -> pl.DataFrame:
    """`counts` of a cohort that `build` wrote."""
    has = {
        m: set(pl.read_parquet(folder / CohortFiles.VECTORS / f"{m}.parquet")["sample_id"])
        for m in FOLDERS
    }
    samples = pl.read_parquet(folder / CohortFiles.SAMPLES)
    return counts(samples, pl.read_parquet(folder / CohortFiles.LABELS), has)


def _read(source: Path, name: str, columns: Sequence[str]) -> pl.DataFrame:
    if not (source / name).is_file():
        raise InputError(f"{source}: no {name}; give the folder of the MMIST ccRCC release")
    frame = read_table(source / name, ids=[CASE])
    require_columns(frame, columns, str(source / name))
    return frame


def _vectors(source: Path, modality: str, ids: list[str], items: str) -> pl.DataFrame:
    """Every item of a modality: sample_id, item, vector."""
    folder = source / "Features" / f"{FOLDERS[modality]} Features"
    if not folder.is_dir():
        raise InputError(f"{source}: no folder {folder.relative_to(source)}")
    files = sorted(f for f in folder.iterdir() if f.suffix in SUFFIXES)
    known = frozenset(ids)
    owners = {file: owner(file.stem, known) for file in files}  # slides: <id>-01Z-00-DX1
    chosen = _chosen(source, modality) if items == "chosen" else None
    kept = [
        (sample, file)
        for file, sample in owners.items()
        if sample is not None and (chosen is None or file.stem in chosen)
    ]
    if not kept:
        raise InputError(f"{folder}: no .npz file of a patient of {TABLE}")
    stack = [read_vector(file) for _, file in kept]
    if len({len(v) for v in stack}) > 1:
        raise InputError(f"{folder}: vectors of several widths: {sorted({len(v) for v in stack})}")
    names = [file.stem.removeprefix(f"{sample}-") for sample, file in kept]
    return vector_table([sample for sample, _ in kept], names, np.stack(stack))


def _chosen(source: Path, modality: str) -> set[str]:
    """File stems of the item that the release chose for each patient."""
    chosen = _read(source, f"{FOLDERS[modality]}_patientfiles.csv", [CASE, "chosen_exam"])
    if modality not in EXAMS:
        return {Path(name).stem for name in chosen["chosen_exam"]}
    exams = _read(source, EXAMS[modality], [CASE, "File"])
    numbered = exams.with_columns(pl.int_range(1, pl.len() + 1).over(CASE).alias("item"))
    picked = chosen.join(numbered, left_on=[CASE, "chosen_exam"], right_on=[CASE, "File"])
    return {f"{case}-{item}" for case, item in picked.select(CASE, "item").rows()}


def _card(items: str) -> CohortCard:
    vectors = {
        m: EmbeddingCard(kind="embedding", root=Path(CohortFiles.VECTORS) / f"{m}.parquet")
        for m in FOLDERS
    }
    clinical = TabularCard(
        kind="tabular",
        columns=FEATURES,
        categorical=CATEGORICAL,
        missing=[-1],
        prompt="mmist-ccrcc-v1",
    )
    return CohortCard(
        name="mmist-ccrcc",
        title="MMIST ccRCC: death within 12 months",
        source="Mota et al., CVPR Workshops 2024; TCGA-KIRC and CPTAC-CCRCC",
        licence="GPL-3 (the data set's site repository)",
        table=Path(CohortFiles.SAMPLES),
        subject=Samples.SUBJECT_ID,
        sample=Samples.SAMPLE_ID,
        split=Samples.SPLIT,
        labels=Path(CohortFiles.LABELS),
        tasks={TASK: TaskCard(positive="dead", negative="alive", description="at 12 months")},
        modalities={**vectors, "clinical": clinical},
        groups=["gender", "age", "race", "project"],
        notes=f"Vectors: {items} items of a patient. Codes −1 and blank mean not recorded.",
    )
