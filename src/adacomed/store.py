"""The embedding store: each item's vector, computed once.

    <root>/<modality>/<encoder>@<fingerprint>/
        card.json                    what made the vectors
        shard-00000-<hash>.parquet   sample_id, item, content, vector, reason
        index.parquet                which shard an item is in, and why it has no vector

A shard is written to a temporary name, synced and renamed, so at any interruption it is there or
not. Its name holds the hash of its content and of the encoder's fingerprint: a damaged shard, or
one from another encoder's folder, is found out when it is read. The index only saves time; it is
made again from the shards. An item that could not be read and was skipped is a row without a
vector. One process writes at a time; the others wait.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from adacomed.cohort.items import Item
from adacomed.errors import InputError
from adacomed.schema import Vectors

CARD, INDEX, LOCK = "card.json", "index.parquet", ".lock"
CONTENT, SHARD, REASON = "content", "shard", "reason"
KEY = [Vectors.SAMPLE_ID, Vectors.ITEM, CONTENT]
GOLDEN_TOLERANCE = 0.01  # relative L2; fp32 on two machines differs by 1e-6, wrong weights by 1


class EmbeddingStore:
    """Vectors of one modality by one encoder.

    Args:
        folder: `store_folder(root, modality, card, fingerprint)`.
        card: of the encoder, measured: name, width, golden, …; None: an existing store is read
            without its encoder.
        fingerprint: of the encoder.
    Raises:
        InputError: the folder cannot be made, a damaged card or shard, or a golden vector that
            differs: the same weights give other numbers here than where the store was made.
    """

    def __init__(self, folder: Path, *, card: Mapping[str, Any] | None, fingerprint: str) -> None:
        self.folder, self.fingerprint = folder, fingerprint
        if card is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"{self.folder}: cannot be made ({error.strerror})") from None
        self.width = self._check_card(card)
        self._shard_of: dict[Item, str] = {}
        self._reasons: dict[Item, str] = {}
        self._indexed = False
        self._read_index()

    def __len__(self) -> int:
        return len(self._shard_of)

    def missing(self, items: Sequence[Item]) -> list[int]:
        """Positions of the items that have neither a vector nor a reason for having none."""
        return [i for i, item in enumerate(items) if item not in self._shard_of]

    def absent(self, items: Sequence[Item]) -> dict[int, str]:
        """Positions of the items that were skipped → why."""
        return {i: self._reasons[item] for i, item in enumerate(items) if item in self._reasons}

    @contextmanager
    def writing(self, on_wait: Callable[[str], None] = lambda message: None) -> Iterator[None]:
        """The only writer, until the block ends or the process does.

        Args:
            on_wait: told, once, that another process is writing and will be waited for.
        """
        lock = FileLock(self.folder / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            on_wait(f"{self.folder}: another process is writing here; waiting for it")
            lock.acquire()
        try:
            for left in self.folder.glob(".*.tmp"):  # of a process that was killed
                left.unlink(missing_ok=True)
            self._read_index()  # what others have written meanwhile
            yield
            if not self._indexed:
                self._write_index()
        finally:
            lock.release()

    def add(
        self,
        items: Sequence[Item],
        vectors: NDArray[np.float32],
        absent: Mapping[int, str] | None = None,
    ) -> None:
        """Keep (n, D) vectors as one shard; they are safe on disk when this returns.

        Args:
            absent: positions that have no vector → why; their rows of `vectors` are ignored.
        Raises:
            ValueError: another shape or type.
            InputError: a vector that is not finite, or the disk is full.
        """
        absent = absent or {}
        if vectors.shape != (len(items), self.width) or vectors.dtype != np.float32:
            expected, got = (len(items), self.width), f"{vectors.dtype} {vectors.shape}"
            raise ValueError(f"expected float32 {expected}, got {got}")
        reasons = [absent.get(i) for i in range(len(items))]
        broken = set(np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist()) - set(absent)
        if broken:
            sample = items[min(broken)].sample_id
            raise InputError(f"{self.folder.name}: the vector of sample {sample} is not finite")
        columns = dict(zip(KEY, zip(*items, strict=True), strict=True))
        rows = pl.Series(Vectors.VECTOR, vectors).cast(pl.List(pl.Float32))
        frame = pl.DataFrame(columns).with_columns(
            rows, pl.Series(REASON, reasons, dtype=pl.String)
        )
        none = pl.lit(None, pl.List(pl.Float32))
        here = pl.when(pl.col(REASON).is_null()).then(Vectors.VECTOR).otherwise(none)
        content = _parquet(frame.with_columns(here.alias(Vectors.VECTOR)))
        name = f"shard-{self._next:05d}-{self._digest(content)}.parquet"
        write_durably(self.folder / name, content)
        self._remember(name, items, reasons)
        self._next += 1
        self._indexed = False

    def load(self, items: Sequence[Item]) -> NDArray[np.float32]:
        """Vectors of the items, (n, D), in their order; one that was skipped is all NaN.

        Shards are read one after the other: beside the result, one is in memory.

        Raises:
            InputError: an item that was never embedded, or a damaged shard.
        """
        missing = self.missing(items)
        if missing:
            raise InputError(
                f"{self.folder}: {len(missing)} of {len(items)} items have no vector (first: "
                f"sample {items[missing[0]].sample_id}); run `adacomed embed`"
            )
        out = np.full((len(items), self.width), np.nan, np.float32)
        for positions, vectors in self.by_shard(items):
            out[positions] = vectors
        return out

    def by_shard(self, items: Sequence[Item]) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
        """Vectors of items that are all in the store, a shard at a time: positions and vectors."""
        wanted: dict[str, list[int]] = defaultdict(list)
        for i, item in enumerate(items):
            wanted[self._shard_of[item]].append(i)
        for shard, positions in wanted.items():
            found, vectors, _ = self._read_shard(shard)
            row = {item: r for r, item in enumerate(found)}
            if not all(items[i] in row for i in positions):
                raise InputError(f"{self.folder / INDEX} does not fit {shard}; delete the index")
            yield positions, vectors[[row[items[i]] for i in positions]]

    def forget_absent(self) -> None:
        """Let skipped items be tried again; what they give then counts."""
        for item in self._reasons:
            del self._shard_of[item]
        self._reasons.clear()

    def _write_index(self) -> None:
        """Save the way from item to shard; without it the next opening reads every shard."""
        listed = [(*i, shard, self._reasons.get(i)) for i, shard in self._shard_of.items()]
        schema = dict.fromkeys([*KEY, SHARD, REASON], pl.String)
        frame = pl.DataFrame(listed, schema=schema, orient="row")
        write_durably(self.folder / INDEX, _parquet(frame))
        self._indexed = True

    def _read_index(self) -> None:
        """From index.parquet for the shards it knows, from the shards themselves for the rest.

        A shard that is gone takes its items along: they are simply embedded again.
        """
        shards = sorted(path.name for path in self.folder.glob("shard-*.parquet"))
        self._next = 1 + max((int(name.split("-")[1]) for name in shards), default=-1)
        self._shard_of, self._reasons = {}, {}
        try:
            rows = pl.read_parquet(self.folder / INDEX).select(*KEY, SHARD, REASON).rows()
        except (OSError, pl.exceptions.PolarsError):
            rows = []
        known: dict[str, list[tuple[Item, str | None]]] = {}
        for row in rows:
            known.setdefault(row[3], []).append((Item(*row[:3]), row[4]))
        self._indexed = set(known) == set(shards) and bool(rows)
        for shard in shards:  # in their order, so that the index is the same however often stopped
            if shard in known:
                items, reasons = zip(*known[shard], strict=True)
            else:
                items, _, reasons = self._read_shard(shard)  # type: ignore[assignment]
            self._remember(shard, items, reasons)

    def _remember(self, shard: str, items: Sequence[Item], reasons: Sequence[str | None]) -> None:
        for item, reason in zip(items, reasons, strict=True):
            self._shard_of[item] = shard
            self._reasons.pop(item, None)
            if reason is not None:
                self._reasons[item] = reason

    def _read_shard(self, name: str) -> tuple[list[Item], NDArray[np.float32], list[str | None]]:
        """Items, vectors (n, D) and reasons, checked against the shard's name."""
        path = self.folder / name
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}; run `adacomed embed` again") from None
        if not name.endswith(f"-{self._digest(content)}.parquet"):
            raise InputError(
                f"{path}: damaged, or made by another encoder (its content is not what its name "
                f"says); delete this file and run `adacomed embed` again: only its items are redone"
            )
        frame = pl.read_parquet(io.BytesIO(content))
        items = [Item(*row) for row in frame.select(KEY).rows()]
        here = frame[Vectors.VECTOR].is_not_null().to_numpy()
        vectors = np.full((len(items), self.width), np.nan, np.float32)
        flat = frame[Vectors.VECTOR].drop_nulls().explode(empty_as_null=False).to_numpy()
        vectors[here] = flat.reshape(int(here.sum()), self.width)
        return items, vectors, frame[REASON].to_list()

    def _digest(self, content: bytes) -> str:
        return hashlib.sha256(self.fingerprint.encode() + content).hexdigest()[:16]

    def _check_card(self, card: Mapping[str, Any] | None) -> int:
        """Compare with card.json, written where there is none; the vectors' width."""
        path = self.folder / CARD
        if card is not None and not path.exists():
            kept = {**card, "fingerprint": self.fingerprint}
            write_durably(path, json.dumps(kept, indent=1, ensure_ascii=False).encode())
            return int(card["width"])
        try:
            stored = json.loads(path.read_bytes())
            golden = np.asarray(stored["golden"], np.float64)
            recorded = (stored["fingerprint"], len(golden))
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(f"{path}: damaged; delete {self.folder} and embed again") from None
        if recorded[0] != self.fingerprint or (card and recorded[1] != int(card["width"])):
            raise InputError(f"{path}: is another encoder's; delete {self.folder} and embed again")
        now = golden if card is None else np.asarray(card["golden"], np.float64)
        error = np.linalg.norm(golden - now) / np.linalg.norm(golden)
        if not error <= GOLDEN_TOLERANCE:
            assert card is not None
            raise InputError(
                f"{self.folder}: new vectors would not fit those in it: the same weights now give "
                f"a golden vector {error:.0%} away (made with {stored.get('libraries')}, here "
                f"{card.get('libraries')}); use those versions, or another --out"
            )
        return recorded[1]


def store_folder(root: Path, modality: str, encoder: str, fingerprint: str) -> Path:
    """Where one encoder's vectors of one modality are."""
    return root / modality / f"{encoder}@{fingerprint}"


def _parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


def write_durably(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all, power cuts included.

    Raises:
        InputError: it cannot be written (a full disk); what was there before still is.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        why = error.strerror or type(error).__name__
        raise InputError(
            f"{path}: cannot be written ({why}); what was finished is kept: once there is room, "
            f"run the same command again"
        ) from None
    if os.name == "posix":  # the rename itself is safe once the folder is synced
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
