"""A row of a clinical table as text, by a versioned template; label columns are refused.

A template is text with `{column}` placeholders and nothing else: no code, no attribute, no index.
It stays as it is once published; a change is a new name (`…-v2`), so stored embeddings keep their
meaning. Codes whose meaning the data set does not document are written as codes.
"""

from __future__ import annotations

import datetime
import math
import string
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from adacomed.errors import InputError, nearest

NOT_RECORDED = "not recorded"


@dataclass(frozen=True)
class PromptTemplate:
    """How a table row is written.

    Attributes:
        name: with its version; a file's name for a template of the user's.
        text: with `{column}` placeholders; `{{` and `}}` are braces. None: every column as
            `name: value`, in the table's order, missing ones left out.
        missing: codes that mean "not recorded", beside null, NaN and blank.
        one_hot: placeholder → prefix of 0/1 columns; it becomes the names of those that are 1.
    """

    name: str
    text: str | None = None
    missing: tuple[str | int | float, ...] = ()
    one_hot: Mapping[str, str] = field(default_factory=dict)


PROMPTS: dict[str, PromptTemplate] = {
    "generic-v1": PromptTemplate("generic-v1"),
    # MMIST documents the columns, not the codes of their values
    "mmist-ccrcc-v1": PromptTemplate(
        "mmist-ccrcc-v1",
        "Patient with clear cell renal cell carcinoma. "
        "Gender code {gender}; age at diagnosis code {age_diag}; race {race}; "
        "history of cancer code {cancer_history}. "
        "Tumour grade code {grade}; pathological T stage code {ajcc_path_tumor_pt}; "
        "pathological N stage code {ajcc_path_nodes_pn}; "
        "clinical M stage code {ajcc_clin_metastasis_cm}; "
        "pathological M stage code {ajcc_path_metastasis_pm}; "
        "overall pathological stage code {ajcc_path_tumor_stage}. "
        "Mutation codes: VHL {VHL_mutation}, PBMR1 {PBMR1_mutation}, TTN {TTN_mutation}.",
        missing=(-1,),
        one_hot={"race": "race_"},
    ),
}


def load_template(name: str, folder: Path = Path()) -> PromptTemplate:
    """A template of `PROMPTS`, or the user's own text file.

    Args:
        name: in `PROMPTS`, or a file's path, relative to `folder`.
        folder: of the cohort's YAML.
    Raises:
        InputError: neither, or the file is not UTF-8 text.
    """
    if name in PROMPTS:
        return PROMPTS[name]
    file = folder / name
    if not file.is_file():
        raise InputError(f"no prompt {name!r} and no file {file}{nearest(name, PROMPTS)}")
    try:
        return PromptTemplate(file.name, file.read_text(encoding="utf-8").strip())
    except UnicodeDecodeError:
        raise InputError(f"{file}: a prompt template must be UTF-8 text") from None


def render(
    table: pl.DataFrame, template: PromptTemplate, *, forbidden: Collection[str]
) -> list[str | None]:
    """Every row as text.

    Args:
        table: N rows, input columns only.
        template: how to write a row.
        forbidden: label columns of every task.
    Returns:
        N texts; None where nothing of what the template asks for is recorded.
    Raises:
        InputError: a label column in the table or in the template, or a column that is not there.
    """
    leaks = sorted(set(table.columns) & set(forbidden))
    if leaks:
        raise InputError(
            f"prompt {template.name!r}: {', '.join(leaks)} holds a label and is never written into "
            f"a prompt; take it out of the modality's columns"
        )
    parts = None if template.text is None else _parse(template, table, forbidden)
    missing = {_write(code) for code in template.missing}
    return [_render_row(row, template, parts, missing) for row in table.iter_rows(named=True)]


def _parse(
    template: PromptTemplate, table: pl.DataFrame, forbidden: Collection[str]
) -> list[tuple[str, str | None]]:
    """(text before, placeholder or None) pairs, every placeholder checked."""
    known = [*table.columns, *template.one_hot]
    try:
        parsed = list(string.Formatter().parse(template.text or ""))
    except ValueError as error:
        raise InputError(
            f"prompt {template.name!r}: {error}; a placeholder is {{column}}, a brace is doubled"
        ) from None
    parts: list[tuple[str, str | None]] = []
    for text, name, spec, conversion in parsed:
        if spec or conversion:
            raise InputError(
                f"prompt {template.name!r}: {{{name}…}} has a format; write {{column}} alone"
            )
        if name in forbidden:
            raise InputError(f"prompt {template.name!r} asks for {name!r}, which holds a label")
        if name is not None and name not in known:
            raise InputError(f"prompt {template.name!r}: no column {name!r}{nearest(name, known)}")
        parts.append((text, name))
    if not any(name for _, name in parts):
        raise InputError(f"prompt {template.name!r} has no {{column}} in it; known: {known}")
    for name, prefix in template.one_hot.items():
        if not any(column.startswith(prefix) for column in table.columns):
            raise InputError(f"prompt {template.name!r}: no column {prefix}* for {{{name}}}")
    return parts


def _render_row(
    row: dict[str, Any],
    template: PromptTemplate,
    parts: list[tuple[str, str | None]] | None,
    missing: set[str | None],
) -> str | None:
    values = {name: _write(value) for name, value in row.items()}
    values = {name: None if value in missing else value for name, value in values.items()}
    if parts is None:
        listed = [f"{name}: {value}" for name, value in values.items() if value is not None]
        return "; ".join(listed) or None
    for name, prefix in template.one_hot.items():
        chosen = [c.removeprefix(prefix) for c in row if c.startswith(prefix) and values[c] == "1"]
        values[name] = ", ".join(chosen) or None
    if all(values[name] is None for _, name in parts if name is not None):
        return None
    written = ((text, "" if name is None else values[name]) for text, name in parts)
    return "".join(text + (NOT_RECORDED if value is None else value) for text, value in written)


def _write(value: object) -> str | None:
    """A cell in one spelling (`3.0` and `3` are `3`); None where it is missing."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return str(int(value)) if value.is_integer() else f"{value:.6g}"
    if isinstance(value, datetime.date):  # datetime too
        return value.isoformat()
    return str(value).strip() or None
