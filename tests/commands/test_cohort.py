from __future__ import annotations

import json
import re
from pathlib import Path

from ..conftest import shared


def test_build_then_check(tmp_path: Path, cli) -> None:
    out = tmp_path / "sim"
    built = cli("cohort", *["build", "simulated", "--samples", "120", "--out", str(out)])
    assert built.exit_code == 0, built.output
    plain = cli("cohort", *["check", str(out)])
    assert plain.exit_code == 0
    assert "simulated: 120 samples of 120 patients" in plain.stdout
    assert "m1 + m2 + m3 + clinical" in plain.stdout
    assert plain.stdout.isascii() or "─" not in plain.stdout  # no table rules when piped
    report = json.loads(cli("cohort", *["check", str(out), "--json"]).stdout)
    assert report["samples"] == sum(report["patterns"].values()) == 120
    assert report["errors"] == []


def test_an_error_exits_with_2_and_shows_all(tmp_path: Path, cli) -> None:
    (tmp_path / "t.csv").write_text("id,age,dead\n" + "".join(f"p{k},6{k},1\n" for k in range(5)))
    (tmp_path / "c.yaml").write_text(
        "{name: c, table: t.csv, subject: id, tasks: {d: {column: dead, positive: 1}},"
        " modalities: {t: {kind: tabular, columns: [agee]}, v: {kind: embedding, root: nowhere}}}"
    )
    found = cli("cohort", *["check", str(tmp_path / "c.yaml")])
    assert found.exit_code == 2
    for clause in ("5 labelled patients", "did you mean 'age'", "no such file or folder"):
        assert clause in found.stdout
    as_json = cli("cohort", *["check", str(tmp_path / "c.yaml"), "--json"])
    assert as_json.exit_code == 2
    assert len(json.loads(as_json.stdout)["errors"]) == 3


def test_wrong_requests(tmp_path: Path, cli) -> None:
    out = str(tmp_path / "out")
    for words, message in (
        (["build", "simulatd", "--out", out], "did you mean 'simulated'"),
        (["build", "mmist-ccrcc", "--out", out], "--source"),
        (["check", str(tmp_path / "nothing.yaml")], "no such file"),
        (["check", str(tmp_path)], r"no cohort\.yaml"),
    ):
        result = cli("cohort", *words)
        assert result.exit_code == 2
        assert re.search(message, result.stderr), words
        assert "Traceback" not in result.output


def test_help_has_an_example(cli) -> None:
    for verb in ("check", "build"):
        assert f"adacomed cohort {verb}" in cli("cohort", *[verb, "--help"]).stdout


def test_mmist_prints_expected_beside_found(tmp_path: Path, cli) -> None:
    words = [
        "build",
        "mmist-ccrcc",
        "--source",
        str(shared("mmist-ccrcc")),
        "--out",
        str(tmp_path / "m"),
    ]
    lines = [line.split() for line in cli("cohort", *words).stdout.splitlines()]
    assert ["patients", "618", "618"] in lines
    assert ["deaths", "among", "complete", "in", "test", "4", "4"] in lines
