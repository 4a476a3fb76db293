"""How far an exported model is from `inference.predict`, measured on patients."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from adacomed.errors import InputError
from adacomed.export.feeds import Feeds, feeds_of
from adacomed.export.fusion import FIELDS, Fusion
from adacomed.inference import forward, probabilities
from adacomed.readers.tabular import Amount, TableEncoder
from adacomed.training.checkpoint import Run
from adacomed.training.loader import Inputs
from adacomed.training.outcome import Survival

Array = NDArray[Any]
Answer = Callable[[Feeds], Mapping[str, Array]]
MOST = 1e-5  # an exported file may miss the run by no more, in any output
PATIENTS, SUBSETS = 200, 64  # with more subsets of the modalities than this, so many drawn ones
MISSING = 0.15  # of a drawn table's cells
GARBAGE = 1e9  # what the rows of absent modalities hold in the measurement


def drawn_patients(run: Run, n: int = PATIENTS, seed: int = 0) -> Inputs:
    """Made-up patients such as the run's scalers have seen: normal vectors, cells of known kinds.

    They have every modality; a cell in seven is not observed, and a category may be a new value.
    """
    rng, fitted = np.random.default_rng(seed), run.trained.fitted
    tables = {m: _table(encoder, n, rng) for m, encoder in fitted.tables.items()}
    vectors = {}
    for name, scaler in fitted.large.items():
        x = rng.normal(size=(n, len(scaler.mean))) * scaler.scale + scaler.mean
        vectors[name] = np.zeros((n, 1), np.float32) if name in fitted.own else x.astype(np.float32)
    made = Inputs(
        sample_id=np.array([f"drawn-{i}" for i in range(n)]),
        subject_id=np.array([f"drawn-{i}" for i in range(n)]),
        vectors=vectors,
        tables=tables,
        small=fitted.small,
        own=fitted.own,
        target=np.full(n, -1),
        classes=(),
    )
    return _only(made, {*vectors, *tables})  # a table of which no cell was drawn is absent


def _table(encoder: TableEncoder, n: int, rng: np.random.Generator) -> pl.DataFrame:
    columns = {}
    for column in encoder.columns:
        if isinstance(column, Amount):
            spread = 1 / column.scale if column.scale else 0.0
            cells = pl.Series(rng.normal(size=n) * spread + column.mean)
        else:
            known = np.array([*column.values, "a value that training has not seen"])
            cells = pl.Series(known[rng.integers(0, len(known), n)].tolist(), dtype=pl.String)
        gone = pl.Series(rng.random(n) < MISSING)
        columns[column.name] = cells.to_frame("x").select(pl.when(~gone).then("x"))["x"]
    return pl.DataFrame(columns)


def subsets_of(modalities: Collection[str], seed: int = 0) -> list[tuple[str, ...]]:
    """Every subset of the modalities, none and all among them, or `SUBSETS` where there are more.

    >>> subsets_of(["ct", "note"])
    [(), ('ct',), ('note',), ('ct', 'note')]
    """
    names = list(modalities)
    if 2 ** len(names) <= SUBSETS:
        sizes = range(len(names) + 1)
        return [s for k in sizes for s in itertools.combinations(names, k)]
    rng = np.random.default_rng(seed)
    found = {(), tuple(names), *((name,) for name in names)}
    while len(found) < SUBSETS + len(names):
        found.add(tuple(name for name in names if rng.random() < 0.5))
    return sorted(found, key=len)


def _only(inputs: Inputs, kept: Collection[str]) -> Inputs:
    """The patients with none but some modalities."""
    tables = {
        m: t if m in kept else t.select(pl.lit(None).cast(d).alias(c) for c, d in t.schema.items())
        for m, t in inputs.tables.items()
    }
    tables = {m: t if len(t) == len(inputs) else _empty(t, len(inputs)) for m, t in tables.items()}
    vectors = {}
    for m, x in inputs.vectors.items():
        here = np.full(len(x), m in kept)
        if m in inputs.own:
            some = tables[m].select(pl.any_horizontal(pl.all().is_not_null())).to_series()
            here &= some.to_numpy()
        vectors[m] = np.where(here[:, None], x, np.nan).astype(np.float32)
    return replace(inputs, tables=tables, vectors=vectors)


def _empty(table: pl.DataFrame, n: int) -> pl.DataFrame:
    return pl.DataFrame({c: pl.Series([None] * n, dtype=d) for c, d in table.schema.items()})


def measure(run: Run, fusion: Fusion, inputs: Inputs, answer: Answer) -> dict[str, float]:
    """The largest difference of each output between a file and the run, over subsets × patients.

    Args:
        inputs: patients, as `intake.gather_for` gives them.
        answer: what the file says of `Feeds`; absent rows hold NaN or a huge number in turn.
    """
    worst: dict[str, float] = {}
    for i, kept in enumerate(subsets_of(fusion.modalities)):
        some = _only(inputs, kept)
        said = answer(_littered(fusion, feeds_of(fusion, run, some), np.nan if i % 2 else GARBAGE))
        for name, wanted in expected(run, some).items():
            apart = np.abs(np.asarray(said[name], np.float64) - wanted)
            apart = np.where(np.isnan(said[name]) & np.isnan(wanted), 0.0, apart)
            most = float(np.max(apart, initial=0.0))
            worst[name] = max(worst.get(name, 0.0), np.inf if np.isnan(most) else most)
    return worst


def expected(run: Run, inputs: Inputs) -> dict[str, Array]:
    """What the run itself says, by the names of an exported file's outputs."""
    output, outcome = forward(run.trained, inputs), run.trained.outcome
    said = {name: x.double().numpy() for name in FIELDS if (x := getattr(output, name)) is not None}
    if isinstance(outcome, Survival):
        said["survival"] = outcome.curves(output.logits)
    return {"prob": probabilities(output, run.trained), **said}


def _littered(fusion: Fusion, feeds: Feeds, litter: float) -> Feeds:
    """The same patients, the rows of absent modalities full of what must not matter."""
    gone = {m: ~feeds.present[:, i, None] for i, m in enumerate(fusion.modalities)}
    vectors = {m: np.where(gone[m], np.float32(litter), x) for m, x in feeds.vectors.items()}
    tables = {m: np.where(gone[m], litter, x) for m, x in feeds.tables.items()}
    return Feeds(feeds.present, vectors, tables)


def check(parity: Mapping[str, float], what: str) -> None:
    """Refuse a file that says something else than the run.

    Raises:
        InputError: an output misses by more than `MOST`.
    """
    name = max(parity, key=lambda n: parity[n])
    if parity[name] > MOST:
        raise InputError(
            f"{what} was not written: its {name} misses the run's by {parity[name]:.1e}, more than "
            f"{MOST:g}; move the run as a bundle instead"
        )
