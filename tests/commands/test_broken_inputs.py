"""The user's mistakes: exit code 2, one sentence that helps, no traceback, nothing half done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from .conftest import QUICK

N = 60


class Case:
    """A sound cohort of 60 patients in a folder; a test breaks one thing in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rng = np.random.default_rng(0)
        self.table = pl.DataFrame(
            {
                "pid": [f"p{k:03d}" for k in range(N)],
                "age": rng.normal(60, 10, N).round(1),
                "sex": ["F", "M"] * (N // 2),
                "died": ["yes", "no", "no"] * (N // 3),
            }
        )
        self.card: dict[str, Any] = {
            "name": "mine",
            "table": "t.csv",
            "subject": "pid",
            "tasks": {"death": {"column": "died", "positive": "yes"}},
            "modalities": {
                "clinical": {"kind": "tabular", "columns": ["age", "sex"]},
                "ct": {"kind": "embedding", "root": "ct"},
            },
        }
        self.experiment: dict[str, Any] = {"cohort": "c.yaml"}
        (folder / "ct").mkdir()
        for k in range(N):
            self.vector(k, rng.normal(size=4))

    def vector(self, k: int, values: Any, name: str = "ct") -> None:
        np.save(self.folder / name / f"p{k:03d}.npy", np.asarray(values, "float32"))

    def column(self, name: str, values: list[Any]) -> None:
        self.table = self.table.with_columns(pl.Series(name, values))

    def split(self, names: list[str]) -> None:
        self.card["split"] = "part"
        self.column("part", names)

    def events(self, n: int) -> None:
        self.column("died", ["yes"] * n + ["no"] * (N - n))

    def write(self) -> None:
        for name, data in (("c.yaml", self.card), ("e.yaml", self.experiment)):
            (self.folder / name).write_text(yaml.safe_dump(data))
        self.table.write_csv(self.folder / "t.csv")


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


Change = Callable[[Case], object]


def one_sentence(ran: Any, helps: list[str]) -> None:
    assert ran.exit_code == 2, ran.output
    assert "Traceback" not in ran.output
    *before, last = ran.stderr.splitlines()
    assert last.startswith("error: ")
    assert not any(line.startswith(("error", "warning")) for line in before)
    for words in helps:
        assert words in last, last
    assert len(last) < 400


def two_sides(case: Case) -> None:
    case.card["sample"] = "row"
    case.column("row", case.table["pid"].to_list())
    case.column("pid", ["p000", "p000", *case.table["pid"][2:]])
    case.split(["train", "test"] * (N // 2))


def another_width(case: Case) -> None:
    (case.folder / "ct" / "p003.npy").unlink()
    np.savez(case.folder / "ct" / "p003.npz", vector=np.zeros(7))


def pickled(case: Case) -> None:
    np.save(case.folder / "ct" / "p003.npy", np.array([{}], dtype=object), allow_pickle=True)


def text_in_age(case: Case) -> None:
    case.column("age", [*map(str, case.table["age"][:4]), "old", *map(str, case.table["age"][5:])])


def no_patient_complete(case: Case) -> None:
    (case.folder / "mri").mkdir()
    case.card["modalities"]["mri"] = {"kind": "embedding", "root": "mri"}
    for k in range(30):
        (case.folder / "ct" / f"p{k:03d}.npy").unlink()
        case.vector(k, np.ones(4), "mri")
    case.experiment["preset"] = "paper"


def edit(key: str, value: Any) -> Change:
    """Set a nested value of the cohort's YAML: `modalities.ct.root`."""

    def change(case: Case) -> None:
        *groups, last = key.split(".")
        node = case.card
        for group in groups:
            node = node[group]
        node[last] = value

    return change


def drop(key: str) -> Change:
    def change(case: Case) -> None:
        *groups, last = key.split(".")
        node = case.card
        for group in groups:
            node = node[group]
        del node[last]

    return change


def setting(**values: Any) -> Change:
    return lambda case: case.experiment.update(values)


def not_finite(value: float) -> Change:
    return lambda case: case.vector(3, [0, value, 0, 0])


COHORT: dict[str, tuple[Change, list[str]]] = {
    "unknown key": (edit("tabel", "x"), ["c.yaml", "'tabel'", "did you mean 'table'?"]),
    "unknown key of a modality": (
        edit("modalities.clinical.colums", ["age"]),
        ["'modalities.clinical.colums'", "did you mean 'columns'?"],
    ),
    "unknown key of a task": (
        edit("tasks.death.positve", "yes"),
        ["'tasks.death.positve'", "did you mean 'positive'?"],
    ),
    "unknown kind": (
        edit("modalities.ct.kind", "embeding"),
        ["modalities.ct", "did you mean 'embedding'?"],
    ),
    "no kind": (drop("modalities.ct.kind"), ["'modalities.ct.kind' is missing"]),
    "no subject": (drop("subject"), ["'subject' is missing"]),
    "no table": (edit("table", "tt.csv"), ["tt.csv", "no such table"]),
    "label column typo": (edit("tasks.death.column", "Died"), ["did you mean 'died'?"]),
    "positive typo": (edit("tasks.death.positive", "Yess"), ["'Yess'", "'yes'", "'died'"]),
    "negative typo": (edit("tasks.death.negative", "not"), ["'not'", "did you mean 'no'?"]),
    "label not coded": (drop("tasks.death.positive"), ["'died'", "positive:", "classes:"]),
    "column typo": (edit("modalities.clinical.columns", ["agee"]), ["did you mean 'age'?"]),
    "label as input": (
        edit("modalities.clinical.columns", ["age", "died"]),
        ["'died'", "label", "take it out"],
    ),
    "id as input": (edit("modalities.clinical.columns", ["age", "pid"]), ["'pid'", "patient id"]),
    "no folder": (edit("modalities.ct.root", "CT scans"), ["'ct'", "CT scans", "no such"]),
    "no encoder for images": (
        edit("modalities.x", {"kind": "image", "column": "sex"}),
        ["'x'", "image", "kind: embedding"],
    ),
    "patient in two splits": (two_sides, ["'p000'", "train", "test", "the same split"]),
    "split names": (
        lambda c: c.split(["train", "testing"] * 30),
        ["'part'", "'testing'", "train, val, test"],
    ),
    "only test patients": (lambda c: c.split(["test"] * N), ["'part'", "no labelled train row"]),
    "one class to train on": (
        lambda c: c.split(["train" if d == "no" else "test" for d in c.table["died"]]),
        ["train", "'part'", "two classes"],
    ),
    "one class to validate on": (
        lambda c: c.split(
            ["val" if k < 20 and k % 3 else "train" if k < 40 else "test" for k in range(N)]
        ),
        ["val", "'part'", "two classes"],
    ),
    "another width": (another_width, ["p003.npz", "width 7", "have 4"]),
    "a pickle": (pickled, ["p003.npy", "not a readable vector"]),
    "NaN in a vector": (not_finite(np.nan), ["p003.npy", "not finite"]),
    "infinity in a vector": (not_finite(np.inf), ["p003.npy", "not finite"]),
    "overflow in a vector": (not_finite(1e38), ["p003.npy", "beyond"]),
    "text in a numeric column": (
        text_in_age,
        ["'age'", "row 5 (patient p004)", "missing:", "categorical:"],
    ),
    "infinity in a column": (
        lambda c: c.column("age", [float("inf"), *c.table["age"][1:]]),
        ["'age'", "row 1 (patient p000)"],
    ),
    "overflow in a column": (
        lambda c: c.column("age", [1e300, *c.table["age"][1:]]),
        ["'age'", "row 1 (patient p000)"],
    ),
    "one class": (lambda c: c.events(N), ["'death'", "one class", "two are needed"]),
    "five patients": (
        lambda c: setattr(c, "table", c.table.head(5)),
        ["5 labelled patients", "at least 10"],
    ),
    "duplicate patients": (
        lambda c: setattr(c, "table", pl.concat([c.table, c.table.head(2)])),
        ["'pid'", "p000, p001", "sample: COLUMN"],
    ),
    "no patient complete": (no_patient_complete, ["preset paper", "ct, mri", "preset default"]),
    "four events, five folds": (
        lambda c: (c.events(4), setting(training={"inner_folds": 5})(c)),
        ["class 1 has 3 patients", "at most 3 folds", "training.inner_folds"],
    ),
    "one event": (lambda c: c.events(1), ["two of every class", "class 1: 1"]),
    "two events": (lambda c: c.events(2), ["class 1 has 1 patients"]),
}


@pytest.mark.parametrize("name", COHORT)
def test_a_cohort_that_cannot_be_used(name: str, case: Case, cli) -> None:
    change, helps = COHORT[name]
    change(case)
    case.write()
    given = case.experiment.get("training", {})
    words = [w for w in QUICK if w.partition("=")[0].removeprefix("training.") not in given]
    ran = cli("train", case.folder / "e.yaml", *words, "--out", case.folder / "run")
    one_sentence(ran, helps)
    assert not (case.folder / "run").exists()


EXPERIMENT: dict[str, tuple[list[str], list[str]]] = {
    "unknown key": (["prset=paper"], ["e.yaml", "'prset'", "did you mean 'preset'?"]),
    "unknown key in a group": (["training.epoch=3"], ["'training.epoch'", "mean 'epochs'?"]),
    "unknown group": (["trainin.epochs=3"], ["'trainin'", "did you mean 'training'?"]),
    "unknown preset": (["preset=papers"], ["preset", "'paper'"]),
    "unknown task": (["task=deth"], ["'deth'", "did you mean 'death'?"]),
    "unknown modality": (["modalities=[CTs]"], ["'CTs'", "did you mean 'ct'?"]),
    "unknown small modality": (["small.modalities=[clinicl]"], ["did you mean 'clinical'?"]),
    "no modality": (["modalities=[]"], ["modalities", "at least 1"]),
    "a name for a list": (["modalities=ct"], ["modalities", "list"]),
    "zero epochs": (["training.epochs=0"], ["training.epochs", "greater than or equal to 1"]),
    "epochs in words": (["training.epochs=abc"], ["training.epochs", "integer"]),
    "negative seed": (["seed=-1"], ["seed", "greater than or equal to 0"]),
    "infinite rate": (["training.lr=.inf"], ["training.lr", "finite"]),
    "rate of a rocket": (["training.lr=1e30"], ["training.lr", "less than or equal to 1"]),
    "no value": (["training.epochs"], ["key=value", "training.epochs=3"]),
    "half a key": (["training..epochs=3"], ["key=value"]),
    "not YAML": (["training.epochs=[1"], ["not valid YAML"]),
    "no such day": (["task=2020-13-45"], ["not valid YAML"]),
    "a value for a group": (["training=3"], ["training", "keys and values"]),
    "a group for a value": (["seed.x=3"], ["seed", "integer"]),
    "no official split": (["split.kind=official"], ["split: COLUMN"]),
    "kfold for one run": (["split.kind=kfold"], ["adacomed compare"]),
    "no such cohort": (["cohort=elsewhere.yaml"], ["elsewhere.yaml", "no such file"]),
    "no cohort": (["cohort="], ["cohort:"]),
    "unknown method": (["--method", "adacomd"], ["'adacomd'", "did you mean 'adacomed'?"]),
}


@pytest.mark.parametrize("name", EXPERIMENT)
def test_an_experiment_that_cannot_be_run(name: str, case: Case, cli) -> None:
    words, helps = EXPERIMENT[name]
    case.write()
    ran = cli("train", case.folder / "e.yaml", *words, "--out", case.folder / "run")
    one_sentence(ran, helps)
    assert not (case.folder / "run").exists()


COMPARE: dict[str, tuple[list[str], list[str]]] = {
    "unknown method": (["--methods", "small,adacomd"], ["'adacomd'", "did you mean 'adacomed'?"]),
    "unknown method in the file": (["methods=[smal]"], ["'smal'", "did you mean 'small'?"]),
    "too many folds": (
        ["split.folds=30"],
        ["class 1 has 20 patients", "at most 20", "split.folds"],
    ),
    "no process": (["--jobs", "-1"], ["--jobs -1"]),
    "no resample": (["--resamples", "0"], ["--resamples 0"]),
}


@pytest.mark.parametrize("name", COMPARE)
def test_a_comparison_that_cannot_be_run(name: str, case: Case, cli) -> None:
    words, helps = COMPARE[name]
    case.write()
    ran = cli("compare", case.folder / "e.yaml", *words, "--out", case.folder / "cv")
    one_sentence(ran, helps)
    assert not (case.folder / "cv").exists()


BYTES: dict[str, tuple[bytes, list[str]]] = {
    "a list": (b"- a\n- b\n", ["a list"]),
    "a word": (b"cohort\n", ["a str"]),
    "empty": (b"", ["nothing"]),
    "not YAML": (b"a: [1\nb: }", ["not valid YAML", "line 2"]),
    "binary": (bytes(range(256)), ["not a UTF-8 text file"]),
    "no such day": (b"name: 2020-13-45", ["not valid YAML"]),
    "a Python object": (b"!!python/object:os.system {}", ["not valid YAML"]),
    "a key twice": (b"name: a\ntable: t.csv\nname: b\n", ["'name'", "twice", "line 3"]),
    "a nested key twice": (b"x:\n  - {a: 1, a: 2}\n", ["'a'", "twice", "line 2"]),
    "without end": (b"a: &a [*a]\n", ["not valid YAML"]),
}


@pytest.mark.parametrize("verb", ["train", "cohort check"])
@pytest.mark.parametrize("name", BYTES)
def test_a_yaml_that_is_none(name: str, verb: str, tmp_path: Path, cli) -> None:
    data, helps = BYTES[name]
    (tmp_path / "x.yaml").write_bytes(data)
    one_sentence(cli(*verb.split(), tmp_path / "x.yaml"), ["x.yaml", *helps])


TABLES: dict[str, tuple[bytes, list[str]]] = {
    "empty": (b"", ["is empty"]),
    "blank lines": (b"\n\n", ["is empty"]),
    "only a header": (b"pid,age,sex,died\n", ["no row"]),
    "binary": (bytes(range(256)) * 9, ["not UTF-8"]),
    "too many cells": (b"pid,age,sex,died\np1,1,F,yes,Z\n", ["more cells than the header"]),
    "a column twice": (b"pid,age,age,sex,died\n", ["'age'", "twice"]),
    "an id that is missing": (b"pid,age,sex,died\np1,1,F,yes\n,2,M,no\n", ["'pid'", "row 2"]),
}


@pytest.mark.parametrize("verb", ["train", "cohort check"])
@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_is_none(name: str, verb: str, case: Case, cli) -> None:
    data, helps = TABLES[name]
    case.write()
    (case.folder / "t.csv").write_bytes(data)
    file = case.folder / ("e.yaml" if verb == "train" else "c.yaml")
    one_sentence(cli(*verb.split(), file), ["t.csv", *helps])


def test_an_unknown_parquet(case: Case, cli) -> None:
    case.card["table"] = "t.parquet"
    case.write()
    (case.folder / "t.parquet").write_bytes(b"PAR1 not at all")
    ran = cli("train", case.folder / "e.yaml", "--out", case.folder / "run")
    one_sentence(ran, ["t.parquet", "not a readable .parquet table"])


@pytest.mark.parametrize("verb", ["train", "compare"])
def test_results_that_have_no_place(verb: str, case: Case, cli) -> None:
    case.write()
    out = case.folder / "t.csv" / "run"  # below a file; a mode would not stop root
    one_sentence(cli(verb, case.folder / "e.yaml", "--out", out), ["cannot write", "t.csv"])


def test_predictions_that_have_no_place(run: Path, simulated: Path, tmp_path: Path, cli) -> None:
    (tmp_path / "file").write_text("")
    below = cli("predict", run, simulated, "--out", tmp_path / "file" / "p.parquet")
    one_sentence(below, ["cannot write", str(tmp_path / "file")])
    one_sentence(cli("predict", run, simulated, "--out", tmp_path), ["is a folder"])


def test_what_is_no_run(simulated: Path, tmp_path: Path, cli) -> None:
    for what in (tmp_path, tmp_path / "nowhere", simulated / "cohort.yaml"):
        one_sentence(cli("predict", what, simulated), [str(what), "not a run folder"])
        one_sentence(cli("report", what), [str(what)])


def test_what_is_no_cohort(run: Path, tmp_path: Path, cli) -> None:
    one_sentence(cli("predict", run, tmp_path), ["no cohort.yaml"])
    one_sentence(cli("predict", run, tmp_path / "nowhere"), ["no such file"])
