"""Parts of a table or a series taken away from a patient: works for any model, forests included.

A part that is taken away was never recorded: an empty cell, a measurement that is not there. Where
all of them are, the modality is absent. The values are Shapley values over the parts: exact for
few, sampled by captum for many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from adacomed.explain.inside import Inside, Part, captum_attr, log_odds
from adacomed.explain.shapley import Bools, Floats, patterns, shapley
from adacomed.inference import forward
from adacomed.readers.series import Series
from adacomed.training.loader import Inputs
from adacomed.training.raw import RawSeries
from adacomed.training.trained import Trained

EXACT = 8  # parts whose 256 subsets are all tried
REPEATS, ORDERS = 8, 4  # estimates of so many random orders each; their spread is the error
AT_ONCE = 64  # rows of a forward pass
TIMES = 12  # groups of time stamps
VECTOR = "(text of the table)"  # what a large encoder made of a table: one part
Embed = Callable[[Sequence[Series]], NDArray[np.float32]]


class Parts(Protocol):
    """The parts of one patient's modality, and the patient with some of them taken away."""

    parts: list[Part]
    there: list[bool]  # whether the patient has it at all; what is not there explains nothing

    def kept(self, mask: Bools) -> Inputs:
        """(R, P) parts kept → R rows of the patient."""
        ...


@dataclass
class Cells:
    """The columns of a table, and the vector that an encoder made of it, where the model reads one.

    Args:
        one: the patient, one row.
        modality: a table.
    """

    one: Inputs
    modality: str

    def __post_init__(self) -> None:
        self.table = self.one.tables[self.modality]
        self.parts = [Part("variable", name) for name in self.table.columns]
        self.there = [self.table[name][0] is not None for name in self.table.columns]
        self.vector = self.modality in self.one.vectors and self.modality not in self.one.own
        if self.vector:
            self.parts.append(Part("variable", VECTOR))
            self.there.append(not np.isnan(self.one.vectors[self.modality]).any())

    def kept(self, mask: Bools) -> Inputs:
        """(R, P) → R rows with empty cells."""
        many, name = self.one.take(np.zeros(len(mask), np.int64)), self.modality
        table = many.tables[name].with_columns(
            pl.when(pl.Series(mask[:, j])).then(pl.col(c)).alias(c)
            for j, c in enumerate(self.table.columns)
        )
        vectors = dict(many.vectors)
        if name in vectors:
            some = table.select(pl.any_horizontal(pl.all().is_not_null())).to_series().to_numpy()
            here = mask[:, -1] if self.vector else some
            vectors[name] = np.where(here[:, None], vectors[name], np.nan).astype(np.float32)
        return replace(many, tables={**many.tables, name: table}, vectors=vectors)


