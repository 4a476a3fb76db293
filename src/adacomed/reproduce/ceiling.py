"""Every method against the best that is possible, on simulated patients of known truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from adacomed.cohort.split import Fold
from adacomed.datasets import simulated
from adacomed.evaluation.compare import paired
from adacomed.evaluation.intervals import percentile
from adacomed.evaluation.predictions import Cells
from adacomed.evaluation.tables import estimate, p_value
from adacomed.report import training_figures
from adacomed.reproduce.study import Artefact, Study
from adacomed.reproduce.tables import HEAVY
from adacomed.schema import TEST, CohortFiles, Predictions
from adacomed.training.names import BAYES, method_names

SIZES = (500, 2000, 8000)
TESTED = 4000  # patients, the same at every size
SLOW = ("boosting-all", "forest-all", "onellm")  # at 8,000 patients: boosting is there as haim


def ceiling(
    study: Study,
    sizes: tuple[int, ...] = SIZES,
    tested: int = TESTED,
    methods: Sequence[str] | None = None,
) -> Artefact:
    """AUROC above chance as a share of the generator's own, at 500, 2,000 and 8,000 patients.

    Args:
        sizes: training patients, ascending; the smaller sets are parts of the larger.
        tested: patients that every method is tested on, at every size.
        methods: beside AdaCoMed and bayes [default: all but `SLOW`].
    """
    total = sizes[-1] + tested
    study = simulated_study(study, f"simulated-{total}", samples=total)
    experiment = study.experiment("split.kind=auto", "training.inner_folds=3")
    prepared = study.prepared(experiment)
    folds = growing(sizes, tested)
    names = with_ceiling(methods or [m for m in method_names(prepared.inputs) if m not in SLOW])
    if methods is None:
        names[names.index("meta-transformer")] = HEAVY[0]
    found = study.predictions(names, experiment, prepared, folds)
    rows, verdicts = [], []
    for i, n in enumerate(sizes):
        mine = found.filter((pl.col(Predictions.REPEAT) == i) & (pl.col(Predictions.SPLIT) == TEST))
        rows += [{"n": n, **row} for row in share_rows(mine, study.resamples)]
        rivals = mine.filter(pl.col(Predictions.METHOD) != BAYES)
        pairs = paired(rivals, n=study.resamples).iter_rows(named=True)
        verdicts += [{"n": n, **against(pair)} for pair in pairs]
    shares = pl.DataFrame(rows)
    title = "Simulated patients (no real data): AUROC as a share of the best possible"
    return Artefact(
        title,
        tables={
            "Share of the Bayes ceiling, (AUROC − .5) / (ceiling − .5)": share_table(shares),
            "AdaCoMed against each rival": pl.DataFrame(verdicts),
        },
        figures={"ceiling": training_figures.ceiling_bars(shares, title)},
        data={"ceiling": shares},
        notes=[
            f"Tested on the same {tested:,} simulated patients at every size; one training each. "
            f"Not run here: {', '.join(SLOW)}."
        ],
    )


def simulated_study(study: Study, name: str, **settings: Any) -> Study:
    """The study on simulated patients of its own, in a folder `name` that says all `settings`.

    They are simulated once and found there again.
    """
    folder = study.out / name
    if not (folder / CohortFiles.CARD).is_file():
        study.out.mkdir(parents=True, exist_ok=True)
        simulated.build(folder, **settings)
    return replace(study, cohort=folder)


def growing(sizes: Sequence[int], tested: int) -> list[Fold]:
    """Repeat i trains on the first `sizes[i]` samples; all are tested on the last `tested`.

    Args:
        sizes: ascending.
    """
    people = np.arange(sizes[-1] + tested)
    return [Fold(i, 0, people[:n], people[sizes[-1] :]) for i, n in enumerate(sizes)]


def with_ceiling(methods: Sequence[str]) -> list[str]:
    """The methods, with AdaCoMed as the first and the generator's own probability as the last."""
    return ["adacomed", *(m for m in methods if m not in ("adacomed", BAYES)), BAYES]


def share_rows(mine: pl.DataFrame, resamples: int) -> list[dict[str, Any]]:
    """Every method's share with its interval, the ceiling resampled with the same patients.

    Args:
        mine: predictions of one set of patients, those of bayes among them.
    Returns:
        method, auroc, share, low, high per method but bayes.
    """
    cells = {
        str(part[Predictions.METHOD][0]): Cells(part)
        for part in mine.partition_by(Predictions.METHOD, maintain_order=True)
    }
    best = float(cells[BAYES].value(["auroc"])[0])
    tops = cells[BAYES].resampled(["auroc"], resamples, 0)
    rows: list[dict[str, Any]] = []
    for method, cell in cells.items():
        value = float(cell.value(["auroc"])[0])
        draws = (cell.resampled(["auroc"], resamples, 0) - 0.5) / (tops - 0.5)
        low, high = percentile(draws)
        share = (value - 0.5) / (best - 0.5)
        if method != BAYES:
            limits = {"low": float(low[0]), "high": float(high[0])}
            rows.append({"method": method, "auroc": value, "share": share, **limits})
    return rows


def against(pair: Mapping[str, Any]) -> dict[str, str]:
    """A row of `paired` in words: AdaCoMed wins, ties or loses, by the Holm-adjusted test."""
    clear = pair["p_holm"] < 0.05
    return {
        "rival": pair["method"],
        "AUROC, AdaCoMed − rival": estimate(
            pair["difference"], pair["low"], pair["high"], 3, " to "
        ),
        "p (Holm)": p_value(pair["p_holm"]),
        "AdaCoMed": ("wins" if pair["difference"] > 0 else "loses") if clear else "ties",
    }


def share_table(shares: pl.DataFrame) -> pl.DataFrame:
    """`share_rows` with their n as text: a row per method, a column per size."""
    text = shares.with_columns(
        pl.struct("share", "low", "high")
        .map_elements(lambda s: estimate(*s.values()), return_dtype=pl.String)
        .alias("text")
    )
    order = shares.filter(pl.col("n") == pl.col("n").max()).sort("share", descending=True)["method"]
    wide = text.pivot("n", index="method", values="text")
    return order.to_frame().join(wide, on="method", how="left")
