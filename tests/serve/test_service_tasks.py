"""Several classes, findings, survival and raw inputs: the same answers as `adacomed predict`."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from tests.commands.conftest import QUICK, adacomed
from tests.serve.arrivals import arrival, cohort_beside, gap, offline, predict_all, same
from tests.training.raw_cohort import OWN_ENCODERS, random_files, write

from adacomed.serve.record import classes_of
from adacomed.serve.service import Service
from adacomed.training.checkpoint import load_run

EXACT = 1e-12


def trained(folder: Path, *words: object) -> Path:
    (folder / "experiment.yaml").write_text("cohort: cohort.yaml\n")
    adacomed("train", folder / "experiment.yaml", *QUICK, *words, "--out", folder / "run")
    return folder / "run"


def simulated(folder: Path, task: str) -> Path:
    words = ("--task", task, "--samples", 130, "--modalities", 2)
    adacomed("cohort", "build", "simulated", *words, "--out", folder)
    return trained(folder)


def three_classes(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    folder.mkdir()
    rows = [(f"p{i}", "abc"[i % 3], float(i % 3 + rng.normal()), "FM"[i % 2]) for i in range(60)]
    names = ["patient", "ward", "age", "sex"]
    pl.DataFrame(rows, schema=names, orient="row").write_csv(folder / "patients.csv")
    card = {
        "name": "three",
        "table": "patients.csv",
        "subject": "patient",
        "tasks": {"ward": {"column": "ward", "classes": ["a", "b", "c"]}},
        "modalities": {"clinical": {"kind": "tabular", "columns": ["age", "sex"]}},
    }
    (folder / "cohort.yaml").write_text(yaml.safe_dump(card))
    return trained(folder)


def raw(folder: Path) -> Path:
    """The paper's small model reads notes and laboratory values themselves."""
    write(folder, random_files(), names=("note", "labs", "clinical"), encoders=OWN_ENCODERS)
    return trained(folder, "small.kind=multimodal-pred", "small.width=8")


MAKERS = {
    "classes": three_classes,
    "findings": lambda folder: simulated(folder, "findings"),
    "survival": lambda folder: simulated(folder, "survival"),
    "raw": raw,
}


@pytest.fixture(scope="module", params=MAKERS)
def made(request, tmp_path_factory) -> tuple[str, Path]:
    return request.param, MAKERS[request.param](tmp_path_factory.mktemp("made") / "cohort")


def test_every_patient_equals_predict(made) -> None:
    kind, folder = made
    run, cohort = load_run(folder), cohort_beside(folder)
    service = Service(run)
    service.warm()
    whole = offline(run, cohort)
    at = [i for i in range(len(cohort)) if whole[i][0]["present"]][:24]
    if kind == "raw":  # notes arrive in their order, without the times that the cohort has
        at = [i for i in at if len(cohort.cells("note")[i]) < 2]
        assert len(at) > 5
    cases = [service.case(arrival(run, cohort, i)) for i in at]
    records = predict_all(service, cases)
    alone = [asyncio.run(service.predict(case)) for case in cases]
    assert same(records, alone)
    for i, record in zip(at, records, strict=True):
        assert gap(record, whole[i]) <= EXACT
        json.dumps(record, allow_nan=False)
    _looks_right(kind, run, records[0])
    asyncio.run(service.close())


def _looks_right(kind: str, run, record) -> None:
    said = record["predictions"]
    for n, one in enumerate(said):
        assert one["classes"] == classes_of(run, n)
        assert sum(one["prob"].values()) == pytest.approx(1)
    if kind == "classes":
        assert (record["kind"], said[0]["classes"]) == ("classes", ["a", "b", "c"])
        assert (said[0]["positive"], said[0]["threshold"]) == (None, None)
    if kind == "findings":
        assert [one["task"] for one in said] == [
            f"findings: {name}" for name in ("infiltrate", "effusion", "nodule")
        ]
        assert said[1]["classes"] == ["no effusion", "effusion"]
    if kind == "survival":
        assert len(said[0]["survival"]) == len(said[0]["intervals"])
        assert said[0]["horizon"] in said[0]["intervals"]
        at = said[0]["intervals"].index(said[0]["horizon"])
        assert list(said[0]["prob"].values())[1] == pytest.approx(1 - said[0]["survival"][at])
