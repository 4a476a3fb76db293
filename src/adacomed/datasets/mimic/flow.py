"""Who left on the way to the cohort, which rows were dropped, and what the literature found."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from adacomed.schema import Labels, Samples

# The figures that a reader will compare with, and why ours can differ.
EXPECTED_COUNTS = {"samples": 34_537, "stays": 7_279, "patients": 6_485}
EXPECTED_SHARE = {"mortality": 0.124, "longstay": 0.588, "readmission": 0.043}
HAIM = "HAIM (Soenksen et al., npj Digital Medicine 2022), MIMIC-IV 1.0"
PAPER = "implied by Table 2 of the AdaCoMed paper"
WHY_OTHER = {
    "samples": "HAIM has several samples of a stay (34,540 files on PhysioNet); here a stay is one",
    "stays": "HAIM asks for a chest X-ray; here an AP view, a note and an event of the first 48 "
    "hours of the admission are needed",
    "patients": "as for the stays",
    "mortality": "here: death in hospital, whenever",
    "longstay": "here: more than 7 days in hospital, among those of 3 days and more",
    "readmission": "here by default: any admission within 30 days, those who died left out; the "
    "original counts only admissions in its cohort, and the dead as negatives (--preset paper)",
}


@dataclass
class Flow:
    """What `build` notes as it goes.

    Attributes:
        steps: as in an experiment's flow.json: what, subjects, samples, left_out, why; and stays,
            admissions.
        dropped: (variable or modality, reason) → rows.
        kept: variable or modality → rows that became inputs.
    """

    steps: list[dict[str, Any]] = field(default_factory=list)
    dropped: Counter[tuple[str, str]] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)

    def step(self, what: str, stays: pl.DataFrame, why: str = "") -> None:
        """Note who is still there: rows of subject, hadm_id, stay_id; `why` the others are not."""
        before = self.steps[-1]["samples"] if self.steps else len(stays)
        left = before - len(stays)
        self.steps.append(
            {
                "what": what,
                "subjects": stays["subject"].n_unique(),
                "admissions": stays["hadm_id"].n_unique(),
                "stays": stays["stay_id"].n_unique(),
                "samples": len(stays),
                "left_out": left,
                "why": why if left else "",
            }
        )

    def drop(self, reasons: pl.DataFrame) -> None:
        """Count dropped rows: a frame with the columns name, why; rows without a why are kept."""
        gone = reasons.filter(pl.col("why").is_not_null()).group_by("name", "why").len()
        for name, why, number in gone.iter_rows():
            self.dropped[name, why] += number


def label_rows(labels: pl.DataFrame, samples: int) -> list[dict[str, Any]]:
    """Of every task: samples labelled, not labelled, positive, and the share beside the expected.

    Args:
        labels: sample_id, task, label.
    """
    rows = []
    for task, expected in EXPECTED_SHARE.items():
        mine = labels.filter(pl.col(Labels.TASK) == task)[Labels.LABEL]
        positive = int(mine.sum())
        rows.append(
            {
                "task": task,
                "labelled": len(mine),
                "unlabelled": samples - len(mine),
                "positive": positive,
                "share": positive / len(mine) if len(mine) else None,
                "expected_share": expected,
            }
        )
    return rows


def expected_rows(
    steps: list[dict[str, Any]], labels: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """What the literature gives beside what was found: what, expected, found, source, why."""
    last = steps[-1]
    found = {"samples": last["samples"], "stays": last["stays"], "patients": last["subjects"]}
    rows = [
        {"what": what, "expected": n, "found": found[what], "source": HAIM, "why": WHY_OTHER[what]}
        for what, n in EXPECTED_COUNTS.items()
    ]
    for row in labels:
        task = row["task"]
        rows.append(
            {
                "what": f"share of {task}",
                "expected": row["expected_share"],
                "found": row["share"],
                "source": PAPER,
                "why": WHY_OTHER[task],
            }
        )
    return rows


def document(flow: Flow, labels: list[dict[str, Any]], about: dict[str, Any]) -> dict[str, Any]:
    """What flow.json holds.

    Args:
        labels: `label_rows`.
        about: what is said of the whole: cohort, release, preset, split, items, notes, …
    """
    dropped = [
        {"name": name, "why": why, "rows": number}
        for (name, why), number in sorted(flow.dropped.items())
    ]
    return {
        **about,
        "steps": flow.steps,
        "kept": dict(sorted(flow.kept.items())),
        "dropped": dropped,
        "labels": labels,
        "expected": expected_rows(flow.steps, labels),
    }


def splits(samples: pl.DataFrame) -> list[dict[str, Any]]:
    """Patients and samples of every part of the split."""
    parts = samples.group_by(Samples.SPLIT).agg(
        subjects=pl.col(Samples.SUBJECT_ID).n_unique(), samples=pl.len()
    )
    return parts.sort("samples", descending=True).to_dicts()


def write_json(path: Path, found: dict[str, Any]) -> None:
    """Write flow.json."""
    path.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
