"""`adacomed reproduce`: files, titles, clear errors."""

from adacomed.commands.reproduce import ARTEFACTS
from adacomed.evaluation.tables import frame_markdown

from .conftest import TINY


def test_a_strategy_table_is_printed_and_written(cli, simulated, tmp_path):
    ran = cli("reproduce", "table3", "--cohort", simulated, "--out", tmp_path, *TINY)
    assert ran.exit_code == 0, ran.output
    page = (tmp_path / "table3.md").read_text("utf-8")
    assert page.startswith("# Simulated patients (no real data)")
    assert page.strip() in ran.stdout
    assert "Gaussian Contrastive" in page  # the paper's, beside ours
    assert "Simulated" in (tmp_path / "table3-1.csv").read_text("utf-8").splitlines()[1]


def test_a_second_run_computes_nothing_again(cli, simulated, tmp_path):
    words = ("reproduce", "table3", "--cohort", simulated, "--out", tmp_path, *TINY)
    cli(*words)
    cells = {f: f.stat().st_mtime_ns for f in tmp_path.rglob("*~*.parquet")}
    assert cells
    cli(*words)
    assert {f: f.stat().st_mtime_ns for f in tmp_path.rglob("*~*.parquet")} == cells


def test_figures_are_svg_and_png(cli, simulated, tmp_path):
    narrow = ("model.H=8", "model.d=8", "small.width=8")
    ran = cli("reproduce", "fig6", "--cohort", simulated, "--out", tmp_path, *TINY, *narrow)
    assert ran.exit_code == 0, ran.output
    for stem in ("fig6-3d", "fig6-flat"):
        assert (tmp_path / f"{stem}.svg").stat().st_size < 300_000
        assert (tmp_path / f"{stem}.png").is_file()
    assert "![Simulated" in (tmp_path / "fig6.md").read_text("utf-8")


def test_mistakes_are_named(cli, simulated, tmp_path):
    wrong = cli("reproduce", "table9", "--cohort", simulated)
    assert wrong.exit_code == 2
    assert "table9" in wrong.stderr
    without = cli("reproduce", "table2", "--out", tmp_path)
    assert without.exit_code == 2
    assert "--cohort" in without.stderr
    setting = cli("reproduce", "table3", "--cohort", simulated, "--out", tmp_path, "model.lamda=1")
    assert setting.exit_code == 2
    assert "lambda" in setting.stderr


def test_help_names_every_artefact(cli):
    text = cli("reproduce", "--help").stdout
    assert all(name in text for name in ARTEFACTS)


def test_markdown_keeps_its_columns():
    import polars as pl

    frame = pl.DataFrame({"a|b": ["x|y"], "v": [0.12345], "none": [None]})
    assert frame_markdown(frame).splitlines()[-1] == "| x\\|y | 0.123 | – |"
