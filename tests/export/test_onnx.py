"""The ONNX file: the run's numbers from a process that has onnxruntime and numpy alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from adacomed.export.feeds import feeds_of
from adacomed.export.fusion import Fusion
from adacomed.export.onnx import Session, write_onnx
from adacomed.export.parity import drawn_patients, expected, measure

from .conftest import task_inputs

ALONE = """
import json, sys
import numpy as np, onnxruntime
file, feeds, out = sys.argv[1:]
session = onnxruntime.InferenceSession(file)
card = json.loads(session.get_modelmeta().custom_metadata_map["adacomed"])
given = dict(np.load(feeds))
assert {i.name for i in session.get_inputs()} == set(given)
names = [o.name for o in session.get_outputs()]
np.savez(out, **dict(zip(names, session.run(names, given))))
assert not {"torch", "adacomed", "polars", "sklearn"} & set(sys.modules)
print(json.dumps(card))
"""
CASES = [
    {"small": "stack", "members": 2, "strategy": "reliable", "calibrator": "platt"},
    {"small": "boosting", "task": "survival", "strategy": "threshold"},
    {"method": "flex-moe", "task": "findings"},
    {"method": "healnet", "task": "three", "calibrator": "isotonic, 3 classes"},
]


@pytest.mark.parametrize("settings", CASES, ids=lambda s: "-".join(map(str, s.values())))
def test_it_says_what_the_run_says(made, settings, tmp_path):
    """Every subset of the modalities, on patients of a cohort and, in `write_onnx`, drawn ones."""
    run, file = made(**settings), tmp_path / "model.onnx"
    parity = write_onnx(run, file, drawn_patients(run, 40))
    assert max(parity.values()) <= 1e-5
    session = Session(file)
    fusion, inputs = Fusion(run), task_inputs(settings.get("task", "two"))
    assert max(measure(run, fusion, inputs, session).values()) <= 1e-5
    told = session.description()
    assert told["parity"] == parity
    assert told["model_hash"] == run.model_hash
    assert told["classes"] == list(run.classes)
    one = session(feeds_of(fusion, run, inputs.take(np.array([3]))))  # any number of patients
    np.testing.assert_allclose(one["prob"], expected(run, inputs)["prob"][3:4], atol=1e-6)
    assert list(tmp_path.iterdir()) == [file]


def test_a_fresh_process_needs_onnxruntime_and_numpy_alone(made, tmp_path):
    run, file = made(small="forest"), tmp_path / "model.onnx"
    inputs, fusion = task_inputs("two"), Fusion(run)
    write_onnx(run, file, inputs)
    feeds = feeds_of(fusion, run, inputs)
    arrays = {"present": feeds.present}
    arrays |= {f"vector.{m}": x for m, x in feeds.vectors.items()}
    arrays |= {f"table.{m}": x for m, x in feeds.tables.items()}
    np.savez(tmp_path / "feeds.npz", **arrays)
    words = [str(file), str(tmp_path / "feeds.npz"), str(tmp_path / "said.npz")]
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    card = json.loads(done.stdout)
    assert card["modalities"] == ["a", "b", "clinical"]
    assert card["tables"]["clinical"][1] == {"column": "ward", "values": ["A", "B", "C"]}
    assert card["research_use"].endswith("not a medical device.")
    said = np.load(tmp_path / "said.npz")
    for name, wanted in expected(run, inputs).items():
        np.testing.assert_allclose(said[name], wanted, atol=1e-5, rtol=0)


def test_what_is_missing_is_named(made, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(Exception, match=r"needs onnxscript: pip install 'adacomed\[onnx\]'"):
        write_onnx(made(), tmp_path / "x.onnx")
    assert not Path(tmp_path / "x.onnx").exists()
