"""The modalities of a run with their encoders, and whether these have seen the cohort before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from adacomed.report.source import Source


@dataclass(frozen=True)
class Encoder:
    """A modality and the frozen model that reads it; None or "" is not recorded.

    Attributes:
        seen: cohorts in the encoder's training data; None: not known.
        contaminated: those of them that are this cohort or its source.
    """

    name: str
    kind: str = ""
    model: str = ""
    fingerprint: str = ""
    n_present: int | None = None
    licence: str = ""
    seen: tuple[str, ...] | None = None
    contaminated: tuple[str, ...] = ()


def encoders(source: Source) -> tuple[Encoder, ...]:
    """The modalities with their encoders, from flow.json, else the fingerprints of inputs.json."""
    cohort = as_dict(source.inputs.get("cohort"))
    about = [str(cohort.get(k) or "") for k in ("name", "title", "source")]
    about += [str(source.metrics.get("title") or ""), str(source.flow.get("source") or "")]
    about += [str(source.flow.get("cohort") or "")]
    described = [m for m in source.flow.get("modalities") or [] if isinstance(m, dict)]
    if described:
        return tuple(_encoder(m, about) for m in described)
    kinds = {
        name: as_dict(m).get("kind", "") for name, m in as_dict(cohort.get("modalities")).items()
    }
    marks = as_dict(source.inputs.get("encoders"))
    names = dict.fromkeys([*kinds, *marks])
    return tuple(
        Encoder(str(n), str(kinds.get(n, "")), fingerprint=str(marks.get(n) or "")) for n in names
    )


def _encoder(modality: dict[str, Any], about: Sequence[str]) -> Encoder:
    seen = modality.get("seen_datasets")
    known = tuple(map(str, seen)) if isinstance(seen, list) else None
    n = modality.get("n_present")
    return Encoder(
        name=str(modality.get("name")),
        kind=str(modality.get("kind") or ""),
        model=str(modality.get("encoder") or ""),
        fingerprint=str(modality.get("fingerprint") or ""),
        n_present=n if isinstance(n, int) else None,
        licence=str(modality.get("licence") or ""),
        seen=known,
        contaminated=tuple(d for d in known or () if any(_same(d, text) for text in about)),
    )


def _same(dataset: str, text: str) -> bool:
    """Whether the text names the data set, whatever the spelling: `MIMIC-IV` in `mimic iv demo`."""
    bare = ["".join(c for c in s.lower() if c.isalnum()) for s in (dataset, text)]
    return bool(bare[0]) and bare[0] in bare[1]


def as_dict(value: object) -> dict[str, Any]:
    """The value where it is a dict, else an empty one."""
    return value if isinstance(value, dict) else {}
