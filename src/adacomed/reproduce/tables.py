"""Tables 2–5: every method, and every weighting strategy, beside the paper's figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import polars as pl

from adacomed.cohort.cohort import load_cohort
from adacomed.config import BaselineSettings, Experiment
from adacomed.evaluation.compare import paired_headlines
from adacomed.evaluation.tables import estimate, p_value
from adacomed.models.weighting import STRATEGIES
from adacomed.report import paper
from adacomed.reproduce.study import (
    ALIVE_COLUMNS,
    PAPER_COLUMNS,
    PAPER_MODALITIES,
    Artefact,
    Study,
    beside_paper,
    complete_only,
    one_split,
    renamed,
)
from adacomed.schema import TEST, Predictions
from adacomed.training.loader import sides
from adacomed.training.names import SINGLE

WITH_MULTIMODAL_PRED = "adacomed?small.kind=multimodal-pred"
HEAVY = (  # fine-tuned as a whole and stopped early, as in the paper; not in repeated folds
    "meta-transformer?training.validation=holdout",
    "onellm?training.validation=holdout",
)
MODERN = ("flex-moe", "late-fusion", "weighted-late-fusion", "forest")
SLOW = ("healnet", "haim")  # more than a minute a fold: not in repeated folds either
OWN_RECIPES = (  # 100 epochs and early stopping, as the paper has it
    "adacomed?preset=paper&training.validation=holdout",
    "adacomed?preset=authors&training.validation=holdout",
)
NAMES = {
    "large-ensemble": "Large-Ensemble",
    "multimodal-pred": "MultimodalPred-Small",
    WITH_MULTIMODAL_PRED: "AdaCoMed with MultimodalPred-Small",
    "adacomed": "AdaCoMed",
    **{f"adacomed?model.strategy={s}": f"AdaCoMed, {s}" for s in STRATEGIES},
    **{
        f"{WITH_MULTIMODAL_PRED}&model.strategy={s}": f"AdaCoMed with MultimodalPred, {s}"
        for s in STRATEGIES
    },
    OWN_RECIPES[0]: "AdaCoMed, the paper's recipe",
    OWN_RECIPES[1]: "AdaCoMed, the released code's recipe",
    "small": "our small model",
    "average": "Large-Ensemble and our small model, averaged",
}


def compared(study: Study) -> Artefact:
    """Table 2 (MIMIC-IV-MM) or 4 (MMIST): all methods."""

    def methods(modalities: Sequence[str], *, heavy: bool, as_paper: bool = False) -> list[str]:
        singles = [f"{m}{SINGLE}" for m in modalities]
        ours = ["large-ensemble", "multimodal-pred", "adacomed"]
        ours += [WITH_MULTIMODAL_PRED] if heavy else []
        ours += [*(OWN_RECIPES if as_paper else ()), "small", "average"]
        first, last = (HEAVY, SLOW) if heavy else ((), ())
        return [*first, *singles, *ours, *MODERN, *last]

    return _blocks(study, Comparison("all methods", methods, paper.table_2, paper.table_4))


def strategies(study: Study) -> Artefact:
    """Table 3 (MIMIC-IV-MM) or 5 (MMIST): AdaCoMed with each small model and each strategy."""

    def methods(modalities: Sequence[str], *, heavy: bool, as_paper: bool = False) -> list[str]:
        fixed = [f"adacomed?model.strategy={name}" for name in STRATEGIES]
        around = [f"{WITH_MULTIMODAL_PRED}&model.strategy={name}" for name in STRATEGIES]
        return [*fixed, "adacomed", *([*around, WITH_MULTIMODAL_PRED] if heavy else [])]

    what = "weighting strategies"
    artefact = _blocks(study, Comparison(what, methods, paper.table_3, paper.table_5))
    artefact.notes.append(
        "AdaCoMed is the strategy that validation chose: the headline. The best of the test "
        "figures is not a result, because it was looked up there."
    )
    return artefact


@dataclass(frozen=True)
class Comparison:
    """What one of the paper's tables compares.

    Attributes:
        methods: (modalities, heavy, as_paper) → names.
        mimic, mmist: the paper's own table on either data set.
    """

    what: str
    methods: Callable[..., list[str]]
    mimic: Callable[[], pl.DataFrame]
    mmist: Callable[[], pl.DataFrame]


def _blocks(study: Study, comparison: Comparison) -> Artefact:
    """Every way of testing that the cohort allows, one table each."""
    card = load_cohort(study.cohort).card
    title = f"{card.title or card.name}: {comparison.what}"
    if card.name in PAPER_MODALITIES:
        return _mmist(study, PAPER_MODALITIES[card.name], comparison, title)
    artefact = Artefact(title)
    for one in study.tasks():
        experiment = one.experiment("split.kind=auto")
        names = comparison.methods(_modalities(one, experiment), heavy=True)
        prepared = one.prepared(experiment, names)
        found = one.predictions(names, experiment, prepared, [one_split(experiment, prepared)])
        _add(artefact, found, study, f"Ours, {prepared.task}: the cohort's test patients")
    artefact.tables["The paper's, on MIMIC-IV-MM (other patients)"] = comparison.mimic()
    return artefact


def _modalities(study: Study, experiment: Experiment) -> list[str]:
    """The large side's modalities."""
    cohort = load_cohort(study.cohort)
    return sides(cohort, experiment.modalities, experiment.small.modalities)[0]


