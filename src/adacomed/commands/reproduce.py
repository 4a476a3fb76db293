"""`adacomed reproduce`: the paper's tables and figures on a cohort, beside the paper's figures."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import polars as pl

from adacomed.commands.compare import compute
from adacomed.commands.console import say
from adacomed.errors import InputError, nearest
from adacomed.evaluation.tables import frame_markdown
from adacomed.report.paper_style import save
from adacomed.reproduce.study import Artefact, Study

ARTEFACTS = {  # name → "module:function"
    "table2": "adacomed.reproduce.tables:compared",
    "table3": "adacomed.reproduce.tables:strategies",
    "table4": "adacomed.reproduce.tables:compared",
    "table5": "adacomed.reproduce.tables:strategies",
    "table6": "adacomed.reproduce.cost:table_6",
    "fig2": "adacomed.reproduce.domination:figure_2",
    "fig4": "adacomed.reproduce.figures:figure_4",
    "fig5": "adacomed.reproduce.figures:figure_5",
    "fig6": "adacomed.reproduce.figures:figure_6",
    "ablation": "adacomed.reproduce.ablation:ablation",
    "ceiling": "adacomed.reproduce.ceiling:ceiling",
    "simulated-grid": "adacomed.reproduce.small_cohorts:small_cohorts",
    "rivals": "adacomed.reproduce.evidence:rivals",
    "weights": "adacomed.reproduce.evidence:weights",
}
# The first trains nothing, the others simulate their own.
WITHOUT_COHORT = ("table6", "ceiling", "simulated-grid")


def reproduce(
    artefact: str,
    overrides: list[str] = [],  # noqa: B006  (Typer copies it)
    cohort: Path | None = None,
    out: Path = Path("runs/reproduce"),
    task: str = "",
    methods: str = "",
    split_seeds: str = "",
    repeats: int = 3,
    jobs: int = 0,
    resamples: int = 1000,
    store: Path | None = None,
) -> None:
    """Run one of the paper's experiments on a cohort and print it beside the paper's figures.

    ARTEFACT is table2 or table4 (all methods), table3 or table5 (weighting strategies), table6
    (cost), fig2 (modality domination), fig4 (share of the training data), fig5 (λ and d), fig6
    (weights and similarity in training); and ours: ablation (each departure from the released
    code), ceiling (all methods against the best possible, at three cohort sizes), simulated-grid
    (the same where patients are few and modalities missing), rivals (the final protocol: AdaCoMed
    against every rival on one cohort), weights (each strategy, and whether its weights keep their
    promise). A simulated cohort's title says so. Stopped at any point, the same command goes on
    where it was.

    Args:
        artefact: which one.
        overrides: settings over the defaults, such as training.epochs=5.
        cohort: folder or YAML; ceiling and simulated-grid simulate their own, table6 needs none.
        out: folder for ARTEFACT.md, csv files, SVG and PNG pictures; trained methods are kept in
          it and shared between artefacts.
        task: one of the cohort's [default: all of them, one after the other].
        methods: comma-separated, beside adacomed (ceiling, simulated-grid, rivals) [default: all].
        split_seeds: comma-separated, a k-fold each (rivals, weights) [default: 100,101,102].
        repeats: of 5-fold cross-validation (table4, table5 on MMIST).
        jobs: processes [default: one per core].
        resamples: bootstrap resamples of the patients behind each interval.
        store: embedding store [default: store/ beside the cohort's YAML].

    Example:
        adacomed reproduce table4 --cohort cohorts/mmist-ccrcc --out runs/reproduce
    """
    if artefact not in ARTEFACTS:
        raise InputError(f"no artefact {artefact!r}{nearest(artefact, ARTEFACTS)}")
    if cohort is None and artefact not in WITHOUT_COHORT:
        raise InputError(f"reproduce {artefact} needs --cohort: a cohort's folder or YAML")
    if repeats < 1 or jobs < 0 or resamples < 1:
        raise InputError("--repeats and --resamples are 1 or more, --jobs 0 (one per core) or more")
    study = Study(
        cohort=cohort or Path("."),
        out=out,
        train=lambda grid: compute(grid, jobs),
        overrides=tuple(overrides),
        resamples=resamples,
        repeats=repeats,
        task=task or None,
        store=store,
    )
    module, _, name = ARTEFACTS[artefact].partition(":")
    function: Callable[..., Artefact] = getattr(import_module(module), name)
    choices = _choices(artefact, function, methods, split_seeds)
    out.mkdir(parents=True, exist_ok=True)
    files = write(function(study, **choices), out, artefact)
    say(files[0].read_text("utf-8"))
    say("\n".join(f"written: {file}" for file in files))


def _choices(
    artefact: str, function: Callable[..., Artefact], methods: str, split_seeds: str
) -> dict[str, Any]:
    """The options that were given, as the artefact's function takes them."""
    given: dict[str, list[Any]] = {}
    if methods:
        given["methods"] = [word.strip() for word in methods.split(",") if word.strip()]
    if split_seeds:
        try:
            given["split_seeds"] = [int(word) for word in split_seeds.split(",")]
        except ValueError:
            raise InputError(
                f"--split-seeds {split_seeds}: expected numbers, such as 100,101,102"
            ) from None
    for name in given.keys() - signature(function).parameters.keys():
        raise InputError(f"reproduce {artefact} takes no --{name.replace('_', '-')}")
    return given


def write(artefact: Artefact, out: Path, name: str) -> list[Path]:
    """NAME.md first, then csv files and pictures; returns all of them."""
    page = out / f"{name}.md"
    files = [page]
    lines = [f"# {artefact.title}", ""]
    for stem, figure in artefact.figures.items():
        pictures = save(figure, out, stem)
        files += pictures
        lines += [f"![{artefact.title}]({pictures[0].name})", ""]
    for heading, table in artefact.tables.items():
        lines += [f"## {heading}", "", frame_markdown(table), ""]
    lines += [f"{note}\n" for note in artefact.notes]
    for number, (heading, table) in enumerate(artefact.tables.items(), 1):
        file = out / f"{name}-{number}.csv"
        table.with_columns(pl.lit(f"{artefact.title}: {heading}").alias("title")).write_csv(file)
        files.append(file)
    for stem, frame in artefact.data.items():
        file = out / (f"{stem}.csv" if stem.startswith(name) else f"{name}-{stem}.csv")
        frame.with_columns(pl.lit(artefact.title).alias("title")).write_csv(file)
        files.append(file)
    page.write_text("\n".join(lines).rstrip() + "\n", "utf-8")
    return files
