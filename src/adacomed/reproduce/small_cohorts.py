"""Where simulated cohorts are small: AdaCoMed against the best rival and the best possible."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import polars as pl

from adacomed.errors import InputError
from adacomed.evaluation.compare import paired
from adacomed.evaluation.intervals import holm
from adacomed.evaluation.tables import number, p_value
from adacomed.report import evidence_figures
from adacomed.reproduce.ceiling import (
    TESTED,
    against,
    growing,
    share_rows,
    share_table,
    simulated_study,
    with_ceiling,
)
from adacomed.reproduce.study import Artefact, Study
from adacomed.schema import TEST, Predictions

SIZES, MODALITIES, RATES = (300, 1000, 3000), (3, 4), (0.0, 0.3, 0.6)
METHODS = (
    "small",
    "large-ensemble",
    "average",
    "late-fusion",
    "weighted-late-fusion",
    "forest",
    "logistic",
    "boosting",
    "logistic-all",
)


def small_cohorts(
    study: Study,
    methods: Sequence[str] = METHODS,
    *,
    sizes: Sequence[int] = SIZES,
    tested: int = TESTED,
    modalities: Sequence[int] = MODALITIES,
    rates: Sequence[float] = RATES,
) -> Artefact:
    """Share of the Bayes ceiling by training patients, modalities and rate of missing modalities.

    Args:
        methods: beside AdaCoMed and bayes.
        sizes: training patients, ascending; the smaller sets are parts of the larger.
        tested: patients that every method of one M and rate is tested on, at every size.
        modalities: numbers of vector modalities.
        rates: chances of a vector modality to be missing, completely at random.
    Raises:
        InputError: no rival among the methods.
    """
    names = with_ceiling(methods)
    if len(names) < 3:
        raise InputError("simulated-grid: no rival among the methods, such as small or forest")
    shares, pairs = [], []
    for M, rate in product(modalities, rates):
        found = _simulated(study, names, M, rate, sizes, tested)
        for i, n in enumerate(sizes):
            mine = found.filter(pl.col(Predictions.REPEAT) == i)
            where = {"modalities": M, "missing": rate, "n": n}
            rows = share_rows(mine, study.resamples)
            shares += [where | row for row in rows]
            pairs.append(where | _best_rival(mine, rows, study.resamples))
    every = pl.DataFrame(shares)
    title = "Simulated patients (no real data): share of the best possible where patients are few"
    verdicts = pl.DataFrame(pairs).with_columns(p_holm=holm([pair["p"] for pair in pairs]))
    panels = {
        f"Share of the Bayes ceiling, M = {M}, {_percent(rate)} missing": share_table(
            every.filter(modalities=M, missing=rate)
        )
        for M, rate in product(modalities, rates)
    }
    return Artefact(
        title,
        tables={"AdaCoMed against the best rival of each cell": _verdicts(verdicts), **panels},
        figures={"simulated-grid": evidence_figures.share_lines(every, title)},
        data={"shares": every, "best-rival": verdicts},
        notes=[
            f"Share: (AUROC − .5) / (ceiling − .5). Tested on {tested:,} other simulated patients, "
            "the same for all sizes of one M and rate; one training each. M vector modalities, "
            "each missing completely at random at the rate; a table is always there.",
            "The best rival of a cell is the one whose AUROC on the test patients is the highest: "
            "it was looked up there, which favours the rival. p (Holm) is over the cells.",
        ],
    )


def _simulated(
    study: Study, names: list[str], M: int, rate: float, sizes: Sequence[int], tested: int
) -> pl.DataFrame:
    """Test predictions on the cohort of one M and rate; repeat i is size i."""
    total = sizes[-1] + tested
    folder = f"simulated-{total}-m{M}-missing{rate:g}"
    mine = simulated_study(study, folder, samples=total, modalities=M, missing=rate)
    experiment = mine.experiment("split.kind=auto")
    prepared = mine.prepared(experiment, names)
    found = mine.predictions(names, experiment, prepared, growing(sizes, tested))
    return found.filter(pl.col(Predictions.SPLIT) == TEST)


def _best_rival(mine: pl.DataFrame, rows: list[dict[str, Any]], resamples: int) -> dict[str, Any]:
    """`paired`'s row of AdaCoMed and the rival of the highest AUROC, and both their shares."""
    shares = {row["method"]: row["share"] for row in rows}
    best = max((m for m in shares if m != "adacomed"), key=lambda m: shares[m])
    two = mine.filter(pl.col(Predictions.METHOD).is_in(["adacomed", best]))
    pair = paired(two, n=resamples).row(0, named=True)
    kept = {k: pair[k] for k in ("method", "difference", "low", "high", "p")}
    return kept | {"share": shares["adacomed"], "rival_share": shares[best]}


def _verdicts(pairs: pl.DataFrame) -> pl.DataFrame:
    """A row per cell: the shares of both, the difference and who wins."""
    rows = [
        {
            "M": pair["modalities"],
            "missing": _percent(pair["missing"]),
            "n": pair["n"],
            "share, AdaCoMed": number(pair["share"]),
            "share, rival": number(pair["rival_share"]),
            "p": p_value(pair["p"]),
            **against(pair),
        }
        for pair in pairs.iter_rows(named=True)
    ]
    return pl.DataFrame(rows)


def _percent(rate: float) -> str:
    return f"{100 * rate:.0f} %"
