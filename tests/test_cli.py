"""The command line: help for every verb, plain text when piped, nothing imported unasked."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from adacomed.cli import COMMANDS

VERBS = list(COMMANDS)
ANSI = "\x1b"


def spawn(*words: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """The command line in a process of its own, its output piped."""
    command = [sys.executable, "-m", "adacomed", *words]
    return subprocess.run(command, capture_output=True, env={**os.environ, **environment})


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_an_example_and_a_line_for_every_option(verb: str, cli) -> None:
    ran = cli(*verb.split(), "--help")
    assert ran.exit_code == 0
    assert f"Example:\n    adacomed {verb}" in ran.stdout
    assert not ran.stderr
    options = ran.stdout.partition("\nOptions:\n")[2]
    for line in re.findall(r"^  (--.*(?:\n {6,}.*)*)", options, flags=re.M):
        assert len(re.split(r"\s{2,}", line.strip())) > 1, line  # a flag, then words


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",), ("help",)])
def test_the_overview_names_every_command(words: tuple[str, ...], cli) -> None:
    ran = cli(*words)
    assert ran.exit_code == 0
    for verb in VERBS:
        assert re.search(rf"^  {verb}  +\S", ran.stdout, flags=re.M)
    assert "not a medical device" in ran.stdout


def test_a_group_lists_its_verbs(cli) -> None:
    for words in (("cohort",), ("cohort", "--help")):
        ran = cli(*words)
        assert ran.exit_code == 0
        assert "cohort check" in ran.stdout
        assert "cohort build" in ran.stdout


@pytest.mark.parametrize(
    ("words", "helps"),
    [
        (["trian"], "did you mean 'train'?"),
        (["cohort", "biuld"], "did you mean 'cohort build'?"),
        (["zzz"], "known: audit verify, cohort build, cohort check"),
        (["--jobs"], "--jobs"),
        (["train"], "Missing argument"),
        (["train", "e.yaml", "--epochs", "3"], "No such option"),
        (["predict", "run", "cohort", "--batch-size", "many"], "--batch-size"),
    ],
)
def test_a_command_that_is_none(words: list[str], helps: str, cli) -> None:
    ran = cli(*words)
    assert ran.exit_code == 2
    assert helps in ran.stderr
    assert "Traceback" not in ran.output


def test_version(cli) -> None:
    assert re.fullmatch(r"adacomed \d+\.\d+\.\d+\S*\n", cli("--version").stdout)


def test_the_overview_imports_no_torch() -> None:
    code = (
        "import sys; from adacomed.cli import main; main(['--help'])\n"
        "heavy = {'torch', 'polars', 'sklearn', 'numpy', 'plotly'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_piped_output_is_plain(tmp_path: Path) -> None:
    out = tmp_path / "cohort"
    words = ["cohort", "build", "simulated", "--samples", "60", "--out", str(out)]
    for ran in (spawn("--help"), spawn(*words), spawn("cohort", "check", str(out))):
        assert ran.returncode == 0, ran.stderr
        assert ANSI not in (ran.stdout + ran.stderr).decode()


def test_a_console_without_unicode_still_helps() -> None:
    ran = spawn("--help", PYTHONIOENCODING="ascii")
    assert ran.returncode == 0, ran.stderr
    assert b"compare" in ran.stdout


def test_a_pipe_that_closes_is_no_error() -> None:
    command = f"{sys.executable} -m adacomed --help | true"
    ran = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert "Traceback" not in ran.stderr
    assert "Exception" not in ran.stderr


def test_the_allocators_setting_is_there_before_polars_reads_it() -> None:
    code = (
        "import os, sys; from adacomed.cli import main; main(['--version']);"
        "assert 'polars' not in sys.modules; print(os.environ['_RJEM_MALLOC_CONF'])"
    )
    own = {name: value for name, value in os.environ.items() if name != "_RJEM_MALLOC_CONF"}
    for env, expected in ((own, "muzzy_decay_ms:0"), ({**own, "_RJEM_MALLOC_CONF": "x:1"}, "x:1")):
        made = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
        assert made.stdout.strip().endswith(expected), made.stderr
