"""Raw series, images and notes: read in time order, fitted on training patients alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load, save

from adacomed.cohort.cohort import load_cohort
from adacomed.cohort.split import Fold
from adacomed.config import Experiment
from adacomed.errors import InputError
from adacomed.inference import forward, probabilities
from adacomed.intake import gather_for
from adacomed.models.raw import NONE, Events, Images, Notes, Raw
from adacomed.training.checkpoint import Run
from adacomed.training.methods import Problem, run_method
from adacomed.training.prepare import prepare
from adacomed.training.raw import RawItems, RawSeries, gather_raw
from adacomed.training.raw_fit import MAX_STEPS, FittedRaw, SeriesRange

from .conftest import make_experiment, saved_run
from .raw_cohort import OWN_ENCODERS, VARIABLES, Files, random_files, write

RAW = ["xray", "note", "labs"]


def gathered(folder: Path, files: Files, **settings: Any) -> dict[str, Any]:
    cohort = load_cohort(write(folder, files, **settings), labels=False)
    return gather_raw(cohort, cohort.card.modalities)


@pytest.fixture(scope="module")
def files() -> Files:
    return random_files()


@pytest.fixture(scope="module")
def raw(files: Files, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return gathered(tmp_path_factory.mktemp("raw"), files)


def items(raw: RawItems, i: int) -> list[tuple[Any, ...]]:
    """Sample i's items in their order: hours, view, text or pixels."""
    found = []
    for k in raw.item[i][raw.item[i] != NONE]:
        place = int(np.flatnonzero(raw.item[i] == k)[0])
        content = raw.texts[k] if raw.texts else raw.pixels[k].tobytes()
        found.append((float(raw.hours[i, place]), raw.view[k] if raw.view else "", content))
    return found


def measured(raw: RawSeries, i: int) -> list[tuple[float, str, float]]:
    part = slice(raw.start[i], raw.start[i + 1])
    names = [raw.names[v] for v in raw.variable[part]]
    return list(zip(raw.hours[part].tolist(), names, raw.value[part].tolist(), strict=True))


def contents(found: Raw, i: int) -> list[Any]:
    """What a model is given of patient i."""
    if isinstance(found, Events):
        one = found.rows(torch.tensor([i]))
        return [one.hours.nan_to_num(-1).tolist(), one.value.nan_to_num(-1).tolist()]
    rows = found.item[i][found.item[i] != NONE]
    if isinstance(found, Images):
        hours = found.hours[i][found.item[i] != NONE].tolist()
        return [hours, found.view[rows].tolist(), found.pixels[rows].numpy().tobytes()]
    return [found.vector[rows].tolist(), found.token[rows].tolist()]


def same(a: dict[str, Raw], b: dict[str, Raw], n: int) -> bool:
    return all(contents(a[m], i) == contents(b[m], i) for m in a for i in range(n))


# ---- reading ------------------------------------------------------------------------------------
def test_what_the_files_hold_arrives(files: Files, raw: dict[str, Any]) -> None:
    assert list(raw) == RAW
    for i, patient in enumerate(row["patient"] for row in files.patients):
        mine = [row for row in files.xrays if row["patient"] == patient]
        mine.sort(key=lambda row: row["taken"] or 0)
        told = [(float(np.float32(r["taken"] or 0)), r["view"] or "") for r in mine]
        assert [x[:2] for x in items(raw["xray"], i)] == told
        mine = sorted((r for r in files.notes if r["patient"] == patient), key=lambda r: r["at"])
        told = [(float(np.float32(r["at"])), "", r["text"]) for r in mine]
        assert items(raw["note"], i) == told
        told = [
            (np.float32(r["hours"]), r["variable"], np.float32(r["value"]))
            for r in sorted(files.labs, key=lambda r: (r["hours"], r["variable"]))
            if r["sample_id"] == patient
        ]
        assert measured(raw["labs"], i) == told


def test_who_has_none_has_none(files: Files, raw: dict[str, Any]) -> None:
    for name, rows, key in (
        ("xray", files.xrays, "patient"),
        ("note", files.notes, "patient"),
        ("labs", files.labs, "sample_id"),
    ):
        owners = {row[key] for row in rows}
        absent = [row["patient"] not in owners for row in files.patients]
        assert np.isnan(raw[name].placeholder()[:, 0]).tolist() == absent
        assert 0 < sum(absent) < len(absent)
    assert np.array_equal(np.isnan(raw["xray"].hours), raw["xray"].item == NONE)
    assert raw["labs"].names == VARIABLES


