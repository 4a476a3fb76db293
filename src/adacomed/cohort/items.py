"""The raw items of a cohort's modality: whose they are, what is in them, and how to read one.

An item's content is a digest of its input, so a changed note, file or measurement is another item.
Items are read one by one or in small groups, never all at once.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import polars as pl

from adacomed.cohort.table import as_text, read_table, require_columns
from adacomed.errors import InputError
from adacomed.readers.image import read_image
from adacomed.readers.series import SeriesTable
from adacomed.readers.slide import read_slide
from adacomed.readers.text import read_text
from adacomed.readers.volume import read_volume
from adacomed.schema import Samples, SeriesCard

SAMPLE = Samples.SAMPLE_ID
READERS: dict[str, Callable[[Path], Any]] = {
    "image": read_image,
    "volume": read_volume,
    "slide": read_slide,
    "text": read_text,
}


class Item(NamedTuple):
    """What a vector belongs to; a changed input is another item."""

    sample_id: str
    item: str  # name within the sample: "text", a file's path, "series"
    content: str  # sha256 of the input; empty where there is nothing to read


class Source(Protocol):
    """Raw items of one modality. Picklable: worker processes read from it."""

    items: list[Item]

    def size(self, i: int) -> int:
        """How long item i is, in units of its own: items of like size are embedded together."""
        ...

    def read(self, rows: Sequence[int]) -> list[Any]:
        """The items at `rows`, as encoders take them; an InputError in place of a broken one."""
        ...


def text_item(sample_id: str, text: str, name: str = "text") -> Item:
    """The item of one text of a sample."""
    return Item(sample_id, name, hashlib.sha256(text.encode()).hexdigest())


@dataclass
class TextSource:
    """Texts in memory."""

    texts: list[str]
    items: list[Item]

    @classmethod
    def of(cls, samples: Sequence[str], texts: Sequence[Sequence[str]]) -> TextSource:
        """The texts of every sample; a sample may have none, or several."""
        found, items = [], []
        for sample, mine in zip(samples, texts, strict=True):
            for n, text in enumerate(mine):
                found.append(text)
                items.append(text_item(sample, text, f"text {n}" if n else "text"))
        return cls(found, items)

    def size(self, i: int) -> int:
        """Characters."""
        return len(self.texts[i])

    def read(self, rows: Sequence[int]) -> list[Any]:
        """The texts."""
        return [self.texts[i] for i in rows]


@dataclass
class FileSource:
    """Files below a folder, each read by the reader of its kind.

    A file that is missing, or that lies outside the folder, is an item whose reading fails.
    """

    kind: str
    root: Path
    items: list[Item]

    @classmethod
    def of(
        cls,
        kind: str,
        root: Path,
        files: Sequence[tuple[str, str]],
        known: Mapping[str, tuple[int, int, str]],
    ) -> FileSource:
        """Files as (sample_id, path below `root`).

        Args:
            kind: a name in `READERS`.
            known: path → (bytes, mtime in ns, sha256) of an earlier look; saves reading it again.
        """
        folder = root.resolve()
        items = [Item(s, f, _digest(folder, f, known)) for s, f in dict.fromkeys(files)]
        return cls(kind, folder, items)

    def size(self, i: int) -> int:
        """Bytes of a text; one of anything else, which becomes an input of the same shape."""
        if self.kind != "text" or not self.items[i].content:
            return 1
        return (self.root / self.items[i].item).stat().st_size

    def read(self, rows: Sequence[int]) -> list[Any]:
        """What the readers give: an image (H, W, C), a `Volume`, a `Slide`, a text."""
        return [self._read(self.items[i]) for i in rows]

    def _read(self, item: Item) -> Any:
        try:
            return READERS[self.kind](inside(self.root, item.item))
        except InputError as error:
            return error


def inside(root: Path, name: str) -> Path:
    """The file `name` below `root`; InputError where it is outside, or not there.

    A link that whoever filled the folder put there is followed (git-annex keeps files so); a name
    in the table cannot leave it.
    """
    path = Path(os.path.normpath(root / name))
    if not path.is_relative_to(root):
        raise InputError(f"{name}: lies outside {root}; give paths below it")
    if not path.exists():
        raise InputError(f"{path}: no such file")
    return path


def fingerprints(source: FileSource) -> dict[str, tuple[int, int, str]]:
    """Path → (bytes, mtime in ns, sha256) of the source's files, to be kept for the next look."""
    return {
        item.item: (*_stat(source.root / item.item), item.content)
        for item in source.items
        if item.content
    }


def _digest(root: Path, name: str, known: Mapping[str, tuple[int, int, str]]) -> str:
    """sha256 of a file, or of a folder's files and their names; empty where it cannot be read."""
    try:
        path = inside(root, name)
        before = known.get(name)
        if before is not None and before[:2] == _stat(path):
            return before[2]
        if path.is_file():
            return _sha256(path)
        parts = [f"{p.name} {_sha256(p)}" for p in sorted(path.iterdir()) if p.is_file()]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()
    except (InputError, OSError):
        return ""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stat(path: Path) -> tuple[int, int]:
    """(bytes, newest mtime in ns) of a file, or over a folder's files."""
    files = [path] if path.is_file() else [p for p in path.iterdir() if p.is_file()]
    stats = [file.stat() for file in files]
    return sum(s.st_size for s in stats), max((s.st_mtime_ns for s in stats), default=0)


@dataclass
class SeriesSource:
    """One series per sample, read from a table of measurements a few samples at a time."""

    table: SeriesTable
    items: list[Item] = field(default_factory=list)

    @classmethod
    def of(cls, card: SeriesCard, root: Path, samples: Sequence[str]) -> SeriesSource:
        """The samples' series; who has no measurement has no item."""
        table = SeriesTable(root / card.table, card)
        contents = table.content(samples)
        items = [Item(s, "series", c) for s, c in zip(samples, contents, strict=True) if c]
        return cls(table, items)

    def size(self, i: int) -> int:
        """One: every series is embedded by itself."""
        return 1

    def read(self, rows: Sequence[int]) -> list[Any]:
        """`Series` objects."""
        return list(self.table.read([self.items[i].sample_id for i in rows]))


def listed(
    samples: pl.DataFrame,
    columns: Sequence[str],
    table: Path | None,
    key: Sequence[str],
    where: str,
) -> list[list[tuple[str | None, ...]]]:
    """What some columns hold for every sample, N lists: one row, or every row of its own table.

    Args:
        samples: N samples with the cohort table's own columns.
        columns: rows where the first of them is empty are left out.
        table: of the modality, keyed by the first of `key` that it has; None: the cohort's.
    Raises:
        InputError: no such table or column.
    """
    wanted = list(columns)
    if table is None:
        require_columns(samples, wanted, where)
        own = zip(*(as_text(samples[c]) for c in wanted), strict=True)
        return [[] if row[0] is None else [row] for row in own]
    frame = read_table(table, ids=key)
    name = next((k for k in key if k in frame.columns), SAMPLE)
    require_columns(frame, [name, *wanted], f"{where}: {table.name}")
    rows: dict[str, list[tuple[str | None, ...]]] = {}
    cells = zip(*(as_text(frame[c]) for c in wanted), strict=True)
    for sample, row in zip(as_text(frame[name]), cells, strict=True):
        if sample is not None and row[0] is not None:
            rows.setdefault(sample, []).append(row)
    return [rows.get(sample, []) for sample in samples[SAMPLE]]
