"""The final protocol on a cohort: AdaCoMed against every rival, and what its weights are worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from adacomed.cohort.cohort import load_cohort
from adacomed.cohort.split import Fold
from adacomed.evaluation.compare import HEADLINES, paired_headlines, summarise
from adacomed.evaluation.reliability import weight_reliability
from adacomed.evaluation.resampled import corrected_resampled
from adacomed.evaluation.tables import estimate, number, p_value
from adacomed.models.weighting import STRATEGIES
from adacomed.report import evidence_figures
from adacomed.reproduce.study import Artefact, Study, in_columns, renamed, seeded_folds
from adacomed.reproduce.tables import readable
from adacomed.schema import TEST, Predictions
from adacomed.training.names import BAYES, method_names
from adacomed.training.prepare import Prepared

SPLIT_SEEDS = (100, 101, 102)  # of the final runs: no choice was made on these folds
TREES = ("extra-trees", "lightgbm", "extra-trees-all", "lightgbm-all")
ALSO = (*TREES, "haim", "flex-moe")  # rivals, though elsewhere run on request only
GRU = "gru"  # needs a series
HALF = "adacomed?model.strategy=ensemble"
PROMISES = {  # column of `weight_reliability` → heading
    "correlation": "w_large with the branch that is right",
    "loss_correlation": "w_large with the log-loss difference",
}


@dataclass(frozen=True)
class Final:
    """A cohort's task by the final protocol: a k-fold per split seed, chosen before the runs.

    Attributes:
        how: the task and its folds in words.
        predictions: of all methods on all folds.
    """

    prepared: Prepared
    folds: list[Fold]
    how: str
    predictions: pl.DataFrame

    @classmethod
    def of(cls, study: Study, methods: Sequence[str], split_seeds: Sequence[int]) -> Final:
        """Train what is missing of methods × folds."""
        experiment = study.experiment("split.kind=kfold")
        prepared = study.prepared(experiment, methods)
        folds = seeded_folds(experiment, prepared, split_seeds)
        found = study.predictions(methods, experiment, prepared, folds)
        repeated = f"{len(split_seeds)} × {experiment.split.folds}-fold"
        seeds = ", ".join(map(str, split_seeds))
        how = f"{prepared.task}, {repeated} cross-validation (split seeds {seeds})"
        return cls(prepared, folds, how, found)

    def scores(self, resamples: int) -> pl.DataFrame:
        """`summarise` by AUROC and AUPRC, the best AUROC on top."""
        table = summarise(self.predictions, metrics=HEADLINES, n=resamples)
        return table.sort("auroc", descending=True, nulls_last=True)

    @property
    def columns(self) -> dict[str, str]:
        """Heading → metric; of two classes, AUPRC is of the second."""
        classes = self.prepared.inputs.classes
        of = f" ({classes[1]})" if len(classes) == 2 else ""
        return {"AUROC": "auroc", f"AUPRC{of}": "auprc"}


def rivals(
    study: Study, methods: Sequence[str] | None = None, split_seeds: Sequence[int] = SPLIT_SEEDS
) -> Artefact:
    """AdaCoMed against every rival on one cohort, by the final protocol.

    Args:
        methods: beside AdaCoMed [default: all that `compare` runs, `ALSO`, and gru on a series].
        split_seeds: one stratified k-fold each, grouped by subject.
    """
    artefact = Artefact(f"{_title(study)}: AdaCoMed against its rivals")
    for one in study.tasks():
        named = methods or _every_rival(one.prepared(one.experiment()))
        names = ["adacomed", *(m for m in named if m not in ("adacomed", BAYES))]
        final = Final.of(one, names, split_seeds)
        scores, pairs = final.scores(study.resamples), _paired(final, study.resamples)
        artefact.tables[final.how] = in_columns(scores, final.columns)
        differences = _in_words(pairs)
        if len(differences):
            order = scores.select("method")
            artefact.tables[f"{final.how}: AdaCoMed less each rival"] = order.join(
                differences, on="method", maintain_order="left"
            )
        stem, long = f"rivals-{final.prepared.task}", _long(scores)
        title = f"{artefact.title}, {final.how}"
        artefact.figures[stem] = evidence_figures.method_forest(long, title)
        artefact.data |= {stem: long, f"paired-{final.prepared.task}": pairs}
    artefact.notes.append(
        "Both p are Holm-adjusted over the rivals: p (Holm) is the bootstrap's, which resamples "
        "patients; p (corrected t, Holm) is that of the corrected resampled t-test over the folds "
        "(Nadeau & Bengio 2003), which also counts what other training patients would change."
    )
    return artefact


def _every_rival(prepared: Prepared) -> list[str]:
    """The methods that can run on the cohort, less those on request that are no rivals here."""
    kinds = {card.kind for card in prepared.cohort.card.modalities.values()}
    wanted = {*method_names(prepared.inputs, all_=False), *ALSO}
    wanted |= {GRU} if "series" in kinds else set()
    return [m for m in method_names(prepared.inputs) if m in wanted]


def _paired(final: Final, resamples: int) -> pl.DataFrame:
    """`paired` by AUROC and AUPRC with the corrected t-test's p beside it."""
    train = float(np.mean([len(fold.train) for fold in final.folds]))
    test = float(np.mean([len(fold.test) for fold in final.folds]))
    tested = [
        corrected_resampled(final.predictions, train=train, test=test, metric=name)
        for name in HEADLINES
    ]
    pairs = paired_headlines(final.predictions, n=resamples)
    return pairs.join(
        pl.concat(tested).drop("difference"),
        on=["method", "metric"],
        how="left",
        maintain_order="left",
    )