def test_images_become_grey_squares(tmp_path: Path) -> None:
    files = random_files(2)
    halves = np.zeros((20, 60), np.uint8)
    halves[:, 30:] = 200
    files.pixels["p00_0.png"] = halves
    image = gathered(tmp_path, files, names=("xray",))["xray"].pixels[0]
    assert image.shape == (224, 224)
    assert (image[:, :100] == 0).all()
    assert (image[:, 124:] == 200).all()


def test_the_order_of_the_rows_means_nothing(
    files: Files, raw: dict[str, Any], tmp_path: Path
) -> None:
    mixed, rng = files.copy(), np.random.default_rng(5)
    for rows in (mixed.xrays, mixed.notes, mixed.labs):
        rng.shuffle(rows)  # type: ignore[arg-type]
    assert mixed.notes != files.notes
    again = gathered(tmp_path, mixed)
    clear = 0  # patients with at most one X-ray of unknown time: two would keep the rows' order
    for i in range(28):
        assert items(again["note"], i) == items(raw["note"], i)
        assert measured(again["labs"], i) == measured(raw["labs"], i)
        if len({x[0] for x in items(raw["xray"], i)}) == len(items(raw["xray"], i)):
            assert items(again["xray"], i) == items(raw["xray"], i)
            clear += len(items(raw["xray"], i)) > 1
    assert clear > 5
    a, b = (FittedRaw.fit(x, seed=0).tensors(x, 28) for x in (raw, again))
    assert same({m: a[m] for m in ("note", "labs")}, {m: b[m] for m in ("note", "labs")}, 28)


def test_a_file_that_is_listed_twice_is_one_item(tmp_path: Path) -> None:
    """Its own hour stays its own, and the next file's is the next file's."""
    files = random_files(2)
    files.xrays = [
        {"patient": "p00", "file": "p00_0.png", "taken": 9.0, "view": "AP"},
        {"patient": "p00", "file": "p00_0.png", "taken": 4.0, "view": "LL"},
        {"patient": "p00", "file": "b.png", "taken": 7.0, "view": "PA"},
    ]
    files.pixels["b.png"] = np.arange(256, dtype=np.uint8).reshape(16, 16)
    raw = gathered(tmp_path, files, names=("xray",))["xray"]
    assert [x[:2] for x in items(raw, 0)] == [(4.0, "LL"), (7.0, "PA")]
    assert items(raw, 0)[1][2] == raw.pixels[1].tobytes()


def test_without_columns_of_time_and_view_the_rows_keep_their_order(tmp_path: Path) -> None:
    files = random_files(6)
    named = {"xray": {"time": None, "view": None}, "note": {"time": None}}
    raw = gathered(tmp_path, files, names=("xray", "note"), **named)
    texts = [row["text"] for row in files.notes if row["patient"] == "p00"]
    assert items(raw["note"], 0) == [(0.0, "", text) for text in texts]
    assert {x[:2] for i in range(6) for x in items(raw["xray"], i)} == {(0.0, "")}


def test_several_notes_in_files(tmp_path: Path) -> None:
    """A note's file that is empty is an error that names the sample."""
    files = random_files(6)
    (tmp_path / "texts").mkdir()
    for k, row in enumerate(files.notes):
        (tmp_path / "texts" / f"{k}.txt").write_text(row["text"])
        row["text"] = f"{k}.txt"
    named = {"note": {"root": "texts"}}
    raw = gathered(tmp_path, files, names=("note",), **named)["note"]
    first = sorted(
        (r for r in random_files(6).notes if r["patient"] == "p00"), key=lambda r: r["at"]
    )
    assert [x[2] for x in items(raw, 0)] == [row["text"] for row in first]
    (tmp_path / "texts" / "0.txt").write_text("")
    with pytest.raises(InputError, match=r"'note', sample p00: .*0\.txt"):
        gathered(tmp_path, files, names=("note",), **named)


