"""The whole way as people go it, in a real browser at a real server, on a phone and on a desktop:
upload → prediction → a modality off → explanation → download → window and level.

Once on chest X-rays with notes and a table (real ones, skipped where ../shared/data is missing),
once on vectors (simulated), and a listed patient with a CT and a series. Screenshots are kept in
build/screenshots, or under ADACOMED_SCREENSHOTS.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from PIL import Image
from playwright.sync_api import Page
from tests.commands.conftest import QUICK, adacomed
from tests.conftest import shared
from tests.serve.served import Served, serving
from tests.serve.test_pages_browser import CHECKS, SHOTS

from adacomed.schema import RunFiles

CONFIGS = Path(__file__).parents[2] / "configs" / "cohorts"
NOTE = "Fever and cough for five days.\n<script>alert('note')</script>\nBilateral opacities."
PATIENTS = 60  # of the real ones: enough to train on in seconds


@pytest.fixture(scope="module")
def covid(tmp_path_factory) -> Iterator[Served]:
    """A server of a run on real X-rays, notes and a table."""
    data, folder = shared("covid-cxr"), tmp_path_factory.mktemp("covid")
    card = yaml.safe_load((CONFIGS / "covid-cxr-thumbnails.yaml").read_text())
    shutil.copy(CONFIGS / "thumbnail.py", folder)
    table = pl.read_csv(data / "metadata_open.csv", infer_schema=False)
    table.filter(pl.col("went_icu").is_not_null())[:PATIENTS].write_csv(folder / "patients.csv")
    card |= {"table": "patients.csv"}
    card["modalities"]["xray"]["root"] = str(data / "images")
    (folder / "cohort.yaml").write_text(yaml.safe_dump(card, sort_keys=False))
    (folder / "experiment.yaml").write_text(f"cohort: {folder / 'cohort.yaml'}\n")
    adacomed("train", folder / "experiment.yaml", "--out", folder / "run", *QUICK)
    with serving(folder / "run") as found:
        yield found


@pytest.fixture(scope="module")
def vectors(tmp_path_factory) -> Iterator[tuple[Served, dict[str, int]]]:
    """A server of a run on vectors, and their widths."""
    folder = tmp_path_factory.mktemp("vectors")
    build = ("cohort", "build", "simulated", "--samples", 120, "--modalities", 2)
    adacomed(*build, "--out", folder / "cohort")
    (folder / "experiment.yaml").write_text(f"cohort: {folder / 'cohort'}\n")
    adacomed("train", folder / "experiment.yaml", "--out", folder / "run", *QUICK)
    meta = json.loads((folder / "run" / RunFiles.INPUTS).read_text())
    with serving(folder / "run") as found:
        yield found, meta["native"]


@pytest.fixture(scope="module")
def every_kind(small_run) -> Iterator[Served]:
    """A server of a run that reads a CT, a series and more."""
    with serving(small_run, "--cohort", small_run.parent / "cohort.yaml") as found:
        yield found


@pytest.fixture(params=[(1280, "light"), (390, "dark")], ids=["desktop", "phone"])
def page(request, browser) -> Iterator[Page]:
    """A page; at the end the console is clean, and nothing was asked outside of this machine."""
    width, look = request.param
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=look)
    found, wrong = context.new_page(), []
    found.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
    found.on("pageerror", lambda error: wrong.append(str(error)))
    found.on("dialog", lambda dialog: wrong.append(dialog.message))
    ours = ("http://127.0.0.1:", "data:", "blob:")
    found.on("request", lambda r: None if r.url.startswith(ours) else wrong.append(r.url))
    yield found
    context.close()
    assert wrong == []


def shot(page: Page, name: str) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    width = page.viewport_size["width"]
    page.screenshot(path=SHOTS / f"serve-{name}-{width}.png", full_page=True)


def predicted(page: Page) -> None:
    """The form is sent, and the patient's page is there with its chart."""
    page.get_by_role("button", name="Predict").click()
    page.wait_for_url("**/uploaded/*", timeout=60_000)
    page.wait_for_selector("#effects .main-svg", timeout=30_000)


