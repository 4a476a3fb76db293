"""Which items are the 41 variables of the events: by label, checked against the expected ids."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from adacomed.datasets.mimic.variables import CHARTED, FLUID, LABORATORY, PROCEDURES, Variable
from adacomed.errors import InputError


@dataclass(frozen=True)
class Items:
    """The items chosen.

    Attributes:
        charted, laboratory, procedures: itemid → its variable.
        told: of every variable: variable, label, used, further (ids of the same label that are not
            used), absent (expected ids that the release has not).
    """

    charted: dict[int, Variable]
    laboratory: dict[int, Variable]
    procedures: dict[int, Variable]
    told: list[dict[str, Any]] = field(default_factory=list)


def choose_items(d_items: pl.DataFrame, d_labitems: pl.DataFrame) -> Items:
    """Choose the items of every variable.

    An expected id that has the expected label (and, of the laboratory, the fluid Blood) is used;
    another id of that label is not, but told. A procedure has no expected id: its label must name
    one item of procedureevents.

    Args:
        d_items: itemid, label, linksto.
        d_labitems: itemid, label, fluid.
    Raises:
        InputError: an expected id with another label, a label that is missing, or a procedure's
            that names several items; with candidates.
    """
    told: list[dict[str, Any]] = []
    charted = _expected(CHARTED, d_items, "linksto", "chartevents", "icu/d_items", told)
    laboratory = _expected(LABORATORY, d_labitems, "fluid", FLUID, "hosp/d_labitems", told)
    return Items(charted, laboratory, _procedures(d_items, told), told)


def _expected(
    variables: Sequence[Variable],
    dictionary: pl.DataFrame,
    beside: str,
    wanted: str,
    where: str,
    told: list[dict[str, Any]],
) -> dict[int, Variable]:
    """Items of variables whose ids are expected; `beside` is the column that must say `wanted`."""
    rows = {int(i): (label, kind) for i, label, kind in dictionary.iter_rows()}
    chosen: dict[int, Variable] = {}
    for variable in variables:
        same = {i for i, row in rows.items() if row == (variable.label, wanted)}
        for item in variable.ids:
            if item in rows and item not in same:
                label, kind = rows[item]
                raise InputError(
                    f"{where}: item {item} is {label!r} ({kind}), expected {variable.label!r} "
                    f"({wanted}){_candidates(variable.label, dictionary)}"
                )
        used = sorted(same & set(variable.ids))
        if not used:
            raise InputError(
                f"{where}: no item {' or '.join(map(str, variable.ids))} with the label "
                f"{variable.label!r} ({beside} {wanted}){_candidates(variable.label, dictionary)}"
            )
        chosen |= dict.fromkeys(used, variable)
        absent = sorted(set(variable.ids) - same)
        told.append(_told(variable, used, sorted(same - set(used)), absent))
    return chosen


def _procedures(d_items: pl.DataFrame, told: list[dict[str, Any]]) -> dict[int, Variable]:
    of_procedures = d_items.filter(pl.col("linksto") == "procedureevents")
    chosen: dict[int, Variable] = {}
    for variable in PROCEDURES:
        found = of_procedures.filter(pl.col("label") == variable.label)["itemid"].to_list()
        if len(found) != 1:
            raise InputError(
                f"icu/d_items: {len(found)} items of procedureevents have the label "
                f"{variable.label!r}, expected one{_candidates(variable.label, d_items)}"
            )
        chosen[found[0]] = variable
        told.append(_told(variable, found, [], []))
    return chosen


def _told(
    variable: Variable, used: list[int], further: list[int], absent: list[int]
) -> dict[str, Any]:
    ids = {"used": used, "further": further, "absent": absent}
    return {"variable": variable.name, "label": variable.label, **ids}


def _candidates(label: str, dictionary: pl.DataFrame) -> str:
    """Items whose label is this one, holds it, or is near, to append to an error."""
    by_label: dict[str, str] = {}
    for item, name, kind in dictionary.drop_nulls("label").sort("itemid").iter_rows():
        by_label.setdefault(name, f"{item} {name!r} ({kind})")
        if name == label:
            by_label[name] += "" if str(item) in by_label[name] else f", {item} ({kind})"
    folded = {name.casefold(): name for name in by_label}
    near = difflib.get_close_matches(label.casefold(), folded, n=4, cutoff=0.6)
    holds = [low for low in folded if label.casefold() in low and low not in near]
    names = [folded[low] for low in [*near, *sorted(holds)][:6]]
    return f"; candidates: {'; '.join(by_label[n] for n in names)}" if names else "; none is near"
