from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from tests.conftest import shared

from adacomed.errors import InputError
from adacomed.readers import series as module
from adacomed.readers.series import Series, SeriesTable
from adacomed.schema import SeriesCard

ROWS = {
    "sample_id": ["P2", "P1", "P2", "P1", "P3", "P1"],
    "hours": [3.0, 5.5, 1.0, 0.0, 2.0, 0.0],
    "variable": ["na", "hr", "hr", "na", "hr", "hr"],
    "value": [140.0, 90.0, 70.0, 138.0, None, 60.0],
}


def table(path: Path, data: dict[str, Any] | pl.DataFrame = ROWS, /, **card: Any) -> SeriesTable:
    """The reader of these columns, written to `path`."""
    frame = data if isinstance(data, pl.DataFrame) else pl.DataFrame(data)
    frame.write_parquet(path) if path.suffix == ".parquet" else frame.write_csv(path)
    return SeriesTable(path, SeriesCard(kind="series", table=path, **card))


def triples(series: Series | None) -> list[tuple[float, str, float]] | None:
    if series is None:
        return None
    named = [series.names[i] for i in series.variable]
    return list(zip(series.hours.tolist(), named, series.value.tolist(), strict=True))


def random_long(rows: int, samples: int, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pl.DataFrame(
        {
            "sample_id": [f"S{i}" for i in rng.integers(0, samples, rows)],
            "hours": rng.uniform(0, 48, rows).round(2),
            "variable": [f"v{i}" for i in rng.integers(0, 7, rows)],
            "value": rng.normal(0, 1, rows),
        }
    )
    missing = pl.Series(rng.uniform(size=rows) < 0.2)
    return frame.with_columns(pl.when(~missing).then("value").alias("value"))


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_long(tmp_path: Path, suffix: str) -> None:
    found = table(tmp_path / f"labs{suffix}")
    assert found.names == ("hr", "na")
    one, three, two, unknown, again = found.read(["P1", "P3", "P2", "P9", "P1"])
    assert triples(one) == [(0, "hr", 60), (0, "na", 138), (5.5, "hr", 90)]
    assert triples(two) == [(1, "hr", 70), (3, "na", 140)]
    assert three is None  # a row, but nothing observed
    assert unknown is None
    assert triples(again) == triples(one)
    assert found.read([]) == []
    assert one is not None
    assert (one.hours.dtype, one.variable.dtype) == (np.float64, np.int64)


def test_wide_with_durations(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "stay": [7, 7, 8],
            "t": [dt.timedelta(minutes=90), dt.timedelta(0), dt.timedelta(hours=2)],
            "na": [140.0, None, None],
            "hr": [None, 60, 70],
            "crp": [None, None, None],
            "other": ["x", "y", "z"],
        }
    )
    card = {"sample": "stay", "time": "t", "columns": ["hr", "na", "crp"]}
    found = table(tmp_path / "dyn.parquet", frame, **card)
    assert found.names == ("hr", "na", "crp")
    assert triples(found.read(["7"])[0]) == [(0, "hr", 60), (1.5, "na", 140)]
    assert triples(found.read([8])[0]) == [(2, "hr", 70)]


@pytest.mark.parametrize("ids", [[3, 4], [3.0, 4.0], ["3", " 4 "]])
def test_ids_are_compared_as_text(tmp_path: Path, ids: list[Any]) -> None:
    columns = {"sample_id": ids, "hours": [0, 1], "variable": ["a", "a"], "value": [1, 2]}
    found = table(tmp_path / "t.parquet", columns)
    for asked in (["3", "4"], [3, 4], [3.0, 4.0]):
        assert [s and s.value.tolist() for s in found.read(asked)] == [[1.0], [2.0]]


def test_leading_zeros_of_a_csv_stay(tmp_path: Path) -> None:
    columns = {"sample_id": ["007"], "hours": [0], "variable": ["a"], "value": [1]}
    found = table(tmp_path / "t.csv", columns)
    assert found.read(["7"]) == [None]
    assert found.read(["007"]) != [None]


