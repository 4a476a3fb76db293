from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from adacomed.cohort.check import check

Make = Callable[..., Path]


def test_a_sound_cohort_has_no_problem(make: Make) -> None:
    report = check(make())
    assert (report.errors, report.warnings) == ([], [])
    assert (report.samples, report.patients) == (40, 40)
    assert report.patterns == {"clinical": 40}
    assert [(row["class"], row["samples"]) for row in report.tasks] == [("N", 20), ("Y", 20)]
    assert [row["type"] for row in report.columns] == ["number", "category"]


def test_every_problem_is_reported_not_only_the_first(make: Make, tmp_path: Path) -> None:
    n = 40
    ids = ["Doe, Jane", "1954-03-12", "p2", "p2", *(f"p{k}" for k in range(4, n))]
    frame = pl.DataFrame(
        {
            "subject": ["a", "a", *ids[2:]],
            "patient": ids,
            "part": ["train", "test"] + ["train"] * (n - 3) + [None],
            "age": ["Methuselah", *(str(50 + k) for k in range(n - 1))],
            "one": [1] * n,
            "went_icu": ["Y", "N"] * 19 + [None, None],
            "died": ["N", "Y"] * 19 + [None, None],
            "flag": [1, 0] * 20,
        }
    )
    folder = tmp_path / "wsi"
    folder.mkdir()
    for name, values in {"p4": np.zeros(4), "p5": np.ones(4), "p6": np.ones(5)}.items():
        np.save(folder / f"{name}.npy", values)
    (folder / "p7.npy").write_bytes(b"nothing")
    np.save(folder / "stranger.npy", np.zeros(4))
    report = check(
        make(
            frame,
            subject="subject",
            sample="patient",
            split="part",
            tasks={
                "icu": {"column": "went_icu", "positive": "Y"},
                "lost": {"column": "wnt_icu", "positive": "Y"},
                "typo": {"column": "died", "positive": "yes"},
            },
            modalities={
                "clinical": {
                    "kind": "tabular",
                    "columns": ["age", "one", "flag", "went_icu", "nil"],
                },
                "wsi": {"kind": "embedding", "root": "wsi"},
                "note": {"kind": "text", "column": "notes"},
                "xray": {"kind": "image", "column": "patient", "root": "wsi"},
            },
        )
    )
    errors, warnings = "\n".join(report.errors), "\n".join(report.warnings)
    for clause in (
        "'p2' occurs more than once",
        "'a' is in two splits: test, train",
        "no column 'wnt_icu'; did you mean 'went_icu'",
        "task 'typo'",
        "'went_icu' is the label of task 'icu'",
        "numeric column 'age', at row 1",
        "no column 'nil'",
        "p6.npy: a vector of width 5, the others have 4",
        "p7.npy: not a readable vector",
        "no column 'notes'",
        "40 files are not in wsi",
    ):
        assert clause in errors, clause
    assert "Methuselah" not in errors + warnings  # ids are named, values never
    for clause in (
        "1 ids look like a date of birth (first in row 2)",
        "1 ids look like a name (first in row 1)",
        "1 samples are in no split",
        "4 of 40 samples have no label",
        "'one' is constant",
        "'flag' tells the label of task 'icu' without fail",
        "1 vectors belong to no sample, first 'stranger.npy'",
        "1 samples of class 'N' in test",
    ):
        assert clause in warnings, clause


def test_unknown_split_and_no_modality(make: Make) -> None:
    frame = pl.DataFrame(
        {
            "patient": [f"p{k}" for k in range(30)],
            "part": ["train", "holdout"] * 15,
            "age": [None, *range(29)],
            "sex": [None] + ["F", "M"] * 14 + ["F"],
            "went_icu": ["Y", "N"] * 15,
        }
    )
    report = check(make(frame, split="part"))
    assert any("names the split 'holdout'" in error for error in report.errors)
    assert any("1 samples have no modality at all, first 'p0'" in w for w in report.warnings)
    assert report.patterns == {"clinical": 29, "none": 1}


def test_running_numbers_are_no_dates_of_birth(make: Make) -> None:
    frame = pl.DataFrame(
        {
            "patient": [str(20_120_120 + k) for k in range(40)],
            "age": range(40),
            "sex": ["F", "M"] * 20,
            "went_icu": ["Y", "N", "N", "Y"] * 10,
        }
    )
    assert check(make(frame)).warnings == []
    born = [f"1954{m:02d}{d:02d}" for m in range(1, 5) for d in range(1, 11)]
    warnings = check(make(frame.with_columns(pl.Series("patient", born)))).warnings
    assert any("40 ids look like a date of birth" in w for w in warnings)
