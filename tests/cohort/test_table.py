from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from adacomed.cohort.table import as_text, read_table
from adacomed.errors import InputError


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_csv_that_programs_write(tmp_path: Path, separator: str, start: str, end: str) -> None:
    lines = [["id", "age", "code", "ward"], ["007", "61.5", "01", "A"], ["8", "NA", "02", ""]]
    text = start + end.join(separator.join(line) for line in lines) + end
    (tmp_path / "t.csv").write_bytes(text.encode())
    table = read_table(tmp_path / "t.csv", ids=["id"])
    assert table.to_dict(as_series=False) == {
        "id": ["007", "8"],
        "age": [61.5, None],
        "code": ["01", "02"],
        "ward": ["A", None],
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Jürgen".encode("latin1"), "UTF-8"),
        (b"", "is empty"),
        (b"id,age\np1,60\np2,61,secret\n", "more cells than the header"),
    ],
)
def test_unreadable_tables(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read_table(tmp_path / "t.csv")
    assert "secret" not in str(error.value)
    (tmp_path / "t.parquet").write_bytes(content)
    with pytest.raises(InputError, match="not a readable"):
        read_table(tmp_path / "t.parquet")
    (tmp_path / "t.xlsx").write_bytes(content)
    with pytest.raises(InputError, match=r"found '\.xlsx'"):
        read_table(tmp_path / "t.xlsx")


def test_one_spelling_of_a_value() -> None:
    floats = pl.Series([3.0, 2.5, np.nan, None, np.inf, -1.0, 1e12])
    expected = ["3", "2.5", None, None, "inf", "-1", "1000000000000"]
    assert as_text(floats).to_list() == expected
    assert as_text(pl.Series([" a ", "", "  ", None])).to_list() == ["a", None, None, None]
    assert as_text(pl.Series([True, None])).to_list() == ["true", None]
