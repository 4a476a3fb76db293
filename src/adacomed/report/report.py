"""One folder in, one self-contained HTML page out: numbers with intervals, and pictures."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from importlib.resources import files
from pathlib import Path

import polars as pl
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from adacomed import __version__
from adacomed.errors import InputError, room_for
from adacomed.evaluation import compare
from adacomed.evaluation.discrimination import METRICS
from adacomed.report import calibration, decisions, model_card, sections, survival, tripod
from adacomed.report.cards import cards
from adacomed.report.facts import Facts, facts
from adacomed.report.flow import encoder_section
from adacomed.report.page import Card, Section, Spec
from adacomed.report.source import Source, read_source
from adacomed.report.tables import COLUMNS, differences, summary
from adacomed.report.templates import environment
from adacomed.schema import CEILING, Predictions, RunFiles

RESAMPLES = 1000  # behind the intervals of the headline table and of the differences
# every metric that some section shows
NEEDED = [m for m in METRICS if m in {*COLUMNS, *calibration.SHOWN, *decisions.SHOWN}]


@dataclass(frozen=True)
class Page:
    """What template.html shows, top to bottom."""

    title: str
    warnings: list[str]
    summary: list[str]
    cards: list[Card]
    sections: list[Section]
    known: Facts
    version: str
    made: str

    @property
    def specs(self) -> dict[str, Spec]:
        """Plotly figures by the id of their <figure>."""
        return {figure.id: figure.spec for s in self.sections for figure in s.figures}


def write_report(
    source: Path,
    out: Path | None = None,
    *,
    title: str | None = None,
    table: pl.DataFrame | None = None,
    paired: pl.DataFrame | None = None,
    extra: Mapping[str, pl.DataFrame] | None = None,
    task: str | None = None,
) -> Path:
    """Write the HTML report of a run or a comparison folder; it opens from disk with no network.

    A model card and a TRIPOD+AI checklist (Markdown) from the same facts are written beside it.

    Args:
        source: folder with predictions.parquet (schema.Predictions) and, where they exist,
            the other files of schema.RunFiles; a comparison folder's `run/` is looked into for
            those that it lacks.
        out: the file to write, default `source`/report.html; replaced only when complete.
        title: default: metrics.json's `title`, else the folder's name. A simulated cohort
            (metrics.json's `simulated`, or a `bayes` method) and random weights
            (`random_weights`) are said in the title whatever it is.
        table: `evaluation.compare.summarise(predictions)`, where it is already at hand.
        paired: `evaluation.compare.paired(predictions)`, likewise.
        extra: title → table, shown after the headline table.
        task: as `read_source` takes it.
    Returns:
        The path of the file.
    Raises:
        InputError: no folder, no usable predictions.parquet, or an unreadable file beside it.
    """
    page = read_page(source, title=title, table=table, paired=paired, extra=extra, task=task)
    return write_page(page, out if out is not None else source / RunFiles.REPORT)


def read_page(
    source: Path,
    *,
    title: str | None = None,
    table: pl.DataFrame | None = None,
    paired: pl.DataFrame | None = None,
    extra: Mapping[str, pl.DataFrame] | None = None,
    task: str | None = None,
) -> Page:
    """Everything on the page of a folder, not yet written; arguments as `write_report`."""
    found = read_source(source, task)
    return build_page(found, title=title, table=table, paired=paired, extra=extra or {})


def write_page(page: Page, target: Path) -> Path:
    """Write the page, and beside it the model card and the checklist."""
    _write(target.with_name(RunFiles.MODEL_CARD), model_card.markdown(page.known))
    _write(target.with_name(RunFiles.TRIPOD), tripod.markdown(page.known))
    _write(target, render(page))
    return target


def build_page(
    source: Source,
    *,
    title: str | None,
    table: pl.DataFrame | None,
    paired: pl.DataFrame | None,
    extra: Mapping[str, pl.DataFrame],
) -> Page:
    """Compute what the caller has not, and lay the sections out."""
    name, warnings = full_title(source, title)
    if source.survival:
        table, clear = survival.scores(source), []
        said = list(survival.words(source, table))
    else:
        table = _of_task(table, source)
        if table is None:
            table = compare.summarise(source.test, metrics=NEEDED, n=RESAMPLES)
        paired = _of_task(paired, source)
        if paired is None:
            paired = compared(source)
        clear = differences(paired, source.headline)
        said = summary(source, table, clear)
    known = facts(source, name, table)
    warnings += [w for s in [encoder_section(known)] for w in s.warnings]
    return Page(
        title=name,
        warnings=warnings,
        summary=said,
        cards=cards(source, table, known),
        sections=sections.every(source, table, clear, extra, known),
        known=known,
        version=__version__,
        made=date.today().isoformat(),
    )


def _of_task(table: pl.DataFrame | None, source: Source) -> pl.DataFrame | None:
    """The rows of the task that the page is about."""
    if table is None or Predictions.TASK not in table.columns:
        return table
    return table.filter(pl.col(Predictions.TASK) == source.task)


def compared(source: Source) -> pl.DataFrame | None:
    """`compare.paired` on what can be paired: a rival tested on other patients is left out."""
    name = pl.col(Predictions.METHOD)
    rows = source.test.filter(name != CEILING)
    tested = rows[Predictions.METHOD].unique(maintain_order=True).to_list()
    rivals = [method for method in tested if method != source.headline]
    if source.headline not in tested or not rivals:
        return None
    try:
        return compare.paired(rows, reference=source.headline, n=RESAMPLES)
    except InputError:
        found = []
        for rival in rivals:
            with suppress(InputError):
                two = rows.filter(name.is_in([source.headline, rival]))
                found.append(compare.paired(two, reference=source.headline, n=RESAMPLES))
        # Holm's p of one comparison alone is not that of the family
        return pl.concat(found).drop("p_holm") if found else None


def full_title(source: Source, given: str | None) -> tuple[str, list[str]]:
    """The page's title, which says what is not real, and a sentence for each such thing."""
    title = given or str(source.metrics.get("title") or f"AdaCoMed report: {source.folder.name}")
    parts: Sequence[tuple[bool, str, str]] = (
        (source.simulated, "simulated", "The cohort is simulated: nothing here is about patients."),
        (
            bool(source.metrics.get("random_weights")),
            "random weights",
            "An encoder had random weights, not its trained ones: the numbers show that the path "
            "works and say nothing of the method.",
        ),
    )
    said = [(word, sentence) for true, word, sentence in parts if true]
    lacking = [word for word, _ in said if word not in title.lower()]
    if lacking:
        title += f" ({', '.join(lacking)})"
    return title, [sentence for _, sentence in said]


def render(page: Page) -> str:
    """The page as HTML; every text is escaped by the template."""
    here = files("adacomed.report")
    return (
        environment()
        .get_template("template.html")
        .render(
            page=page,
            style=Markup((here / "style.css").read_text(encoding="utf-8")),
            script=Markup((here / "script.js").read_text(encoding="utf-8")),
            plotly=Markup(get_plotlyjs()),
        )
    )


def _write(target: Path, text: str) -> None:
    """Write beside the target, then rename: a report is never half there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".report-", suffix=target.suffix)
    try:
        with room_for(target), os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(name, 0o644)  # mkstemp's 0600 would keep colleagues out
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
