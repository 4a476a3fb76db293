"""Two processes with half a batch each train as one with all of it: real processes, real gloo."""

import os
import subprocess
import sys

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
    ],
)
def test_two_processes_equal_one_and_only_the_first_writes(folder, method, settings):
    found = []
    for processes in (1, 2):
        done, run = train(folder, f"{method}-{processes}", method, *settings, processes=processes)
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
    assert {path.name for path in folder.iterdir()} >= {f"{method}-1", f"{method}-2"}
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_a_model_that_mixes_patients_is_refused(folder):
    words = ["preset=authors", "small.kind=shallow"]
    done, run = train(folder, "refused", "adacomed", *words, processes=2)
    assert done.returncode != 0
    assert "error: PatientAttention mixes the patients of a batch" in done.stderr
    assert "Traceback" not in done.stderr.partition("torch/distributed")[0]
    assert not run.exists()
