"""Modalities of real models: values add up, the absent get 0, and a patient reads well."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from adacomed.config import EvidenceSettings
from adacomed.explain.modalities import modality_shapley, predicted, presence
from adacomed.explain.patient import SCHEMA, explain_patients, frame, leads, text
from adacomed.explain.shapley import from_stress
from adacomed.inference import forward, prediction_frame, probabilities
from adacomed.schema import CohortCard
from adacomed.training.checkpoint import Run
from adacomed.training.loader import Inputs
from adacomed.training.outcome import Findings
from adacomed.training.perturb import without
from adacomed.training.stress import stress

SETS = {
    "everything": [],
    "no vectors": ["a", "b"],
    "a alone": ["b", "clinical"],
    "nothing": ["a", "b", "clinical"],
}


def run_of(trained: Any, classes: int) -> Run:
    experts = ["a", "b", "a + b"]
    names = tuple(f"class {k}" for k in range(classes))
    card = CohortCard.model_construct(name="tiny", modalities={})
    return Run(Path("nowhere"), trained, "t", names, "adacomed", card, {"experts": experts}, "")


@pytest.mark.parametrize("gone", SETS.values(), ids=SETS)
@pytest.mark.parametrize(("classes", "small", "members"), [(2, "shallow", 2), (3, "stack", 1)])
def test_values_add_up_and_the_absent_get_nothing(gone, classes, small, members, fitted) -> None:
    trained, everyone = fitted(classes=classes, small=small, members=members)
    inputs = without(everyone, gone)
    found = modality_shapley(trained, inputs)
    prob = probabilities(forward(trained, inputs), trained)
    np.testing.assert_allclose(found.prob, prob, atol=1e-12)
    np.testing.assert_allclose(found.values.sum(axis=1), prob - found.base, atol=1e-5)
    assert found.names == ("a", "b", "clinical")
    assert (found.present == presence(inputs)).all()
    assert (found.values[~found.present] == 0.0).all()
    nobody = without(inputs, ["a", "b", "clinical"])
    np.testing.assert_allclose(found.base, predicted(trained, nobody)[1], atol=1e-9)
    if not gone:
        assert (found.values[found.present] != 0).mean() > 0.9
        assert 0 < (~found.present).sum() < found.present.size


@pytest.mark.parametrize("method", ["small", "large-ensemble", "average", "a-large", "flex-moe"])
def test_other_methods(method: str, fitted) -> None:
    trained, inputs = fitted(method)
    found = modality_shapley(trained, inputs)
    total = predicted(trained, inputs)[1] - found.base
    np.testing.assert_allclose(found.values.sum(axis=1), total, atol=1e-9)
    if method == "a-large":  # it reads one modality, so that one explains everything
        assert np.abs(found.values[:, 1:]).max() < 1e-12
        np.testing.assert_allclose(found.values[:, 0], total, atol=1e-12)


def test_a_patients_values_are_the_patients_own(fitted) -> None:
    trained, inputs = fitted(members=2)
    together = modality_shapley(trained, inputs)
    alone = modality_shapley(trained, inputs.take(np.array([7])))
    np.testing.assert_allclose(alone.values[0], together.values[7], atol=1e-9)


def test_without_is_the_prediction_without(fitted) -> None:
    trained, inputs = fitted()
    found = modality_shapley(trained, inputs)
    gone = predicted(trained, without(inputs, ["b"]))[1]
    np.testing.assert_allclose(found.without[:, 1], gone, atol=1e-9)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_explanation_of_a_patient(classes: int, fitted) -> None:
    trained, inputs = fitted(classes=classes, members=2)
    patients, found = explain_patients(run_of(trained, classes), inputs)
    output, prob = predicted(trained, inputs)
    assert len(patients) == len(found) == 30
    one = patients[4]
    assert one.sample_id == "p094"
    np.testing.assert_allclose(one.prob, prob[4])
    assert one.w_large == pytest.approx(float(output.w_large[4]))
    assert one.leads == leads(one.w_large, one.w_small)
    assert sum(one.router.values()) == pytest.approx(1)
    assert one.spread is not None
    assert one.spread > 0
    for i, patient in enumerate(patients):
        assert ("a + b" in patient.router) == bool(inputs.present[i].all())
        k = patient.explained
        assert k == (1 if classes == 2 else int(np.argmax(prob[i])))
        told = text(patient)
        assert f"{prob[i, k]:.3f}" in told
        assert told.startswith(patient.sample_id)
        assert (" absent" in told) == (not found.present[i].all())
    json.loads(json.dumps(one.to_dict()))


def test_prediction_sets_are_the_runs(fitted) -> None:
    trained, inputs = fitted()

    class Sets:
        def sets(self, prob: np.ndarray) -> np.ndarray:
            return prob > 0.4

    patients, _ = explain_patients(run_of(replace(trained, sets=Sets()), 2), inputs)
    for patient in patients:
        assert patient.prediction_set == [k for k in (0, 1) if patient.prob[k] > 0.4]
        assert "cannot be ruled out: " in text(patient)


def test_rows_are_the_contracts(fitted) -> None:
    trained, inputs = fitted(classes=3)
    patients, found = explain_patients(run_of(trained, 3), inputs)
    table = frame([row for patient in patients for row in patient.rows()])
    assert dict(table.schema) == SCHEMA
    values = table.filter(pl.col("level") == "modality")
    assert len(values) == 30 * 3 * 3
    one = values.filter(sample_id="p100", modality="b").sort("class")
    assert one["value"].to_list() == found.values[10, 1].tolist()
    experts = table.filter(pl.col("level") == "expert")
    total = experts.group_by("sample_id").agg(pl.col("value").sum())["value"]
    assert total.is_between(1 - 1e-9, 1 + 1e-9).all()
    assert experts["modality"].null_count() == len(experts)


def test_findings_are_each_their_own(fitted) -> None:
    """A head with a sigmoid a column: every finding has a row, two of them are not one task."""
    trained, inputs = fitted("large-ensemble")
    findings = replace(
        trained, outcome=Findings(("oedema", "effusion")), calibrator=None, sets=None
    )
    patients, found = explain_patients(run_of(findings, 2), inputs)
    prob = torch.sigmoid(forward(findings, inputs).logits).numpy()
    np.testing.assert_allclose(found.values.sum(axis=1), prob - found.base, atol=1e-9)
    assert found.shown == (0, 1)
    for patient, own in zip(patients, prob, strict=True):
        assert patient.explained == int(np.argmax(own))
        values = [row for row in patient.rows() if row[2] == "modality"]
        assert [row[1] for row in values] == [0, 0, 0, 1, 1, 1]


def test_who_leads() -> None:
    assert leads(0.7, 0.3) == "large"
    assert leads(0.2, 0.8) == "small"
    assert leads(0.51, 0.49) == "neither"
    assert leads(None, None) is None


def test_a_runs_stress_table_says_the_same(fitted) -> None:
    trained, inputs = fitted(members=2)

    def rows(some: Inputs) -> pl.DataFrame:
        prob = predicted(trained, some)[1]
        names = {"task": "t", "method": "m", "split": "test", "threshold": 0.5}
        return prediction_frame(some, prob, **names)

    settings = EvidenceSettings(noise=[1.0])
    table = stress(rows, inputs, inputs, settings).rows
    mine, theirs = modality_shapley(trained, inputs), from_stress(table)
    assert theirs.names == mine.names
    assert theirs.sample_id.tolist() == mine.sample_id.tolist()
    np.testing.assert_allclose(theirs.values, mine.values, atol=1e-12)
    assert (theirs.values[~mine.present] == 0).all()