@pytest.mark.parametrize("how", ["truncated", "missing", "outside"])
def test_a_broken_image_names_its_sample_and_file(how: str, tmp_path: Path) -> None:
    files = random_files(8)
    row = next(row for row in files.xrays if row["patient"] == "p03")
    if how == "outside":
        (tmp_path / "secret.png").write_bytes(b"x")
        row["file"] = "../secret.png"
    path = write(tmp_path, files, names=("xray",))
    image = tmp_path / "images" / row["file"]
    if how == "truncated":
        image.write_bytes(image.read_bytes()[:60])
    elif how == "missing":
        image.unlink()
    with pytest.raises(InputError) as error:
        gather_raw(load_cohort(path, labels=False), ["xray"])
    assert "'xray'" in str(error.value)
    assert "sample p03" in str(error.value)
    assert row["file"] in str(error.value)


@pytest.mark.parametrize("hours", ["soon", "inf", "-1e30", "1e400"])
def test_a_time_that_is_no_number_of_hours(hours: str, tmp_path: Path) -> None:
    files = random_files(8)
    for row in files.notes:
        row["at"] = str(row["at"])
    next(row for row in files.notes if row["patient"] == "p03")["at"] = hours
    with pytest.raises(InputError, match=r"'note', sample p03: .*number of hours"):
        gathered(tmp_path, files, names=("note",))


def test_volumes_and_vectors_are_left_to_their_encoders(tmp_path: Path) -> None:
    raw = gathered(tmp_path, random_files(8), names=("vectors", "clinical", "labs"))
    assert list(raw) == ["labs"]


def test_taking_rows_is_gathering_the_subset(
    raw: dict[str, Any], files: Files, tmp_path: Path
) -> None:
    rows = np.array([20, 3, 1, 8, 27, 12])
    cohort = load_cohort(write(tmp_path, files), labels=False).take(rows)
    subset = gather_raw(cohort, RAW)
    taken = {m: x.take(rows) for m, x in raw.items()}
    a, b = (FittedRaw.fit(x, seed=0) for x in (taken, subset))
    assert saved(a) == saved(b)
    assert same(a.tensors(taken, 6), a.tensors(subset, 6), 6)
    for m in RAW:
        placeholders = taken[m].placeholder(), subset[m].placeholder()
        assert np.array_equal(*placeholders, equal_nan=True)
    assert measured(taken["labs"], 0) == measured(raw["labs"], 20) == measured(subset["labs"], 0)


def changed(files: Files, what: str) -> Files:
    files = files.copy()
    if what == "pixel":
        pixels = files.pixels["p00_0.png"]
        pixels[3, 3] = 255 - pixels[3, 3]
    elif what == "word":
        files.notes[0]["text"] += " fever"
    elif what == "value":
        files.labs[0]["value"] += 0.5
    elif what == "hours":
        files.notes[0]["at"] += 100
    elif what == "view":
        files.xrays[0]["view"] = "LL"
    elif what == "variable":  # the last one by name: its number stays
        for row in files.labs:
            row["variable"] = row["variable"].replace("pressure", "pulse")
    return files


@pytest.mark.parametrize("what", ["pixel", "word", "value", "hours", "view", "variable"])
def test_the_fingerprint_sees_every_change(
    what: str, files: Files, raw: dict[str, Any], tmp_path: Path
) -> None:
    one = {"pixel": "xray", "view": "xray", "word": "note", "hours": "note"}.get(what, "labs")
    same_ = gathered(tmp_path / "a", files, names=(one,))[one]
    other = gathered(tmp_path / "b", changed(files, what), names=(one,))[one]
    assert same_.fingerprint() == raw[one].fingerprint()
    assert other.fingerprint() != raw[one].fingerprint()


def test_the_fingerprint_sees_where_a_note_ends() -> None:
    item, hours = np.array([[0, 1]]), np.zeros((1, 2), np.float32)
    nothing = np.zeros((0, 1, 1), np.uint8)
    a = RawItems(nothing, ("fever\ncough", "pain"), (), item, hours)
    b = RawItems(nothing, ("fever", "cough\npain"), (), item, hours)
    assert a.fingerprint() != b.fingerprint()


# ---- fitting ------------------------------------------------------------------------------------
def saved(fitted: FittedRaw) -> tuple[bytes, str]:
    tensors, state = fitted.save()
    return save(tensors), json.dumps(state)


