"""docs/paper_map.md: every file and name in it exists, and it forgets no equation or strategy."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAP = (ROOT / "docs" / "paper_map.md").read_text()
ROWS = re.findall(r"^\| (.+?) \| ([\w/]+\.py) \| (.+?) \|$", MAP, flags=re.M)


def names_in(path: Path) -> set[str]:
    """Top-level names of a file, and `Class.method`."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{n.name}" for n in node.body if isinstance(n, ast.FunctionDef)}
        if isinstance(node, ast.Assign):
            names |= {t.id for t in node.targets if isinstance(t, ast.Name)}
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r[0])
def test_each_name_exists(row):
    _, file, cell = row
    path = ROOT / "src" / "adacomed" / file
    assert path.is_file(), file
    wanted = re.findall(r"`([\w.]+)`", cell)
    assert wanted
    assert set(wanted) <= names_in(path)


def test_nothing_of_the_method_is_forgotten():
    said = " ".join(row[0] for row in ROWS)
    for number in range(1, 9):
        assert re.search(rf"Eq\. (\d–)?{number}\b|\b{number}, total", said), f"Eq. {number}"
    for part in ("Algorithm 1", "learnable", "inverse", "gaussian", "threshold", "Fig. 3"):
        assert part in said
