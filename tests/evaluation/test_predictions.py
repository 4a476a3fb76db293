from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from adacomed.errors import InputError
from adacomed.evaluation.predictions import Cells, read_predictions


def test_parquet_csv_and_a_run_folder_read_alike(table, tmp_path):
    frame = table(20).with_columns(sample_id=pl.int_range(pl.len()) % 20)
    frame.write_parquet(tmp_path / "predictions.parquet")
    frame.write_csv(tmp_path / "p.csv")
    found = read_predictions(tmp_path)
    assert found["sample_id"].dtype == pl.String
    assert found["label"].dtype == pl.Int64
    assert found.equals(read_predictions(tmp_path / "p.csv"))


def test_optional_columns_and_unknown_labels_are_no_error(table, tmp_path):
    frame = table(10).drop("threshold", "repeat", "fold", "seed")
    frame = frame.with_columns(label=pl.when(pl.col("label") == 1).then(1.0))
    frame.write_csv(tmp_path / "p.csv")
    found = read_predictions(tmp_path / "p.csv")
    assert found["label"].null_count() == frame["label"].null_count() > 0
    assert found["label"].dtype == pl.Int64


def several(**columns):
    return lambda frame: frame.with_columns(**columns)


def at(row, column, value):
    """Put `value` into the first row(s) of a column."""
    return several(
        **{
            column: pl.when(pl.int_range(pl.len()) < row)
            .then(pl.lit(value))
            .otherwise(pl.col(column))
        }
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda f: f.drop("prob", "method"),
            "column 'prob', 'method' is missing; it has sample_id",
        ),
        (lambda f: f.clear(), "has no rows"),
        (at(2, "prob", float("nan")), "prob of 2 rows is not a number in .0, 1.: p000, p001"),
        (at(1, "prob", None), "prob of 1 rows"),
        (at(7, "prob", 1.5), "p000, p001, p002, p003, p004 and 2 more"),
        (at(1, "threshold", -0.1), "threshold of 1 rows"),
        (several(prob=pl.lit("high")), "prob of 40 rows"),
        (at(1, "label", 2), "label of 1 rows is not a class 0 … 1 .p000.; more classes need"),
        (at(1, "label", -1), "label of 1 rows"),
        (several(label=pl.lit("died")), "label of 40 rows"),
        (at(1, "subject_id", None), "1 rows have no subject_id"),
        (at(3, "method", None), "3 rows have no method"),
    ],
)
def test_a_table_that_cannot_be_used_names_the_rows(table, tmp_path, change, says):
    change(table(20)).write_parquet(tmp_path / "p.parquet")
    with pytest.raises(InputError, match=says) as error:
        read_predictions(tmp_path / "p.parquet")
    assert str(tmp_path / "p.parquet") in str(error.value)


def test_several_classes_need_their_columns(table, tmp_path):
    frame = table(12).with_columns(label=pl.int_range(pl.len()) % 3)
    with_classes = frame.with_columns(
        prob_0=pl.lit(0.2), prob_1=pl.lit(0.3), prob_2=pl.lit(0.5), prob=pl.lit(0.5)
    )
    with_classes.write_parquet(tmp_path / "k.parquet")
    assert read_predictions(tmp_path / "k.parquet")["label"].max() == 2
    with_classes.with_columns(prob_1=pl.lit(-0.3)).write_parquet(tmp_path / "k.parquet")
    with pytest.raises(InputError, match="prob_1 of 24 rows"):
        read_predictions(tmp_path / "k.parquet")


def test_files_that_are_not_there_or_not_tables(tmp_path):
    (tmp_path / "predictions.csv").write_text("")
    (tmp_path / "broken.parquet").write_text("no")
    (tmp_path / "p.xlsx").write_text("no")
    for name, says in (
        ("predictions.cvs", "no such file; did you mean 'predictions.csv'"),
        ("", "predictions.parquet: no such file"),
        ("away/p.csv", "no such file"),
        ("broken.parquet", "not a readable parquet"),
        ("predictions.csv", "not a readable csv"),
        ("p.xlsx", "read from .parquet or .csv"),
    ):
        with pytest.raises(InputError, match=says):
            read_predictions(tmp_path / name)


def test_cells_are_repeats_and_seeds_with_their_folds_pooled(table):
    rows = table(30, {"adacomed": 1.0}, repeats=3)
    cells = Cells(rows)
    assert cells.keys == ["repeat", "seed"]
    assert sorted(np.unique(cells.columns["cell"], return_counts=True)[1]) == [30, 30, 30]
    assert not cells.independent
    assert Cells(rows.filter(repeat=0)).independent


def test_validation_patients_of_several_folds_are_cells_of_their_own(table):
    rows = table(30, {"adacomed": 1.0})
    twice = pl.concat([rows.with_columns(fold=pl.lit(f, pl.Int64)) for f in (0, 1)])
    assert Cells(twice).keys == ["repeat", "seed", "fold"]
    with pytest.raises(InputError, match=r"method 'adacomed': p000, p001, .* 25 more twice"):
        _ = Cells(pl.concat([rows, rows])).keys
