"""The design's rules, read off the source text; nothing is imported."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "adacomed"
FILES = sorted(SRC.rglob("*.py"))
# Imports go down, or stay on their level; within a level they may not make a circle of files.
LEVELS = [
    {"__main__"},
    {"cli"},
    {"commands"},
    {"reproduce"},
    {"serve", "report", "export", "scale", "tracking", "search"},
    {"inference", "intake", "embed", "training", "explain"},
    {"datasets"},
    {"cohort", "store", "evaluation", "encoders", "readers", "models"},
    {"schema", "errors", "strict_yaml", "strict_json", "config"},
]
CORE = {"torch", "safetensors", "numpy", "scipy", "sklearn", "polars", "pydantic", "yaml"}
CORE |= {"typer", "rich", "jinja2", "markupsafe", "plotly", "adacomed", "huggingface_hub"}
CORE |= {"filelock", "packaging", "threadpoolctl"}


def part(path: Path) -> str:
    """The room of a file in the layout: its folder below the package, or its own name."""
    inside = path.relative_to(SRC)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def level(room: str) -> int:
    return next(i for i, rooms in enumerate(LEVELS) if room in rooms)


def imports(path: Path, *, top_only: bool = False) -> list[str]:
    """Full names of the modules that a file imports."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_only else list(ast.walk(tree))
    names = []
    for node in nodes:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            names += [f"{module}.{alias.name}" for alias in node.names]
    return names


def rooms_imported(path: Path) -> set[str]:
    found = {
        re.sub(r"^adacomed\.", "", n).split(".")[0]
        for n in imports(path)
        if n.startswith("adacomed.")
    }
    return {room for room in found if room != "__version__"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SRC)))
def test_imports_go_one_way(path):
    if path.name == "__init__.py" and path.parent == SRC:
        return
    mine = part(path)
    for room in rooms_imported(path):
        assert level(room) >= level(mine), f"{mine} may not import {room}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SRC)))
def test_rooms_know_only_what_they_should(path):
    room, used = part(path), rooms_imported(path)
    if room == "models":
        assert not used - {"models", "errors"}, "models never see config, files or cohorts"
    if room == "evaluation":
        assert "models" not in used
        assert not any(n.split(".")[0] == "torch" for n in imports(path))
    if room in ("models", "evaluation", "encoders", "readers"):
        assert "config" not in used


def test_no_circles_between_files():
    graph = {}
    names = {".".join(("adacomed", *p.relative_to(SRC).with_suffix("").parts)): p for p in FILES}
    for name, path in names.items():
        found = imports(path, top_only=True)
        graph[name] = {
            m for n in found for m in (n, n.rpartition(".")[0]) if m in names and m != name
        }
    done, trail = set(), []

    def visit(name):
        assert name not in trail, " → ".join([*trail, name])
        if name not in done:
            trail.append(name)
            for other in graph[name]:
                visit(other)
            trail.pop()
            done.add(name)

    for name in graph:
        visit(name)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SRC)))
def test_core_files_import_only_core_packages_at_the_top(path):
    """What an extra brings is imported inside the function, or file, that needs it."""
    for name in imports(path, top_only=True):
        package = name.split(".")[0]
        if package in CORE or package in sys.stdlib_module_names:
            continue
        assert part(path) in ("encoders", "serve"), f"{package} is not a core dependency"
        assert path.name not in ("base.py", "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SRC)))
def test_nothing_unsafe_or_unfinished(path):
    text = path.read_text()
    for pattern in (
        r"\bpickle\b(?!\W*(,|\.| and|:|\)| allowed))[.(]",
        r"yaml\.load\(",
        r"trust_remote_code\s*=\s*True",
        r"allow_pickle\s*=\s*True",
        r"weights_only\s*=\s*False",
        r"NotImplementedError",
        r"\bTODO\b|\bFIXME\b",
        r"except\s*:",
    ):
        assert not re.search(pattern, text), pattern


def test_no_junk_drawer():
    assert not [p for p in FILES if p.stem in ("utils", "helpers", "common", "misc")]


def test_declared_dependencies_are_the_core():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.split(r"[<>=\[ ]", d)[0].lower() for d in declared}
    known = {"sklearn": "scikit-learn", "yaml": "pyyaml"}
    used = {n.split(".")[0] for p in FILES for n in imports(p, top_only=True)}
    extras = {"transformers", "tokenizers", "huggingface_hub", "markupsafe"}
    extras |= {"fastapi", "starlette", "uvicorn", "prometheus_client", "pydantic_core"}
    third = {known.get(n, n) for n in used - sys.stdlib_module_names - {"adacomed"}} - extras
    assert third <= names, f"imported but not declared: {third - names}"
