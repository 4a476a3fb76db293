from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from adacomed.commands.cohort import app
from adacomed.errors import InputError

RUN = CliRunner()
SOURCE = Path(__file__).parents[2] / ".." / "shared" / "data" / "mmist-ccrcc"


def test_build_then_check(tmp_path: Path) -> None:
    out = tmp_path / "sim"
    built = RUN.invoke(app, ["build", "simulated", "--samples", "120", "--out", str(out)])
    assert built.exit_code == 0, built.output
    plain = RUN.invoke(app, ["check", str(out)])
    assert plain.exit_code == 0
    assert "simulated: 120 samples of 120 patients" in plain.stdout
    assert "m1 + m2 + m3 + clinical" in plain.stdout
    assert plain.stdout.isascii() or "─" not in plain.stdout  # no table rules when piped
    report = json.loads(RUN.invoke(app, ["check", str(out), "--json"]).stdout)
    assert report["samples"] == sum(report["patterns"].values()) == 120
    assert report["errors"] == []


def test_an_error_exits_with_2_and_shows_all(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,age,dead\n" + "".join(f"p{k},6{k},1\n" for k in range(5)))
    (tmp_path / "c.yaml").write_text(
        "{name: c, table: t.csv, subject: id, tasks: {d: {column: dead, positive: 1}},"
        " modalities: {t: {kind: tabular, columns: [agee]}, v: {kind: embedding, root: no}}}"
    )
    found = RUN.invoke(app, ["check", str(tmp_path / "c.yaml")])
    assert found.exit_code == 2
    for clause in ("5 labelled patients", "did you mean 'age'", "no such file or folder"):
        assert clause in found.stdout
    as_json = RUN.invoke(app, ["check", str(tmp_path / "c.yaml"), "--json"])
    assert as_json.exit_code == 2
    assert len(json.loads(as_json.stdout)["errors"]) == 3


def test_wrong_requests(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    for words, message in (
        (["build", "simulatd", "--out", out], "did you mean 'simulated'"),
        (["build", "mmist-ccrcc", "--out", out], "--source"),
        (["check", str(tmp_path / "nothing.yaml")], "no such file"),
        (["check", str(tmp_path)], r"no cohort\.yaml"),
    ):
        result = RUN.invoke(app, words)
        assert isinstance(result.exception, InputError), words
        with pytest.raises(InputError, match=message):
            raise result.exception


def test_help_has_an_example() -> None:
    for verb in ("check", "build"):
        assert "Example: adacomed cohort" in RUN.invoke(app, [verb, "--help"]).stdout


@pytest.mark.skipif(not SOURCE.is_dir(), reason="needs ../shared/data/mmist-ccrcc")
def test_mmist_prints_expected_beside_found(tmp_path: Path) -> None:
    words = ["build", "mmist-ccrcc", "--source", str(SOURCE), "--out", str(tmp_path / "m")]
    lines = [line.split() for line in RUN.invoke(app, words).stdout.splitlines()]
    assert ["patients", "618", "618"] in lines
    assert ["deaths", "among", "complete", "in", "test", "4", "4"] in lines
