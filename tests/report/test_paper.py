from __future__ import annotations

import polars as pl
import pytest

from adacomed.report import paper

STRATEGIES = [
    *("Ensemble", "Learnable Weighted", "Inverse Contrastive"),
    *("Gaussian Contrastive", "Threshold Contrastive"),
]
METHODS = {
    2: ["XRay-Large", "Text-Large", "TimeSeries-Large"],
    4: ["WSI-Large", "CT-Large", "Clinical-Large"],
}


def row(table: pl.DataFrame, method: str, task: str | None = None) -> dict[str, float]:
    found = table.filter(pl.col("method") == method)
    if task is not None:
        found = found.filter(pl.col("task") == task)
    assert len(found) == 1
    return found.row(0, named=True)


def numbers(table: pl.DataFrame, method: str, task: str | None = None) -> list[float]:
    found = row(table, method, task)
    return [found[m] for m in paper.METRICS]


@pytest.mark.parametrize("number", [2, 3, 4, 5])
def test_shape_and_order(number):
    table = getattr(paper, f"table_{number}")()
    tasks = paper.TASKS if number < 4 else (None,)
    assert table.columns == ["task"] * (number < 4) + ["method", *paper.METRICS]
    large = METHODS.get(number, [])
    methods = ["Meta-Transformer", "OneLLM", *large, "Large-Ensemble", "MultimodalPred-Small"]
    wanted = [*methods, "AdaCoMed"] if large else STRATEGIES
    assert table["method"].to_list() == wanted * len(tasks)
    if number < 4:
        assert table["task"].to_list() == [t for t in tasks for _ in wanted]
    values = table.select(paper.METRICS)
    assert values.null_count().sum_horizontal().item() == 0
    assert values.min().min_horizontal().item() > 0
    assert values.max().max_horizontal().item() < 1


# Column sums of the numbers that a script read out of the paper's text; a wrong digit shows here.
SUMS = {
    2: (17.986, 15.133, 8.424, 13.561, 13.770, 13.275),
    3: (12.128, 10.444, 5.823, 9.007, 9.032, 9.007),
    4: (6.868, 5.776, 7.788, 3.983, 4.305, 3.987),
    5: (4.224, 4.233, 4.939, 2.856, 3.194, 2.924),
}


@pytest.mark.parametrize("number", SUMS)
def test_every_digit_is_the_papers(number):
    table = getattr(paper, f"table_{number}")()
    assert [table[m].sum() for m in paper.METRICS] == pytest.approx(SUMS[number], abs=1e-9)


def test_spots_read_off_the_page():
    """First, last and odd cells of each block, so that no two columns or rows are swapped."""
    two, three, five = paper.table_2(), paper.table_3(), paper.table_5()
    assert numbers(two, "Meta-Transformer", "mortality") == [
        *(0.562, 0.717, 0.309, 0.561, 0.641, 0.489)
    ]
    assert numbers(two, "OneLLM", "longstay") == [0.453, 0.505, 0.638, 0.502, 0.501, 0.434]
    assert row(two, "TimeSeries-Large", "readmission")["Acc"] == 0.955
    assert row(two, "OneLLM", "readmission")["Auprc"] == 0.118
    assert numbers(three, "Ensemble", "readmission") == [0.922, 0.542, 0.049, 0.501, 0.501, 0.501]
    assert row(three, "Inverse Contrastive", "readmission")["Auroc"] == 0.637
    assert numbers(five, "Inverse Contrastive") == [0.862, 0.847, 0.987, 0.640, 0.810, 0.675]


def test_the_tables_agree_with_each_other():
    """AdaCoMed's row of Table 2 and 4 is its chosen strategy's row of Table 3 and 5."""
    chosen = {
        "mortality": "Inverse Contrastive",
        "longstay": "Gaussian Contrastive",
        "readmission": "Gaussian Contrastive",
    }
    for task, strategy in chosen.items():
        mine = numbers(paper.table_2(), "AdaCoMed", task)
        assert mine == numbers(paper.table_3(), strategy, task)
    threshold = numbers(paper.table_5(), "Threshold Contrastive")
    assert numbers(paper.table_4(), "AdaCoMed") == threshold


def test_the_percentages_in_the_text_follow():
    """Sec. 4.2: gains in Auroc and mF1 as the paper words them."""

    def gain(metric, rival, task=None):
        table = paper.table_4() if task is None else paper.table_2()
        return row(table, "AdaCoMed", task)[metric] / row(table, rival, task)[metric] - 1

    assert gain("Auroc", "OneLLM", "mortality") == pytest.approx(0.575, abs=5e-4)
    assert gain("Auroc", "MultimodalPred-Small", "longstay") == pytest.approx(0.061, abs=5e-4)
    assert gain("mF1", "MultimodalPred-Small", "longstay") == pytest.approx(0.034, abs=5e-4)
    assert gain("Auroc", "Large-Ensemble") == pytest.approx(0.154, abs=5e-4)
    assert gain("mF1", "Large-Ensemble") == pytest.approx(0.328, abs=5e-4)


def test_table_6():
    assert paper.table_6().rows() == [
        ("Meta-Transformer", 302.8, 19.9, 41.89),
        ("OneLLM", 383.0, 55.6, 74.53),
        ("MultimodalPred-Small", 49.7, 2.4, 2.09),
        ("AdaCoMed", 21.3, 1.0, 0.02),
    ]
    assert paper.table_6().columns == ["method", "parameters_m", "memory_gb", "epoch_min"]
