"""A run in one file, `name.adacomed`: what moves between sites, and what `serve` loads.

A bundle is a zip of the run folder's files with `checksums.json` beside them. Left to itself it
holds nothing that is one patient's: no predictions, no stress test, no explanations, no report.
A file from elsewhere is not trusted: its names, sizes and checksums are looked at before a model
is made of it. The checksums say that it arrived as it was sent, not who sent it.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath, PureWindowsPath
from tempfile import TemporaryDirectory
from typing import IO, Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo, is_zipfile

import yaml

from adacomed import __version__
from adacomed.errors import InputError, nearest
from adacomed.schema import BUNDLE, RunFiles
from adacomed.strict_json import dumps
from adacomed.training.checkpoint import Run, load_run

FORMAT = 1  # of checksums.json
NEEDED = (RunFiles.MODEL, RunFiles.INPUTS, RunFiles.CONFIG, RunFiles.ENVIRONMENT)
BESIDE = (
    RunFiles.METRICS,
    RunFiles.MODEL_CARD,
    RunFiles.TRIPOD,
    RunFiles.FLOW,
    RunFiles.HISTORY,
)
OF_PATIENTS = (  # rows, ids and labels of patients
    RunFiles.PREDICTIONS,
    RunFiles.STRESS,
    RunFiles.EXPLANATIONS,
    RunFiles.REPORT,
)
KNOWN = (*NEEDED, *BESIDE, *OF_PATIENTS, RunFiles.CHECKSUMS)
MIB = 2**20
LARGEST = {  # bytes of a file when unpacked
    RunFiles.MODEL: 4096 * MIB,
    RunFiles.INPUTS: 256 * MIB,
    RunFiles.HISTORY: 256 * MIB,
    RunFiles.CHECKSUMS: MIB,
    **dict.fromkeys(OF_PATIENTS, 1024 * MIB),
}
LARGEST_OTHER = 16 * MIB
MOST_SQUEEZED = 200  # times; a zip bomb is squeezed more, a file of a run never so much
AT_ONCE = MIB
PATHS = ("cohort", "table", "root", "labels", "encoder", "prompt", "weights", "clip", "lm")
_BROKEN = (BadZipFile, zlib.error, struct.error, EOFError, ValueError, KeyError, OverflowError)
_HELD: list[TemporaryDirectory[str]] = []  # of the bundles open; gone when the process ends


def write_bundle(folder: Path, out: Path, *, with_predictions: bool = False) -> dict[str, int]:
    """Put a run folder into one file; the same run gives the same bytes.

    Absolute paths of this machine (of the cohort, of an encoder's weights) are cut to their last
    part.

    Args:
        out: the file, replaced if it is there, and never half there.
        with_predictions: `OF_PATIENTS` too, as far as the run has them.
    Returns:
        Name → bytes of what the bundle holds.
    Raises:
        InputError: `folder` lacks a file of a run, or its model is not whole without other files.
    """
    wanted = (*NEEDED, *BESIDE, *(OF_PATIENTS if with_predictions else ()))
    there = [name for name in wanted if (folder / name).is_file()]
    if lacking := [name for name in NEEDED if name not in there]:
        raise InputError(f"{folder}: not a run that can be bundled, it has no {lacking[0]}")
    changed = _without_paths(folder)
    digests = {name: _digest(folder / name, changed.get(name)) for name in there}
    written = datetime.fromtimestamp(int((folder / RunFiles.MODEL).stat().st_mtime), UTC)
    manifest = {
        "format": FORMAT,
        "adacomed": __version__,
        "written": written.isoformat(),  # when the model was, so that equal runs are equal bytes
        "with_predictions": with_predictions,
        "files": digests,
    }
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        with ZipFile(partial, "w", ZIP_STORED) as archive:
            _add(archive, RunFiles.CHECKSUMS, (dumps(manifest, indent=2) + "\n").encode())
            for name in there:
                _add(archive, name, changed.get(name) or folder / name)
        sizes = {info.filename: info.file_size for info in _entries(partial)}
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return sizes


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """The folder of a run: a folder as it is, a bundle unpacked for as long as the block lasts.

    Raises:
        InputError: a bundle that is damaged, changed, of a newer format, or unsafe to unpack.
    """
    if not path.is_file():
        yield path
        return
    with TemporaryDirectory(prefix="adacomed-") as held:
        yield _unpack(path, Path(held))


def open_run(path: Path) -> Run:
    """A run from its folder, or from a bundle, whose files are then there until the process ends.

    Raises:
        InputError: as `load_run` and `unpacked`.
    """
    if not path.is_file():
        return load_run(path)
    held = TemporaryDirectory(prefix="adacomed-")
    try:
        folder = _unpack(path, Path(held.name))
        run = replace(load_run(folder), bundled=True)
    except InputError as error:
        held.cleanup()
        raise InputError(str(error).replace(str(Path(held.name) / path.stem), str(path))) from None
    except BaseException:
        held.cleanup()
        raise
    _HELD.append(held)
    return run


# ---- writing ------------------------------------------------------------------------------------
def _without_paths(folder: Path) -> dict[str, bytes]:
    """config.yaml and inputs.json without the absolute paths of the machine that trained."""
    try:
        config = yaml.safe_load((folder / RunFiles.CONFIG).read_text("utf-8"))
        meta = json.loads((folder / RunFiles.INPUTS).read_text("utf-8"))
        baselines = meta["spec"].get("baselines") or {}
        elsewhere = meta["spec"]["model"] == "onellm" and baselines.get("lm")
        meta |= {part: _cut(meta[part]) for part in ("cohort", "spec")}
    except (ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        raise InputError(f"{folder}: the run is damaged; train it again") from None
    if elsewhere:
        raise InputError(
            f"{folder}: onellm's published language model lies outside the run, so a bundle of it "
            f"would not be whole; move the folder and that model instead"
        )
    return {
        RunFiles.CONFIG: yaml.safe_dump(_cut(config), sort_keys=False).encode(),
        RunFiles.INPUTS: (dumps(meta, indent=2) + "\n").encode(),
    }


def _cut(data: Any, key: str = "") -> Any:
    """The same JSON values, an absolute path under one of the keys `PATHS` cut to its last part."""
    if isinstance(data, Mapping):
        return {k: _cut(v, str(k)) for k, v in data.items()}
    if isinstance(data, list):
        return [_cut(v, key) for v in data]
    if key not in PATHS or not isinstance(data, str):
        return data
    if (path := _absolute(data)) is not None:
        return path.name
    name, colon, rest = data.partition(":")  # an encoder and where its weights are
    return name if colon and _absolute(rest) is not None else data


def _absolute(text: str) -> PurePosixPath | PureWindowsPath | None:
    for path in (PurePosixPath(text), PureWindowsPath(text)):
        if path.is_absolute() or text.startswith("~"):
            return path
    return None


def _digest(file: Path, content: bytes | None) -> str:
    if content is not None:
        return hashlib.sha256(content).hexdigest()
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _add(archive: ZipFile, name: str, content: bytes | Path) -> None:
    """One entry, with nothing in its header that differs from day to day or machine to machine."""
    info = ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    info.create_system = 3
    if isinstance(content, bytes):
        archive.writestr(info, content)
        return
    info.file_size = content.stat().st_size
    with content.open("rb") as source, archive.open(info, "w") as target:
        while part := source.read(AT_ONCE):
            target.write(part)


# ---- reading ------------------------------------------------------------------------------------
def _unpack(path: Path, into: Path) -> Path:
    """Unpack a bundle into a new folder of its name below `into`, everything checked."""
    if path.suffix != BUNDLE and not is_zipfile(path):
        raise InputError(f"{path}: not a run folder, nor a run in one file ({BUNDLE})")
    folder = into / path.stem
    try:
        entries = {entry.filename: entry for entry in _entries(path)}
        with ZipFile(path) as archive:
            manifest = _manifest(path, archive, entries)
            digests = manifest["files"]
            for name in digests:
                if name not in entries:
                    raise InputError(f"{path}: {name} is missing from the bundle")
            for name in entries:
                if name not in digests and name != RunFiles.CHECKSUMS:
                    raise InputError(f"{path}: {name} is not in the bundle's {RunFiles.CHECKSUMS}")
            folder.mkdir()
            for name, digest in digests.items():
                with archive.open(entries[name]) as stream:
                    if _copied(stream, folder / name) != digest:
                        raise InputError(f"{path}: {name} was changed after the bundle was made")
        when = max(0.0, datetime.fromisoformat(manifest["written"]).timestamp())
        os.utime(folder / RunFiles.MODEL, (when, when))  # bundled again it is the same bytes
    except _BROKEN as error:
        raise InputError(
            f"{path}: not a whole {BUNDLE} bundle ({type(error).__name__}); copy it again"
        ) from None
    return folder


def _entries(path: Path) -> list[ZipInfo]:
    """What the zip says that it holds, all of it known and of a possible size."""
    with ZipFile(path) as archive:
        entries = archive.infolist()
    seen: set[str] = set()
    for entry in entries:
        name = entry.filename
        if name not in KNOWN:
            raise InputError(f"{path}: {name[:60]!r} is no file of a bundle{nearest(name, KNOWN)}")
        if name in seen:
            raise InputError(f"{path}: {name} is in the bundle twice")
        seen.add(name)
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG) or entry.flag_bits & 1:
            raise InputError(f"{path}: {name} is a link or encrypted, expected a plain file")
        if entry.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
            raise InputError(f"{path}: {name} is compressed by another method than deflate")
        most = min(LARGEST.get(name, LARGEST_OTHER), MIB + MOST_SQUEEZED * entry.compress_size)
        if entry.file_size > most:
            raise InputError(
                f"{path}: {name} would take {entry.file_size:,} bytes unpacked, more than a run's "
                f"can ({most:,})"
            )
    return entries


def _manifest(path: Path, archive: ZipFile, entries: Mapping[str, ZipInfo]) -> dict[str, Any]:
    """checksums.json, its shape checked."""
    if RunFiles.CHECKSUMS not in entries:
        raise InputError(f"{path}: not a bundle (it has no {RunFiles.CHECKSUMS})")
    manifest = json.loads(archive.read(entries[RunFiles.CHECKSUMS]))
    if not isinstance(manifest, dict) or not isinstance(manifest.get("format"), int):
        raise ValueError("no format")
    if manifest["format"] > FORMAT:
        raise InputError(
            f"{path}: made by a newer adacomed ({str(manifest.get('adacomed'))[:20]}); read it "
            f"with that version"
        )
    files = manifest.get("files")
    if not isinstance(files, dict) or not all(isinstance(v, str) for v in files.values()):
        raise ValueError("no files")
    if unknown := [name for name in files if name not in KNOWN or name == RunFiles.CHECKSUMS]:
        raise InputError(f"{path}: {unknown[0][:60]!r} is no file of a bundle")
    if lacking := [name for name in NEEDED if name not in files]:
        raise InputError(f"{path}: {lacking[0]} is missing from the bundle")
    datetime.fromisoformat(str(manifest.get("written")))
    return manifest


def _copied(stream: IO[bytes], target: Path) -> str:
    """Write what a stream holds to a new file; its sha256."""
    digest = hashlib.sha256()
    with target.open("xb") as out:
        while part := stream.read(AT_ONCE):
            digest.update(part)
            out.write(part)
    return digest.hexdigest()
