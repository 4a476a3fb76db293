from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from adacomed.evaluation.reliability import branches, reliability_table, weight_reliability
from adacomed.report.page import interval, number
from adacomed.report.reliability import promise
from adacomed.report.report import write_report
from adacomed.report.source import Source, read_source


def source(frame, folder) -> Source:
    return Source(folder=folder, predictions=frame)


def headline(frame) -> pl.DataFrame:
    return frame.filter((pl.col("split") == "test") & (pl.col("method") == "adacomed"))


def test_points_rug_and_words_are_the_evaluations(synthetic, tmp_path):
    frame = synthetic.predictions(n=600)
    figure = promise(source(frame, tmp_path))
    assert figure is not None
    rows = headline(frame)
    found, [row] = branches(rows), weight_reliability(rows).to_dicts()
    expected = reliability_table(found)
    points = figure.spec["data"][1]
    assert len(points["x"]) == 5
    assert points["x"] == pytest.approx(expected["w_large"].to_list(), abs=1e-4)
    assert points["y"] == pytest.approx(expected["large_right"].to_list(), abs=1e-4)
    top = np.add(points["y"], points["error_y"]["array"])
    bottom = np.subtract(points["y"], points["error_y"]["arrayminus"])
    assert top == pytest.approx(expected["large_right_high"].to_numpy(), abs=2e-4)
    assert bottom == pytest.approx(expected["large_right_low"].to_numpy(), abs=2e-4)
    rugs = figure.spec["data"][2:]
    assert [len(rug["x"]) for rug in rugs] == [(found.sign > 0).sum(), (found.sign < 0).sum()]
    for name in ("correlation", "loss_correlation"):
        assert interval(row[name], row[f"{name}_low"], row[f"{name}_high"]) in figure.alt
    assert f"{row['n_discordant']} of {row['n']} patients on whom exactly one" in figure.alt
    assert "annotations" not in figure.spec["layout"]
    assert figure.table is not None
    assert [r.cells[0] for r in figure.table.rows] == [number(w) for w in expected["w_large"]]
    assert sum(int(r.cells[2]) for r in figure.table.rows) == row["n_discordant"]


def test_constant_weights_are_said_on_the_chart_and_in_words(synthetic, tmp_path):
    frame = synthetic.predictions().with_columns(pl.col("w_large") * 0 + 0.5)
    figure = promise(source(frame, tmp_path))
    assert figure is not None
    assert figure.alt.startswith("w_large is the same for every patient of a model")
    [said] = figure.spec["layout"]["annotations"]
    assert said["text"].replace("<br>", " ").startswith("w_large is the same for every patient")
    assert figure.spec["data"][1]["x"] == [0.5]


def test_repeats_are_all_in_it_and_no_interval_is_narrower_for_a_copy(synthetic, tmp_path):
    frame = synthetic.predictions(methods=("adacomed",))
    twice = pl.concat([frame, frame.with_columns(repeat=pl.lit(1, pl.Int64))])
    one, two = (promise(source(f, tmp_path)) for f in (frame, twice))
    assert one is not None
    assert two is not None
    points = [figure.spec["data"][1] for figure in (one, two)]
    assert points[0] == points[1]
    assert len(two.spec["data"][2]["x"]) == 2 * len(one.spec["data"][2]["x"])
    assert two.table is not None
    assert "All repeats and seeds" in two.table.notes[-1]


def test_methods_without_two_branches_have_no_such_chart(synthetic, tmp_path):
    for frame in (
        synthetic.predictions(methods=("small", "forest")),
        synthetic.predictions(methods=("adacomed",)).drop("logit_small"),
        synthetic.multiclass(),
    ):
        assert promise(source(frame, tmp_path)) is None
    three = synthetic.multiclass().with_columns(w_large=0.4, logit_large=0.1, logit_small=0.2)
    assert promise(source(three, tmp_path)) is None


def test_it_stands_after_the_weights_charts_on_the_page(synthetic, tmp_path):
    run = synthetic.write_run(tmp_path / "run", synthetic.predictions(), everything=False)
    html = write_report(run).read_text(encoding="utf-8")
    order = [html.index(f'<figure id="{name}"') for name in ("w-large", "logits", "promise")]
    assert order == sorted(order)
    figure = promise(read_source(run))
    assert figure is not None
    assert figure.alt.split(". ")[0] in html.replace("&#39;", "'")