def record(page: Page, link: str = "Prediction record (JSON)") -> dict:
    """What a click on a download gives."""
    with page.expect_download() as download:
        page.get_by_role("link", name=link).click()
    assert download.value.suggested_filename.startswith("prediction-")
    return json.loads(Path(download.value.path()).read_text())


def probability(found: dict) -> str:
    """The positive class's, as the page prints it."""
    p = list(found["record"]["predictions"][0]["prob"].values())[-1]
    return f"{p:.3f}".removeprefix("0")


def switched(page: Page, name: str) -> str:
    """Take a modality away; what the page then says, and has read out."""
    page.locator("#without-result").evaluate("e => e.replaceChildren()")
    page.locator("form.switches").get_by_label(name, exact=True).click()
    page.wait_for_selector("#without-result [data-without]")
    sentence = page.locator("#without-result [data-without]").get_attribute("data-said")
    assert page.locator("#said").text_content() == sentence
    return sentence


def picture(page: Page) -> np.ndarray:
    """The picture that is shown, once it is loaded."""
    page.wait_for_function(
        "() => !document.querySelector('.viewer[aria-busy]') "
        "&& document.querySelector('.viewer img').naturalWidth > 0"
    )
    source = page.locator(".viewer img").first.get_attribute("src")
    answer = page.request.get(page.url.split("/", 3)[0] + "//" + page.url.split("/")[2] + source)
    assert answer.ok, answer.text()
    return np.asarray(Image.open(io.BytesIO(answer.body())))


def shown_with(page: Page, part: str) -> None:
    """Until a picture is asked for with `part` in its address."""
    page.wait_for_function(
        "part => [...document.querySelectorAll('.viewer img')].some(i => i.src.includes(part))",
        arg=part,
    )


def setting(page: Page, name: str) -> float:
    return float(page.locator(f".viewer [data-set={name}]").first.input_value())


def windowed(raw: np.ndarray, centre: float, width: float) -> np.ndarray:
    return np.rint(np.clip((raw - (centre - width / 2)) / width, 0, 1) * 255)


def test_x_ray_and_note(page, covid, tmp_path):
    raw = np.random.default_rng(0).integers(0, 256, (320, 280), dtype=np.uint8)
    Image.fromarray(raw).save(tmp_path / "chest.png")
    page.goto(f"{covid.url}/new")
    page.get_by_label("age", exact=True).fill("71")
    page.get_by_label("sex", exact=True).select_option("F")
    page.get_by_label("Text of note").fill(NOTE)
    page.get_by_label("File of xray").set_input_files(tmp_path / "chest.png")
    predicted(page)
    assert page.evaluate(CHECKS) == []
    assert page.locator("#input-1 .text").inner_text() == NOTE
    assert "not recorded" in page.locator("table.cells").inner_text()
    before = page.locator(".said .number strong").text_content()
    assert f"{before} with everything" in switched(page, "note")
    page.locator("form.switches").get_by_label("note", exact=True).click()
    page.wait_for_function(
        "() => document.querySelector('[data-without]')?.dataset.said.startsWith('Nothing')"
    )
    switched(page, "xray")
    found = record(page)
    assert probability(found) == before
    assert set(found["explanation"]["modalities"]) == {"xray", "note", "clinical"}
    assert "Fever" not in json.dumps(found)
    assert record(page, "FHIR RiskAssessment (JSON)")["resourceType"] == "RiskAssessment"
    window_and_level(page, raw.astype(float))
    shot(page, "patient-covid")
    assert page.evaluate(CHECKS) == []


