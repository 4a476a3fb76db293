"""Series, tables and notes as people look at them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adacomed.cohort.cohort import Cohort, new_patients
from adacomed.readers.series import Series
from adacomed.readers.tabular import Amount, Category, TableEncoder
from adacomed.schema import CohortCard, TaskCard, TextCard
from adacomed.serve.views import notes as note_views
from adacomed.serve.views.notes import notes
from adacomed.serve.views.series import CHARTS, POINTS, charts, overview, thinned
from adacomed.serve.views.tables import cells

FITTED = TableEncoder(
    (Amount("age", 60.0, 0.1), Amount("same", 1.0, 0.0), Category("sex", ("F", "M")))
)


# ---- tables -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("age", "mark"), [(60.0, ""), (80.0, ""), (80.5, "high"), (40.0, ""), (39.0, "low")]
)
def test_a_value_far_from_the_training_patients_is_marked(age, mark):
    row = pl.DataFrame({"age": [age], "same": [1.0], "sex": ["F"]})
    found, constant, sex = cells(row, FITTED)
    assert (found.value, found.usual, found.mark) == (f"{age:g}", "60 ± 10", mark)
    assert constant.usual == "always 1, so it is not used"
    assert (sex.value, sex.usual, sex.mark) == ("F", "one of F, M", "")


def test_a_category_of_no_training_patient_is_new():
    row = pl.DataFrame({"age": [60.0], "same": [1.0], "sex": ["X"]})
    assert cells(row, FITTED)[2].mark == "new"


def test_a_code_is_known_by_its_integer():
    fitted = TableEncoder((Category("stage", ("1", "3")),))
    assert cells(pl.DataFrame({"stage": [3.0]}), fitted)[0].mark == ""
    assert cells(pl.DataFrame({"stage": [2]}), fitted)[0].mark == "new"


@pytest.mark.parametrize("blank", [None, float("nan")])
def test_what_is_not_recorded_is_no_value(blank):
    row = pl.DataFrame({"age": pl.Series([blank], dtype=pl.Float64)})
    (found,) = cells(row, FITTED)
    assert not found.recorded
    assert found.mark == ""


def test_a_table_of_no_fitted_columns_still_shows_its_values():
    (found,) = cells(pl.DataFrame({"b": [7]}), None)
    assert (found.value, found.usual) == ("7", "")


# ---- series -------------------------------------------------------------------------------------
def series(variables: int = 3, each: int = 5) -> Series:
    hours = np.tile(np.arange(float(each)), variables)
    order = np.argsort(hours, kind="stable")
    variable = np.repeat(np.arange(variables), each)
    names = (*(f"v{i:03d}" for i in range(variables)), "never")
    return Series(hours[order], variable[order], (variable * 100 + hours)[order], names)


def test_every_variable_has_its_chart_with_unit_and_hours():
    found = charts(series(), {"v001": "mmHg"}, "chart-0")
    assert [f.title for f in found] == ["v000", "v001 (mmHg)", "v002"]
    assert [f.id for f in found] == ["chart-0-0", "chart-0-1", "chart-0-2"]
    (data,), shape = found[1].spec["data"], found[1].spec["layout"]
    assert data["x"] == [0, 1, 2, 3, 4]
    assert data["y"] == [100, 101, 102, 103, 104]
    assert shape["xaxis"]["title"]["text"] == "hours"
    assert shape["yaxis"]["title"]["text"] == "mmHg"
    assert found[1].table.rows[4].cells == ["4.00", "104"]
    assert "measured 5 times from 0.0 to 4.0 hours" in found[1].alt


def test_one_measurement_is_said_as_one():
    once = Series(np.zeros(1), np.zeros(1, np.int64), np.full(1, 7.0), ("hr",))
    assert charts(once, {"hr": "/min"}, "c")[0].alt == "hr (/min): measured once, 7 at 0.0 hours."


def test_charts_share_their_hours():
    ranges = {tuple(f.spec["layout"]["xaxis"]["range"]) for f in charts(series(), {}, "c")}
    assert len(ranges) == 1


def test_too_many_variables_are_left_to_the_table():
    assert len(charts(series(40), {}, "c")) == CHARTS
    assert len(overview(series(40), {}).rows) == 40


def test_the_table_says_what_was_never_measured():
    table = overview(series(), {"v000": "/min"})
    assert table.rows[0].cells == ["v000", "/min", "5", "0", "4", "0", "4"]
    assert table.notes == ["1 of 4 variables were never measured."]


def test_a_hostile_name_or_unit_is_no_tag():
    hostile = Series(np.zeros(1), np.zeros(1, np.int64), np.ones(1), ("<b>x</b>",))
    (found,) = charts(hostile, {"<b>x</b>": "<i>"}, "c")
    assert "<i>" not in found.spec["data"][0]["hovertemplate"].replace("<extra></extra>", "")
    assert found.spec["layout"]["yaxis"]["title"]["text"] == "&lt;i&gt;"


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=1500))
def test_a_thinned_curve_keeps_its_order_and_its_extremes(values):
    array = np.array(values)
    kept = thinned(array)
    assert len(kept) <= POINTS
    assert (np.diff(kept) > 0).all()
    assert array[kept].min() == array.min()
    assert array[kept].max() == array.max()


# ---- notes --------------------------------------------------------------------------------------
def noted(*texts: str) -> Cohort:
    card = CohortCard(
        name="c",
        table="t.csv",
        subject="p",
        tasks={"t": TaskCard(column="x")},
        modalities={"note": TextCard(kind="text", column="note")},
    )
    return new_patients(card, Path("."), pl.DataFrame({"sample_id": ["p"], "note": list(texts)}))


def test_a_note_is_as_it_arrived():
    text = "One line.\n\n  <script>alert(1)</script>\ttwo"
    (found,), count = notes(noted(text), "note")
    assert (found.text, found.rest, count) == (text, 0, 1)


def test_a_long_note_says_what_is_left_out(monkeypatch):
    monkeypatch.setattr(note_views, "LONGEST", 10)
    (found,), _ = notes(noted("x" * 25), "note")
    assert (found.text, found.rest) == ("x" * 10, 15)
