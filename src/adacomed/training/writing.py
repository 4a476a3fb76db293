"""Files and folders that are there whole or not at all, whatever ends the process or the disk."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import Any

import polars as pl

from adacomed.errors import FullDiskError, InputError, room_for
from adacomed.strict_json import dumps

PARTIAL, OLD = "partial", "old"  # endings of what is being written, and of what it replaces


@contextmanager
def written_whole(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """A temporary folder that becomes `folder` when the block ends well, and vanishes otherwise.

    Raises:
        InputError: `folder` exists and may not be replaced, or the disk is full.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    settle(folder)
    if folder.exists() and not replace:
        raise InputError(f"{folder} exists; give another --out, or --force to replace it")
    partial = _beside(folder, PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with room_for(folder):
            partial.mkdir()
            yield partial
            for path in [*partial.rglob("*"), partial]:
                sync(path)
        if folder.exists():
            old = _beside(folder, OLD)
            folder.rename(old)
            partial.rename(folder)
            shutil.rmtree(old)
        else:
            partial.rename(folder)
        sync(folder.parent)
    except FullDiskError as error:  # of a file inside
        raise FullDiskError(str(error).replace(str(partial), str(folder))) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A temporary file that takes the place of `path` when the block ends well, else vanishes.

    Args:
        durable: it is there after a power cut too.
    Raises:
        FullDiskError: the disk is full; what was there before still is.
    """
    settle(path)
    partial = _beside(path, PARTIAL)
    try:
        with room_for(path):
            yield partial
            if durable:
                sync(partial)
            partial.replace(path)
            if durable:
                sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def settle(path: Path) -> None:
    """Clear away what killed processes of this machine have left beside a file or folder.

    One that was moved aside to be replaced, and not yet replaced, is put back.
    """
    for left in path.parent.glob(f".{escape(path.name)}.*"):
        node, _, rest = left.name.removeprefix(f".{path.name}.").rpartition("-")
        pid, _, kind = rest.partition(".")
        ours = kind in (PARTIAL, OLD) and node == platform.node() and pid.isdigit()
        if not ours or _alive(int(pid)):
            continue
        if kind == OLD and not path.exists():
            left.rename(path)
        elif left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _beside(path: Path, kind: str) -> Path:
    """A name that says whose it is."""
    return path.with_name(f".{path.name}.{platform.node()}-{os.getpid()}.{kind}")


def _alive(pid: int) -> bool:
    if os.name != "posix":
        return True  # there is no asking without ending it
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def sync(path: Path) -> None:
    """Have a file, or a folder's names, safe on disk."""
    if os.name != "posix" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, data: Any) -> None:
    """Indented UTF-8 JSON; NaN and infinity become null."""
    with replacing(path) as partial:
        partial.write_text(dumps(data, indent=2) + "\n", "utf-8")


def write_parquet(frame: pl.DataFrame, path: Path) -> None:
    """Write through a temporary name, so that a reader never sees half a file."""
    with replacing(path) as partial:
        frame.write_parquet(partial)


def write_csv(frame: pl.DataFrame, path: Path) -> None:
    """The same as CSV."""
    with replacing(path) as partial:
        frame.write_csv(partial)