def window_and_level(page: Page, raw: np.ndarray) -> None:
    """By keyboard and by mouse; what is shown is the formula, pixel by pixel."""
    page.locator(".viewer img").scroll_into_view_if_needed()
    assert (picture(page) == raw).all()
    page.locator(".viewer").get_by_label("Window").focus()
    for _ in range(100):
        page.keyboard.press("ArrowLeft")
    page.locator(".viewer").get_by_label("Level").focus()
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    centre, width = setting(page, "centre"), setting(page, "width")
    assert (round(centre), width) == (148, 155)
    shown_with(page, f"centre={centre:g}")
    assert (picture(page) == windowed(raw, centre, width)).all()
    box = page.locator(".viewer img").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 60, y - 40, steps=4)
    page.mouse.up()
    assert setting(page, "width") > width
    assert setting(page, "centre") < centre
    page.locator(".viewer").get_by_label("Inverted").check()
    shown_with(page, "invert=1")
    shown = windowed(raw, setting(page, "centre"), setting(page, "width"))
    assert (picture(page) == 255 - shown).all()
    page.locator(".viewer").get_by_label("Zoom").focus()
    small = page.locator(".viewer img").bounding_box()["width"]
    page.keyboard.press("End")
    assert page.locator(".viewer img").bounding_box()["width"] > 2 * small
    page.get_by_role("button", name="As at first").click()
    page.wait_for_function("() => !document.querySelector('.viewer [data-set=invert]').checked")
    page.wait_for_function(
        "() => !document.querySelector('.viewer img').getAttribute('src').includes('invert')"
    )
    assert (setting(page, "centre"), setting(page, "width")) == (pytest.approx(127.5, abs=0.5), 255)


def test_vectors(page, vectors, tmp_path):
    served, widths = vectors
    page.goto(f"{served.url}/new")
    for name, width in widths.items():
        np.save(tmp_path / f"{name}.npy", np.linspace(-1, 1, width, dtype=np.float32))
        page.locator(f"#file-{name}").set_input_files(tmp_path / f"{name}.npy")
    predicted(page)
    assert page.evaluate(CHECKS) == []
    assert "Simulated" in page.title() or "simulated" in page.title()
    first, *_ = widths
    assert f"{widths[first]} numbers were given" in page.locator("#inputs").inner_text()
    before = page.locator(".said .number strong").text_content()
    assert f"{before} with everything" in switched(page, first)
    assert probability(record(page)) == before
    shot(page, "patient-vectors")


def test_a_listed_patient_with_a_ct_and_a_series(page, every_kind):
    page.goto(f"{every_kind.url}/patients?q=p3&sort=id")
    page.get_by_role("link", name="p3", exact=True).click()
    page.wait_for_selector("#effects .main-svg", timeout=30_000)
    assert page.evaluate(CHECKS) == []
    ct = page.locator(".viewer").filter(has_text="voxels")
    ct.scroll_into_view_if_needed()
    ct.get_by_role("button", name="lung").click()
    shown_with(page, "centre=-600&width=1500")
    ct.get_by_label("Slice", exact=True).focus()
    page.keyboard.press("ArrowRight")
    shown_with(page, "slice=4&plane=axial")
    ct.get_by_label("Plane", exact=True).select_option("coronal")
    shown_with(page, "plane=coronal")
    drawn = page.eval_on_selector_all(
        ".figures.small figure", "fs => fs.map(f => !!f.querySelector('.main-svg'))"
    )
    assert drawn == [True, True]
    page.wait_for_timeout(200)
    shot(page, "patient-every-kind")
    page.emulate_media(media="print")
    assert not page.locator("#switches").is_visible()
    assert not ct.locator(".controls").is_visible()


def test_switches_work_without_script(browser, every_kind):
    context = browser.new_context(java_script_enabled=False, base_url=every_kind.url)
    page = context.new_page()
    page.goto("/patients/p3")
    page.get_by_role("checkbox", name="note").check()
    page.get_by_role("button", name="Show").click()
    assert "/patients/p3/without?m=note" in page.url
    assert "Without note" in page.locator("#main").inner_text()
    assert page.get_by_role("checkbox", name="note").is_checked()
    page.get_by_role("link", name="The whole page of this patient").click()
    assert page.url.endswith("/patients/p3")
    context.close()
