"""Simulated patients whose best possible prediction is known exactly.

Truth of one patient: severity u ~ N(0, 1) and two signs a, b = ±1, each a fair coin;
P(label = 1 | u, a, b) = sigmoid(−1.4 + 1.2 u + 1.2 a b).

What a model sees of it:
- Vector modalities m1 … mM: a random rotation of (gain · u, 2 · sign, nuisance, 0, …) + unit noise.
  Gains and widths differ. Sign a lives in m1, b in m2 (with M = 1 in the table): their product
  shows in no single modality. The last modality is wide (256), and 40 of its directions carry
  nuisance of standard deviation 6 that has nothing to do with the label.
- A table "clinical": age and heart rate (weakly severity), sodium (noise), lactate (severity, and
  measured more often in the severe), ward (a category, likelier D in the severe); 10 % of the other
  cells are missing at random.
- Missing modalities: m1 (10 %), m3, m5, … (30 %) at random; m2, m4, … not at random, present with
  probability sigmoid(0.8 + 0.8 u). Who would have none has m1. With a rate r instead, each is
  absent completely at random with probability r, and who would have none keeps one drawn at random:
  what is missing then says nothing. One seed gives the same patients at every rate.

`bayes_prob` is P(label = 1 | everything written of that patient: vectors, table, and which of them
are missing), by Bayes' rule with the generator's true parameters, integrated over u on a grid. No
model can do better in expectation; one that learns the parameters from few patients does worse.

It resembles real cohorts in: modalities of unequal worth and width, an interaction across them,
informative missingness. It does not in: views are linear and Gaussian, the signal is two directions
of a vector, a patient has one sample, there is no site, drift or wrong label. It was not tuned to
favour any method.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import expit, softmax
from scipy.stats import norm

from adacomed.cohort.split import holdout
from adacomed.datasets.simulated_tasks import TASKS
from adacomed.datasets.write import assert_writable, vector_table, write_cohort
from adacomed.errors import InputError, nearest
from adacomed.schema import (
    TEST,
    TRAIN,
    CohortCard,
    CohortFiles,
    EmbeddingCard,
    Labels,
    Samples,
    TabularCard,
    TaskCard,
)

Floats = NDArray[np.float64]
TASK = "outcome"
INTERCEPT, SEVERITY, INTERACTION = -1.4, 1.2, 1.2
GAINS, WIDTHS = (1.0, 0.7, 0.4), (32, 64, 128)
SIGN_GAIN = 2.0
WIDE, NUISANCE, NUISANCE_STD = 256, 40, 6.0
TEST_FRACTION = 0.2
MOST_MISSING = 0.9  # above it nearly everyone has the one modality that is kept
# name → mean, effect of u, standard deviation of the rest
AMOUNTS = {
    "age": (60.0, 3.0, 12.0),
    "heart_rate": (85.0, 6.0, 14.0),
    "sodium": (139.0, 0.0, 4.0),
    "lactate": (2.0, 0.8, 1.0),
}
WARDS = {"A": 0.0, "B": 0.0, "C": 0.4, "D": 0.8}  # effect of u on the log-odds of each ward
GRID = np.linspace(-6, 6, 241)  # severity; finer than 0.05 changes no probability by 1e-6


@dataclass
class Evidence:
    """What has been seen so far, as log-likelihoods given the truth.

    Attributes:
        severity: (N, G), given u at each grid point.
        a, b: (N, 2), given the sign −1, +1.
    """

    severity: Floats
    a: Floats
    b: Floats

    def posterior(self) -> Floats:
        """P(label = 1 | all that was seen), (N,). The three are independent given the views."""
        severity = softmax(self.severity + norm.logpdf(GRID), axis=1)
        a, b = softmax(self.a, axis=1), softmax(self.b, axis=1)
        same = a[:, 0] * b[:, 0] + a[:, 1] * b[:, 1]  # P(a b = +1)
        agree = severity @ expit(INTERCEPT + SEVERITY * GRID + INTERACTION)
        differ = severity @ expit(INTERCEPT + SEVERITY * GRID - INTERACTION)
        result: Floats = same * agree + (1 - same) * differ
        return result


@dataclass
class Patients:
    """The truth of N patients, and what it lets one see."""

    severity: Floats
    a: Floats
    b: Floats
    label: NDArray[np.int64]
    evidence: Evidence
    vectors: dict[str, Floats] = field(default_factory=dict)  # (N, D)
    present: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    table: dict[str, pl.Series] = field(default_factory=dict)


def build(
    out: Path,
    *,
    samples: int = 1000,
    modalities: int = 3,
    seed: int = 0,
    missing: float | None = None,
    task: str = TASK,
) -> CohortCard:
    """Write a simulated cohort folder (see the module's text for the generator).

    Args:
        out: folder to write; a cohort built there before is replaced.
        samples: patients, ≥ 50.
        modalities: vector modalities, ≥ 1, beside the table.
        seed: decides everything; one seed gives one cohort.
        missing: chance in [0, .9] that a vector modality is absent, completely at random; None: the
            pattern of the module's text. The share seen is lower, as everyone keeps one.
        task: outcome, or findings or survival (`simulated_tasks.py`) of the same patients.
    Raises:
        InputError: too few samples or modalities, a rate outside [0, .9], or `out` holds something
            else.
    """
    if samples < 50 or modalities < 1 or seed < 0:
        asked = f"{samples} samples, {modalities} modalities, seed {seed}"
        raise InputError(f"simulated: asked for {asked}; at least 50, 1 and 0 would work")
    if missing is not None and not 0 <= missing <= MOST_MISSING:
        raise InputError(
            f"simulated: asked for a rate of missing modalities of {missing:g}; 0 to "
            f"{MOST_MISSING} would work, or none for the generator's own pattern"
        )
    if task not in (TASK, *TASKS):
        raise InputError(f"simulated: no task {task!r}{nearest(task, (TASK, *TASKS))}")
    assert_writable(out)
    people = simulate(samples, modalities, seed, missing)
    ids = [f"s{n:0{len(str(samples))}d}" for n in range(samples)]
    other = None
    if task in TASKS:
        other = TASKS[task](people.severity, people.a, people.b, seed)
    label = people.label if other is None else other.label
    _, test = holdout(label, np.array(ids), fraction=TEST_FRACTION, seed=seed)
    split = np.where(np.isin(np.arange(samples), test), TEST, TRAIN)
    columns = {Samples.SAMPLE_ID: ids, Samples.SUBJECT_ID: ids, Samples.SPLIT: split}
    truth = {Labels.LABEL: people.label, Labels.BAYES_PROB: people.evidence.posterior()}
    labels = pl.DataFrame({Labels.SAMPLE_ID: ids, Labels.TASK: [TASK] * samples, **truth})
    card = _card(modalities, seed, missing)
    if other is not None:
        labels, people.table = labels.clear(), {**people.table, **other.columns}
        changed = {"tasks": {task: other.card}, "labels": None, "notes": "Simulated."}
        card = card.model_copy(update=changed)
    tables = {
        name: vector_table(
            [i for i, here in zip(ids, people.present[name], strict=True) if here],
            ["1"] * int(people.present[name].sum()),
            values[people.present[name]].astype(np.float32),
        )
        for name, values in people.vectors.items()
    }
    frame = pl.DataFrame({**columns, **people.table})
    write_cohort(out, card, frame, labels, tables)
    return card


def simulate(samples: int, modalities: int, seed: int, missing: float | None = None) -> Patients:
    """Draw N patients; the same seed gives the same patients, whatever is missing of them."""
    rng = np.random.default_rng(seed)
    u = rng.standard_normal(samples)
    a, b = rng.choice([-1.0, 1.0], size=(2, samples))
    chance = expit(INTERCEPT + SEVERITY * u + INTERACTION * a * b)
    label = (rng.random(samples) < chance).astype(np.int64)
    nothing = [np.zeros((samples, k)) for k in (len(GRID), 2, 2)]
    people = Patients(u, a, b, label, Evidence(*nothing))
    _presence(people, rng.random((modalities, samples)), missing)
    _vectors(people, rng)
    _table(people, rng, sign=modalities == 1)
    return people


def _presence(people: Patients, drawn: Floats, missing: float | None) -> None:
    """Decide which modalities are there, and take note of what that tells.

    Args:
        drawn: (M, N), uniform in [0, 1) and unrelated to the patients.
    """
    if missing is None:
        here = drawn < np.stack([_chance(k, people.severity) for k in range(len(drawn))])
        # m1 alone: either it was there alone, or nothing was and it was given; the sum is
        # P(the others are absent).
        alone = here[1:].sum(axis=0) == 0
        here[0] |= alone
        for k in range(len(drawn)):
            chance = _chance(k, GRID)
            told = np.where(here[k][:, None], np.log(chance), np.log1p(-chance))
            people.evidence.severity += told if k else np.where(alone[:, None], 0, told)
    else:
        here = drawn < 1 - missing
        # Where any is there, so is the one with the lowest draw; it is each with the same chance.
        here[drawn.argmin(axis=0), np.arange(drawn.shape[1])] = True
    people.present = {f"m{k + 1}": row for k, row in enumerate(here)}


def _vectors(people: Patients, rng: np.random.Generator) -> None:
    """Draw the views, and take note of what those that are there tell."""
    n = len(people.label)
    for k, name in enumerate(people.present):
        wide = k == len(people.present) - 1
        gain, sign = GAINS[k % 3], {0: people.a, 1: people.b}.get(k)
        view = rng.standard_normal((n, WIDE if wide else WIDTHS[k % 3]))
        view[:, 0] += gain * people.severity
        if sign is not None:
            view[:, 1] += SIGN_GAIN * sign
        if wide:
            view[:, 2 : 2 + NUISANCE] += NUISANCE_STD * rng.standard_normal((n, NUISANCE))
        seen = people.present[name][:, None]
        people.evidence.severity += np.where(seen, norm.logpdf(view[:, :1], gain * GRID), 0)
        if sign is not None:
            evidence = people.evidence.a if k == 0 else people.evidence.b
            evidence += np.where(seen, _sign_evidence(view[:, 1]), 0)
        rotation, _ = np.linalg.qr(rng.standard_normal((view.shape[1], view.shape[1])))
        people.vectors[name] = view @ rotation


def _chance(k: int, u: Floats) -> Floats:
    """P(modality k is there | u), before who has none is given m1."""
    if k % 2:
        return np.asarray(expit(0.8 + 0.8 * u))
    return np.full(len(u), 0.9 if k == 0 else 0.7)


def _table(people: Patients, rng: np.random.Generator, *, sign: bool) -> None:
    """Draw the table's cells and which are missing, and take note of what they tell."""
    n, u = len(people.label), people.severity
    for name, (mean, effect, rest) in AMOUNTS.items():
        values = mean + effect * u + rest * rng.standard_normal(n)
        chance = expit(GRID) if name == "lactate" else np.full(len(GRID), 0.9)
        seen = rng.random(n) < (expit(u) if name == "lactate" else 0.9)
        told = norm.logpdf(values[:, None], mean + effect * GRID, rest) + np.log(chance)
        people.evidence.severity += np.where(seen[:, None], told, np.log1p(-chance))
        people.table[name] = pl.Series(values).set(pl.Series(~seen), None)
    score = np.outer(u, list(WARDS.values()))
    drawn = np.argmax(score + rng.gumbel(size=score.shape), axis=1)  # softmax(score)
    seen = rng.random(n) < 0.9
    on_grid = np.outer(list(WARDS.values()), GRID)
    chance = on_grid - np.log(np.exp(on_grid).sum(axis=0))
    people.evidence.severity += np.where(seen[:, None], chance[drawn], 0)
    people.table["ward"] = pl.Series(np.array(list(WARDS))[drawn]).set(pl.Series(~seen), None)
    if sign:
        view = SIGN_GAIN * people.b + rng.standard_normal(n)
        people.evidence.b += _sign_evidence(view)
        people.table["sign"] = pl.Series(view)


def _sign_evidence(view: Floats) -> Floats:
    """Log-likelihood of sign −1, +1 given its noisy view, (N,) → (N, 2)."""
    result: Floats = norm.logpdf(view[:, None], SIGN_GAIN * np.array([-1.0, 1.0]))
    return result


def _card(modalities: int, seed: int, missing: float | None) -> CohortCard:
    vectors = {
        name: EmbeddingCard(kind="embedding", root=Path(CohortFiles.VECTORS) / f"{name}.parquet")
        for name in (f"m{k + 1}" for k in range(modalities))
    }
    columns = [*AMOUNTS, "ward"] + (["sign"] if modalities == 1 else [])
    rate = "" if missing is None else f", missing {missing:g}"
    return CohortCard(
        name="simulated",
        title="Simulated patients (no real data)",
        simulated=True,
        source=f"adacomed cohort build simulated, seed {seed}{rate}",
        licence="Apache-2.0",
        table=Path(CohortFiles.SAMPLES),
        subject=Samples.SUBJECT_ID,
        sample=Samples.SAMPLE_ID,
        split=Samples.SPLIT,
        labels=Path(CohortFiles.LABELS),
        tasks={TASK: TaskCard(description="drawn from bayes_prob's generator; 1 = it happened")},
        modalities={
            **vectors,
            "clinical": TabularCard(kind="tabular", columns=columns, categorical=["ward"]),
        },
        groups=["ward"],
        notes="Simulated. bayes_prob = P(label = 1 | all that is written of the patient).",
    )
