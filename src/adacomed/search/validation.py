"""What two trials say of the validation patients, kept on disk: the default and the best."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from adacomed.evaluation.intervals import percentile
from adacomed.schema import Predictions, prob_column
from adacomed.search.objective import Judged
from adacomed.training.loader import Inputs
from adacomed.training.writing import write_parquet

FOLDER = "validation"
RESAMPLES = 2000


class Gain(NamedTuple):
    """The best trial's score less the default's on the same validation patients, 95 % interval."""

    difference: float
    low: float
    high: float
    patients: int


def keep(out: Path, index: int, judged: Judged, inputs: Inputs) -> None:
    """Write a trial's out-of-fold probabilities, before its score counts as finished."""
    (out / FOLDER).mkdir(exist_ok=True)
    columns = {prob_column(j): p for j, p in enumerate(judged.prob.T)}
    ids = pl.Series(Predictions.SAMPLE_ID, inputs.sample_id[judged.rows].tolist())
    write_parquet(
        pl.DataFrame([ids, *(pl.Series(n, p) for n, p in columns.items())]), _file(out, index)
    )


def keep_only(out: Path, indices: set[int]) -> None:
    """Remove the files of all other trials."""
    kept = {_file(out, index) for index in indices}
    for file in (out / FOLDER).glob("*.parquet"):
        if file not in kept:
            file.unlink(missing_ok=True)


def gain(out: Path, best: int, inputs: Inputs, start: int = 0) -> Gain:
    """Trial `best` against trial `start`, subjects resampled together."""
    a, b = (pl.read_parquet(_file(out, index)) for index in (best, start))
    row = {name: i for i, name in enumerate(inputs.sample_id.tolist())}
    rows = np.array([row[name] for name in a[Predictions.SAMPLE_ID]])
    assert a[Predictions.SAMPLE_ID].equals(b[Predictions.SAMPLE_ID])
    outcome, seen, subjects = inputs.outcome, inputs.seen[rows], inputs.subject_id[rows]
    pair = [_prob(frame) for frame in (a, b)]
    value = [outcome.score(prob, seen) for prob in pair]
    draws = [outcome.resampled(prob, seen, subjects, n=RESAMPLES) for prob in pair]
    low, high = percentile(draws[0] - draws[1])
    return Gain(value[0] - value[1], float(low), float(high), len(np.unique(subjects)))


def _prob(frame: pl.DataFrame) -> NDArray[np.float64]:
    return frame.drop(Predictions.SAMPLE_ID).to_numpy()


def _file(out: Path, index: int) -> Path:
    return out / FOLDER / f"{index:05d}.parquet"
