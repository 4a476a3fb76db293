"""The page in a real browser: Debian's chromium, headless, from a file:// address.

Screenshots and the printed page are kept in build/screenshots (ignored by git), to be looked at.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import polars as pl
import pytest

from adacomed.report.report import write_report

ARTEFACTS = Path(__file__).parents[2] / "build" / "screenshots"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--virtual-time-budget=8000",
]
WIDTHS = {"phone": 390, "desktop": 1280}
DARK = "--blink-settings=preferredColorScheme=0"  # 0: dark, 1: light
LIGHT = "--blink-settings=preferredColorScheme=1"
VIEWS = [(width, look) for width in WIDTHS for look in ("light", "dark")]

# The page inside a frame of the wanted width: headless chromium's own window is never narrower
# than 500 pixels. What the page measures of itself goes out through the frame's title.
FRAME = """<!doctype html><meta charset="utf-8"><title>frame</title>
<style>body{margin:0}iframe{border:0;width:%(width)dpx;height:%(height)dpx;display:block}</style>
<iframe src="%(page)s"></iframe>"""
PROBE = """<script>addEventListener("load", () => setTimeout(() => {
  const root = document.documentElement, out = [];
  for (const element of document.querySelectorAll("body *")) {
    const box = element.getBoundingClientRect();
    if (box.right > root.clientWidth + 1 && box.width && !element.closest(".scroll, pre, .skip"))
      out.push(element.tagName + "." + element.className);
  }
  const found = { client: root.clientWidth, scroll: root.scrollWidth, height: root.scrollHeight,
    dark: matchMedia("(prefers-color-scheme: dark)").matches, out: out.slice(0, 5),
    drawn: document.querySelectorAll(".js-plotly-plot .main-svg").length,
    empty: [...document.querySelectorAll("figure")].filter((f) => !f.querySelector(".main-svg")
      || f.querySelector(".chart").clientHeight < 100).map((f) => f.id) };
  console.log("PROBE" + JSON.stringify(found));
}, 2500));</script>"""


def chromium(*arguments: str, profile: Path) -> subprocess.CompletedProcess[str]:
    binary = shutil.which("chromium")
    assert binary, "no chromium on the PATH: apt-get install -y chromium (make browser does it)"
    command = [binary, *FLAGS, f"--user-data-dir={profile}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)


@pytest.fixture(scope="module")
def page(synthetic, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    frame = synthetic.predictions(n=240, methods=("adacomed", "small", "<script>evil()</script>"))
    return write_report(synthetic.write_run(folder / "run", frame))


@pytest.fixture(scope="module")
def dom_and_log(page) -> tuple[str, str]:
    done = chromium(
        "--window-size=1280,2000", "--dump-dom", page.as_uri(), profile=page.parent / "profile"
    )
    return done.stdout, done.stderr


def measure(page: Path, width: str, look: str, height: int, name: str = "") -> dict:
    """What a page says of itself in one view; its screenshot is kept."""
    view = f"{name}{width}-{look}"
    text = page.read_text(encoding="utf-8").replace("</body>", f"{PROBE}</body>")
    probed = page.with_name("probed.html")
    probed.write_text(text, encoding="utf-8")
    frame = page.with_name(f"{view}.html")
    frame.write_text(FRAME % {"width": WIDTHS[width], "height": height, "page": probed.as_uri()})
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    picture = ARTEFACTS / f"{view}.png"
    done = chromium(
        f"--window-size={max(500, WIDTHS[width])},{height}",
        f"--screenshot={picture}",
        DARK if look == "dark" else LIGHT,
        frame.as_uri(),
        profile=page.parent / f"profile-{view}",
    )
    assert picture.stat().st_size > 50_000
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    [probe] = [line for line in console if "PROBE" in line]
    assert [line for line in console if line is not probe] == []
    found = re.search(r"PROBE(\{.*\})\"", probe)
    assert found, probe
    return json.loads(found.group(1))


@pytest.fixture(scope="module", params=VIEWS, ids=lambda view: "-".join(view))
def measured(request, page) -> tuple[str, dict]:
    """What the page says of itself in one view."""
    width, look = request.param
    return look, measure(page, width, look, 26_000 if width == "phone" else 14_000)


def test_it_fits_the_screen_without_a_horizontal_scroll(measured):
    _, found = measured
    assert found["client"] in WIDTHS.values()
    assert found["scroll"] <= found["client"], found["out"]
    assert found["out"] == []


def test_no_chart_is_empty_in_any_view(measured):
    look, found = measured
    assert found["empty"] == []
    assert found["drawn"] > 20
    assert found["dark"] == (look == "dark")


@pytest.mark.parametrize("kind", ["survival", "findings"])
def test_pages_of_other_tasks_fit_too(kind, synthetic, tmp_path):
    frame = synthetic.survival().with_columns(pl.lit(24.0).alias("horizon"))
    if kind == "findings":
        named = ("death: oedema", "death: effusion of the left side, loculated", "death: nodule")
        frame = pl.concat(
            synthetic.predictions(n=120, methods=("adacomed", "small"), seed=k).with_columns(
                pl.lit(name).alias("task")
            )
            for k, name in enumerate(named)
        )
    page = write_report(synthetic.write_run(tmp_path / "run", frame, everything=False))
    found = measure(page, "desktop", "light", 9_000, f"{kind}-")
    assert found["scroll"] <= found["client"] == WIDTHS["desktop"], found["out"]
    assert found["out"] == found["empty"] == []
    assert found["drawn"] >= (1 if kind == "survival" else 8)


def test_no_script_error_and_nothing_blocked(dom_and_log):
    console = [line for line in dom_and_log[1].splitlines() if "CONSOLE" in line]
    assert console == []


def test_every_chart_is_drawn(dom_and_log):
    dom = dom_and_log[0]
    figures = len(re.findall("<figure", dom))
    assert len(re.findall(r'class="chart js-plotly-plot"', dom)) == figures == 25
    assert dom.count('class="main-svg"') >= figures


def test_legends_are_buttons(dom_and_log):
    pressed = re.findall(r'<button type="button" aria-pressed="(true|false)">', dom_and_log[0])
    assert {"true", "false"} == set(pressed)


def test_a_hostile_name_is_shown_not_run(dom_and_log):
    dom = dom_and_log[0].split("<main>")[1].split("</main>")[0]
    assert "&lt;script&gt;evil()" in dom
    assert "<script>evil" not in dom


def test_it_prints_with_its_charts(page):
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    paper = ARTEFACTS / "print.pdf"
    chromium(f"--print-to-pdf={paper}", page.as_uri(), profile=page.parent / "profile-print")
    content = paper.read_bytes()
    pages = len(re.findall(rb"/Type\s*/Page\b", content))
    assert content.startswith(b"%PDF")
    assert 5 <= pages <= 40
