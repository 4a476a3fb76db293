"""Two processes with half a batch each train as one with all of it: real processes, real gloo."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from adacomed.cli import main
from adacomed.schema import Predictions, RunFiles

BRIEF = ["split.kind=holdout", "training.epochs=2", "evidence.stress=false"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("distributed")
    with pytest.raises(SystemExit, match="0"):
        main(["cohort", "build", "simulated", "--samples", "150", "--out", str(made / "cohort")])
    (made / "experiment.yaml").write_text("cohort: cohort\n")
    return made


def train(folder, name, method, *settings, processes):
    """What `adacomed train` did: the exit code, stdout, stderr and the run folder."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    words = ["train", "experiment.yaml", *BRIEF, *settings, "--out", name, "--method", method]
    command = [sys.executable, *(launch if processes > 1 else []), "-m", "adacomed", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return done, folder / name


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        # 31 rows: a batch that two cannot share evenly; dropout and a strategy that reads s of all
        ("adacomed", ["small.kind=shallow", "model.strategy=threshold", "training.batch_size=31"]),
        ("large-ensemble", ["training.validation=cv", "training.inner_folds=2"]),
        # what depends on the batch's other patients: theirs of every process
        (
            "adacomed",
            [
                *("preset=paper", "small.kind=shallow", "model.strategy=inverse"),
                *("model.score=mean_negative", "model.batch_mean=true"),
            ],
        ),
    ],
)
def test_two_processes_equal_one_and_only_the_first_writes(folder, method, settings):
    found, names = [], [f"{method}-{len(settings)}-{n}" for n in (1, 2)]
    for processes, name in enumerate(names, 1):
        done, run = train(folder, name, method, *settings, processes=processes)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("run: ") == 1
        found.append(pl.read_parquet(run / RunFiles.PREDICTIONS))
    one, two = found
    assert two[Predictions.SAMPLE_ID].equals(one[Predictions.SAMPLE_ID])
    # a weight is read off quantiles of s, which may lie close together
    most = {Predictions.PROB: 1e-5, Predictions.S: 1e-5, Predictions.W_LARGE: 1e-4}
    for name, tolerance in most.items():
        apart = (two[name] - one[name]).abs().max()
        assert apart is None or apart < tolerance, name
    assert {path.name for path in folder.iterdir()} >= {*names}
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


VALIDATED = """
from collections import Counter
from adacomed.models.adacomed import AdaCoMed
from adacomed.training.methods import Problem, run_method
from tests.training.conftest import make_experiment, make_fold, make_inputs
seen, forward = Counter(), AdaCoMed.forward
def counted(self, batch):
    if not self.training:
        seen[len(batch)] += 1
    return forward(self, batch)
AdaCoMed.forward = counted
training = {"epochs": 4, "validation": "holdout", "patience": 9}
problem = Problem(make_experiment(training=training), make_inputs(), make_fold(), "task", 0)
run_method("adacomed", problem)
print(dict(seen), flush=True)
"""


def test_processes_share_the_validation_patients_too(tmp_path):
    """Half of them each, in each of four epochs; 14 of 90 training patients are validated on."""
    script = tmp_path / "script.py"
    script.write_text(VALIDATED)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    found = []
    for start in ([], launch):
        command = [sys.executable, *start, str(script)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found.append([ast.literal_eval(x) for x in re.findall(r"\{.*?\}", done.stdout)])
    [alone], ranks = found
    assert [rank.get(7, 0) - alone.get(7, 0) for rank in ranks] == [4, 4]
    assert [rank.get(14, 0) - alone[14] for rank in ranks] == [-4, -4]


def test_a_model_that_mixes_patients_is_refused(folder):
    words = ["preset=authors", "small.kind=shallow"]
    done, run = train(folder, "refused", "adacomed", *words, processes=2)
    assert done.returncode != 0
    assert "error: PatientAttention mixes the patients of a batch" in done.stderr
    assert "Traceback" not in done.stderr.partition("torch/distributed")[0]
    assert not run.exists()
