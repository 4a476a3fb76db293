"""The page of one patient through the real application: its numbers, switches, pictures, record."""

from __future__ import annotations

import html
import io
import re

import nibabel
import numpy as np
import polars as pl
import pytest
from fastapi import Request
from fastapi.testclient import TestClient
from fhir.resources.riskassessment import RiskAssessment
from PIL import Image
from tests.serve.served import png

from adacomed.cohort.cohort import load_cohort
from adacomed.explain.patient import explain_patients
from adacomed.inference import predict
from adacomed.intake import gather_for
from adacomed.serve.app import create_app
from adacomed.serve.audit import AuditLog, verify
from adacomed.serve.pages.account import Bar, Said
from adacomed.serve.pages.frame import PARTIAL, render
from adacomed.serve.pages.told import Similar, Told
from adacomed.serve.patients import Patients, open_patients
from adacomed.serve.service import Service
from adacomed.serve.settings import Settings
from adacomed.serve.views.images import Look
from adacomed.serve.views.inputs import View
from adacomed.serve.views.notes import Note
from adacomed.serve.views.tables import Cell
from adacomed.training.checkpoint import load_run
from adacomed.training.perturb import without

PAGE = {"accept": "text/html"}
HOSTILE = "<script>alert('x')</script>\"'&{{7*7}}"


@pytest.fixture(scope="module")
def run(small_run):
    return load_run(small_run)


@pytest.fixture(scope="module")
def offline(run, small_run):
    """What the same run reads of the same patients without any service."""
    return gather_for(run, load_cohort(small_run.parent / "cohort.yaml", labels=False))


@pytest.fixture(scope="module")
def patients(run, small_run) -> Patients:
    found = open_patients(run, small_run.parent / "cohort.yaml", None)
    found.start()
    found.wait()
    return found


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return tmp_path_factory.mktemp("audit") / "audit.jsonl"


@pytest.fixture(scope="module")
def client(run, patients, log):
    app = create_app(Service(run, patients=patients), Settings(), AuditLog(log))
    with TestClient(app, base_url="http://localhost", headers=PAGE) as found:
        yield found


def seen(text: str) -> str:
    """The words of a page."""
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text)))


def pixels(response) -> np.ndarray:
    assert response.headers["content-type"] == "image/png", response.text
    return np.asarray(Image.open(io.BytesIO(response.content)))


def said(p: float) -> str:
    return f"{p:.3f}".removeprefix("0")


# ---- the page -----------------------------------------------------------------------------------
def test_the_numbers_are_those_of_predict_and_explain(client, run, offline):
    row = predict(run, offline).filter(pl.col("sample_id") == "p3").row(0, named=True)
    (explained,), _ = explain_patients(run, offline.take(np.array([3])))
    text = client.get("/patients/p3").text
    words = seen(text)
    assert f"<strong>{said(row['prob'])}</strong>" in text
    assert f"threshold {said(row['threshold'])}" in words
    assert f"nothing is known: {said(explained.base[1])}" in words
    assert f"the large models weigh {row['w_large']:.2f}"[-3:] in words
    for name, effect in explained.modalities.items():
        assert re.search(rf"{name} [+−]?{said(abs(effect.shapley[1]))}", words), name
    inside = [run.classes[k] for k in row["prediction_set"]]
    assert "Cannot be ruled out: " + " or ".join(inside) in words if inside else "abstains" in words
    assert "What happened: N" in words  # the outcome of p3 in the cohort


def test_every_modality_is_shown_as_people_look_at_it(client):
    text = client.get("/patients/p3").text
    words = seen(text)
    assert "2 of 2 recorded" in words
    assert re.search(r"age 53 .*?±", words)
    assert "Fever Fever" in words
    assert '<img src="/patients/p3/image/xray/0.png"' in text
    assert '<img src="/patients/p3/image/ct/0.png"' in text
    assert "8 × 8 × 6 voxels of 1.5 × 1.5 × 3 mm" in words
    assert "hr (/min)" in words
    assert "map (mm[Hg])" in words
    assert "6 numbers were given" in words
    assert "genes used vector as given" in words


def test_similar_patients_have_their_outcomes_and_pages(client, patients):
    text = client.get("/patients/p3").text
    part = text[text.index('id="similar"') :]
    links = re.findall(r'<a href="/patients/(p\d+)">', part)
    assert len(links) == 5
    assert "p3" not in links
    assert "of these 5 was Y" in seen(part)
    assert patients.similar_note == ""


