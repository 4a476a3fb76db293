"""Patients as an exported model takes them, and what its file says of itself."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from adacomed import __version__
from adacomed.export.fusion import Fusion
from adacomed.readers.tabular import Amount, Category, TableEncoder
from adacomed.training.checkpoint import Run
from adacomed.training.loader import Inputs

KEY = "adacomed"  # under which a file holds its description


class Feeds(NamedTuple):
    """Patients as an exported model takes them.

    Attributes:
        present: (B, M) bool, columns in the order of `Fusion.modalities`.
        vectors: modality → (B, D_m) float32, as its encoder gave it.
        tables: table → (B, columns) float64: an amount in its own unit, a category as its place in
            the list of the values known (any other number: a new value); NaN: not observed.
    """

    present: NDArray[np.bool_]
    vectors: dict[str, NDArray[np.float32]]
    tables: dict[str, NDArray[np.float64]]


def feeds_of(fusion: Fusion, run: Run, inputs: Inputs) -> Feeds:
    """Patients as `intake.gather_for` gives them, as an exported model takes them.

    Raises:
        InputError: a vector of another width, text in a numeric column.
    """
    n, fitted = len(inputs), run.trained.fitted
    fitted.batch(inputs)  # for what it refuses
    vectors = {}
    for name, width in fusion.vectors.items():
        x = inputs.vectors[name]
        vectors[name] = x if x.shape[1] == width else np.full((n, width), np.nan, np.float32)
    tables = {m: _numbers(encoder, inputs.tables[m]) for m, encoder in fitted.tables.items()}
    present = np.zeros((n, len(fusion.modalities)), dtype=bool)
    for i, name in enumerate(fusion.modalities):
        if name in vectors:
            present[:, i] |= ~np.isnan(vectors[name]).any(axis=1)
        if name in tables:
            present[:, i] |= ~np.isnan(tables[name]).all(axis=1)
    return Feeds(present, vectors, tables)


def _numbers(encoder: TableEncoder, frame: pl.DataFrame) -> NDArray[np.float64]:
    """(N, columns): cells as `Feeds.tables` has them."""
    columns = []
    for column in encoder.columns:
        cells = frame[column.name]
        if isinstance(column, Amount):
            numbers = cells.cast(pl.Float64, strict=False)
            columns.append(numbers.fill_null(float("nan")).to_numpy())
            continue
        hot = column.encode(cells)  # (N, values): all NaN where missing, all 0 for a new value
        code = np.where(hot.any(axis=1), hot.argmax(axis=1) if column.values else 0, -1.0)
        columns.append(np.where(cells.is_null().to_numpy(), np.nan, code))
    return np.stack(columns, axis=1) if columns else np.empty((len(frame), 0))


def description(fusion: Fusion, run: Run, parity: dict[str, float]) -> dict[str, Any]:
    """What a reader of an exported file must know, as JSON values."""
    trained, meta = run.trained, run.meta
    tables = {
        name: [
            {"column": c.name, "values": list(c.values)}
            if isinstance(c, Category)
            else {"column": c.name}
            for c in trained.fitted.tables[name].columns
        ]
        for name in fusion.tables
    }
    return {
        "adacomed": __version__,
        "model_hash": run.model_hash,
        "title": meta["title"],
        "simulated": meta["simulated"],
        "research_use": "For research use only; not a medical device.",
        "method": run.method,
        "task": run.task,
        "kind": trained.outcome.kind,
        "classes": list(run.classes),
        "threshold": trained.threshold,
        "horizon": getattr(trained.outcome, "horizon", None),
        "intervals": list(getattr(trained.outcome, "ends", ())),
        "unit": getattr(trained.outcome, "unit", ""),
        "prediction_sets": meta["sets"],
        "modalities": fusion.modalities,
        "vectors": fusion.vectors,
        "encoders": {m: _encoder(run, m) for m in fusion.vectors},
        "tables": tables,
        "experts": meta["experts"],
        "parity": parity,
    }


def _encoder(run: Run, modality: str) -> str:
    """What makes a modality's vectors, in words."""
    mark = run.meta.get("encoders", {}).get(modality)
    if mark is None:
        return "as given"
    name = str(getattr(run.card.modalities[modality], "encoder", "")).partition(":")[0]
    return f"{name}@{mark}"
