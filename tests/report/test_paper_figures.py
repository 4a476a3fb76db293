from __future__ import annotations

import itertools
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import polars as pl
import pytest

from adacomed.errors import InputError
from adacomed.report import paper_figures, paper_style, training_figures

pytest.importorskip("matplotlib")
Image = pytest.importorskip("PIL.Image")

TITLE = "Simulated patients: λ < 1 & a price of $5 and $6"
METHODS = ["OneLLM", "Large-Ensemble", "AdaCoMed"]
METRICS = ["Acc", "Auroc", "Auprc", "mAP", "mAR", "mF1"]
RNG = np.random.default_rng


def clouds(n: int = 300) -> tuple[pl.DataFrame, pl.DataFrame]:
    rng, parts, rows = RNG(0), [], []
    for panel in ("AdaCoMed", "direct combination"):
        for i, cloud in enumerate(("image", "text", "series", "fused")):
            xy = rng.normal(size=(n, 2)) + 4 * i
            points = {"panel": panel, "cloud": [cloud] * n, "x": xy[:, 0], "y": xy[:, 1]}
            parts.append(pl.DataFrame(points))
            if cloud != "fused":
                share = {"share": 0.2 + 0.1 * i, "share_low": 0.1, "share_high": 0.5}
                number = {"domination": 0.25, "domination_low": 0.2, "domination_high": 0.3}
                rows.append({"panel": panel, "cloud": cloud} | share | number)
    return pl.concat(parts), pl.DataFrame(rows)


def training() -> pl.DataFrame:
    rng = RNG(0)
    rows = [
        {"method": m, "fraction": f, "metric": k, "value": v, "low": v - 0.05, "high": v + 0.04}
        | {"n": int(5000 * f)}
        for m in METHODS
        for f in (0.1, 0.3, 0.7)
        for k in METRICS
        for v in [rng.uniform(0.31, 0.78)]
    ]
    return pl.DataFrame(rows)


def sweep() -> pl.DataFrame:
    values = {"lambda": (0.0, 0.05, 0.5, 5.0), "d": (64.0, 512.0, 4096.0)}
    rows = [
        {"parameter": p, "at": at, "task": task, "value": 0.7, "low": 0.65, "high": 0.75}
        for p in values
        for at in values[p]
        for task in ("mortality", "longstay")
    ]
    return pl.DataFrame(rows)


def paths(steps: int = 300, rows: int = 2) -> pl.DataFrame:
    step = np.repeat(np.arange(steps), rows)
    s = 0.05 + 0.8 * (1 - np.exp(-step / 80)) + 0.01 * RNG(0).normal(size=len(step))
    weights = {
        "learnable": np.full(len(s), 0.5),
        "inverse": 0.3 + 0.2 * s,
        "gaussian": 1 - np.exp(-(s**2) / 2),
        "threshold": 0.5 + 0.5 * np.tanh(10 * (s - 0.5)),
    }
    columns = {"step": step, "s": s}
    return pl.concat(
        pl.DataFrame({"strategy": [k] * len(s), **columns, "w_large": w, "w_small": 1 - w})
        for k, w in weights.items()
    )


def ablation() -> pl.DataFrame:
    rows = [
        {"variant": v, "cohort": c, "difference": d, "low": d - 0.03, "high": d + 0.03}
        for v, d in (("no contrastive term", -0.05), ("batch-mean weight", 0.01))
        for c in ("mmist-ccrcc", "simulated")
    ]
    return pl.DataFrame(rows)


def ceiling() -> pl.DataFrame:
    rows = [
        {"n": n, "method": m, "share": s, "low": s - 0.04, "high": s + 0.03}
        for n in (500, 2000, 8000)
        for m, s in (("haim", 0.8), ("adacomed", 0.93), ("large-ensemble", 0.9))
    ]
    return pl.DataFrame(rows)


FIGURES = {  # name: (function, frames, words that must be on the picture)
    "domination_panels": (
        clouds,
        ["direct combination", "text: 30 % (10 % to 50 %)", "domination: 0.25 (0.20 to 0.30)"],
    ),
    "training_size_radar": (
        training,
        [*METHODS, *METRICS, "30 % of the training data", "0.30 (centre) to 0.80 (rim)"],
    ),
    "training_size_lines": (training, [*METHODS, *METRICS, "10 %", "3,500"]),
    "sensitivity": (sweep, ["λ, weight", "d, width", "0.05", "4096", "longstay", "AUROC"]),
    "trajectories_3d": (paths, ["w_large", "w_small", "s, similarity", "gaussian", "start"]),
    "trajectories_flat": (paths, ["w_large", "w_small", "step", "threshold"]),
    "ablation_forest": (ablation, ["batch-mean weight", "simulated", "+0.010 (−0.020 to +0.040)"]),
    "ceiling_bars": (ceiling, ["2,000 patients", "haim", "Bayes ceiling", "90 %"]),
}


