"""Overview, list and form in a real browser at a real server: phone and desktop, light and dark.

Screenshots are kept in build/screenshots, or under ADACOMED_SCREENSHOTS.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import ConsoleMessage, Page, expect
from tests.serve.served import Served, png, serving

SHOTS = Path(
    os.environ.get("ADACOMED_SCREENSHOTS", Path(__file__).parents[2] / "build/screenshots")
)
VIEWS = [(width, look) for width in (1280, 390) for look in ("light", "dark")]

CHECKS = (Path(__file__).parent / "checks.js").read_text()


@pytest.fixture(scope="module")
def served(small_run) -> Iterator[Served]:
    with serving(small_run, "--cohort", small_run.parent / "cohort.yaml") as found:
        yield found


@pytest.fixture(params=VIEWS, ids=lambda view: f"{view[0]}-{view[1]}")
def page(request, browser, served) -> Iterator[Page]:
    """A page of one width and look; nothing may go wrong or be asked outside."""
    width, look = request.param
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=look, base_url=served.url
    )
    context.set_default_timeout(15_000)
    page, wrong = context.new_page(), []
    page.on("console", lambda m: wrong.append(m.text) if _bad(m) else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    ours = (served.url, "data:", "blob:")
    page.on("request", lambda r: None if r.url.startswith(ours) else wrong.append(r.url))
    page.view = f"{width}-{look}"  # type: ignore[attr-defined]
    yield page
    context.close()
    assert wrong == []


def _bad(message: ConsoleMessage) -> bool:
    """A form that comes back with its errors (422) is said to be a failure; it is not."""
    return message.type in ("error", "warning") and "status of 422" not in message.text


def shot(page: Page, name: str) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"serve-{name}-{page.view}.png", full_page=True)  # type: ignore[attr-defined]


def test_overview(page):
    page.goto("/", wait_until="networkidle")
    page.wait_for_selector("#roc .main-svg", timeout=30_000)
    assert page.evaluate(CHECKS) == []
    drawn = page.eval_on_selector_all(
        "figure", "fs => fs.filter(f => !f.querySelector('.main-svg')).map(f => f.id)"
    )
    assert drawn == []
    page.get_by_role("link", name="The whole report of this run").focus()
    shot(page, "overview")


def test_search_and_sort_by_keyboard(page):
    page.goto("/patients")
    assert page.evaluate(CHECKS) == []
    shot(page, "patients")
    page.get_by_label("Search by id").focus()
    page.keyboard.type("p1")
    page.wait_for_url("**/patients?q=p1")
    expect(page.locator("a[data-row]")).to_have_count(11)
    expect(page.locator("#said")).to_have_text("1 to 11 of 11 patients")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.dataset.row") == ""
    second = page.locator("a[data-row]").nth(1).text_content()
    assert page.evaluate("document.activeElement.textContent") == second
    page.get_by_label("Sort by").focus()
    page.get_by_label("Sort by").select_option("disagreement")
    page.wait_for_url("**sort=disagreement**")
    if page.viewport_size["width"] > 720:  # on a phone the heads are not there: the choice is
        page.locator("#by-id").focus()
        page.keyboard.press("Enter")
        page.wait_for_url("**sort=id**")
        expect(page.locator("th[aria-sort]")).to_have_attribute("aria-sort", "ascending")
        expect(page.get_by_label("Sort by")).to_have_value("id")
        expect(page.locator("#by-id")).to_be_focused()
        page.go_back()
        page.wait_for_url("**sort=disagreement**")
        expect(page.get_by_label("Sort by")).to_have_value("disagreement")
    page.get_by_label("Search by id").focus()
    page.keyboard.press("Escape")
    expect(page.locator("a[data-row]")).to_have_count(48)
    assert page.evaluate(CHECKS) == []


def test_a_new_patient_is_uploaded(page, tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    page.goto("/new")
    assert page.evaluate(CHECKS) == []
    page.get_by_role("textbox", name="age", exact=True).fill("sixty")
    page.get_by_label("Text of note").fill("Fever for two days.")
    page.get_by_role("button", name="Predict").click()
    page.wait_for_selector(".errors")
    assert page.evaluate("document.activeElement.className") == "errors"
    assert page.evaluate(CHECKS) == []
    assert page.get_by_label("Text of note").input_value() == "Fever for two days."
    shot(page, "new-error")
    page.locator(".errors a").click()
    assert page.evaluate("document.activeElement.id") == "in-clinical-age"
    page.get_by_role("textbox", name="age", exact=True).fill("60")
    page.get_by_role("combobox", name="sex").select_option("F")
    page.get_by_label("File of xray").set_input_files(tmp_path / "a.png")
    page.get_by_role("button", name="Predict").click()
    page.wait_for_url("**/uploaded/*", timeout=30_000)
    assert page.locator("h1").count() == 1
    shot(page, "uploaded")


def test_files_can_be_dropped(browser, served):
    context = browser.new_context(base_url=served.url)
    page = context.new_page()
    page.goto("/new")
    page.evaluate("""() => {
      const files = new DataTransfer();
      files.items.add(new File(["x"], "a.png", { type: "image/png" }));
      document.getElementById("file-xray").closest(".drop")
        .dispatchEvent(new DragEvent("drop", { dataTransfer: files, cancelable: true }));
    }""")
    name = page.eval_on_selector("#file-xray", "input => input.files[0].name")
    assert name == "a.png"
    assert page.locator("#said").text_content() == "1 file chosen"
    context.close()


def test_it_works_without_script(browser, served):
    context = browser.new_context(java_script_enabled=False, base_url=served.url)
    page = context.new_page()
    page.goto("/patients")
    page.get_by_label("Search by id").fill("p1")
    page.get_by_label("Sort by").select_option("id")
    page.get_by_role("button", name="Show").click()
    assert "q=p1" in page.url
    assert page.locator("a[data-row]").count() == 11
    page.goto("/new")
    page.get_by_label("Text of note").fill("Fever.")
    page.get_by_role("button", name="Predict").click()
    assert "/uploaded/" in page.url
    context.close()


def test_errors_are_pages(browser, served):
    context = browser.new_context(base_url=served.url)
    page = context.new_page()
    answer = page.goto("/nothing")
    assert answer.status == 404
    assert page.locator("h1").text_content() == "Not found"
    assert page.evaluate(CHECKS) == []
    context.close()
