"""Zip archives from outside: looked at before they are unpacked, and then under our own names."""

from __future__ import annotations

import stat
import struct
import zipfile
from pathlib import Path, PurePosixPath

from adacomed.serve.refusals import Refusal
from adacomed.serve.settings import MIB, Settings

END, END_BYTES = b"PK\x05\x06", 22  # of the record at an archive's end, before its comment
LONGEST_COMMENT = 65_535
DIRECTORY_BYTES = 4 * MIB  # of the table of contents; a name is some dozen bytes
SMALL = MIB  # an entry below it may be of any ratio: an empty slice packs to nothing
PIECE = MIB
MARK_OF_A_LINK = 16  # bits that the Unix mode of an entry is shifted by


def unpack_series(path: Path, folder: Path, name: str, settings: Settings) -> None:
    """Unpack the files of one DICOM series into `folder`, as 00000.dcm, 00001.dcm, …

    Args:
        path: the archive; its files in its root, or in one folder.
        folder: to be made.
        name: the archive's own, for messages.
    Raises:
        Refusal: 422 not such an archive; 413 one that claims, or unpacks to, too much.
    """
    with _opened(path, name) as archive:
        entries = _checked(archive, name, settings)
        parents = {PurePosixPath(entry.filename).parent for entry in entries}
        if len(parents) > 1:
            raise _bad(name, "has files in several folders; one series without folders would work")
        folder.mkdir()
        for number, entry in enumerate(entries):
            _unpack(archive, entry, folder / f"{number:05d}.dcm", name)


def check_archive(path: Path, name: str, settings: Settings) -> None:
    """Refuse an archive that a reader would unpack (such as .npz) by what it claims.

    Raises:
        Refusal: as `unpack_series`.
    """
    with _opened(path, name) as archive:
        _checked(archive, name, settings)


def _opened(path: Path, name: str) -> zipfile.ZipFile:
    _check_contents(path, name)
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, EOFError):
        raise _damaged(name) from None


def _check_contents(path: Path, name: str) -> None:
    """Bound the table of contents, which `zipfile` reads whole, by the record at the end."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - END_BYTES - LONGEST_COMMENT))
        tail = file.read()
    at = tail.rfind(END)
    if at < 0 or at + END_BYTES > len(tail):
        raise _damaged(name)
    (length,) = struct.unpack_from("<I", tail, at + 12)
    if length > DIRECTORY_BYTES:  # the largest number marks a zip64 archive: over 4 GiB
        raise _large(name, "lists more files than a series has")


def _checked(archive: zipfile.ZipFile, name: str, settings: Settings) -> list[zipfile.ZipInfo]:
    """The archive's files, after a look at what each claims."""
    entries = [
        entry
        for entry in archive.infolist()
        if not entry.is_dir() and not _from_the_system(entry.filename)
    ]
    if not entries:
        raise _bad(name, "has no files; the DICOM files of one series would work")
    if len(entries) > settings.max_zip_entries:
        raise _large(name, f"has {len(entries)} files; at most {settings.max_zip_entries}")
    for entry in entries:
        _check_entry(entry, name)
        ratio = entry.file_size / max(entry.compress_size, 1)
        if entry.file_size > SMALL and ratio > settings.max_zip_ratio:
            raise _large(
                name, f"is packed {ratio:.0f} times smaller; at most {settings.max_zip_ratio:g}"
            )
    total = sum(entry.file_size for entry in entries)
    if total > settings.max_unpacked:
        most = f"{settings.max_unpacked / MIB:.0f} MiB"
        raise _large(name, f"unpacks to {total / MIB:.0f} MiB; at most {most}")
    return entries


def _from_the_system(name: str) -> bool:
    """What systems add to archives by themselves: `__MACOSX/…`, `.DS_Store`, a DICOMDIR."""
    last = PurePosixPath(name).name
    hidden = last.startswith(".") and not last.startswith("..")
    return hidden or last == "DICOMDIR" or name.startswith("__MACOSX/")


def _check_entry(entry: zipfile.ZipInfo, name: str) -> None:
    parts = PurePosixPath(entry.filename).parts
    if "\\" in entry.filename or ".." in parts or entry.filename.startswith("/") or len(parts) > 2:
        raise _bad(name, "has a path in it; files without folders would work")
    if stat.S_ISLNK(entry.external_attr >> MARK_OF_A_LINK):
        raise _bad(name, "has a link in it; the files themselves would work")
    if entry.flag_bits & 1:
        raise _bad(name, "is encrypted; one without a password would work")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _bad(name, "is packed in an unusual way; a plain zip would work")


def _unpack(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, to: Path, name: str) -> None:
    """Write one file, never more than it claims."""
    try:
        with archive.open(entry) as source, to.open("xb") as target:
            left = entry.file_size
            while piece := source.read(min(PIECE, left + 1)):
                left -= len(piece)
                if left < 0:
                    raise _large(name, "unpacks to more than it claims")
                target.write(piece)
    except (zipfile.BadZipFile, EOFError, ValueError, RuntimeError) as error:
        raise _damaged(name) from error
    except Exception as error:  # zlib's own error
        if isinstance(error, (Refusal, OSError)):
            raise
        raise _damaged(name) from error


def _damaged(name: str) -> Refusal:
    return _bad(name, "is not a whole zip archive; a complete copy would work")


def _bad(name: str, what: str) -> Refusal:
    return Refusal(422, f"{name}: {what}", reason="file")


def _large(name: str, what: str) -> Refusal:
    return Refusal(413, f"{name}: {what}", reason="large")
