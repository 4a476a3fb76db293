"""Every method against the best that is possible, on simulated patients of known truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from adacomed.cohort.split import Fold
from adacomed.datasets import simulated
from adacomed.evaluation.compare import paired
from adacomed.evaluation.intervals import percentile
from adacomed.evaluation.predictions import Cells
from adacomed.evaluation.tables import estimate
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
        methods: AdaCoMed and bayes among them [default: all but `SLOW`].
    """
    total = sizes[-1] + tested
    folder = study.out / f"simulated-{total}"
    if not (folder / CohortFiles.CARD).is_file():
        study.out.mkdir(parents=True, exist_ok=True)
        simulated.build(folder, samples=total)
    study = replace(study, cohort=folder)
    experiment = study.experiment("split.kind=auto", "training.inner_folds=3")
    prepared = study.prepared(experiment)
    people = np.arange(total)
    folds = [Fold(i, 0, people[:n], people[sizes[-1] :]) for i, n in enumerate(sizes)]
    names = list(methods or [m for m in method_names(prepared.inputs) if m not in SLOW])
    if methods is None:
        names[names.index("meta-transformer")] = HEAVY[0]
    found = study.predictions(names, experiment, prepared, folds)
    rows, verdicts = [], []
    for i, n in enumerate(sizes):
        mine = found.filter((pl.col(Predictions.REPEAT) == i) & (pl.col(Predictions.SPLIT) == TEST))
        rows += [{"n": n, **row} for row in _shares(mine, study.resamples)]
        verdicts += [{"n": n, **row} for row in _verdicts(mine, study.resamples)]
    shares = pl.DataFrame(rows)
    title = "Simulated patients (no real data): AUROC as a share of the best possible"
    return Artefact(
        title,
        tables={
            "Share of the Bayes ceiling, (AUROC − .5) / (ceiling − .5)": _wide(shares),
            "AdaCoMed against each rival": pl.DataFrame(verdicts),
        },
        figures={"ceiling": training_figures.ceiling_bars(shares, title)},
        data={"ceiling": shares},
        notes=[
            f"Tested on the same {tested:,} simulated patients at every size; one training each. "
            f"Not run here: {', '.join(SLOW)}."
        ],
    )


def _shares(mine: pl.DataFrame, resamples: int) -> list[dict[str, object]]:
    """Every method's share with its interval, the ceiling resampled with the same patients."""
    cells = {
        str(part[Predictions.METHOD][0]): Cells(part)
        for part in mine.partition_by(Predictions.METHOD, maintain_order=True)
    }
    best = float(cells[BAYES].value(["auroc"])[0])
    tops = cells[BAYES].resampled(["auroc"], resamples, 0)
    rows: list[dict[str, object]] = []
    for method, cell in cells.items():
        value = float(cell.value(["auroc"])[0])
        draws = (cell.resampled(["auroc"], resamples, 0) - 0.5) / (tops - 0.5)
        low, high = percentile(draws)
        share = (value - 0.5) / (best - 0.5)
        if method != BAYES:
            limits = {"low": float(low[0]), "high": float(high[0])}
            rows.append({"method": method, "auroc": value, "share": share, **limits})
    return rows


def _verdicts(mine: pl.DataFrame, resamples: int) -> list[dict[str, object]]:
    """AdaCoMed wins, ties or loses: by the Holm-adjusted paired test."""
    rivals = mine.filter(pl.col(Predictions.METHOD) != BAYES)
    found = []
    for row in paired(rivals, n=resamples).iter_rows(named=True):
        clear = row["p_holm"] < 0.05
        verdict = ("wins" if row["difference"] > 0 else "loses") if clear else "ties"
        found.append(
            {
                "rival": row["method"],
                "AUROC, AdaCoMed − rival": estimate(
                    row["difference"], row["low"], row["high"], 3, " to "
                ),
                "p (Holm)": f"{row['p_holm']:.3f}",
                "AdaCoMed": verdict,
            }
        )
    return found


def _wide(shares: pl.DataFrame) -> pl.DataFrame:
    """A row per method, a column per size."""
    text = shares.with_columns(
        pl.struct("share", "low", "high")
        .map_elements(lambda s: estimate(*s.values()), return_dtype=pl.String)
        .alias("text")
    )
    order = shares.filter(pl.col("n") == pl.col("n").max()).sort("share", descending=True)["method"]
    wide = text.pivot("n", index="method", values="text")
    return order.to_frame().join(wide, on="method", how="left")
