"""Cohort × modality → its raw items (`items.py`), whatever their kind."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from adacomed.cohort.cohort import Cohort
from adacomed.cohort.items import FileSource, SeriesSource, Source, TextSource, fingerprints
from adacomed.cohort.tasks import label_columns
from adacomed.encoders.prompt import load_template, render
from adacomed.schema import FileCard, Samples, SeriesCard, TabularCard, TextCard

DEFAULT_PROMPT = "generic-v1"
LONGEST = 50_000  # characters (bytes in files) of the texts that are read at once
LOOKED = "files.parquet"  # digests of files already read, in <store>/<modality>/


def modality_source(cohort: Cohort, modality: str, store: Path | None = None) -> Source:
    """The items of a modality that an encoder reads.

    Args:
        modality: of any kind but embedding.
        store: where digests of files are remembered, so that large files are read once.
    Raises:
        InputError: an unreadable table, or a prompt that asks for a label.
    """
    card = cohort.card.modalities[modality]
    samples = cohort.samples[Samples.SAMPLE_ID].to_list()
    if isinstance(card, TextCard) and card.root is None:
        return TextSource.of(samples, cohort.cells(modality))
    if isinstance(card, TabularCard):
        rows = prompted(cohort, modality, card)
        return TextSource.of(samples, [[] if text is None else [text] for text in rows])
    if isinstance(card, SeriesCard):
        return SeriesSource.of(card, cohort.root, samples)
    assert isinstance(card, FileCard | TextCard)
    assert card.root is not None
    root = cohort.root / card.root
    cells = cohort.cells(modality)
    files = [(s, name) for s, mine in zip(samples, cells, strict=True) for name in mine]
    if store is None:
        return FileSource.of(card.kind, root, files, {})
    memory = store / modality / LOOKED
    source = FileSource.of(card.kind, root, files, _recall(memory))
    _remember(memory, source)
    return source


def prompted(cohort: Cohort, modality: str, card: TabularCard) -> list[str | None]:
    """Every row of a table as text, (N,); None where nothing is recorded."""
    labels = {c for name, t in cohort.card.tasks.items() for c in label_columns(t) or [name]}
    template = load_template(card.prompt or DEFAULT_PROMPT, cohort.root)
    return render(cohort.table(modality), template, forbidden=labels)


def _recall(memory: Path) -> dict[str, tuple[int, int, str]]:
    try:
        rows = pl.read_parquet(memory).select("path", "bytes", "mtime", "sha256").rows()
    except (OSError, pl.exceptions.PolarsError):
        return {}  # nothing, or nothing usable: the files are read again
    return {row[0]: row[1:] for row in rows}


def _remember(memory: Path, source: FileSource) -> None:
    now = fingerprints(source)
    if now == _recall(memory):
        return
    rows = [(path, *known) for path, known in sorted(now.items())]
    types = {"path": pl.String, "bytes": pl.Int64, "mtime": pl.Int64, "sha256": pl.String}
    memory.parent.mkdir(parents=True, exist_ok=True)
    partial = memory.with_name(f".{memory.name}.tmp")
    pl.DataFrame(rows, schema=types, orient="row").write_parquet(partial)
    partial.replace(memory)


def sharded(source: Source, rows: list[int], size: int) -> list[list[list[int]]]:
    """Items to embed, as shards of groups of items with equal content: one is computed for all.

    Items of like size are neighbours. The order is a property of all missing items, so a run that
    was stopped goes on with the shard at which it stopped.
    """
    same: dict[str, list[int]] = {}
    for i in sorted(rows, key=source.size):
        content = source.items[i].content
        same.setdefault(content or f"unreadable {i}", []).append(i)
    groups = list(same.values())
    return [groups[i : i + size] for i in range(0, len(groups), size)]


def in_pieces(source: Source, shard: list[list[int]], most: int) -> list[list[list[int]]]:
    """A shard in pieces of at most `most` groups and, where items differ in size, `LONGEST`."""
    pieces: list[list[list[int]]] = []
    room = 0
    for group in shard:
        size = source.size(group[0])
        if not pieces or len(pieces[-1]) == most or size > room:
            pieces.append([])
            room = LONGEST
        pieces[-1].append(group)
        room -= size
    return pieces