def test_nothing_is_fitted_on_anyone_but_the_training_patients(
    files: Files, raw: dict[str, Any], tmp_path: Path
) -> None:
    """A value, a variable, a word and a view of the others change not one bit."""
    train = np.arange(20)
    planted = files.copy()
    for row in planted.labs:
        if row["sample_id"] == "p27":
            row["value"] = 1e9
    stranger = {"sample_id": "p26", "hours": 1.0, "variable": "albumin", "value": 3.0}
    planted.labs.append(stranger)  # sorted, it comes first of all variables
    for row in planted.notes:
        if row["patient"] in ("p24", "p25", "p27"):
            row["text"] = "thrombosis thrombosis clear lungs " * 9
    planted.notes.append({"patient": "p22", "text": "thrombosis", "at": 1.0})
    for row in planted.xrays:
        if row["patient"] == "p24":
            row["view"] = "AA"
    other = gathered(tmp_path, planted)
    a, b = (FittedRaw.fit({m: x.take(train) for m, x in r.items()}, seed=0) for r in (raw, other))
    assert saved(a) == saved(b)
    assert a.views["xray"] == ("", "AP", "PA")
    assert a.series["labs"].names == VARIABLES
    assert saved(a) != saved(FittedRaw.fit(other, seed=0))
    mine = {m: x.take(train) for m, x in raw.items()}, {m: x.take(train) for m, x in other.items()}
    assert same(a.tensors(mine[0], 20), b.tensors(mine[1], 20), 20)


def test_a_view_that_training_never_saw_is_read_as_the_first(
    raw: dict[str, Any], tmp_path: Path, files: Files
) -> None:
    fitted = FittedRaw.fit(raw, seed=0)
    strange = files.copy()
    strange.xrays[0]["view"] = "XX"
    images = fitted.tensors(gathered(tmp_path, strange), 28)["xray"]
    assert isinstance(images, Images)
    patient = int(strange.xrays[0]["patient"][1:])
    place = [x[1] for x in items(gathered(tmp_path, strange)["xray"], patient)].index("XX")
    assert images.view[images.item[patient, place]] == 0
    assert set(images.view.tolist()) == {0, 1, 2}


def series(*rows: tuple[int, float, str, float], names: tuple[str, ...], n: int) -> RawSeries:
    """(sample, hours, variable, value) in the order of samples and times."""
    counts = np.bincount([r[0] for r in rows], minlength=n)
    return RawSeries(
        names,
        np.concatenate([[0], np.cumsum(counts)]),
        np.array([r[1] for r in rows], np.float32),
        np.array([names.index(r[2]) for r in rows], np.int64),
        np.array([r[3] for r in rows], np.float32),
    )


def test_values_are_scaled_by_the_training_range_and_clipped() -> None:
    training = series(*((0, float(k), "a", float(k)) for k in range(101)), names=("a",), n=1)
    scale = SeriesRange.fit(training)
    assert (scale.low[0], scale.high[0]) == (1.0, 99.0)  # percentiles of 0 … 100
    seen = series((0, 0, "a", -50.0), (0, 1, "a", 50.0), (0, 2, "a", 1e6), names=("a",), n=1)
    assert scale.events(seen, 1).value.flatten().tolist() == [0.0, 0.5, 1.0]
    constant = SeriesRange.fit(series((0, 0, "a", 7.0), (0, 1, "a", 7.0), names=("a",), n=1))
    assert constant.events(seen, 1).value.flatten().tolist() == [0.0, 1.0, 1.0]


def test_times_that_are_equal_are_one_step() -> None:
    x = series(
        (0, 1, "a", 0.0),
        (0, 1, "b", 4.0),
        (0, 3, "a", 8.0),
        (1, 2, "b", 8.0),
        names=("a", "b"),
        n=3,
    )
    events = SeriesRange(("a", "b"), np.zeros(2, np.float32), np.full(2, 8, np.float32)).events(
        x, 3
    )
    assert events.hours.nan_to_num(-1).tolist() == [[1, 3], [2, -1], [-1, -1]]
    assert events.value.nan_to_num(-1).tolist() == [
        [[0, 0.5], [1, -1]],
        [[-1, 1], [-1, -1]],
        [[-1, -1], [-1, -1]],
    ]
    assert events.hours.dtype == events.value.dtype == torch.float32


