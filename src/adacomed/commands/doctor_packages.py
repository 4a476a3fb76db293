"""What `adacomed doctor` finds out about packages and the system libraries behind them.

Extras and versions are read from the installed package's own metadata, so they cannot drift from
pyproject.toml.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Owned = dict[str, list[str]]  # installed distribution → the names that it is imported by
SYNTAXES = {  # what pydicom's plug-ins decode; names of pydicom.uid
    "JPEG": ("JPEGBaseline8Bit", "JPEGExtended12Bit"),
    "JPEG lossless": ("JPEGLossless", "JPEGLosslessSV1"),
    "JPEG-LS": ("JPEGLSLossless", "JPEGLSNearLossless"),
    "JPEG 2000": ("JPEG2000Lossless", "JPEG2000"),
    "RLE": ("RLELossless",),
}


@dataclass(frozen=True)
class Row:
    """One thing that was looked at."""

    name: str
    usable: bool | None  # None: neither, such as something that nobody needs
    found: str
    fix: str = ""  # one sentence, empty where nothing is to be done


# ---- packages ------------------------------------------------------------------------------------
def import_names() -> Owned:
    """Of every distribution that is installed."""
    from packaging.utils import canonicalize_name

    owned: Owned = {}
    for name, distributions in importlib.metadata.packages_distributions().items():
        for distribution in distributions:
            owned.setdefault(canonicalize_name(distribution), []).append(name)
    return owned


def core(owned: Owned) -> list[Row]:
    """Python, this package and what it always needs; a row that is not usable stops everything."""
    rows = [Row("python", True, f"{platform.python_version()} on {platform.platform()}")]
    try:
        version = importlib.metadata.version("adacomed")
    except importlib.metadata.PackageNotFoundError:
        fix = "Install the package, so that its extras are known: pip install -e . in its folder."
        return [*rows, Row("adacomed", None, "runs from its source, not installed", fix)]
    rows.append(Row("adacomed", True, version))
    for line in _requirements("adacomed", None):
        found, problem = _installed(line, owned)
        fix = "Install it again: pip install --upgrade adacomed." if problem else ""
        rows.append(Row(line.name, not problem, found.removeprefix(f"{line.name} "), fix))
    return rows


def extras(owned: Owned, package: str = "adacomed") -> list[Row]:
    """Every optional extra of a package: whether all of it is installed, and the command if not.

    Args:
        owned: installed distribution → the names that it is imported by.
        package: whose extras; the one called `dev` is left out.
    """
    try:
        declared = importlib.metadata.metadata(package).get_all("Provides-Extra") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    rows = []
    for extra in declared:
        if extra == "dev":
            continue
        found = [_installed(line, owned) for line in _requirements(package, extra)]
        complete = not any(problem for _, problem in found)
        fix = "" if complete else f"Run: pip install '{package}[{extra}]'"
        rows.append(Row(extra, complete, ", ".join(text for text, _ in found), fix))
    return rows


def _requirements(package: str, extra: str | None) -> list[Any]:
    """What an extra adds here (None: what is always needed); a mention of itself is followed."""
    from packaging.requirements import Requirement

    asked, seen, found = [extra], {extra}, []
    lines = [Requirement(text) for text in importlib.metadata.requires(package) or []]
    while asked:
        wanted = asked.pop()
        for line in lines:
            if not _applies(line, wanted):
                continue
            if line.name != package:
                found.append(line)
                continue
            asked += sorted(line.extras - seen)
            seen |= line.extras
    return found


def _applies(line: Any, extra: str | None) -> bool:
    """Whether a requirement holds on this system because of the extra (None: without any)."""
    always = line.marker is None or line.marker.evaluate({"extra": ""})
    if extra is None:
        return bool(always)
    return not always and bool(line.marker.evaluate({"extra": extra}))


def _installed(line: Any, owned: Owned) -> tuple[str, bool]:
    """A requirement in words with the version that is here, and whether that is a problem."""
    from packaging.utils import canonicalize_name

    try:
        version = importlib.metadata.version(line.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{line.name} missing", True
    if not line.specifier.contains(version, prereleases=True):
        return f"{line.name} {version} (needs {line.specifier})", True
    names = [n for n in owned.get(canonicalize_name(line.name), []) if n.isidentifier()]
    if names and not any(map(_importable, names)):
        return f"{line.name} {version} (its files are gone)", True
    return f"{line.name} {version}", False


def _importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # a module of that name that is half there
        return False


# ---- libraries ----------------------------------------------------------------------------------
def openslide() -> Row:
    """Whether the library that reads slides loads."""
    fix = "Run: pip install 'adacomed[slide]'"
    other = ""
    if _importable("tiffslide"):
        other = "; tiffslide takes its place"
    try:
        import openslide as library  # its shared library is loaded by the import
    except (ImportError, OSError) as error:
        return Row("openslide", False, f"does not load ({first_line(error)}){other}", fix)
    return Row("openslide", True, str(library.__library_version__))


def decoders() -> list[Row]:
    """Whether pydicom can decode the compressed transfer syntaxes."""
    fix = "Run: pip install 'adacomed[image]'"
    try:
        from pydicom import uid
        from pydicom.pixels.decoders.base import get_decoder
    except ImportError:
        return [Row(f"DICOM {name}", False, "pydicom missing", fix) for name in SYNTAXES]
    rows = []
    for name, syntaxes in SYNTAXES.items():
        mine = [get_decoder(getattr(uid, syntax)) for syntax in syntaxes]
        usable = all(decoder.is_available for decoder in mine)
        plugins = sorted({p for decoder in mine for p in decoder.available_plugins})
        found = ", ".join(plugins) or "no decoder"
        rows.append(Row(f"DICOM {name}", usable, found, "" if usable else fix))
    return rows


def torchvision() -> Row:
    """Whether torchvision, if it is here, belongs to this torch; looked at without importing it.

    One of another build makes every import of it fail, and with it parts of transformers.
    """
    from packaging.requirements import Requirement

    try:
        version = importlib.metadata.version("torchvision")
        torch_version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return Row("torchvision", None, "not installed, not needed")
    wanted = [Requirement(text) for text in importlib.metadata.requires("torchvision") or []]
    pins = [requirement.specifier for requirement in wanted if requirement.name == "torch"]
    fits = all(pin.contains(torch_version, prereleases=True) for pin in pins)
    spec = importlib.util.find_spec("torchvision")
    stated = Path(spec.origin).with_name("version.py") if spec and spec.origin else Path()
    text = stated.read_text(errors="replace") if stated.is_file() else ""
    if ("+cu" in text and "+cpu" in torch_version) or ("+cpu" in text and "+cu" in torch_version):
        fits = False
    if fits:
        return Row("torchvision", True, f"{version}, not needed")
    fix = "AdaCoMed does not need it: pip uninstall torchvision, or install your torch's build."
    found = f"{version} is of another build than torch {torch_version}: importing it fails"
    return Row("torchvision", False, found, fix)


def first_line(error: BaseException) -> str:
    """Of its message, or its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
