"""A cohort's patients as they arrive at a service, and what `adacomed predict` says of them."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from adacomed.cohort.cohort import Cohort, load_cohort
from adacomed.cohort.sources import modality_source
from adacomed.inference import predict
from adacomed.intake import gather_for
from adacomed.schema import EmbeddingCard, FileCard, SeriesCard, TabularCard, TextCard
from adacomed.serve.arrival import Arrival, Upload, asked_for
from adacomed.serve.requests import NewPatient
from adacomed.serve.service import Case, Service
from adacomed.training.checkpoint import Run
from adacomed.training.perturb import without

NUMBERS = ("prob", "logit_large", "logit_small")
OF_PATIENT = ("s", "w_large", "w_small", "spread")


def arrival(run: Run, cohort: Cohort, i: int, names: Collection[str] | None = None) -> Arrival:
    """Sample i as JSON values and uploaded files, with those modalities of it that are named."""
    one = cohort.take(np.array([i]))
    values: dict[str, Any] = {}
    uploads: list[Upload] = []
    for name in asked_for(run):
        if names is None or name in names:
            _add(one, name, values, uploads)
    # a patient with files alone has no value in JSON
    patient = NewPatient.model_construct(
        sample_id=f"n{i}", modalities=_checked(values), index_time=None
    )
    return Arrival(patient, tuple(uploads))


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    return NewPatient(modalities=values).modalities if values else {}


def _add(one: Cohort, name: str, values: dict[str, Any], uploads: list[Upload]) -> None:
    card = one.card.modalities[name]
    if isinstance(card, TabularCard) and card.summarise is None:
        row = one.table(name).row(0, named=True)
        if any(v is not None for v in row.values()):
            values[name] = {k: v for k, v in row.items() if v is not None}
    elif isinstance(card, EmbeddingCard):
        vector = one.vectors(name)[0]
        if not np.isnan(vector).any():
            values[name] = vector.tolist()
    elif isinstance(card, SeriesCard):
        for series in (
            modality_source(one, name).read([0]) if modality_source(one, name).items else []
        ):
            rows = zip(series.hours, series.variable, series.value, strict=True)
            values[name] = [
                {"hours": float(h), "variable": series.names[v], "value": float(x)}
                for h, v, x in rows
            ]
    elif isinstance(card, TextCard) and card.root is None:
        if texts := one.cells(name)[0]:
            values[name] = texts
    elif isinstance(card, FileCard):
        root = one.root / card.root
        uploads += [Upload(name, "a file", root / file) for file in one.cells(name)[0]]


def offline(run: Run, cohort: Cohort, gone: Collection[str] = ()) -> list[list[dict[str, Any]]]:
    """What `adacomed predict` says of every patient, without some modalities: their rows."""
    inputs = gather_for(run, cohort)
    rows = predict(run, without(inputs, gone)).to_dicts()
    return [rows[i :: len(cohort)] for i in range(len(cohort))]


def gap(record: dict[str, Any], rows: Sequence[dict[str, Any]]) -> float:
    """The largest difference of any number of a record and the offline rows."""
    pairs: list[tuple[Any, Any]] = [(record[k], rows[0][k]) for k in OF_PATIENT]
    pairs.append((sum(record["router"].values()), sum(rows[0]["router"] or ())))
    for said, row in zip(record["predictions"], rows, strict=True):
        probabilities = list(said["prob"].values())
        if len(probabilities) > 2:
            pairs += [(p, row[f"prob_{k}"]) for k, p in enumerate(probabilities)]
        else:
            pairs.append((probabilities[1], row["prob"]))
        pairs += [(said[k], row[k]) for k in ("logit_large", "logit_small")]
        pairs += list(zip(said["survival"] or (), row.get("survival") or (), strict=True))
        inside = row["prediction_set"]
        told = said["prediction_set"]
        assert (told is None) == (inside is None)
        if told is not None:
            assert [said["classes"].index(c) for c in told] == inside
        assert said["task"] == row["task"]
    assert [u["modality"] for u in record["used"]] or not rows[0]["present"]
    assert all((a is None) == (b is None) for a, b in pairs), pairs
    return max(abs(a - b) for a, b in pairs if a is not None)


def same(one: Any, other: Any, within: float = 1e-12) -> bool:
    """Whether two JSON values are equal, numbers within rounding."""
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= within
    if isinstance(one, dict) and isinstance(other, dict):
        return set(one) == set(other) and all(same(one[k], other[k], within) for k in one)
    if isinstance(one, list) and isinstance(other, list):
        pairs = zip(one, other, strict=False)
        return len(one) == len(other) and all(same(a, b, within) for a, b in pairs)
    return bool(one == other)


def predict_all(service: Service, cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Records of many cases that are in flight at once."""

    async def together() -> list[dict[str, Any]]:
        return list(await asyncio.gather(*(service.predict(case) for case in cases)))

    return asyncio.run(together())


def cohort_beside(run: Path) -> Cohort:
    """The cohort of a run that lies in its folder (`served.make_run`)."""
    return load_cohort(run.parent / "cohort.yaml", labels=False)


def present_in(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Large-side modalities that a patient has, of its offline rows."""
    return list(pl.Series(rows[0]["present"]))