def test_another_cohorts_variables_are_matched_by_name() -> None:
    scale = SeriesRange(("a", "b"), np.zeros(2, np.float32), np.ones(2, np.float32))
    names = ("aa", "b")  # one more, one less, another number
    events = scale.events(series((0, 1, "aa", 0.3), (0, 2, "b", 0.25), names=names, n=1), 1)
    assert events.hours.tolist() == [[2.0]]  # a time at which nothing known was measured is none
    assert events.value.nan_to_num(-1).tolist() == [[[-1.0, 0.25]]]
    nothing = scale.events(series((0, 1, "aa", 0.3), names=("aa",), n=1), 1)
    assert nothing.hours.isnan().all()


def test_the_last_steps_are_kept() -> None:
    n = MAX_STEPS + 40
    scale = SeriesRange(("a",), np.zeros(1, np.float32), np.full(1, 1000, np.float32))
    events = scale.events(series(*((0, k, "a", k) for k in range(n)), names=("a",), n=1), 1)
    assert events.hours.tolist() == [list(range(40, n))]
    assert events.value[0, :, 0].tolist() == pytest.approx(np.arange(40, n) / 1000)


def test_a_cohort_in_which_nobody_has_the_series(
    raw: dict[str, Any], files: Files, tmp_path: Path
) -> None:
    """The table measures strangers only: everyone is absent, as where there is no table."""
    fitted = FittedRaw.fit(raw, seed=0)
    few = random_files(4, seed=1)
    for row in few.labs:
        row["sample_id"] = f"stranger{row['sample_id']}"
    few.notes, few.xrays = few.notes[:1], few.xrays[:1]
    new = gathered(tmp_path, few)
    assert np.isnan(new["labs"].placeholder()).all()
    there, gone = fitted.tensors(new, 4), fitted.tensors({}, 4)
    assert same({"labs": there["labs"]}, {"labs": gone["labs"]}, 4)
    assert all(not contents(gone[m], i)[-1] for m in ("xray", "note") for i in range(4))
    assert gone["labs"].value.shape == (4, 1, 3)  # type: ignore[union-attr]


def test_saved_and_loaded_gives_the_same_bits(raw: dict[str, Any]) -> None:
    fitted = FittedRaw.fit(raw, seed=0)
    tensors, state = fitted.save()
    again = FittedRaw.load(load(save(tensors)), json.loads(json.dumps(state)))
    assert saved(again) == saved(fitted)
    assert again.shapes == fitted.shapes
    assert same(fitted.tensors(raw, 28), again.tensors(raw, 28), 28)


def test_names_with_dots_are_told_apart(raw: dict[str, Any]) -> None:
    named = {"labs": raw["labs"], "labs.low": raw["labs"], "a": raw["note"], "a.input": raw["note"]}
    fitted = FittedRaw.fit(named, seed=0)
    tensors, state = fitted.save()
    assert saved(FittedRaw.load(tensors, state)) == saved(fitted)


def test_an_items_numbers_do_not_depend_on_the_other_patients(raw: dict[str, Any]) -> None:
    fitted = FittedRaw.fit(raw, seed=0)
    whole = fitted.tensors(raw, 28)
    assert isinstance(whole["note"], Notes)
    for i in (0, 1, 2, 3, 19):
        alone = fitted.tensors({m: x.take(np.array([i])) for m, x in raw.items()}, 1)
        assert all(contents(alone[m], 0) == contents(whole[m], i) for m in RAW)


# ---- from files to a prediction -----------------------------------------------------------------
QUICK = {
    "training": {"epochs": 1, "inner_folds": 2, "members": 1, "class_weights": True},
    "model": {"strategy": "ensemble", "H": 8, "d": 8},
    "small": {"width": 8, "resnet": "tiny"},
    "baselines": {"size": "tiny"},
}
FUSED = "adacomed?small.kind=multimodal-pred"
METHODS = ["multimodal-pred", "meta-transformer", "onellm", FUSED]
FOLD = Fold(0, 0, train=np.arange(13), test=np.arange(13, 18))


def experiment_on(path: Path, **settings: Any) -> Experiment:
    return make_experiment(**{**QUICK, "cohort": str(path), **settings})


