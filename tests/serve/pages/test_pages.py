"""The overview, the list, the form and what is sent by it, through the real application."""

from __future__ import annotations

import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from tests.serve.served import WIDTH, png

from adacomed.serve.app import create_app
from adacomed.serve.pages.form import blamed, groups, problems
from adacomed.serve.pages.frame import asset, static, templates
from adacomed.serve.patients import open_patients
from adacomed.serve.service import Service
from adacomed.serve.settings import Settings
from adacomed.training.checkpoint import load_run

PAGE = {"accept": "text/html"}


@pytest.fixture(scope="module")
def folder(small_run) -> Path:
    return small_run


@pytest.fixture(scope="module")
def client(folder):
    run = load_run(folder)
    service = Service(run, patients=open_patients(run, folder.parent / "cohort.yaml", None))
    with TestClient(
        create_app(service, Settings()), base_url="http://localhost", headers=PAGE
    ) as c:
        yield c


def vector(width: int = WIDTH) -> bytes:
    file = io.BytesIO()
    np.save(file, np.linspace(0, 1, width, dtype=np.float32))
    return file.getvalue()


def errors(text: str) -> dict[str, str]:
    """Id of a field → the error beside it."""
    return dict(re.findall(r'class="wrong" id="([^"]+)-wrong">([^<]+)<', text))


# ---- frame --------------------------------------------------------------------------------------
def test_every_page_says_what_it_is_for(client):
    for where in ("/", "/patients", "/new", "/nothing"):
        text = client.get(where).text
        assert "not a medical\ndevice" in text
        assert "<main" in text
        assert 'lang="en"' in text


def test_nothing_is_loaded_from_elsewhere(client):
    for where in ("/", "/patients", "/new"):
        text = client.get(where).text
        assert not re.findall(r'(?:src|href|action)="(?!/|#)', text)
        assert not re.search(r"<script(?![^>]*(src=|application/json))", text)
        assert not re.search(r"\son\w+=", text)
        assert "style=" not in text


def test_static_files_may_be_kept_and_change_their_address_with_their_content(client):
    for name in ("page.css", "page.js", "style.css", "charts.js", "plotly.js", "icon.svg"):
        answer = client.get(asset(name))
        assert answer.status_code == 200
        assert answer.content == static(name).content
        assert "immutable" in answer.headers["cache-control"]
        again = client.get(asset(name), headers={"if-none-match": answer.headers["etag"]})
        assert again.status_code == 304


@pytest.mark.parametrize("name", ["none.css", "..%2Fframe.py", "patient.html", ".css", "x" * 500])
def test_no_other_file_is_served(client, name):
    assert client.get(f"/static/{name}").status_code == 404


def test_templates_escape_what_they_show():
    text = templates().from_string("{{ x }}").render(x="<script>&\"'")
    assert text == "&lt;script&gt;&amp;&#34;&#39;"


# ---- overview -----------------------------------------------------------------------------------
def overview(client) -> str:
    """The overview once its figures are there."""
    for _ in range(30):
        text = client.get("/").text
        if "being computed" not in text:
            return text
    raise AssertionError("the figures never came")


def test_the_overview_has_the_reports_figures_with_intervals(client, folder):
    text = overview(client)
    metrics = json.loads((folder / "metrics.json").read_text())["test"][0]
    assert f"{metrics['auroc']:.3f}".removeprefix("0") in text
    specs = json.loads(re.search(r'id="specs">(.*?)</script>', text, re.S).group(1))
    assert {"roc", "pr", "reliability", "decision-curve"} <= set(specs)
    for name, kind in (("xray", "image"), ("genes", "embedding"), ("vitals", "series")):
        assert re.search(rf'<th scope="row">{name}</th><td>{kind}</td>', text)
    assert load_run(folder).model_hash in text
    assert "95 % interval" in text


def test_the_report_and_the_card_are_there(client, folder):
    report = client.get("/report")
    assert report.text == (folder / "report.html").read_text()
    assert "script-src 'unsafe-inline'" in report.headers["content-security-policy"]
    assert client.get("/model-card").text == (folder / "model_card.md").read_text()


def test_a_run_without_predictions_says_what_is_not_there(folder, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare)
    for name in ("predictions.parquet", "report.html", "model_card.md"):
        (bare / name).unlink()
    run = load_run(bare)
    service = Service(run, patients=open_patients(run, None, None))
    with TestClient(
        create_app(service, Settings()), base_url="http://localhost", headers=PAGE
    ) as c:
        text = overview(c)
        assert "no predictions.parquet" in text
        assert str(bare) not in text
        assert "/report" not in text
        assert c.get("/report").status_code == c.get("/model-card").status_code == 404
        assert "came without its patients" in c.get("/patients").text
        assert c.get("/new").status_code == 200


# ---- list ---------------------------------------------------------------------------------------
def test_the_list_and_the_part_of_it_that_a_script_swaps(client):
    whole = client.get("/patients?q=p1&sort=id")
    part = client.get("/patients?q=p1&sort=id", headers={"X-Partial": "list"})
    assert part.text.strip() in whole.text
    assert "<html" not in part.text
    assert 'aria-sort="ascending"' in part.text
    ids = re.findall(r"data-row>(p1\d?)</a>", part.text)
    assert ids == sorted(ids)
    assert len(ids) == 11
    assert whole.headers["vary"] == "X-Partial"
    assert whole.headers["cache-control"] == "no-store"