def test_semicolons_byte_order_mark_and_missing_codes(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    text = "sample_id;hours;variable;value\nA;0;hr;1\nA;1;hr;NA\nA;2;hr;\nA;3;hr; 2.5 \n"
    path.write_text("\ufeff" + text, encoding="utf-8")
    found = SeriesTable(path, SeriesCard(kind="series", table=path))
    assert triples(found.read(["A"])[0]) == [(0, "hr", 1), (3, "hr", 2.5)]


def test_window_and_limits(tmp_path: Path) -> None:
    limits = {"hr": (65, 95)}
    found = table(tmp_path / "t.parquet", window=(0, 3), limits=limits)
    assert triples(found.read(["P1"])[0]) == [(0, "na", 138)]
    assert triples(found.read(["P2"])[0]) == [(1, "hr", 70), (3, "na", 140)]
    assert found.dropped == {"hr": 1}  # 60; the 90 lies outside the window
    assert found.outside == 1
    assert found.names == ("hr", "na")
    nothing = table(tmp_path / "t.parquet", window=(100, 200))
    assert nothing.read(["P1", "P2"]) == [None, None]


def test_names_do_not_depend_on_who_is_asked_or_kept(tmp_path: Path) -> None:
    found = table(tmp_path / "t.parquet", window=(0, 0.5))
    (one,) = found.read(["P1"])
    assert one is not None
    assert one.names == ("hr", "na")


@pytest.mark.parametrize("layout", ["long", "wide"])
@pytest.mark.parametrize("order", ["sorted", "shuffled"])
def test_against_plain_polars(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, order: str
) -> None:
    """Many small pieces, so that every sample's rows lie in several."""
    monkeypatch.setattr(module, "PIECE", 400)
    long = random_long(3000, 40)
    if order == "sorted":
        long = long.sort("sample_id", "hours")
    card: dict[str, Any] = {"limits": {"v3": (-1, 1)}, "window": (2, 40)}
    frame = long
    if layout == "wide":
        long = long.unique(["sample_id", "hours", "variable"], keep="first", maintain_order=True)
        frame = long.pivot("variable", index=["sample_id", "hours"], values="value")
        card["columns"] = [f"v{i}" for i in range(7)]
    found = table(tmp_path / "t.parquet", frame, **card)
    kept = long.drop_nulls("value").filter(pl.col("hours").is_between(2, 40))
    bad = (pl.col("variable") == "v3") & ~pl.col("value").is_between(-1, 1)
    assert found.dropped == {"v3": len(kept.filter(bad))}
    kept = kept.filter(~bad).sort("hours", "variable", "value")
    rng = np.random.default_rng(1)
    for sample in [f"S{i}" for i in rng.permutation(42)]:
        mine = kept.filter(pl.col("sample_id") == sample)
        expected = mine.select("hours", "variable", "value").rows()
        assert triples(found.read([sample])[0]) == (expected or None)


def test_content_changes_with_a_measurement_and_nothing_else(tmp_path: Path) -> None:
    frame = random_long(300, 5)
    ids = [f"S{i}" for i in range(6)]
    before = table(tmp_path / "a.parquet", frame).content(ids)
    assert before[5] is None
    assert len(set(before)) == 6
    shuffled = frame.sample(fraction=1, shuffle=True, seed=3)
    assert table(tmp_path / "b.csv", shuffled).content(ids) == before
    row = frame["value"].is_not_null().arg_true()[0]
    for column, value in (("value", 9.5), ("hours", 47.123), ("variable", "v0")):
        if frame[column][row] == value:
            value = "v1"
        changed = frame.with_columns(
            pl.when(pl.int_range(pl.len()) == row)
            .then(pl.lit(value))
            .otherwise(column)
            .alias(column)
        )
        after = table(tmp_path / "c.parquet", changed).content(ids)
        differ = [i for i, b, a in zip(ids, before, after, strict=True) if a != b]
        assert differ == [frame["sample_id"][row]], column


@pytest.mark.parametrize(
    ("change", "card", "message"),
    [
        ({}, {"time": "hour"}, r"no column 'hour'; did you mean 'hours'"),
        ({}, {"columns": ["valeu"]}, r"no column 'valeu'; did you mean 'value'"),
        ({}, {"columns": ["value", "value"]}, r"'value' is asked for twice"),
        ({"value": ["1", "2", "high", "4", "", "6"]}, {}, r"text in .*'value', in row 3 \(sample"),
        ({"value": [1.0, np.inf, 2, 3, 4, 5]}, {}, r"infinite value .* row 2 \(sample P1\)"),
        ({"hours": [0.0, np.nan, 2, 3, 4, 5]}, {}, r"no finite time in 'hours' in row 2 \(sample"),
        ({"hours": [0.0, 1, 2, -np.inf, 4, 5]}, {}, r"no finite time in 'hours' in row 4"),
        ({"hours": [None, 1, 2, 3, 4, 5]}, {}, r"no finite time in 'hours' in row 1"),
        ({"hours": [dt.datetime(2020, 1, 1)] * 6}, {}, r"'hours' holds Datetime.*number of hours"),
        ({"hours": ["0:30"] * 6}, {}, r"text in the column 'hours', in row 1"),
        ({"variable": [None] + ["hr"] * 5}, {}, r"no 'variable' in row 1"),
        ({"sample_id": [None] + ["P1"] * 5}, {}, r"no 'sample_id' in row 1"),
        ({"value": [[1.0]] * 6}, {}, r"'value' holds List"),
        ({}, {"limits": {"HR": (0, 300)}}, r"limits for 'HR', no such variable; did you mean 'hr'"),
        ({}, {"units": {"nax": "mmol/L"}}, r"units for 'nax', no such variable"),
    ],
)
def test_what_cannot_be_used_is_named(
    tmp_path: Path, change: dict[str, Any], card: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        table(tmp_path / "labs.parquet", {**ROWS, **change}, **card)
    assert "labs.parquet" in str(caught.value)


def test_rows_are_counted_through_the_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PIECE", 40)  # 10 rows
    value = ["1"] * 33
    value[27] = "clotted"
    columns = {"sample_id": range(33), "hours": [0] * 33, "variable": ["k"] * 33, "value": value}
    with pytest.raises(InputError, match=r"in row 28 \(sample 27\)") as caught:
        table(tmp_path / "t.csv", columns)
    assert "clotted" not in str(caught.value)


def test_a_time_is_asked_only_of_observed_values(tmp_path: Path) -> None:
    columns = {**ROWS, "hours": [3.0, 5.5, 1.0, 0.0, None, 0.0]}  # P3 has no value either
    assert table(tmp_path / "t.parquet", columns).read(["P3"]) == [None]


def test_the_wrong_column_as_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_VARIABLES", 100)
    frame = random_long(500, 5).with_columns(value2=pl.lit(1.0))
    with pytest.raises(InputError, match=r"more than 100 variables in 'value'"):
        table(tmp_path / "t.parquet", frame, variable="value", value="value2")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("t.parquet", b"PAR1 but not really", "not a readable table"),
        ("t.parquet", b"", "not a readable table"),
        ("t.csv", b"", "no column|no row|not a readable"),
        ("t.csv", b"sample_id,hours,variable,value\n", "no row of measurements"),
        ("t.csv", b"sample_id,hours,variable,value\nA,1,hr\xff\xfe,2\n", "not UTF-8|not a read"),
        ("t.csv", b"sample_id,hours,variable,value\nA,1,hr,2,3,4\n", "more cells than the header"),
        ("t.csv", b"sample_id,hours,hours,value\nA,1,2,3\n", "names the column 'hours' twice"),
        ("t.xlsx", b"PK", r"expected a .parquet or .csv table, found '.xlsx'"),
        (None, b"", "no such table"),
    ],
)
def test_unreadable_files(tmp_path: Path, name: str | None, data: bytes, message: str) -> None:
    path = tmp_path / (name or "absent.csv")
    if name:
        path.write_bytes(data)
    with pytest.raises(InputError, match=message):
        SeriesTable(path, SeriesCard(kind="series", table=path))


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    found = table(tmp_path / "t.parquet")
    folder = Path(found._folder.name)
    assert [file.name for file in folder.iterdir()] == ["by-sample"]
    (one,) = found.read(["P1"])
    del found
    assert not folder.exists()
    assert one is not None
    assert one.value.sum() == 288  # it does not hang on the file


def test_intensive_care_demo() -> None:
    path = shared("icu-demo") / "dyn.parquet"
    frame = pl.read_parquet(path)
    columns = frame.columns[2:]
    card = SeriesCard(
        kind="series", table=path, sample="stay_id", time="time", columns=columns, window=(0, 24)
    )
    found = SeriesTable(path, card)
    stays = frame["stay_id"].unique(maintain_order=True).to_list()
    series = found.read([str(stay) for stay in stays])
    total = sum(len(s.hours) for s in series if s)
    assert total == frame.select(columns).count().sum_horizontal()[0]
    assert found.outside == 0
    mine = frame.filter(pl.col("stay_id") == stays[5])
    for i, name in enumerate(columns):
        expected = mine.sort("time")[name].drop_nulls().to_list()
        assert series[5] is not None
        assert series[5].value[series[5].variable == i].tolist() == expected