def frames_of(name: str) -> tuple[pl.DataFrame, ...]:
    made = FIGURES[name][0]()
    return made if isinstance(made, tuple) else (made,)


def drawing(name: str):
    own = hasattr(training_figures, name)
    return getattr(training_figures if own else paper_figures, name)


def draw(name: str, frames: tuple[pl.DataFrame, ...], folder, stem: str = "figure"):
    return paper_style.save(drawing(name)(*frames, TITLE), folder, stem)


def no_words_are_cut(figure, svg) -> None:
    """All that is drawn lies on the picture, in letters of 9 points or more, ticks apart."""
    box, size = figure.get_tightbbox(), figure.get_size_inches()
    assert min(box.x0, box.y0) >= 0
    assert box.x1 <= size[0]
    assert box.y1 <= size[1]
    sizes = re.findall(r"font(?:-size)?: [^;']*?([\d.]+)px", svg.read_text())
    assert sizes
    assert min(map(float, sizes)) >= 9
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis) if axes.name == "rectilinear" else ():
            low, high = sorted(axis.get_view_interval())
            shown = [t for t in axis.get_major_ticks() if low <= t.get_loc() <= high]
            boxes = [t.label1.get_window_extent() for t in shown if t.label1.get_visible()]
            assert not any(one.overlaps(other) for one, other in itertools.pairwise(boxes))


def words(svg) -> str:
    root = ElementTree.parse(svg).getroot()
    parts = root.iter("{http://www.w3.org/2000/svg}text")
    return "\n".join("".join(part.itertext()).strip() for part in parts)


@pytest.mark.parametrize("name", FIGURES)
def test_files_are_whole_small_and_the_same_twice(name, tmp_path):
    frames = frames_of(name)
    before = [frame.clone() for frame in frames]
    figure = drawing(name)(*frames, TITLE)
    svg, png = paper_style.save(figure, tmp_path / "new" / "one", "figure")
    assert (svg.name, png.name) == ("figure.svg", "figure.png")
    said = words(svg)
    for expected in (TITLE, *FIGURES[name][1]):
        assert expected in said
    assert svg.stat().st_size < 300_000
    no_words_are_cut(figure, svg)
    with Image.open(png) as picture:
        picture.load()
        assert picture.size[0] >= 1200
        assert len(picture.convert("RGB").resize((200, 200)).getcolors(40_000) or ()) > 20
    again = draw(name, frames, tmp_path / "two")
    assert [p.read_bytes() for p in again] == [svg.read_bytes(), png.read_bytes()]
    assert all(a.equals(b) for a, b in zip(before, frames, strict=True))


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.filterwarnings("error")
def test_an_empty_frame_says_so(name, tmp_path):
    svg, _ = draw(name, tuple(frame.clear() for frame in frames_of(name)), tmp_path)
    assert TITLE in words(svg)
    assert "no data" in words(svg)


PARTS = {  # a frame's part: one method, one strategy, one panel, one size
    "domination_panels": pl.col("panel") == "AdaCoMed",
    "training_size_radar": (pl.col("method") == "OneLLM") & (pl.col("metric") != "mAP"),
    "training_size_lines": (pl.col("fraction") == 0.1) & (pl.col("metric") == "Auroc"),
    "sensitivity": (pl.col("parameter") == "d") & (pl.col("at") == 64),
    "trajectories_3d": (pl.col("strategy") == "gaussian") & (pl.col("step") == 0),
    "trajectories_flat": (pl.col("strategy") == "gaussian") & (pl.col("step") == 0),
    "ablation_forest": pl.col("cohort") == "simulated",
    "ceiling_bars": pl.col("n") == 500,
}
LIMITS = ("low", "high", "share_low", "share_high", "domination_low", "domination_high", "w_small")


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.filterwarnings("error")
def test_a_part_without_intervals_still_draws(name, tmp_path):
    parts = [frame.filter(PARTS[name]) for frame in frames_of(name)]
    assert len(parts[0])
    bare = (
        frame.with_columns(pl.lit(None).alias(c) for c in LIMITS if c in frame.columns)
        for frame in parts
    )
    svg, png = draw(name, tuple(bare), tmp_path)
    assert TITLE in words(svg)
    assert "no data" not in words(svg)
    assert png.stat().st_size > 5_000


def test_large_clouds_and_long_paths_stay_small(tmp_path):
    svg, _ = draw("domination_panels", clouds(n=2000), tmp_path)
    assert svg.stat().st_size < 300_000
    for name in ("trajectories_flat", "trajectories_3d"):
        svg, _ = draw(name, (paths(steps=1000, rows=2),), tmp_path)
        assert svg.stat().st_size < 300_000


