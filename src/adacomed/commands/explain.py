"""`adacomed explain`: why a finished run says what it says, patient by patient."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from adacomed.cohort.cohort import load_cohort
from adacomed.commands.console import claim_folder, embedding_progress, err, note, say
from adacomed.commands.embed import encoder_words
from adacomed.commands.predict import chosen_patients
from adacomed.embed import known_store
from adacomed.errors import InputError
from adacomed.explain.cohort import mean_shapley, mean_weights, router_by_pattern, trajectories
from adacomed.explain.domination import clouds
from adacomed.explain.inside import Inside
from adacomed.explain.patient import Patient, explain_patients, frame, text
from adacomed.explain.shapley import Shapley
from adacomed.explain.within import explain_within
from adacomed.intake import gather_for
from adacomed.schema import RunFiles
from adacomed.strict_json import dumps
from adacomed.training.bundle import open_run
from adacomed.training.checkpoint import Run, write_json, write_parquet
from adacomed.training.loader import Inputs

SHOWN = 5  # patients in full on a terminal
LARGEST = 5  # parts of a modality that are printed for a patient
WIDE = 0.05  # of the total: attributions that miss it by more are said to
JSON = "explanations.json"
Tick = Callable[[int, int], None]


def explain(
    run: Path,
    cohort: Path,
    samples: str = "",
    within: str = "",
    out: Path = Path("explanations"),
    encoder: list[str] | None = None,
    store: Path | None = None,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Explain a finished run's predictions of a cohort's patients, or of some.

    For each patient: the probability, which branch led, the experts' weights, and the Shapley value
    of each modality: what it added to the probability, together the prediction less what the model
    says of a patient it knows nothing of. Written to explanations.parquet and explanations.json.

    Args:
        run: folder of a finished run, such as runs/demo/run, or a bundle of one (.adacomed).
        cohort: cohort folder or YAML with the patients; labels are not needed.
        samples: comma-separated sample ids [default: all].
        within: look inside this modality too: variables of a table, times of a series, tokens of a
          text, patches of an image (pip install 'adacomed[explain]'). Words of a text are patient
          data; they are written to explanations.json alone.
        out: folder to write.
        encoder: MODALITY=ENCODER where the run's encoder lies elsewhere on this machine.
        store: embedding store to read from and add to [default: the cohort's own, if it has one].
        seed: of sampled values and of the bootstrap.
        json: print JSON instead of sentences, without the words of a text.

    Example:
        adacomed explain runs/demo/run runs/demo/cohort --samples s0001,s0002 --within clinical
    """
    if out.is_file():
        raise InputError(f"--out {out}: is a file, expected a folder to write")
    claim_folder(out)
    model, elsewhere = open_run(run), encoder_words(encoder or [])
    chosen = chosen_patients(load_cohort(cohort, labels=False), samples)
    with embedding_progress() as progress:
        inputs = gather_for(
            model, chosen, progress, encoders=elsewhere, store=known_store(chosen, store)
        )
    with _bar("modalities") as tick:
        patients, found = explain_patients(model, inputs, seed=seed, tick=tick)
    inside: list[Inside] = []
    if within:
        with _bar(within) as tick:
            inside = explain_within(
                model, chosen, inputs, within, encoders=elsewhere, seed=seed, tick=tick
            )
    whole = _whole(model, inputs, patients, found, inside, seed) | {"run": str(run)}
    rows = [row for patient in patients for row in patient.rows()]
    rows += [row for one in inside for row in one.rows()]
    write_parquet(frame(rows), out / RunFiles.EXPLANATIONS)
    write_json(out / JSON, whole)
    if json:
        shown = [one | {"words": None} for one in whole["within"]]
        say(dumps(whole | {"within": shown}))
        return
    _print(patients, inside, whole["cohort"])
    if model.meta["simulated"]:
        note("the run was trained on simulated data")
    say(f"{len(patients)} explanations: {out / RunFiles.EXPLANATIONS}, {out / JSON}")


@contextmanager
def _bar(what: str) -> Iterator[Tick]:
    """A bar on a terminal; nothing when piped."""
    columns = (TextColumn("explaining {task.description}"), BarColumn(), MofNCompleteColumn())
    hidden = not err.is_terminal
    with Progress(*columns, TimeRemainingColumn(), console=err, disable=hidden) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _whole(
    run: Run,
    inputs: Inputs,
    patients: list[Patient],
    found: Shapley,
    inside: list[Inside],
    seed: int,
) -> dict[str, Any]:
    """Everything, as JSON values."""
    return {
        "run": str(run.folder),
        "task": run.task,
        "method": run.method,
        "modalities": "exact" if found.error is None else "estimated",
        "cohort": _averages(run, inputs, patients, found, seed),
        "patients": [patient.to_dict() for patient in patients],
        "within": [one.to_dict() for one in inside],
    }


def _averages(
    run: Run, inputs: Inputs, patients: list[Patient], found: Shapley, seed: int
) -> dict[str, Any]:
    """What holds over the cohort."""
    history = run.folder / RunFiles.HISTORY
    averages: dict[str, Any] = {
        "shapley": mean_shapley(found, seed=seed).to_dicts(),
        "weights": mean_weights(patients, found.subject_id, seed=seed).to_dicts(),
        "router": router_by_pattern(patients).to_dicts(),
        "trajectories": [],
    }
    if history.is_file():
        averages["trajectories"] = trajectories(pl.read_parquet(history)).to_dicts()
    try:
        averages["domination"] = {
            when: clouds(run, inputs, trained=trained).measure(seed=seed).frame().to_dicts()
            for when, trained in (("before training", False), ("after training", True))
        }
    except InputError as error:
        averages["domination"] = {"none": str(error)}
    return averages


def _print(patients: list[Patient], inside: list[Inside], averages: dict[str, Any]) -> None:
    for patient in patients[:SHOWN]:
        say(text(patient))
        for one in inside:
            if one.sample_id == patient.sample_id:
                say(_largest(one))
        say("")
    if len(patients) > SHOWN:
        say(f"… and {len(patients) - SHOWN} more in the files; over all {len(patients)}:")
        for row in averages["shapley"]:
            say(_average(row, patients[0].classes))


def _largest(one: Inside) -> str:
    """The parts that moved the log-odds most; a token or patch by its place."""
    order = sorted(range(len(one.parts)), key=lambda i: -abs(one.values[i]))[:LARGEST]
    told = ", ".join(f"{one.parts[i].name} {one.values[i]:+.3f}" for i in order if one.values[i])
    missed = ""
    if abs(one.gap) > WIDE * max(abs(one.total), 1e-6):
        missed = f" (the sum misses the total by {one.gap:+.3f})"
    head = f"  inside {one.modality}, log-odds {one.total:+.3f} against its absence or baseline"
    return f"{head}{missed}: {told or 'nothing moves it'}"


def _average(row: dict[str, Any], classes: Sequence[str]) -> str:
    name = f"  {row['modality']}, {classes[row['class']]}: {row['present']} have it"
    if row["mean_abs"] is None:
        return name
    limits = ""
    if row["mean_abs_low"] is not None:
        limits = f" ({row['mean_abs_low']:.3f} to {row['mean_abs_high']:.3f})"
    return f"{name}, mean |Shapley| {row['mean_abs']:.3f}{limits}"