def _mmist(study: Study, modalities: Sequence[str], comparison: Comparison, title: str) -> Artefact:
    """The paper's 58, all 121 test patients, and repeated 5-fold cross-validation on all."""
    artefact = Artefact(title)
    only = study.experiment("split.kind=auto", modalities=modalities)
    names = comparison.methods(modalities, heavy=True, as_paper=True)
    complete = complete_only(study.prepared(only, names))
    found = study.predictions(names, only, complete, [one_split(only, complete)])
    test = found.filter(pl.col(Predictions.SPLIT) == TEST)[Predictions.SAMPLE_ID].unique()
    n = len(test)
    _add(artefact, found, study, f"Trained on the paper's complete cases, tested on its {n}", True)
    every = study.experiment("split.kind=auto")
    modalities = _modalities(study, every)
    names = comparison.methods(modalities, heavy=True)
    prepared = study.prepared(every, names)
    fold = one_split(every, prepared)
    found = study.predictions(names, every, prepared, [fold])
    same = found.filter(pl.col(Predictions.SAMPLE_ID).is_in(test.implode()))
    _add(artefact, same, study, f"Trained on all, missing modalities allowed; the same {n}", True)
    label = f"Trained on all, missing modalities allowed; all {len(fold.test)} test patients"
    _add(artefact, found, study, label, True)
    cv = study.experiment("split.kind=kfold", f"split.repeats={study.repeats}")
    names = comparison.methods(modalities, heavy=False)
    found = study.predictions(names, cv)
    label = f"{study.repeats} × 5-fold cross-validation on all {len(prepared.inputs)}"
    _add(artefact, found, study, label, True)
    artefact.tables["The paper's (58 patients, 4 deaths; Auprc of being alive)"] = (
        comparison.mmist()
    )
    return artefact


def _add(
    artefact: Artefact, found: pl.DataFrame, study: Study, label: str, alive: bool = False
) -> None:
    """A table in the paper's columns, and the paired differences of every method to AdaCoMed."""
    baselines = study.experiment().baselines
    names = {m: name_of(m, baselines) for m in found[Predictions.METHOD].unique()}
    columns = ALIVE_COLUMNS if alive else PAPER_COLUMNS
    artefact.tables[label] = renamed(beside_paper(found, study.resamples, columns), names)
    pairs = paired_headlines(found, reference="adacomed", n=study.resamples)
    artefact.data[f"paired-{len(artefact.tables)}"] = pairs.with_columns(pl.lit(label).alias("on"))
    if len(pairs):
        artefact.tables[f"{label}: AdaCoMed less each method"] = renamed(readable(pairs), names)


def name_of(method: str, baselines: BaselineSettings) -> str:
    """A method's name as people read it; without published weights it says so."""
    if method == HEAVY[0]:
        start = f" ({baselines.size}, from random weights)"
        return "Meta-Transformer" + ("" if baselines.weights else start)
    if method == HEAVY[1]:
        start = f" ({baselines.size}, around random frozen models)"
        return "OneLLM" + ("" if baselines.clip and baselines.lm else start)
    if method.endswith(SINGLE):
        return f"{method.removesuffix(SINGLE).upper()}-Large"
    return NAMES.get(method, method)


def readable(pairs: pl.DataFrame) -> pl.DataFrame:
    """Paired differences as text, a row per method."""
    rows: dict[str, dict[str, str]] = {}
    for row in pairs.iter_rows(named=True):
        mine = rows.setdefault(row["method"], {"method": row["method"]})
        label = row["metric"].upper()
        mine[label] = estimate(row["difference"], row["low"], row["high"], 3, " to ")
        mine[f"{label} p (Holm)"] = p_value(row["p_holm"])
    return pl.DataFrame(list(rows.values()))