@pytest.fixture(scope="module", params=METHODS)
def run(
    request: pytest.FixtureRequest, files: Files, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """A method's run, trained on the files, saved and loaded again.

    What reads no vectors must not run an encoder: those that the YAML names do not exist.
    """
    method, folder = request.param, tmp_path_factory.mktemp("method")
    files = files.copy()
    files.patients = files.patients[:18]  # the other tables hold more
    experiment = experiment_on(write(folder, files, encoders=encoders_of(method)))
    prepared = prepare(experiment, methods=[method])
    result = run_method(method, Problem(experiment, prepared.inputs, FOLD, prepared.task, 0))
    run = saved_run(folder / "run", result, experiment, prepared, method)
    before, after = forward(result.trained, prepared.inputs), forward(run.trained, prepared.inputs)
    assert torch.equal(before.logits, after.logits)
    test = result.predictions.filter(pl.col("split") == "test")["prob"].to_numpy()
    assert test == pytest.approx(probabilities(after, run.trained)[FOLD.test, 1], abs=1e-9)
    return run


def encoders_of(method: str) -> dict[str, str] | None:
    return OWN_ENCODERS if method == FUSED else None


NEW: dict[str, tuple[str, ...]] = {
    "everything": ("xray", "note", "labs", "clinical"),
    "no X-rays": ("labs", "clinical", "note"),
    "notes alone": ("note",),
}


@pytest.mark.parametrize("names", NEW.values(), ids=list(NEW))
def test_new_patients(run: Run, names: tuple[str, ...], tmp_path: Path) -> None:
    """Each one's prediction is finite and their own; who has nothing at all gets one too."""
    files = random_files(6, seed=1)
    files.patients[2] |= {"age": None, "sex": None}  # and no notes: nothing but X-rays and labs
    for row in files.xrays:
        row["view"] = row["view"] and "LL"  # a view of which training knows nothing
    files.labs = [row for row in files.labs if row["variable"] != "heart"]
    path = write(tmp_path, files, names=names, encoders=encoders_of(run.method))
    cohort = load_cohort(path, labels=False)
    inputs = gather_for(run, cohort)
    assert set(inputs.raw) == set(names) & set(RAW)
    among = probabilities(forward(run.trained, inputs))
    assert np.isfinite(among).all()
    for i in range(6):
        alone = gather_for(run, cohort.take(np.array([i])))
        assert probabilities(forward(run.trained, alone)) == pytest.approx(among[[i]], abs=1e-6)
    backwards = inputs.take(np.arange(6)[::-1])
    assert probabilities(forward(run.trained, backwards))[::-1] == pytest.approx(among, abs=1e-6)
    assert np.ptp(among[:, 1]) > 0


def test_every_modality_reaches_the_prediction(run: Run, files: Files, tmp_path: Path) -> None:
    """Leave out one of a patient's modalities and that patient's number moves, no other's."""
    few = files.copy()
    few.patients = few.patients[:4]

    def predict(folder: Path, files: Files) -> np.ndarray:
        path = write(folder, files, encoders=encoders_of(run.method))
        inputs = gather_for(run, load_cohort(path, labels=False))
        return probabilities(forward(run.trained, inputs))[:, 1]

    whole = predict(tmp_path / "whole", few)
    for name, key in (("xrays", "patient"), ("notes", "patient"), ("labs", "sample_id")):
        less = few.copy()
        setattr(less, name, [row for row in getattr(few, name) if row[key] != "p00"])
        moved = np.abs(predict(tmp_path / name, less) - whole)
        assert moved[0] > 1e-9, name
        assert moved[1:].max() < 1e-9, name


def test_vectors_that_somebody_reads_are_made(files: Files, tmp_path: Path) -> None:
    experiment = experiment_on(write(tmp_path, files))
    for methods in (["adacomed"], [FUSED], ["multimodal-pred", "xray-large"], []):
        with pytest.raises(InputError, match="no_such_module_here"):
            prepare(experiment, methods=methods)
    unnamed = {m: {"encoder": None} for m in RAW}
    experiment = experiment_on(write(tmp_path / "unnamed", files, **unnamed))
    prepared = prepare(experiment, methods=["multimodal-pred", "onellm"])
    assert prepared.inputs.encoders == {}
    assert {m: x.shape[1] for m, x in prepared.inputs.vectors.items()} == dict.fromkeys(RAW, 1)
