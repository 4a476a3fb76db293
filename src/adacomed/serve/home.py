"""The cohort that a run was trained on, where it is on this machine.

Its prompts, encoders that are the user's own, and the training patients lie there.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from adacomed.cohort.cohort import Cohort, load_cohort
from adacomed.config import read_yaml
from adacomed.errors import InputError
from adacomed.schema import RunFiles
from adacomed.training.checkpoint import Run


@lru_cache(maxsize=8)
def home(run: Path) -> Path | None:
    """The training cohort's folder, of a run's; None: not here."""
    path = _named(run)
    if path is None or not path.exists():
        return None
    return (path if path.is_dir() else path.parent).resolve()


def home_cohort(run: Run) -> Cohort | str:
    """The training cohort, or in words why it cannot be read here."""
    path = _named(run.folder)
    if path is None:
        return "the run does not say which cohort it was trained on"
    try:
        return load_cohort(path, labels=False)
    except InputError:
        return f"the cohort {path.name} that the run was trained on cannot be read on this machine"


def _named(run: Path) -> Path | None:
    """What config.yaml names, from the working folder as in `train`."""
    try:
        named = read_yaml(run / RunFiles.CONFIG).get("cohort")
    except InputError:
        return None
    return Path(named) if isinstance(named, str) else None
