"""The list of patients behind the page: searched, filtered and sorted, a page of 50 at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any
from urllib.parse import urlencode

import polars as pl

from adacomed.errors import InputError
from adacomed.evaluation.predictions import prob_columns
from adacomed.evaluation.scored import HALF
from adacomed.explain.patient import EVEN, class_names
from adacomed.schema import Predictions, finding_task
from adacomed.training.checkpoint import Run

PER_PAGE = 50
SORTS = {
    "risk": "probability",
    "disagreement": "disagreement of large and small",
    "spread": "spread between models",
    "id": "id",
}
ORDERS = {"desc": "highest first", "asc": "lowest first"}
_ROW, _FOUND = "_row", "_found"
DECIDED, LEADS, APART = "_decided", "_leads", "_apart"
_HAS = "_has_"
COLUMNS = {  # to sort by; the rows are by id already
    "risk": Predictions.PROB,
    "disagreement": APART,
    "spread": Predictions.SPREAD,
    "id": _ROW,
}


@dataclass(frozen=True)
class Query:
    """What is asked of the list: the state that the page's address holds.

    Attributes:
        q: part of an id, in any case.
        finding: task of the rows, where the run predicts several findings.
        split, outcome, decision: "" for any; outcome "none": not known; else a class's index.
        has, lacks: a modality, or "".
    """

    q: str = ""
    finding: str = ""
    split: str = ""
    outcome: str = ""
    decision: str = ""
    has: str = ""
    lacks: str = ""
    sort: str = "risk"
    order: str = "desc"
    page: int = 1

    @classmethod
    def of(cls, params: Mapping[str, str]) -> Query:
        """From an address's parameters; what is not of the list is ignored.

        Raises:
            InputError: an order that there is not.
        """
        given = {k: v.strip() for k, v in params.items() if k in cls.__dataclass_fields__}
        page = given.pop("page", "1")
        query = cls(**{k: v for k, v in given.items() if v})  # type: ignore[arg-type]
        for name, value, known in (("sort", query.sort, SORTS), ("order", query.order, ORDERS)):
            if value not in known:
                raise InputError(f"{name} of the list: expected one of {', '.join(known)}")
        if "order" not in given and query.sort == "id":
            query = replace(query, order="asc")
        return replace(query, page=int(page) if page.isdecimal() and len(page) < 10 else 1)

    def url(self, **changes: object) -> str:
        """Address of the list in this state, some of it changed; what is usual is left out."""
        usual = asdict(Query())
        state = {**asdict(self), **changes}
        told = {k: v for k, v in state.items() if v != usual[k] or (k == "order" and self._turned)}
        return "/patients" + (f"?{urlencode(told)}" if told else "")

    @property
    def _turned(self) -> bool:
        return self.sort == "id" and self.order == "desc"

    def sorted_by(self, key: str) -> str:
        """Address of the list sorted by a key; asked again, the other way round."""
        if key == self.sort:
            return self.url(order="asc" if self.order == "desc" else "desc", page=1)
        return self.url(sort=key, order="asc" if key == "id" else "desc", page=1)


@dataclass(frozen=True)
class Found:
    """One page of what a query found: `rows` of the prepared table, of `total` in `pages`."""

    query: Query
    rows: pl.DataFrame
    total: int
    pages: int

    @property
    def first(self) -> int:
        """Place of the first row shown, counted from 1; 0 where nothing was found."""
        return (self.query.page - 1) * PER_PAGE + 1 if self.total else 0


class Listing:
    """N rows of predictions, prepared once so that 200,000 of them stay quick.

    Attributes:
        tasks: names of the findings' tasks, else one.
        classes: what a row's decision and outcome can be, by index.
        positive: what `prob` is the probability of; "" with K > 2, where it is the likeliest's.
    """

    def __init__(self, run: Run, rows: pl.DataFrame):
        kind = run.trained.outcome.kind
        names = list(run.classes)
        self.several = kind == "findings"
        self.tasks = [finding_task(run.task, n) for n in names] if self.several else [run.task]
        self.classes = ["absent", "present"] if self.several else names
        self.probs = prob_columns(rows)
        self.positive = "" if self.probs or self.several else class_names(run)[-1]
        self.table = _prepared(rows, self.probs)
        self.modalities = [c.removeprefix(_HAS) for c in self.table.columns if c.startswith(_HAS)]
        self.splits = sorted(str(s) for s in rows[Predictions.SPLIT].drop_nulls().unique())
        self.labelled = rows[Predictions.LABEL].count() > 0
        self.offered = [s for s in SORTS if self._can(s)]

    def _can(self, sort: str) -> bool:
        return self.table[COLUMNS[sort]].count() > 0

    def find(self, query: Query) -> Found:
        """The rows of a query's page; a page after the last is the last."""
        if self.several and query.finding not in self.tasks:
            query = replace(query, finding=self.tasks[0])
        column = COLUMNS[query.sort]
        chosen = pl.all_horizontal(pl.lit(True), *self._filters(query))
        rows = self.table.lazy().filter(chosen).select(*{_ROW, column}).collect()
        down = query.order == "desc"
        order = rows.sort(column, descending=down, nulls_last=True, maintain_order=True)[_ROW]
        pages = max(1, -(-len(order) // PER_PAGE))
        query = replace(query, page=min(max(1, query.page), pages))
        shown = order.slice((query.page - 1) * PER_PAGE, PER_PAGE)
        return Found(query, self.table[shown.to_list()], len(order), pages)

    def _filters(self, query: Query) -> list[pl.Expr]:
        label = pl.col(Predictions.LABEL)
        found = []
        if self.several:
            found.append(pl.col(Predictions.TASK) == query.finding)
        if query.q:
            found.append(pl.col(_FOUND).str.contains(query.q.lower(), literal=True))
        if query.split:
            found.append(pl.col(Predictions.SPLIT) == query.split)
        if query.outcome == "none":
            found.append(label.is_null())
        elif query.outcome:
            found.append(label == self._index(query.outcome))
        if query.decision:
            found.append(pl.col(DECIDED) == self._index(query.decision))
        for name, wanted in ((query.has, True), (query.lacks, False)):
            if name:
                here = pl.col(_HAS + name) if name in self.modalities else pl.lit(False)
                found.append(here == wanted)
        return found

    def _index(self, text: str) -> int:
        return int(text) if text.isdecimal() and int(text) < len(self.classes) else -1


def _prepared(rows: pl.DataFrame, probs: list[str]) -> pl.DataFrame:
    """The rows by id, with what is searched, filtered and sorted by beside them."""
    optional: dict[str, Any] = {
        Predictions.LOGIT_LARGE: pl.Float64,
        Predictions.LOGIT_SMALL: pl.Float64,
        Predictions.W_LARGE: pl.Float64,
        Predictions.W_SMALL: pl.Float64,
        Predictions.SPREAD: pl.Float64,
        Predictions.THRESHOLD: pl.Float64,
        Predictions.TIME: pl.Float64,
        Predictions.SET: pl.List(pl.Int64),
        Predictions.PRESENT: pl.List(pl.String),
    }
    lacking = [pl.lit(None, t).alias(c) for c, t in optional.items() if c not in rows.columns]
    keep = [Predictions.SAMPLE_ID, Predictions.SPLIT, Predictions.TASK, Predictions.LABEL]
    keep += [Predictions.PROB, *probs, *optional]
    table = rows.with_columns(lacking).select(keep).sort(Predictions.SAMPLE_ID)
    apart = _sigmoid(Predictions.LOGIT_LARGE) - _sigmoid(Predictions.LOGIT_SMALL)
    gap = pl.col(Predictions.W_LARGE) - pl.col(Predictions.W_SMALL)
    named = table[Predictions.PRESENT].explode().drop_nulls().unique(maintain_order=True)
    return table.with_row_index(_ROW).with_columns(
        pl.col(Predictions.SAMPLE_ID).str.to_lowercase().alias(_FOUND),
        _decided(probs).alias(DECIDED),
        apart.abs().alias(APART),
        pl.when(gap.abs() < EVEN)
        .then(pl.lit("neither"))
        .when(gap > 0)
        .then(pl.lit("large"))
        .when(gap < 0)
        .then(pl.lit("small"))
        .alias(LEADS),
        *(
            pl.col(Predictions.PRESENT).list.contains(name).fill_null(False).alias(_HAS + name)
            for name in named.to_list()
        ),
    )


def _sigmoid(logit: str) -> pl.Expr:
    return 1 / (1 + (-pl.col(logit)).exp())


def _decided(probs: list[str]) -> pl.Expr:
    """Index of the class decided for: the likeliest of K > 2, else by the row's threshold."""
    if probs:
        return pl.concat_list(probs).list.arg_max().cast(pl.Int64)
    cut = pl.col(Predictions.THRESHOLD).fill_null(HALF)
    return (pl.col(Predictions.PROB) >= cut).cast(pl.Int64)
