"""The page of one patient where the task is several findings, or survival."""

from __future__ import annotations

import re

import polars as pl
import pytest
from fastapi.testclient import TestClient
from tests.commands.conftest import QUICK, adacomed

from adacomed.serve.app import create_app
from adacomed.serve.pages.frame import PARTIAL
from adacomed.serve.patients import Patients, open_patients
from adacomed.serve.service import Service
from adacomed.serve.settings import Settings
from adacomed.training.checkpoint import load_run

PAGE = {"accept": "text/html"}


def said(p: float) -> str:
    return f"{p:.3f}".removeprefix("0")


@pytest.mark.parametrize("task", ["findings", "survival"])
def test_pages_of_other_tasks(task, tmp_path):
    cohort, experiment = tmp_path / "cohort", tmp_path / "experiment.yaml"
    build = ("cohort", "build", "simulated", "--task", task, "--samples", 130, "--modalities", 2)
    adacomed(*build, "--out", cohort)
    experiment.write_text("cohort: cohort\n")
    adacomed("train", experiment, "--out", tmp_path / "run", *QUICK)
    run = load_run(tmp_path / "run")
    service = Service(run, patients=open_patients(run, cohort, None))
    with TestClient(
        create_app(service, Settings()), base_url="http://localhost", headers=PAGE
    ) as client:
        name = service.patients.rows["sample_id"][0]
        rows = service.patients.rows.filter(pl.col("sample_id") == name)
        text = client.get(f"/patients/{name}").text
        for p in rows["prob"]:
            assert f"<strong>{said(p)}</strong>" in text
        if task == "survival":
            assert "by 24 months" in text
            assert 'id="survival"' in text
        else:
            assert "probability of effusion" in text
            assert "infiltrate" in text
        [gone, *_] = re.findall(r'name="m" value="([^"]+)"', text)
        part = client.get(f"/patients/{name}/without?m={gone}", headers={PARTIAL: "1"})
        assert part.status_code == 200
        assert "What changes" in part.text
        rows = service.patients.rows
        service.patients = Patients(run, rows, None, "elsewhere")
        assert said(rows["prob"][0]) in client.get(f"/patients/{name}").text
