"""Summary statistics of series against pandas and numpy.polyfit, and a patient by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest

from adacomed.errors import InputError
from adacomed.readers import statistics as module
from adacomed.readers.series import Series, SeriesTable
from adacomed.readers.statistics import STATISTICS, statistics_table, summarise
from adacomed.schema import SeriesCard

from .test_series import random_long


def read(path: Path, frame: pl.DataFrame, **card: object) -> SeriesTable:
    frame.write_parquet(path)
    return SeriesTable(path, SeriesCard(kind="series", table=path, **card))


def by_pandas(frame: pl.DataFrame, samples: list[str]) -> pd.DataFrame:
    """The same table from pandas: group by group, in time order, ties by value."""
    rows = pd.DataFrame(frame.drop_nulls().to_dict(as_series=False))
    rows = rows.sort_values(["hours", "value"])
    groups = rows.groupby(["sample_id", "variable"])
    value = groups["value"]
    found = value.agg(["mean", "min", "max", "first", "last", "count"]).astype(float)
    found["std"] = value.std(ddof=0)
    found["slope"] = [
        np.polyfit(g.hours, g.value, 1)[0] if g.hours.nunique() > 1 else np.nan for _, g in groups
    ]
    wide = found.unstack("variable").swaplevel(axis=1).reindex(samples)
    wide.columns = [" ".join(pair) for pair in wide.columns]
    return wide


@pytest.mark.parametrize("piece", [256, 3])
def test_like_pandas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(module, "READ_AT_ONCE", piece)
    frame = random_long(400, 20).filter(~pl.col("sample_id").is_in(["S3", "S7"]))
    frame = frame.with_columns((pl.col("hours") / 4).round())  # many at one time
    samples = [f"S{i}" for i in range(20)][::-1]
    found = statistics_table(read(tmp_path / "labs.parquet", frame), samples)
    wanted = by_pandas(frame, samples)
    variables = sorted(set(frame["variable"]))
    assert found.columns == [f"{v} {s}" for v in variables for s in STATISTICS]
    ours = found.fill_null(np.nan).to_numpy()
    np.testing.assert_allclose(ours, wanted[found.columns].to_numpy(), rtol=1e-9, atol=1e-12)
    assert np.isnan(ours).all(1).tolist() == [s in ("S3", "S7") for s in samples]
    assert 0.05 < np.isnan(ours).mean() < 0.9


def test_a_patient_by_hand() -> None:
    names = ("crp", "hr", "k")
    series = Series(
        hours=np.array([-1.0, 0.0, 1.0, 1.0, 3.0]),
        variable=np.array([1, 2, 1, 1, 1]),
        value=np.array([60.0, 4.1, 70.0, 90.0, 80.0]),
        names=names,
    )
    found = summarise(series)
    assert found.shape == (3, 8)
    assert np.isnan(found[0]).all()
    # hr: hours −1 1 1 3 around 1, values 60 70 90 80 around 75: slope (30 + 10) / (4 + 4)
    std = np.sqrt((15**2 + 5**2 + 15**2 + 5**2) / 4)
    np.testing.assert_allclose(found[1], [75, std, 60, 90, 60, 80, 5, 4], rtol=1e-12)
    np.testing.assert_array_equal(found[2], [4.1, 0, 4.1, 4.1, 4.1, 4.1, np.nan, 1])


def test_ties_and_times_next_to_each_other() -> None:
    def one(hours: list[float], value: list[float]) -> dict[str, float]:
        n = len(hours)
        series = Series(np.array(hours), np.zeros(n, np.int64), np.array(value), ("x",))
        return dict(zip(STATISTICS, summarise(series)[0].tolist(), strict=True))

    same = one([0.1] * 3, [1.0, 2.0, 5.0])  # rounding in the mean of 0.1 three times
    assert (same["first"], same["last"]) == (1, 5)
    assert np.isnan(same["slope"])
    assert np.isnan(one([0.0, 1e-300], [-1e18, 1e18])["slope"])
    assert one([0.0, 0.5], [3.0, 4.0])["slope"] == 2
    nothing = Series(np.zeros(0), np.zeros(0, np.int64), np.zeros(0), ("x", "y"))
    assert np.isnan(summarise(nothing)).all()


def test_wide_tables_are_sorted_and_windows_and_limits_hold(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "sample_id": ["a", "a", "a", "b"],
            "hours": [-5.0, 0.0, 2.0, 30.0],
            "na": [1.0, 140.0, None, 150.0],
            "hr": [50.0, 60.0, 999.0, 70.0],
        }
    )
    card = {"columns": ["na", "hr"], "window": (0, 24), "limits": {"hr": (0, 300)}}
    found = statistics_table(read(tmp_path / "x.parquet", frame, **card), ["a", "b"])
    assert found.columns[:2] == ["hr mean", "hr std"]
    assert found["hr count"].to_list() == [1, None]
    assert found["hr max"].to_list() == [60, None]
    assert found["na first"].to_list() == [140, None]


def test_a_subset_in_its_order_and_what_cannot_be_named(tmp_path: Path) -> None:
    table = read(tmp_path / "x.parquet", random_long(100, 5))
    samples = [f"S{i}" for i in range(5)]
    every = statistics_table(table, samples)
    some = ["v3 last", "v1 mean"]
    assert statistics_table(table, samples, some).equals(every.select(some))
    with pytest.raises(InputError, match="did you mean 'mean'"):
        statistics_table(table, samples, ["v1 men"])
    with pytest.raises(InputError, match=r"no variable 'vv1' in .*x\.parquet; did you mean 'v1'"):
        statistics_table(table, samples, ["vv1 mean"])
    square = statistics_table(table, samples[:2], some)  # as many samples as columns
    assert square.equals(every.select(some)[:2])
    new = statistics_table(table, samples, [*some, "w1 mean"], strict=False)
    assert new.select(some).equals(every.select(some))
    assert new["w1 mean"].dtype == pl.Float64
    assert new["w1 mean"].null_count() == 5
    with pytest.raises(InputError, match="names no summary statistic"):
        statistics_table(table, samples, ["age"], strict=False)


def test_a_table_in_which_nothing_was_observed(tmp_path: Path) -> None:
    nothing = pl.lit(None, pl.Float64)
    frame = random_long(10, 2).with_columns(variable=nothing, value=nothing)
    with pytest.raises(InputError, match="not one value"):
        statistics_table(read(tmp_path / "x.parquet", frame), ["S0"])
