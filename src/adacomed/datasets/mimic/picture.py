"""flow.svg: the steps as boxes with who left beside them, as a CONSORT diagram has it."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import Any
from xml.sax.saxutils import escape

WIDTH, BOX, SIDE = 860, 400, 320  # pixels: all, a step, who left
LINE, PAD, GAP = 18, 12, 34  # height of a line, inside a box, between boxes
CHARACTER = 7.2  # pixels, of the font's mean letter
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#1f2328}.what{font-weight:600}"
    "rect{fill:#fff;stroke:#57606a}.left{fill:#f6f8fa;stroke:#afb8c1}"
    "path{stroke:#57606a;fill:none;marker-end:url(#tip)}"
)
TIP = (
    '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" '
    'orient="auto"><path d="M0 0L8 4L0 8z" style="fill:#57606a;stroke:none;marker-end:none"/>'
    "</marker></defs>"
)


def draw(document: dict[str, Any]) -> str:
    """The picture of a flow.json, as an SVG document.

    Args:
        document: with `cohort`, `simulated`, `steps`, `labels`, `parts`.
    """
    marks: list[str] = []
    top = 44.0
    below = 0.0
    for step in document["steps"]:
        lines = _counts(step)
        if below:
            middle, height = 16 + BOX / 2, GAP + (_height(_left(step)) if step["left_out"] else 0)
            marks.append(f'<path d="M{middle} {below}V{below + height}"/>')
            if step["left_out"]:
                beside = _left(step)
                y = below + GAP / 2
                half = y + _height(beside) / 2
                marks.append(f'<path d="M{middle} {half}H{WIDTH - SIDE - 16}"/>')
                marks.append(_box(WIDTH - SIDE - 16, y, SIDE, beside, "left"))
            top = below + height
        marks.append(_box(16, top, BOX, lines, "step"))
        below = top + _height(lines)
    for lines in (_parts(document["parts"]), _labels(document["labels"])):
        marks.append(f'<path d="M{16 + BOX / 2} {below}V{below + GAP}"/>')
        marks.append(_box(16, below + GAP, BOX, lines, "step"))
        below += GAP + _height(lines)
    return _document(document, marks, below + 20)


def _document(document: dict[str, Any], marks: Sequence[str], height: float) -> str:
    said = " (SIMULATED release)" if document["simulated"] else ""
    title = f"{document['cohort']}{said}: who is in it, and who is not"
    told = "; ".join(f"{s['what']}: {s['samples']} stays" for s in document["steps"])
    size = f'width="{WIDTH}" height="{height:.0f}" viewBox="0 0 {WIDTH} {height:.0f}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {size}>'
    about = f"<title>{escape(title)}</title><desc>{escape(told)}</desc><style>{STYLE}</style>{TIP}"
    ground = '<rect width="100%" height="100%" style="stroke:none"/>'
    heading = f'<text x="16" y="26" class="what">{escape(title)}</text>'
    return "\n".join([head, about, ground, heading, *marks, "</svg>", ""])


def _counts(step: dict[str, Any]) -> list[str]:
    patients, admissions = f"{step['subjects']:,} patients", f"{step['admissions']:,} admissions"
    return [step["what"], f"{patients}, {admissions}, {step['stays']:,} stays"]


def _left(step: dict[str, Any]) -> list[str]:
    room = int((SIDE - 2 * PAD) / CHARACTER)
    return [f"{step['left_out']:,} stays left out", *wrap(step["why"], room)]


def _parts(parts: Sequence[dict[str, Any]]) -> list[str]:
    return [
        "split",
        *(f"{p['split']}: {p['subjects']:,} patients, {p['samples']:,} samples" for p in parts),
    ]


def _labels(labels: Sequence[dict[str, Any]]) -> list[str]:
    return ["labels", *(f"{r['task']}: {r['positive']:,} of {r['labelled']:,}" for r in labels)]


def _height(lines: Sequence[str]) -> float:
    return 2 * PAD + LINE * len(lines) - 4


def _box(x: float, y: float, width: float, lines: Sequence[str], kind: str) -> str:
    frame = (
        f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{_height(lines)}" rx="4"/>'
    )
    texts = [
        f'<text x="{x + PAD}" y="{y + PAD + 12 + LINE * n}"{_bold(n)}>{escape(line)}</text>'
        for n, line in enumerate(lines)
    ]
    return "\n".join([frame, *texts])


def _bold(line: int) -> str:
    return "" if line else ' class="what"'