def test_an_id_with_slashes_and_dots_has_its_page(run, patients, offline):
    rows = patients.rows.with_columns(pl.lit("9/a b?.jpg").alias("sample_id"))[:1]
    lonely = Patients(run, rows, None, "somebody; not on this machine")
    app = create_app(Service(run, patients=lonely), Settings())
    with TestClient(app, base_url="http://localhost", headers=PAGE) as found:
        answer = found.get("/patients/9/a%20b%3F.jpg")
        assert answer.status_code == 200
        words = seen(answer.text)
        assert "Patient 9/a b?.jpg" in words
        assert "not on this machine" in words
        assert said(rows["prob"][0]) in words
        assert "Leave out" not in words
        assert found.get("/patients/9/a%20b%3F.jpg/record.json").status_code == 422


@pytest.mark.parametrize(
    "where", ["/patients/nobody", "/patients/", "/patients/nobody/record.json", "/uploaded/x"]
)
def test_nobody_has_no_page(client, where):
    assert client.get(where).status_code == 404


# ---- switches -----------------------------------------------------------------------------------
@pytest.mark.parametrize("gone", [["xray"], ["clinical", "note"], ["genes", "ct", "vitals"]])
def test_without_is_what_the_model_says_of_such_a_patient(client, run, offline, gone):
    one = offline.take(np.array([3]))
    whole, less = (float(predict(run, x)["prob"][0]) for x in (one, without(one, gone)))
    answer = client.get("/patients/p3/without", params={"m": gone}, headers={PARTIAL: "1"})
    assert answer.status_code == 200
    assert "<html" not in answer.text
    change = f"{less - whole:+.3f}".replace("-", "−")
    change = "under 0.001" if float(change.replace("−", "-")) == 0 else change
    assert f"probability of Y {whole:.3f} {less:.3f} {change}" in seen(answer.text)


def test_without_a_script_it_is_a_page_of_its_own(client):
    text = client.get("/patients/p3/without?m=xray").text
    assert "<main" in text
    assert '<input type="checkbox" name="m" value="xray" checked>' in text
    assert "Without xray:" in seen(text)


def test_nothing_left_out_and_a_modality_that_is_not_there(client):
    assert "Nothing is left out" in client.get("/patients/p3/without").text
    answer = client.get("/patients/p3/without?m=xrat")
    assert answer.status_code == 422
    assert "modality 'xrat' to take away" in seen(answer.text)


# ---- pictures -----------------------------------------------------------------------------------
def test_a_window_is_applied_pixel_by_pixel(client, small_run):
    raw = np.asarray(Image.open(small_run.parent / "xray/3.png")).astype(float)
    where = "/patients/p3/image/xray/0.png"
    assert (pixels(client.get(where)) == raw).all()
    shown = pixels(client.get(where, params={"centre": "100", "width": "50"}))
    assert (shown == np.rint(np.clip((raw - 75) / 50, 0, 1) * 255)).all()
    assert (pixels(client.get(where, params={"invert": "1"})) == 255 - raw).all()


def test_a_slice_of_a_volume_in_hounsfield_units(client, small_run):
    hu = np.asarray(nibabel.load(small_run.parent / "ct/3.nii.gz").dataobj)
    asked = {"centre": "0", "width": "400", "plane": "axial", "slice": "2"}
    shown = pixels(client.get("/patients/p3/image/ct/0.png", params=asked))
    expected = np.rint(np.clip((hu[:, :, 2] + 200) / 400, 0, 1) * 255).T[::-1, ::-1]
    assert np.abs(shown.astype(int) - expected).max() <= 1
    assert (shown == expected).mean() > 0.98


@pytest.mark.parametrize(
    "query",
    [
        "centre=40",
        "centre=nan&width=1",
        "centre=0&width=0",
        "centre=0&width=-3",
        "centre=x&width=1",
        "centre=1e300&width=1e300",
        "slice=-1",
        "slice=6",
        "slice=9999999999999",
        "slice=²",
        "plane=oblique",
        "side=abc",
    ],
)
def test_what_cannot_be_drawn_is_a_sentence(client, query):
    answer = client.get(f"/patients/p3/image/ct/0.png?{query}")
    assert answer.status_code == 422
    assert len(seen(answer.text)) > 20


@pytest.mark.parametrize("where", ["xray/1.png", "note/0.png", "genes/0.png", "nothing/0.png"])
def test_a_picture_that_is_not_there(client, where):
    assert client.get(f"/patients/p3/image/{where}").status_code == 422


