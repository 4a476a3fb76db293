"""The embedding store: each item's vector, computed once.

    <root>/<modality>/<encoder>@<fingerprint>/
        card.json                    what made the vectors
        shard-00000-<hash>.parquet   sample_id, item, content, vector
        index.parquet                which shard an item is in

A shard is written to a temporary name, synced and renamed, so at any interruption it is there or
not. Its name holds the hash of its content and of the encoder's fingerprint: a damaged shard, or
one from another encoder's folder, is found out when it is read. The index only saves time; it is
made again from the shards.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from adacomed.errors import InputError
from adacomed.schema import Vectors

CARD, INDEX = "card.json", "index.parquet"
CONTENT, SHARD = "content", "shard"
KEY = [Vectors.SAMPLE_ID, Vectors.ITEM, CONTENT]
GOLDEN_TOLERANCE = 0.01  # relative L2; fp32 on two machines differs by 1e-6, wrong weights by 1


class Item(NamedTuple):
    """What a vector belongs to; a changed input is another item."""

    sample_id: str
    item: str  # name within the sample: the modality's text, a file, a slide
    content: str  # sha256 of the input


def text_item(sample_id: str, text: str) -> Item:
    """The item of a sample's one text."""
    return Item(sample_id, "text", hashlib.sha256(text.encode()).hexdigest())


class EmbeddingStore:
    """Vectors of one modality by one encoder.

    Args:
        root: the store of a cohort.
        modality: its name.
        card: of the encoder, measured: name, width, golden, …
        fingerprint: of the encoder.
    Raises:
        InputError: the folder cannot be made, a damaged card or shard, or a golden vector that
            differs: the same weights give other numbers here than where the store was made.
    """

    def __init__(
        self, root: Path, modality: str, *, card: Mapping[str, Any], fingerprint: str
    ) -> None:
        self.folder = Path(root) / modality / f"{card['name']}@{fingerprint}"
        self.width, self.fingerprint = int(card["width"]), fingerprint
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.folder}: cannot be made ({error.strerror})") from None
        self._check_card(card)
        self._shard_of: dict[Item, str] = {}
        self._read_index()

    def __len__(self) -> int:
        return len(self._shard_of)

    def missing(self, items: Sequence[Item]) -> list[int]:
        """Positions of the items that have no vector yet."""
        return [i for i, item in enumerate(items) if item not in self._shard_of]

    def add(self, items: Sequence[Item], vectors: NDArray[np.float32]) -> None:
        """Keep (n, D) vectors as one shard; they are safe on disk when this returns.

        Raises:
            ValueError: another shape or type.
            InputError: a vector that is not finite.
        """
        if vectors.shape != (len(items), self.width) or vectors.dtype != np.float32:
            expected, got = (len(items), self.width), f"{vectors.dtype} {vectors.shape}"
            raise ValueError(f"expected float32 {expected}, got {got}")
        broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(broken):
            sample = items[broken[0]].sample_id
            raise InputError(f"{self.folder.name}: the vector of sample {sample} is not finite")
        columns = dict(zip(KEY, zip(*items, strict=True), strict=True))
        rows = pl.Series(Vectors.VECTOR, vectors.tolist(), dtype=pl.List(pl.Float32))
        content = _parquet(pl.DataFrame(columns).with_columns(rows))
        name = f"shard-{len(self._shards()):05d}-{self._digest(content)}.parquet"
        write_durably(self.folder / name, content)
        self._shard_of.update(dict.fromkeys(items, name))

    def load(self, items: Sequence[Item]) -> NDArray[np.float32]:
        """Vectors of the items, (n, D), in their order.

        Raises:
            InputError: an item that was never embedded, or a damaged shard.
        """
        absent = self.missing(items)
        if absent:
            raise InputError(
                f"{self.folder}: {len(absent)} of {len(items)} items have no vector (first: sample "
                f"{items[absent[0]].sample_id}); run `adacomed embed`"
            )
        out = np.empty((len(items), self.width), np.float32)
        wanted: dict[str, list[int]] = defaultdict(list)
        for i, item in enumerate(items):
            wanted[self._shard_of[item]].append(i)
        for shard, positions in wanted.items():
            found, vectors = self._read_shard(shard)
            row = {item: r for r, item in enumerate(found)}
            if not all(items[i] in row for i in positions):
                raise InputError(f"{self.folder / INDEX} does not fit {shard}; delete the index")
            out[positions] = vectors[[row[items[i]] for i in positions]]
        return out

    def write_index(self) -> None:
        """Save the way from item to shard; without it the next opening reads every shard."""
        listed = [(*item, shard) for item, shard in self._shard_of.items()]
        schema = dict.fromkeys([*KEY, SHARD], pl.String)
        write_durably(
            self.folder / INDEX, _parquet(pl.DataFrame(listed, schema=schema, orient="row"))
        )

    def _shards(self) -> list[str]:
        return sorted(path.name for path in self.folder.glob("shard-*.parquet"))

    def _read_index(self) -> None:
        """From index.parquet for the shards it knows, from the shards themselves for the rest.

        A shard that is gone takes its items along: they are simply embedded again.
        """
        shards = self._shards()
        try:
            rows = pl.read_parquet(self.folder / INDEX).select(*KEY, SHARD).rows()
        except (OSError, pl.exceptions.PolarsError):
            rows = []
        self._shard_of = {Item(*row[:3]): row[3] for row in rows if row[3] in set(shards)}
        for shard in sorted(set(shards) - set(self._shard_of.values())):
            items, _ = self._read_shard(shard)
            self._shard_of.update(dict.fromkeys(items, shard))

    def _read_shard(self, name: str) -> tuple[list[Item], NDArray[np.float32]]:
        """Items and vectors (n, D), checked against the shard's name."""
        path = self.folder / name
        content = path.read_bytes()
        if not name.endswith(f"-{self._digest(content)}.parquet"):
            raise InputError(
                f"{path}: damaged, or made by another encoder (its content is not what its name "
                f"says); delete this file and run `adacomed embed` again: only its items are redone"
            )
        frame = pl.read_parquet(io.BytesIO(content))
        items = [Item(*row) for row in frame.select(KEY).rows()]
        vectors = frame[Vectors.VECTOR].explode().to_numpy().reshape(len(items), self.width)
        return items, vectors

    def _digest(self, content: bytes) -> str:
        return hashlib.sha256(self.fingerprint.encode() + content).hexdigest()[:16]

    def _check_card(self, card: Mapping[str, Any]) -> None:
        path = self.folder / CARD
        if not path.exists():
            kept = {**card, "fingerprint": self.fingerprint}
            write_durably(path, json.dumps(kept, indent=1, ensure_ascii=False).encode())
            return
        try:
            stored = json.loads(path.read_bytes())
            golden = np.asarray(stored["golden"], np.float64)
            recorded = (stored["fingerprint"], len(golden))
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{path}: damaged; delete {self.folder} and embed again") from None
        if recorded != (self.fingerprint, self.width):
            raise InputError(f"{path}: is another encoder's; delete {self.folder} and embed again")
        error = np.linalg.norm(golden - np.asarray(card["golden"])) / np.linalg.norm(golden)
        if not error <= GOLDEN_TOLERANCE:
            raise InputError(
                f"{self.folder}: new vectors would not fit those in it: the same weights now give "
                f"a golden vector {error:.0%} away (made with {stored.get('libraries')}, here "
                f"{card.get('libraries')}); use those versions, or another --store"
            )


def _parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


def write_durably(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all, power cuts included."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    if os.name == "posix":  # the rename itself is safe once the folder is synced
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
