"""The figures of `reproduce simulated-grid` and `rivals`: whole, and true to the frame."""

from __future__ import annotations

import polars as pl
import pytest

from adacomed.report import evidence_figures, paper_style
from tests.report.test_paper_figures import no_words_are_cut, words

pytest.importorskip("matplotlib")

TITLE = "Simulated patients (no real data)"
METHODS = ("haim", "adacomed", "large-ensemble")


def shares() -> pl.DataFrame:
    rows = [
        {"modalities": M, "missing": rate, "n": n, "method": m}
        | {"share": s, "low": s - 0.04, "high": s + 0.03}
        for M in (4, 3)
        for rate in (0.3, 0.0, 0.6)
        for n in (300, 1000, 3000)
        for i, m in enumerate(METHODS)
        for s in [0.8 + 0.05 * i - 0.1 * rate + n / 30_000]
    ]
    return pl.DataFrame(rows)


def scores() -> pl.DataFrame:
    rows = [
        {"method": m, "metric": metric, "value": v, "low": v - 0.05, "high": v + 0.05}
        for metric, less in (("auroc", 0), ("auprc", 0.3))
        for m, v in zip(METHODS, (0.81 - less, 0.88 - less, 0.86 - less), strict=True)
    ]
    return pl.DataFrame(rows)


FIGURES = {
    "share_lines": (shares, [*METHODS, "3 modalities, 60 % missing", "3,000", "Bayes ceiling"]),
    "method_forest": (scores, [*METHODS, "AUROC", "AUPRC", "0.880 (0.830 to 0.930)"]),
}


@pytest.mark.parametrize("name", FIGURES)
def test_the_words_are_there_and_whole(name, tmp_path):
    frame, expected = FIGURES[name][0](), FIGURES[name][1]
    figure = getattr(evidence_figures, name)(frame, TITLE)
    svg, _ = paper_style.save(figure, tmp_path, "figure")
    assert all(word in words(svg) for word in (TITLE, *expected))
    no_words_are_cut(figure, svg)


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.filterwarnings("error")
def test_an_empty_frame_and_one_row_draw(name, tmp_path):
    frame, draw = FIGURES[name][0](), getattr(evidence_figures, name)
    svg, _ = paper_style.save(draw(frame.clear(), TITLE), tmp_path, "empty")
    assert "no data" in words(svg)
    bare = frame[:1].with_columns(low=pl.lit(None), high=pl.lit(None))
    svg, _ = paper_style.save(draw(bare, TITLE), tmp_path, "one")
    assert TITLE in words(svg)
    assert "no data" not in words(svg)


def test_panels_in_order_and_values_on_them():
    figure = evidence_figures.share_lines(shares(), TITLE)
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == [f"{M} modalities, {r} % missing" for M in (3, 4) for r in (0, 30, 60)]
    lines = {line.get_label(): line for line in figure.axes[1].lines}
    wanted = shares().filter(modalities=3, missing=0.3, method="adacomed").sort("n")
    assert list(lines["adacomed"].get_xdata()) == [300, 1000, 3000]
    assert list(lines["adacomed"].get_ydata()) == wanted["share"].to_list()
    assert lines["adacomed"].get_linewidth() > lines["haim"].get_linewidth()


def test_the_best_is_on_top_and_adacomed_has_its_line():
    variant = pl.DataFrame({"method": ["adacomed?model.lambda=0"], "metric": ["auroc"]})
    frame = pl.concat([scores(), variant.with_columns(value=0.7)], how="diagonal")
    figure = evidence_figures.method_forest(frame, TITLE)
    first, second = figure.axes
    names = [t.get_text() for t in first.get_yticklabels()]
    assert names == ["adacomed", "large-ensemble", "haim", "adacomed?model.lambda=0"]
    assert first.get_ylim()[0] > first.get_ylim()[1]
    for ax, at in ((first, 0.88), (second, 0.58)):
        [line] = [line for line in ax.lines if line.get_label() == "AdaCoMed"]
        assert list(line.get_xdata()) == pytest.approx([at, at])
