"""Shared by all tests: the real command line in this process, and where the real data are."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from adacomed.cli import main

# scripts that run in another process or environment, with packages that are not installed here
collect_ignore = ["encoders/timm_oracle.py", "encoders/golden/make_moirai.py"]
SHARED = Path(__file__).parents[2] / "shared" / "data"


class Ran(NamedTuple):
    """What a command said."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        return self.stdout + self.stderr


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run `adacomed WORDS` and catch its exit code and output; a traceback fails the test."""

    def run(*words: object) -> Ran:
        capsys.readouterr()
        code = 0
        try:
            main([str(word) for word in words])
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(bool(stop.code))
        out = capsys.readouterr()
        return Ran(code, out.out, out.err)

    return run


def without(package: str, program: str, *words: object) -> Ran:
    """Run a program in a Python where the package cannot be imported."""
    program = f"import sys; sys.modules[{package!r}] = None\n{program}"
    command = [sys.executable, "-c", program, *map(str, words)]
    ran = subprocess.run(command, capture_output=True, text=True)
    return Ran(ran.returncode, ran.stdout, ran.stderr)


def shared(name: str) -> Path:
    """A folder of ../shared/data; the test is skipped, with its name, where it is missing."""
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"needs {folder}")
    return folder