def test_a_long_title_is_broken_not_cut(tmp_path):
    title = "Simulated patients, no real data behind them: " + "a very long name of a cohort " * 6
    figure = training_figures.ceiling_bars(ceiling(), title)
    paper_style.save(figure, tmp_path, "long")
    box = figure.get_suptitle()
    assert box.count("\n") >= 1
    assert box.replace("\n", " ") == title.strip()
    extent = figure._suptitle.get_window_extent()
    assert extent.x0 > 0
    assert extent.x1 < figure.bbox.width


def test_what_the_pictures_show():
    """Values reach the axes: radii, bars, the order of the rows, the thick line of AdaCoMed."""
    frame = training()
    figure = paper_figures.training_size_radar(frame, TITLE)
    limits = {axes.get_ylim() for axes in figure.axes}
    assert len(figure.axes) == 3
    assert len(limits) == 1  # one radial axis for all
    assert limits.pop() == pytest.approx((0.3, 0.8))
    ours = next(line for line in figure.axes[0].lines if line.get_label() == "AdaCoMed")
    wanted = frame.filter(pl.col("method") == "AdaCoMed", pl.col("fraction") == 0.1)["value"]
    assert list(ours.get_ydata()) == [*wanted, wanted[0]]  # closed
    assert ours.get_linewidth() > max(
        line.get_linewidth() for line in figure.axes[0].lines if line is not ours
    )
    bars = training_figures.ceiling_bars(ceiling(), TITLE).axes[0]
    assert [t.get_text() for t in bars.get_yticklabels()] == ["adacomed", "large-ensemble", "haim"]
    assert bars.get_ylim()[0] > bars.get_ylim()[1]  # the best on top
    forest = training_figures.ablation_forest(ablation(), TITLE).axes[0]
    dots = [line for line in forest.lines if len(line.get_xdata()) == 1]
    fills = {line.get_xdata()[0]: line.get_markerfacecolor() for line in dots}
    assert fills[0.01] == "white"  # its interval holds 0
    assert fills[-0.05] != "white"


def test_a_lambda_of_zero_stands_left_of_the_others():
    axes = paper_figures.sensitivity(sweep(), TITLE).axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["0", "0.05", "0.5", "5"]
    assert np.all(np.diff(axes.get_xticks()) > 0)
    assert axes.get_xscale() == "log"


def test_panels_and_metrics_come_in_the_papers_order():
    figure = paper_figures.domination_panels(*clouds(30), TITLE)
    assert [a.get_title() for a in figure.axes] == ["direct combination", "AdaCoMed"]
    lines = paper_figures.training_size_lines(training().reverse(), TITLE)
    assert [a.get_title() for a in lines.axes] == METRICS


def test_shades_darken_and_trajectories_end_where_they_end():
    shade = paper_style.shades("#0072B2", np.arange(10.0))
    assert np.all(np.diff(shade.sum(axis=1)) < 0)
    assert 0 <= shade.min() <= shade.max() <= 1
    frame = paths(steps=40, rows=1)
    flat = training_figures.trajectories_flat(frame, TITLE)
    drawn = {line.get_label(): line.get_ydata() for line in flat.axes[1].lines}
    for strategy, values in drawn.items():
        wanted = frame.filter(pl.col("strategy") == strategy).sort("step")["w_large"]
        np.testing.assert_allclose(values, wanted)
    assert set(drawn) == {"learnable", "inverse", "gaussian", "threshold"}


def test_looks_are_told_apart_twice():
    look = paper_style.looks([*(f"m{i}" for i in range(20)), "adacomed"])
    assert len({(v.color, v.marker) for v in look.values()}) == 21
    assert [name for name, v in look.items() if v.color == paper_style.ACCENT] == ["adacomed"]


def test_the_callers_settings_and_pyplot_are_left_alone(tmp_path):
    code = (
        "import sys, matplotlib as m, polars as pl\n"
        "from pathlib import Path\n"
        "m.rcParams['font.size'] = 31; m.rcParams['axes.facecolor'] = 'red'\n"
        "from adacomed.report import training_figures as f\n"
        "frame = pl.DataFrame({'n': [5], 'method': ['a'], 'share': [.5], 'low': [.4], "
        "'high': [.6]})\n"
        "from adacomed.report.paper_style import save\n"
        "p = save(f.ceiling_bars(frame, 't'), Path(sys.argv[1]), 'x')\n"
        "assert m.rcParams['font.size'] == 31\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert '#ff0000' not in p[0].read_text()\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"adacomed\[paper\]"):
        training_figures.ceiling_bars(ceiling(), TITLE)


def test_estimates_in_words():
    assert paper_style.estimate([-0.0004, -0.06, 0.06], "+z.3f") == "+0.000 (−0.060 to +0.060)"
    assert paper_style.estimate([0.714, np.nan, np.nan], ".0%") == "71 %"
    assert paper_style.estimate([np.nan, np.nan, np.nan], ".2f") == "–"