@dataclass
class Measurements:
    """A series in groups of measurements, by variable or by time.

    Args:
        one: the patient, one row.
        modality: a series.
        series: the patient's.
        level: "variable" or "time": up to `TIMES` groups of neighbouring time stamps, each named
            by its first and last hour.
        embed: series → (n, D) vectors; None where the model reads no vector of them.
    """

    one: Inputs
    modality: str
    series: Series
    level: str
    embed: Embed | None

    def __post_init__(self) -> None:
        if self.level == "variable":
            names = self.series.names
            self.group = self.series.variable
            self.parts = [Part("variable", name) for name in names]
            self.there = np.isin(np.arange(len(names)), self.group).tolist()
            return
        stamps, step = np.unique(self.series.hours, return_inverse=True)
        pieces = np.array_split(np.arange(len(stamps)), min(TIMES, len(stamps)))
        of_stamp = np.repeat(np.arange(len(pieces)), [len(p) for p in pieces])
        self.group = of_stamp[step]
        ends = [(stamps[p[0]], stamps[p[-1]]) for p in pieces]
        self.parts = [Part("time", f"{a:g} to {b:g} h", float(a)) for a, b in ends]
        self.there = [True] * len(pieces)

    def kept(self, mask: Bools) -> Inputs:
        """(R, P) → R rows with fewer measurements."""
        many, name = self.one.take(np.zeros(len(mask), np.int64)), self.modality
        rows = mask[:, self.group]  # (R, measurements)
        if name in many.raw:
            many = replace(many, raw={**many.raw, name: self._raw(rows)})
        if name in many.vectors:
            vectors = self._vectors(rows, many.vectors[name])
            many = replace(many, vectors={**many.vectors, name: vectors})
        return many

    def _raw(self, rows: Bools) -> RawSeries:
        _, which = np.nonzero(rows)
        start = np.concatenate([[0], np.cumsum(rows.sum(axis=1))])
        s = self.series
        hours, value = s.hours[which].astype(np.float32), s.value[which].astype(np.float32)
        return RawSeries(s.names, start, hours, s.variable[which], value)

    def _vectors(self, rows: Bools, like: NDArray[np.float32]) -> NDArray[np.float32]:
        """Vectors of what is left; a placeholder that nobody reads only says who has any."""
        vectors, some = like.copy(), rows.any(axis=1)
        vectors[~some] = np.nan
        if self.embed is not None and some.any():
            s = self.series
            left = [Series(s.hours[r], s.variable[r], s.value[r], s.names) for r in rows[some]]
            vectors[some] = self.embed(left)
        return vectors


def by_removal(
    trained: Trained, parts: Parts, modality: str, explained: int, *, seed: int = 0
) -> Inside:
    """Shapley values of a modality's parts, in log-odds of a class.

    Exact for up to `EXACT` parts; otherwise sampled by captum, with a standard error. A part that
    the patient lacks gets exactly 0.

    Raises:
        InputError: many parts, and captum is not installed.
    """
    here, findings = np.flatnonzero(parts.there), trained.outcome.kind == "findings"

    def value(mask: Bools) -> Floats:
        """(R, parts that are there) → log-odds (R,)."""
        whole = np.ones((len(mask), len(parts.there)), bool)
        whole[:, here] = mask
        output = forward(trained, parts.kept(whole), batch_size=AT_ONCE)
        return log_odds(output.logits, explained, findings=findings).numpy().astype(np.float64)

    values, errors = np.zeros(len(parts.there)), None
    ends = value(np.array([np.zeros(len(here), bool), np.ones(len(here), bool)]))
    if len(here) <= EXACT:
        values[here] = shapley(value(patterns(len(here)))) if len(here) else 0.0
    else:
        errors = np.zeros(len(parts.there))
        values[here], errors[here] = _sampled(value, len(here), seed)
    total = float(ends[1] - ends[0])
    return Inside(
        sample_id=str(parts.kept(np.ones((1, len(parts.there)), bool)).sample_id[0]),
        modality=modality,
        explained=explained,
        method="Shapley values against not being recorded"
        + (", exact" if errors is None else ", sampled"),
        parts=parts.parts,
        values=values.tolist(),
        total=total,
        gap=total - float(values.sum()),
        errors=None if errors is None else errors.tolist(),
    )


def _sampled(value: Callable[[Bools], Floats], P: int, seed: int) -> tuple[Floats, Floats]:
    """captum's estimate of the values (P,), and its standard error over repetitions."""
    sampling = captum_attr().ShapleyValueSampling(
        lambda mask: torch.from_numpy(value(mask.numpy() > 0.5))
    )
    found = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for _ in range(REPEATS):
            estimate: Tensor = sampling.attribute(
                torch.ones(1, P), baselines=0.0, n_samples=ORDERS, perturbations_per_eval=AT_ONCE
            )
            found.append(estimate[0].double().numpy())
    draws = np.stack(found)
    return draws.mean(axis=0), draws.std(axis=0, ddof=1) / np.sqrt(REPEATS)
