from __future__ import annotations

import io

import polars as pl
import pytest

from adacomed.evaluation.compare import markdown, paired, summarise, text_paired, text_table
from adacomed.evaluation.tables import SHOWN, further_grids, summary_grid, text_further

SUMMARY = pl.DataFrame(
    {
        "task": "death",
        "method": ["small", "adacomed", "odd"],
        "n": 121,
        "n_events": 4,
        "auroc": [0.7777, 0.848, float("nan")],
        "auroc_low": [0.7, 0.8104, float("nan")],
        "auroc_high": [0.85, 0.8812, float("nan")],
        "brier": [0.1, 0.2, 0.3],
        "brier_low": [0.05, 0.1, 0.2],
        "brier_high": [0.2, 0.3, 0.4],
        "auroc_interval": "DeLong",
        "note": ["4 events: the interval is wide"] * 3,
    }
)


def test_text_has_the_best_on_top_and_the_note_once():
    assert text_table(SUMMARY).splitlines() == [
        "method      n  events              AUROC",
        "adacomed  121       4  0.848 (0.81–0.88)",
        "small     121       4  0.778 (0.70–0.85)",
        "odd       121       4                  –",
        "4 events: the interval is wide",
    ]


def test_a_note_of_one_method_names_it():
    one = SUMMARY.with_columns(note=pl.Series(["", "1 event: the interval is wide", None]))
    assert text_table(one).splitlines()[-1] == "adacomed: 1 event: the interval is wide"


def test_markdown_by_hand():
    assert markdown(SUMMARY.head(2)).splitlines() == [
        "| method | n | events | AUROC |",
        "| --- | --: | --: | --: |",
        "| adacomed | 121 | 4 | 0.848 (0.81–0.88) |",
        "| small | 121 | 4 | 0.778 (0.70–0.85) |",
        "",
        "4 events: the interval is wide",
    ]


def test_lower_is_better_goes_on_top_too_when_it_is_all_there_is():
    only = SUMMARY.drop("auroc", "auroc_low", "auroc_high")
    header, rows = summary_grid(only, ["brier"])
    assert header[-1] == "Brier"
    assert [row[0] for row in rows] == ["small", "adacomed", "odd"]
    assert rows[0][-1] == "0.100 (0.05–0.20)"


PAIRED = pl.DataFrame(
    {
        "task": "death",
        "method": ["small", "forest"],
        "reference": "adacomed",
        "metric": "auroc",
        "n": 618,
        "difference": [0.0123, -0.0071],
        "low": [0.001, -0.02],
        "high": [0.0251, 0.0049],
        "p": [0.0004, 0.31],
        "p_holm": [0.0008, 0.31],
    }
)


def test_paired_by_hand():
    assert text_paired(PAIRED).splitlines() == [
        "comparison           n  metric      difference (95 % CI)       p  p (Holm)",
        "adacomed − small   618   AUROC    0.012 (0.001 to 0.025)  <0.001    <0.001",
        "adacomed − forest  618   AUROC  −0.007 (−0.020 to 0.005)   0.310     0.310",
    ]
    assert markdown(PAIRED).splitlines()[2] == (
        "| adacomed − small | 618 | AUROC | 0.012 (0.001 to 0.025) | <0.001 | <0.001 |"
    )


def test_winners_and_further_tests_have_their_columns():
    table = PAIRED.with_columns(
        pl.Series("p_delong", [0.001, 0.2]),
        pl.Series("p_delong_holm", [0.002, 0.2]),
        pl.Series("p_corrected", [None, None], dtype=pl.Float64),
        pl.Series("p_corrected_holm", [None, None], dtype=pl.Float64),
        pl.Series("winner", ["adacomed", ""]),
    )
    header, _, won, level = markdown(table).splitlines()
    assert header.endswith("| p | p (Holm) | DeLong (Holm) | winner |")
    assert won.endswith("| <0.001 | <0.001 | 0.002 | adacomed |")
    assert level.endswith("| 0.310 | 0.310 | 0.200 | – |")


def test_probabilities_and_decisions_fit_the_width(table):
    frame = table(methods={f"method-{i}": 1.0 for i in range(5)})
    summary = summarise(frame, n=20)
    text = text_further(summary, 80)
    lines = text.splitlines()
    assert lines[0] == "Probabilities and decisions, 95 % intervals in brackets"
    assert max(map(len, lines)) <= 80
    assert sum(line.startswith("Brier") for line in lines) == 3  # 2 + 2 + 1 methods
    assert [m for line in lines for m in line.split() if m.startswith("method-")] == [
        f"method-{i}" for i in range(5)
    ]
    slope = next(line for line in lines if line.startswith("Calibration slope"))
    assert f"{summary['calibration_slope'][0]:.3f} (" in slope
    assert " to " in slope
    assert len(further_grids(summary, 200)) == 1
    both = pl.concat([summary, summary.with_columns(task=pl.lit("icu"))])
    assert [grid[0][0] for grid in further_grids(both, 200)] == ["death", "icu"]
    assert text_further(summary.select("task", "method", "n")) == ""


@pytest.mark.parametrize("events", [0, 30])
def test_a_table_read_back_from_csv_renders_the_same(table, events):
    frame = pl.concat([table(events=events), table(task="icu")])
    for computed, render in (
        (summarise(frame, n=20), text_table),
        (paired(frame, n=20), text_paired),
    ):
        back = pl.read_csv(io.StringIO(computed.write_csv()))
        assert render(back) == render(computed)
        assert markdown(back) == markdown(computed)
        assert render(computed).splitlines()[0].startswith("task")


def test_the_papers_six_are_shown(table):
    first = text_table(summarise(table(), n=20)).splitlines()[0].split()
    assert first == ["method", "n", "events", "AUROC", "AUPRC", "Acc", "mAP", "mAR", "mF1"]
    assert len(SHOWN) == 6


def test_empty_tables_are_their_header(table):
    assert text_table(summarise(table(), split="val")).startswith("method  n  events  AUROC")
    assert text_paired(paired(table(), split="val")).startswith("comparison  n")
