"""`{kind: tabular, summarise: vitals}`: a table of a series' summary statistics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from adacomed.cohort.check import check
from adacomed.cohort.cohort import Cohort, load_cohort
from adacomed.cohort.sources import modality_source
from adacomed.errors import InputError
from adacomed.readers.statistics import STATISTICS
from adacomed.schema import TabularCard

Make = Callable[..., Path]
VITALS = {"kind": "series", "table": "vitals.csv"}


@pytest.fixture
def vitals(tmp_path: Path) -> pl.DataFrame:
    """Every patient's heart rate; temperature and lactate of some; nothing of 007 and 011."""
    rng = np.random.default_rng(0)
    rows = [
        (f"{i:03d}", float(h), variable, float(rng.normal(80, 9)))
        for i in range(40)
        for h in range(-2, 4)
        for variable, share in (("temp", 0.2), ("hr", 1.0), ("lactate", 0.1))
        if i not in (7, 11) and rng.random() < share
    ]
    schema = ["sample_id", "hours", "variable", "value"]
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    frame.write_csv(tmp_path / "vitals.csv")
    return frame


def summary(vitals: dict[str, Any] = VITALS, **card: Any) -> dict[str, Any]:
    """The modalities of a YAML with a summary of `vitals`."""
    clinical = {"kind": "tabular", "columns": ["age", "sex"]}
    stats = {"kind": "tabular", "summarise": "vitals"} | card
    return {"clinical": clinical, "vitals": vitals, "stats": stats}


def cohort(make: Make, *, labels: bool = True, **card: Any) -> Cohort:
    return load_cohort(make(modalities=summary(**card)), labels=labels)


def test_one_row_per_sample(make: Make, vitals: pl.DataFrame) -> None:
    mine = cohort(make)
    table = mine.table("stats")
    assert table.columns == [f"{v} {s}" for v in ("hr", "lactate", "temp") for s in STATISTICS]
    assert set(table.dtypes) == {pl.Float64}
    by_sample = pl.Series(mine.samples["sample_id"])
    for variable in ("hr", "lactate", "temp"):
        found = vitals.filter(pl.col("variable") == variable).group_by("sample_id")
        wanted = found.agg(pl.col("value").mean().alias("mean"), pl.len().alias("count"))
        wanted = pl.DataFrame({"sample_id": by_sample}).join(
            wanted, on="sample_id", how="left", maintain_order="left"
        )
        for name in ("mean", "count"):
            ours, theirs = table[f"{variable} {name}"], wanted[name].cast(pl.Float64)
            assert ours.is_null().equals(theirs.is_null())
            assert (ours - theirs).abs().max() < 1e-9
    few = mine.take(np.array([30, 7, 2]))
    assert few.table("stats").equals(table[[30, 7, 2]])


def test_a_window_and_limits_of_the_series_hold(make: Make, vitals: pl.DataFrame) -> None:
    card = {**VITALS, "window": [0, 24], "limits": {"hr": [0, 85]}}
    table = cohort(make, vitals=card).table("stats")
    inside = vitals.filter(pl.col("hours") >= 0, pl.col("variable") == "hr", pl.col("value") <= 85)
    assert table["hr count"].sum() == len(inside)
    assert table["hr max"].max() == inside["value"].max()


def test_some_columns_in_their_order(make: Make, vitals: pl.DataFrame) -> None:
    columns = ["temp max", "hr slope"]
    table = cohort(make, columns=columns).table("stats")
    assert table.columns == columns
    assert table.equals(cohort(make).table("stats").select(columns))


@pytest.mark.parametrize(
    ("card", "said"),
    [
        ({"summarise": "vitalls"}, "'vitalls' names no series; did you mean 'vitals'"),
        ({"summarise": "clinical"}, "'clinical' names no series; known: vitals"),
        ({"columns": ["hr median"]}, "'hr median' names no summary statistic"),
        ({"columns": ["hr mean", "temq mean"]}, r"no variable 'temq' in .* did you mean 'temp'"),
    ],
)
def test_names_that_are_wrong(make: Make, vitals: pl.DataFrame, card: Any, said: str) -> None:
    with pytest.raises(InputError, match=f"modality 'stats': .*{said}"):
        cohort(make, **card).table("stats")
    assert [e for e in check(make(modalities=summary(**card))).errors if "stats" in e]


@pytest.mark.parametrize(
    ("card", "said"),
    [
        ({"summarise": None}, "name at least one of the table's columns:, or a series"),
        ({"summarise": None, "columns": []}, "name at least one"),
        ({"table": "patients.csv"}, "summarise: makes numbers of a series; leave out table:"),
        ({"missing": [-1]}, "leave out table:, categorical: and missing:"),
        ({"columns": ["hr mean", "hr mean"]}, "'hr mean' is listed twice"),
    ],
)
def test_cards_that_say_too_little_or_too_much(make: Make, card: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        cohort(make, **card)


def test_a_cohort_without_any_series(make: Make) -> None:
    stats = {"stats": {"kind": "tabular", "summarise": "vitals"}}
    with pytest.raises(InputError, match="'vitals' names no series; the cohort has none"):
        load_cohort(make(modalities=stats)).table("stats")


def test_the_card_goes_through_json(make: Make) -> None:
    card = TabularCard(kind="tabular", summarise="vitals")
    assert TabularCard.model_validate(card.model_dump(mode="json", exclude_defaults=True)) == card
    assert TabularCard.model_validate(card.model_dump(mode="json")) == card


def test_new_patients_may_lack_a_named_variable(make: Make, vitals: pl.DataFrame) -> None:
    columns = ["hr mean", "bilirubin last"]
    table = cohort(make, columns=columns, labels=False).table("stats")
    assert table["bilirubin last"].null_count() == 40
    assert table["hr mean"].null_count() == 2
    with pytest.raises(InputError, match="no variable 'bilirubin'"):
        cohort(make, columns=columns).table("stats")


def test_check_counts_it(make: Make, vitals: pl.DataFrame) -> None:
    report = check(make(modalities=summary({**VITALS, "limits": {"lactate": [0, 1]}})))
    assert report.errors == []
    assert report.patterns == {"clinical + stats + vitals": 38, "clinical": 2}
    rows = {row["column"]: row for row in report.columns if row["modality"] == "stats"}
    assert list(rows) == ["hr", "lactate", "temp"]
    assert {row["type"] for row in rows.values()} == {"statistics"}
    seen = vitals.filter(pl.col("variable") == "temp")["sample_id"].n_unique()
    assert rows["temp"]["missing"] == pytest.approx(1 - seen / 40)
    assert rows["hr"]["distinct"] == 38
    assert "modality 'stats': 'lactate' was never observed" in report.warnings


def test_a_prompt_over_a_summary(make: Make, vitals: pl.DataFrame) -> None:
    mine = cohort(make, columns=["hr mean", "temp count"], prompt="generic-v1")
    source = modality_source(mine, "stats")
    assert len(source.items) == 38
    mean = mine.table("stats")["hr mean"][0]
    assert source.read([0])[0].startswith(f"hr mean: {mean:.6g}")
