"""`adacomed demo`: the whole way of the data on one cohort, with a picture at the end."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from adacomed.commands.cohort import build_mmist_ccrcc
from adacomed.commands.compare import comparison_grid, compute, write_comparison
from adacomed.commands.console import embedding_progress, note, say
from adacomed.config import Experiment, override, parse
from adacomed.datasets import simulated
from adacomed.errors import InputError, nearest
from adacomed.evaluation.tables import frame_markdown, text_table
from adacomed.report.paper import table_4
from adacomed.report.report import write_report
from adacomed.reproduce.study import ALIVE_COLUMNS, beside_paper
from adacomed.schema import Predictions, RunFiles
from adacomed.training.names import check_methods
from adacomed.training.prepare import Prepared, describe, prepare, subset_ids

COHORTS = ("simulated", "mmist-ccrcc")


def demo(
    overrides: list[str] = [],  # noqa: B006  (Typer copies it)
    cohort: str = "simulated",
    source: Path | None = None,
    out: Path = Path("runs/demo"),
    samples: int = 1000,
    jobs: int = 0,
    resamples: int = 1000,
) -> None:
    """Build a cohort, train every method on it, compare them and write a report.

    The simulated cohort needs nothing; its best possible AUROC is known, and its results say in
    their title that they are simulated. mmist-ccrcc is real (618 kidney-cancer patients).

    Args:
        overrides: settings over the defaults, such as training.epochs=10.
        cohort: simulated or mmist-ccrcc.
        source: mmist-ccrcc: folder of the published release.
        out: folder for the cohort, predictions, table, report and run/.
        samples: simulated: patients.
        jobs: processes [default: one per core].
        resamples: bootstrap resamples of the patients behind each interval.

    Example:
        adacomed demo --cohort mmist-ccrcc --source ../shared/data/mmist-ccrcc
    """
    folder = out / "cohort"
    _build(cohort, source, folder, samples)
    settings = _settings(folder, overrides)
    with embedding_progress() as progress:
        prepared = prepare(settings, progress=progress, methods=settings.methods or ())
    names = check_methods(settings.methods, prepared.inputs, settings)
    keep = "adacomed" if "adacomed" in names else None
    grid = comparison_grid(settings, prepared, names, out, keep=keep)
    note(describe(prepared, grid.folds))
    compute(grid, jobs)
    extra = {}
    if cohort == "mmist-ccrcc":
        extra = _beside_the_paper(grid.collect(), prepared, resamples)
    table = write_comparison(grid, resamples=resamples, extra=extra)
    if keep:
        write_report(out / "run")
    say(f"{prepared.title}\n{text_table(table)}")
    for title, frame in extra.items():
        say(f"\n{title}\n{frame_markdown(frame)}")
    say(f"\ntable: {out / RunFiles.TABLE}\nrun: {out / 'run'}\nreport: {out / RunFiles.REPORT}")


def _build(cohort: str, source: Path | None, folder: Path, samples: int) -> None:
    if cohort not in COHORTS:
        raise InputError(f"--cohort {cohort!r}{nearest(cohort, COHORTS)}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    if cohort == "simulated":
        simulated.build(folder, samples=samples)
    else:
        build_mmist_ccrcc(source, folder)


def _settings(folder: Path, overrides: list[str]) -> Experiment:
    """The defaults on one split, the cohort's official one."""
    data = override({"cohort": str(folder), "split": {"kind": "official"}}, overrides)
    return parse(Experiment, data, "demo")


def _beside_the_paper(
    predictions: pl.DataFrame, prepared: Prepared, resamples: int
) -> dict[str, pl.DataFrame]:
    """All test patients and the paper's 58 complete cases, then the paper's own figures."""
    complete = pl.col(Predictions.SAMPLE_ID).is_in(subset_ids(prepared.cohort, "complete"))
    return {
        "All test patients, missing modalities allowed": beside_paper(
            predictions, resamples, ALIVE_COLUMNS
        ),
        "The paper's test patients, with CT, WSI and clinical data (ours trained on all 497)": (
            beside_paper(predictions.filter(complete), resamples, ALIVE_COLUMNS)
        ),
        "The paper's Table 4 (58 patients, 4 deaths; trained on 181)": table_4(),
    }