def test_a_search_is_shown_as_text(client):
    text = client.get("/patients", params={"q": '"><script>x</script>'}).text
    assert "<script>x" not in text
    assert "No patient matches." in text


def test_an_order_that_there_is_not_is_a_page_that_says_so(client):
    answer = client.get("/patients?sort=colour")
    assert answer.status_code == 422
    assert "expected one of risk" in answer.text


# ---- form ---------------------------------------------------------------------------------------
class Labels(HTMLParser):
    """Ids of a page's fields, and what labels are for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fields: list[str] = []
        self.told: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        of = dict(attrs)
        if tag in ("input", "select", "textarea") and of.get("type") != "hidden":
            self.fields.append(of.get("id") or "")
        if tag == "label":
            self.told.append(of.get("for") or "")


def test_the_form_has_a_labelled_field_for_everything_that_the_run_reads(client, folder):
    text = client.get("/new").text
    made = groups(load_run(folder))
    assert [g.modality for g in made] == ["clinical", "note", "xray", "ct", "vitals", "genes"]
    labels = Labels(text)
    wanted = [field.id for group in made for field in group.fields]
    assert set(wanted) <= set(labels.fields)
    assert sorted(labels.fields) == sorted(set(labels.fields)) == sorted(labels.told)
    assert re.search(r"<option>F</option>\s*<option>M</option>", text)
    assert "hr (/min)" in text
    assert "sample_id, " not in text
    assert f"a vector of {WIDTH} numbers" in text


def test_a_patient_goes_to_a_page_of_their_own(client):
    sent = {"sample_id": "n7", "clinical.age": "61", "clinical.sex": "F", "note": "Fever.",
            "vitals": "hours,variable,value\n0,hr,80\n1,hr,85\n"}  # fmt: skip
    files = {"xray": ("a.png", png(), "image/png"), "genes": ("g.npy", vector()),
             "ct": ("", b"")}  # fmt: skip
    answer = client.post("/new", data=sent, files=files, follow_redirects=False)
    assert answer.status_code == 303, answer.text
    page = client.get(answer.headers["location"])
    assert page.status_code == 200
    assert "n7" in page.text
    record = client.get(answer.headers["location"] + "/record.json").json()
    found = json.dumps(record)
    assert all(f'"{name}"' in found for name in ("clinical", "note", "xray", "vitals", "genes"))


@pytest.mark.parametrize(
    ("sent", "files", "where", "why"),
    [
        ({"clinical.age": "1,000"}, {}, "in-clinical-age", "Expected a number such as 1.5"),
        ({"clinical.age": "nan"}, {}, "in-clinical-age", "Expected a number such as 1.5"),
        ({"sample_id": "a b", "note": "x"}, {}, "in-sample_id", "no spaces"),
        ({}, {"genes": ("g.npy", vector(3))}, "file-genes", "3"),
        ({"note": "kept"}, {"xray": ("a.png", b"no picture")}, "file-xray", "PNG, JPEG or DICOM"),
        ({"note": "kept"}, {"xray": ("../a.png", png())}, "", "name"),
        ({"vitals": "hours,variable\n0,hr\n"}, {}, "file-vitals", "value"),
    ],
)
def test_errors_stand_beside_their_field_with_what_was_typed_kept(client, sent, files, where, why):
    answer = client.post("/new", data=sent, files=files or {"ct": ("", b"")})
    assert answer.status_code == 422
    found = errors(answer.text)
    if where:
        assert why in found[where], found
        assert re.search(rf'id="{where}"[^>]*aria-invalid="true"', answer.text)
        assert f'href="#{where}"' in answer.text
    else:
        assert why in re.search(r'role="alert".*?</div>', answer.text, re.S).group()
    for value in sent.values():
        assert value.strip() in answer.text


def test_a_text_is_kept_though_its_file_field_has_its_name(client):
    sent = {"note": (None, "kept"), "clinical.age": (None, "x")}
    both = [*sent.items(), ("note", ("", b""))]
    assert re.search(r"<textarea[^>]*>\s*kept<", client.post("/new", files=both).text)


def test_nothing_at_all_is_said_in_words(client):
    answer = client.post("/new", data={"clinical.age": " "}, files={"ct": ("", b"")})
    assert answer.status_code == 422
    assert "Nothing was given" in answer.text


def test_what_was_typed_comes_back_as_text(client):
    sent = {"note": "</textarea><script>x</script>", "clinical.age": '"><script>y</script>'}
    text = client.post("/new", data=sent, files={"ct": ("", b"")}).text
    assert "<script>x" not in text
    assert "<script>y" not in text


def test_refused_and_forgotten_patients_leave_no_file(client):
    scratch = Path(client.app.state.work.folder().name).parent
    client.post("/new", data={"note": "x"}, files={"xray": ("a.png", b"no picture")})
    before = {p.name for p in scratch.iterdir()}
    client.post("/new", data={"note": "x"}, files={"xray": ("a.png", b"no picture")})
    assert {p.name for p in scratch.iterdir()} == before


def test_problems_and_blame(folder):
    made = groups(load_run(folder))
    assert problems(made, {"clinical.age": " ", "clinical.sex": "F", "note": "x"}) == {}
    assert set(problems(made, {"clinical.sex": "Z"})) == {"in-clinical-sex"}
    assert blamed(made, "modality 'ct': 3 numbers") == "file-ct"
    assert blamed(made, "factors of detection") == ""
    assert blamed(made, "clinical.age: given twice") == "in-clinical-age"
