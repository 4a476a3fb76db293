"""adacomed encoders: which encoders there are, and whose weights are here."""

from __future__ import annotations

import json as jsonlib
from typing import Any

from rich.console import Console
from rich.table import Table

from adacomed.encoders.base import EncoderCard, catalogue
from adacomed.encoders.weights import is_here

COLUMNS = ("name", "modality", "id", "width", "licence", "gated", "trained on", "here")


def encoders(json: bool = False) -> None:
    """List the encoders: what they read, their licence, and whether their weights are here.

    Nothing is loaded or fetched.

    Example:
        adacomed encoders --json

    Args:
        json: a JSON list instead of a table.
    """
    rows = [_row(card) for card in catalogue().values()]
    if json:
        print(jsonlib.dumps(rows, indent=1, ensure_ascii=False))
        return
    console = Console()
    if not console.is_terminal:  # tab-separated when piped
        for cells in (COLUMNS, *(map(_cell, row.values()) for row in rows)):
            print("\t".join(cells))
        return
    table = Table(box=None)
    for name in COLUMNS:
        table.add_column(name, overflow="fold", no_wrap=name in ("name", "licence"))
    for row in rows:
        table.add_row(*map(_cell, row.values()))
    console.print(table)


def _row(card: EncoderCard) -> dict[str, Any]:
    values = (
        card.name,
        ", ".join(card.kinds),
        card.id or None,
        card.width,
        card.licence,
        card.gated,
        card.trained_on,
        is_here(card.id, card.package) if card.id else None,
    )
    return dict(zip(COLUMNS, values, strict=True))


def _cell(value: object) -> str:
    if value is None:
        return "as given"  # text-encoder:FOLDER_OR_HUB_ID
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
