"""The .pt2 file: the run's numbers from a process that has torch alone."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import torch

from adacomed.export.feeds import feeds_of
from adacomed.export.fusion import Fusion
from adacomed.export.parity import drawn_patients, expected
from adacomed.export.torch_export import tensors, write_torch

from .conftest import task_inputs

ALONE = """
import json, sys
import torch
file, feeds, out = sys.argv[1:]
extra = {"adacomed.json": ""}
model = torch.export.load(file, extra_files=extra).module()
present, vectors, tables = torch.load(feeds, weights_only=True)
said = model(present, vectors, tables)
first = ({m: x[:1] for m, x in given.items()} for given in (vectors, tables))
alone = model(present[:1], *first)
assert torch.allclose(alone["prob"], said["prob"][:1], atol=1e-12)
torch.save(said, out)
assert "adacomed" not in sys.modules
print(json.dumps(json.loads(extra["adacomed.json"])))
"""


def test_a_fresh_process_needs_torch_alone(made, tmp_path):
    run, file = made(small="forest", members=2), tmp_path / "model.pt2"
    parity = write_torch(run, file, drawn_patients(run, 40))
    assert max(parity.values()) <= 1e-9
    fusion, inputs = Fusion(run), task_inputs("two")
    torch.save(tensors(feeds_of(fusion, run, inputs)), tmp_path / "feeds.pt")
    words = [str(file), str(tmp_path / "feeds.pt"), str(tmp_path / "said.pt")]
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["parity"] == parity
    said = torch.load(tmp_path / "said.pt", weights_only=True)
    for name, wanted in expected(run, inputs).items():
        np.testing.assert_allclose(said[name].numpy(), wanted, atol=1e-9, rtol=0)
