"""`adacomed predict`: a finished run × a cohort → predictions.parquet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from adacomed.cohort.cohort import Cohort, load_cohort
from adacomed.commands.console import claim_folder, embedding_progress, note, say
from adacomed.commands.embed import encoder_words
from adacomed.embed import known_store
from adacomed.errors import InputError, nearest
from adacomed.evaluation.levels import with_groups
from adacomed.inference import predict as predict_rows
from adacomed.intake import gather_for
from adacomed.schema import Predictions, Samples
from adacomed.training.bundle import open_run
from adacomed.training.checkpoint import write_parquet


def predict(
    run: Path,
    cohort: Path,
    out: Path = Path("predictions.parquet"),
    samples: str = "",
    batch_size: int = 256,
    encoder: list[str] | None = None,
    store: Path | None = None,
) -> None:
    """Predict every patient of a cohort, or some, with a finished run.

    A patient may lack any modality. With the default preset a patient's numbers depend on that
    patient alone, not on the batch.

    prob is calibrated as the run's was, where that clearly helped on its validation patients.
    prediction_set lists the classes that cannot be ruled out, by limits set on those patients so
    that 90 % (evidence.coverage) of the patients of each class have their class in it. Exactly one
    class is an answer; several or none mean that the model abstains.

    Args:
        run: folder of a finished run, such as runs/demo/run, or a bundle of one (.adacomed).
        cohort: cohort folder or YAML with the new patients; labels are not needed.
        out: parquet file to write.
        samples: comma-separated sample ids [default: all].
        batch_size: patients at a time.
        encoder: MODALITY=ENCODER where the run's encoder lies elsewhere on this machine.
        store: embedding store to read from and add to [default: the cohort's own, if it has one].

    Example:
        adacomed predict runs/demo/run runs/demo/cohort --out new.parquet --samples s0001,s0002
    """
    if batch_size < 1:
        raise InputError(f"--batch-size {batch_size}: expected 1 or more")
    if out.is_dir():
        raise InputError(f"--out {out}: is a folder, expected a parquet file to write")
    claim_folder(out.parent)
    model = open_run(run)
    patients = chosen_patients(load_cohort(cohort, labels=False), samples)
    with embedding_progress() as progress:
        inputs = gather_for(
            model,
            patients,
            progress,
            encoders=encoder_words(encoder or []),
            store=known_store(patients, store),
        )
    frame = predict_rows(model, inputs, batch_size=batch_size)
    split = patients.samples[Samples.SPLIT].fill_null("new")
    split = pl.concat([split] * (len(frame) // max(1, len(split))))  # findings: a block each
    frame = frame.with_columns(split.alias(Predictions.SPLIT))
    groups = [g for g in patients.card.groups if g in patients.samples.columns]
    frame = with_groups(frame, patients.samples, groups)
    write_parquet(frame, out)
    if model.meta["simulated"]:
        note("the run was trained on simulated data")
    say(f"{len(frame)} predictions: {out}")


def chosen_patients(cohort: Cohort, samples: str) -> Cohort:
    """The cohort's samples named in `samples`, in that order."""
    wanted = [s.strip() for s in samples.split(",") if s.strip()]
    if not samples:
        return cohort
    if not wanted:
        raise InputError(f"--samples {samples!r}: expected sample ids, separated by commas")
    ids = cohort.samples[Samples.SAMPLE_ID].to_list()
    position = {s: i for i, s in enumerate(ids)}
    for name in wanted:
        if name not in position:
            close = nearest(name, ids) if len(ids) <= 10_000 else ""
            hint = close if "did you mean" in close else f"; it has {len(ids)} samples"
            raise InputError(f"no sample {name!r} in {cohort.card.name}{hint}")
    return cohort.take(np.array([position[s] for s in dict.fromkeys(wanted)]))