def _in_words(pairs: pl.DataFrame) -> pl.DataFrame:
    """`_paired` as text, a row per rival."""
    table = readable(pairs)
    for name in HEADLINES if len(pairs) else ():
        mine = pairs.filter(metric=name)
        words = [p_value(p) for p in mine["p_resampled_holm"]]
        column = pl.Series(f"{name.upper()} p (corrected t, Holm)", words)
        table = table.join(mine.select("method", column), on="method", how="left")
    return table


def _long(scores: pl.DataFrame) -> pl.DataFrame:
    """`summarise`'s table with a row per method and metric: method, metric, value, low, high."""
    parts = [
        scores.select(
            "method",
            metric=pl.lit(name),
            value=name,
            low=f"{name}_low",
            high=f"{name}_high",
        )
        for name in HEADLINES
    ]
    return pl.concat(parts)


def weights(study: Study, split_seeds: Sequence[int] = SPLIT_SEEDS) -> Artefact:
    """Every weighting strategy on the same folds, and whether its weights keep their promise.

    Args:
        split_seeds: one stratified k-fold each, grouped by subject.
    """
    artefact = Artefact(f"{_title(study)}: what the weights are worth")
    names = {f"adacomed?model.strategy={s}": s for s in STRATEGIES}
    for one in study.tasks():
        final = Final.of(one, list(names), split_seeds)
        scores = final.scores(study.resamples)
        table = in_columns(scores, final.columns).drop("n", "n_events")
        found = _reliability(final.predictions, study.resamples)
        table = table.join(_promise(found), on="method", how="left", maintain_order="left")
        artefact.tables[final.how] = renamed(table, names)
        pairs = paired_headlines(final.predictions, reference=HALF, n=study.resamples)
        heading = f"{final.how}: half and half (ensemble) less each strategy"
        artefact.tables[heading] = renamed(readable(pairs), names)
        artefact.data |= {
            f"weights-{final.prepared.task}": renamed(found, names),
            f"paired-{final.prepared.task}": renamed(pairs, names),
        }
    artefact.notes.append(
        "Correlations are Spearman's, of w_large ranked within each model. Kept promises are near "
        "1, none is 0, broken ones are below 0; a strategy that weighs every patient alike makes "
        "none."
    )
    return artefact


def _reliability(predictions: pl.DataFrame, resamples: int) -> pl.DataFrame:
    """`weight_reliability` with the 5 and 95 % quantiles of w_large over all test patients."""
    w = pl.col(Predictions.W_LARGE)
    test = predictions.filter(pl.col(Predictions.SPLIT) == TEST)
    ends = {f"w_large_{q:.0%}": w.quantile(q, "linear") for q in (0.05, 0.95)}
    spread = test.group_by(Predictions.METHOD).agg(**ends)
    found = weight_reliability(predictions, n=resamples)
    return found.join(spread, on=Predictions.METHOD, how="left", maintain_order="left")


def _promise(found: pl.DataFrame) -> pl.DataFrame:
    """`_reliability` as text, a row per method."""
    rows = [
        {
            "method": row["method"],
            "w_large, 5–95 %": f"{number(row['w_large_5%'])}–{number(row['w_large_95%'])}",
            "exactly one branch right, patients": row["n_discordant"],
            "of these, large right": row["n_large_right"],
            **{
                heading: estimate(row[c], row[f"{c}_low"], row[f"{c}_high"], 3, " to ")
                for c, heading in PROMISES.items()
            },
            "note": row["note"],
        }
        for row in found.iter_rows(named=True)
    ]
    return pl.DataFrame(rows)


def _title(study: Study) -> str:
    card = load_cohort(study.cohort).card
    return card.title or card.name