def test_a_picture_is_never_larger_than_the_most(client):
    shown = pixels(client.get("/patients/p3/image/xray/0.png?side=999999"))
    assert shown.shape == (24, 24)
    assert pixels(client.get("/patients/p3/image/xray/0.png?side=0")).shape == (1, 1)


# ---- the record ---------------------------------------------------------------------------------
def test_the_record_has_the_numbers_and_no_input(client, run, offline):
    answer = client.get("/patients/p3/record.json")
    assert 'attachment; filename="prediction-p3.json"' in answer.headers["content-disposition"]
    found, row = answer.json(), predict(run, offline).row(3, named=True)
    assert found["record"]["predictions"][0]["prob"]["Y"] == pytest.approx(row["prob"], abs=1e-12)
    assert found["explanation"]["modalities"]["xray"]["present"] is True
    assert found["record"]["provenance"]["model_hash"] == run.model_hash
    assert "Fever" not in answer.text
    assert "3.png" not in answer.text


def test_the_record_as_fhir_is_valid(client):
    answer = client.get("/patients/p3/record.json?format=fhir")
    assert answer.headers["content-type"] == "application/fhir+json"
    assert RiskAssessment.model_validate(answer.json()).status == "final"
    assert client.get("/patients/p3/record.json?format=xml").status_code == 422


def test_every_prediction_shown_is_one_entry_of_the_audit_log(client, log):
    before = len(log.read_text().splitlines())
    client.get("/patients/p4")
    client.get("/patients/p4/without?m=xray")
    client.get("/patients/p4/record.json")
    client.get("/patients/p4/image/xray/0.png")
    lines = log.read_text().splitlines()
    assert len(lines) == before + 3
    assert verify(log).whole
    assert "Fever" not in log.read_text()


# ---- hostile input ------------------------------------------------------------------------------
def test_an_uploaded_note_is_text_and_its_lines_are_kept(client):
    note = f"First line.\n  {HOSTILE}\nlast line"
    answer = client.post("/new", data={"note": note}, files={"xray": ("a.png", png(), "image/png")})
    assert answer.status_code == 200, seen(answer.text)
    assert answer.url.path.startswith("/uploaded/")
    assert "<script>alert" not in answer.text
    shown = re.search(r'class="text"[^>]*>([^<]*)</div>', answer.text).group(1)
    assert html.unescape(shown).splitlines() == note.splitlines()
    base = answer.url.path
    assert pixels(client.get(f"{base}/image/xray/0.png")).shape == (24, 24)
    assert client.get(f"{base}/record.json").json()["record"]["sample_id"] == "new"
    assert "Without note" in seen(client.get(f"{base}/without?m=note").text)


def test_nothing_on_the_page_is_taken_for_markup(client):
    said = Said(HOSTILE, HOSTILE, HOSTILE, [Bar(HOSTILE, HOSTILE, 1.0)] * 2, HOSTILE, HOSTILE, True)
    view = View(
        HOSTILE,
        "input-0",
        "table",
        HOSTILE,
        looks=[Look(0, missing=HOSTILE), Look(1)],
        notes=[Note(HOSTILE, HOSTILE), Note("b", missing=HOSTILE)],
        prompt=HOSTILE,
        words=HOSTILE,
        cells=[Cell(HOSTILE, HOSTILE, HOSTILE, "new"), Cell(HOSTILE, "")],
    )
    told = Told(
        HOSTILE,
        "/patients/x",
        HOSTILE,
        [said, said],
        [HOSTILE],
        [Bar(HOSTILE, "", 1.0)],
        [(HOSTILE, HOSTILE)],
        switches=[HOSTILE],
        views=[view],
        unseen=HOSTILE,
        similar=[Similar(HOSTILE, "/patients/y", "", HOSTILE, HOSTILE)],
        similar_said=HOSTILE,
        unexplained=HOSTILE,
        task=HOSTILE,
    )
    scope = {"type": "http", "app": client.app, "path": "/", "query_string": b"", "headers": []}
    request = Request(scope | {"method": "GET", "server": ("localhost", 80), "scheme": "http"})
    text = render(request, "patient.html", told=told).body.decode()
    assert "<script>alert" not in text
    assert "49" not in text
    assert "alert(&#39;x&#39;)" in text
    assert not re.search(r'"[^"<>]*alert\(\'', text)
