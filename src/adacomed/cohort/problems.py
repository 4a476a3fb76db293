"""What a check of a cohort found: the one report that its steps write to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from adacomed.errors import InputError

T = TypeVar("T")
NAMED = 20  # problems of one kind named one by one; the rest is counted


@dataclass
class CheckReport:
    """What a check found.

    Attributes:
        name: of the cohort.
        samples, patients: counts.
        patterns: modalities that go together ("ct + wsi") → samples.
        tasks: one row per task and split ("all" first): task, split, class, samples, share.
        columns: one row per tabular column, or per variable of summary statistics: modality,
            column, type, missing (share), distinct.
        errors: what stops training; empty if it can go ahead.
        warnings: what deserves a look.
    """

    name: str
    samples: int = 0
    patients: int = 0
    patterns: dict[str, int] = field(default_factory=dict)
    tasks: list[dict[str, Any]] = field(default_factory=list)
    columns: list[dict[str, Any]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return asdict(self)

    def attempt(self, step: Callable[..., T], *args: Any, **kwargs: Any) -> T | None:
        """Run one step; its InputError becomes one more error of the report."""
        try:
            return step(*args, **kwargs)
        except InputError as error:
            self.errors.append(str(error))
            return None

    def add(self, problems: list[str], what: str) -> None:
        """Up to NAMED errors as they are, the others as one that counts them."""
        self.errors += problems[:NAMED]
        if len(problems) > NAMED:
            self.errors.append(f"and {len(problems) - NAMED} more {what}")
