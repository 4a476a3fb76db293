"""The page in a real browser: Debian's chromium, headless, from a file:// address."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from adacomed.report.report import write_report

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--virtual-time-budget=6000",
    "--window-size=1280,2000",
    "--dump-dom",
]


@pytest.fixture(scope="module")
def dom_and_log(synthetic, tmp_path_factory) -> tuple[str, str]:
    chromium = shutil.which("chromium")
    assert chromium, "no chromium on the PATH: apt-get install -y chromium (make setup does it)"
    folder = tmp_path_factory.mktemp("browser")
    frame = synthetic.predictions(n=120, methods=("adacomed", "small", "<script>evil()</script>"))
    page = write_report(synthetic.write_run(folder / "run", frame))
    command = [chromium, *FLAGS, f"--user-data-dir={folder / 'profile'}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout, done.stderr


def test_no_script_error_and_nothing_blocked(dom_and_log):
    console = [line for line in dom_and_log[1].splitlines() if "CONSOLE" in line]
    assert console == []


def test_every_chart_is_drawn(dom_and_log):
    dom = dom_and_log[0]
    assert (
        len(re.findall(r'class="chart js-plotly-plot"', dom))
        == len(re.findall("<figure", dom))
        == 13
    )
    assert dom.count('class="main-svg"') >= 13


def test_legends_are_buttons(dom_and_log):
    pressed = re.findall(r'<button type="button" aria-pressed="(true|false)">', dom_and_log[0])
    assert {"true", "false"} == set(pressed)


def test_a_hostile_name_is_shown_not_run(dom_and_log):
    dom = dom_and_log[0].split("<main>")[1].split("</main>")[0]
    assert "&lt;script&gt;evil()" in dom
    assert "<script>evil" not in dom
