"""A method's test patients again, with modalities taken away from everyone or noise added."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from adacomed.config import EvidenceSettings
from adacomed.schema import Predictions
from adacomed.training.loader import Inputs
from adacomed.training.perturb import Spread, left, modalities, noisy, subsets, without

EVERY = 8  # modalities up to which every subset is predicted
EVERY_RAW = 3  # of a method that reads series, images and notes themselves: each pass is slow
MOST = 200_000  # predictions of one method and fold; above, a sample of the subjects
INSIDE = (  # what a method thinks on the way, and answers that nobody asks of fewer inputs
    *(Predictions.LOGIT_LARGE, Predictions.LOGIT_SMALL, Predictions.S, Predictions.W_LARGE),
    *(Predictions.W_SMALL, Predictions.ROUTER, Predictions.SPREAD, Predictions.SET),
    *(Predictions.SURVIVAL, Predictions.INTERVALS),
)


class State(NamedTuple):
    """What everyone keeps, and the deviation of the noise in training deviations."""

    kept: tuple[str, ...]
    noise: float = 0.0


class Stress(NamedTuple):
    """Rows of stress.parquet, and what has to be said of them (for `choices`)."""

    rows: pl.DataFrame
    said: dict[str, Any]


def states(names: Sequence[str], noise: Sequence[float]) -> list[State]:
    """Every set of modalities, from none to all, then every amount of noise with all of them.

    With more than 8 modalities: none, each alone, each left out, all.
    """
    whole = tuple(names)
    if len(names) <= EVERY:
        kept = list(subsets(names))
    else:
        out = [tuple(m for m in names if m != gone) for gone in names]
        kept = [(), *((m,) for m in names), *out, whole]
    return [*map(State, kept), *(State(whole, amount) for amount in sorted(set(noise)))]


def stress(
    predicted: Callable[[Inputs], pl.DataFrame],
    test: Inputs,
    train: Inputs,
    settings: EvidenceSettings,
    *,
    seed: int = 0,
    reads_raw: bool = False,
) -> Stress:
    """Predict the test patients under every state of their inputs.

    Nothing is fitted anew: a modality is absent as it may be for any patient. Nobody is left out of
    a state, also who has nothing left.

    Args:
        predicted: patients → their rows of predictions.parquet by a trained method.
        test: the fold's test patients.
        train: its training patients, whose deviations the noise is measured in.
        settings: `stress` false gives no rows.
        seed: of the sample of subjects that is kept where 200,000 predictions are too few.
        reads_raw: whether the method reads series, images and notes themselves. With more than 3
            modalities it is left out.
    Returns:
        The rows without the columns `INSIDE`; `present` is what each patient has left, tables
        included, `kept` what was taken away from nobody, `noise` as in `State`. No rows where the
        method is left out; `said` then has the reason.
    """
    names = modalities(test)
    if not settings.stress or not len(test):
        return Stress(pl.DataFrame(), {})
    if reads_raw and len(names) > EVERY_RAW:
        why = f"reads raw inputs, and {len(names)} modalities have {2 ** len(names)} sets"
        return Stress(pl.DataFrame(), {"stress": {"left_out": why}})
    wanted = states(names, settings.noise)
    chosen, said = _sample(test, MOST // len(wanted), seed)
    chosen = chosen.loaded()
    if len(names) > EVERY:
        said["sets"] = "none, each alone, each left out, all: too many modalities for every set"
    spread = Spread.of(train)
    rows = pl.concat([_rows(predicted, chosen, state, spread) for state in wanted])
    return Stress(rows, {"stress": said} if said else {})


def _rows(
    predicted: Callable[[Inputs], pl.DataFrame], test: Inputs, state: State, spread: Spread
) -> pl.DataFrame:
    gone = [m for m in modalities(test) if m not in state.kept]
    seen = without(test, gone) if gone else test
    if state.noise:
        seen = noisy(seen, state.noise, spread)
    rows = predicted(seen).drop(INSIDE, strict=False)
    has = pl.DataFrame(
        {Predictions.SAMPLE_ID: test.sample_id.tolist(), Predictions.PRESENT: left(seen)},
        schema_overrides={Predictions.PRESENT: pl.List(pl.String)},
    )
    has = has.unique(Predictions.SAMPLE_ID)
    about = pl.lit(list(state.kept), dtype=pl.List(pl.String)).alias(Predictions.KEPT)
    return (
        rows.drop(Predictions.PRESENT)
        .join(has, on=Predictions.SAMPLE_ID, how="left", maintain_order="left")
        .with_columns(about, pl.lit(state.noise).alias(Predictions.NOISE))
    )


def _sample(test: Inputs, most: int, seed: int) -> tuple[Inputs, dict[str, Any]]:
    """At most `most` patients, whole subjects, the same for every method; and what was done."""
    if len(test) <= most:
        return test, {}
    subjects, row, size = np.unique(test.subject_id, return_inverse=True, return_counts=True)
    order = np.argsort(list(_digests(subjects, seed)), kind="stable")
    kept = order[np.cumsum(size[order]) <= most]
    said = {"subjects": len(kept), "of": len(subjects), "why": f"{MOST} predictions at most"}
    return test.take(np.flatnonzero(np.isin(row, kept))), said


def _digests(subjects: Iterable[str], seed: int) -> Iterator[int]:
    for subject in subjects:
        digest = hashlib.sha256(f"{seed}\0{subject}".encode()).digest()
        yield int.from_bytes(digest[:7], "little")
