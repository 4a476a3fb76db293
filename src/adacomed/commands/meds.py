"""`adacomed cohort build meds`: a cohort from any MEDS dataset, and the account of it as tables."""

from __future__ import annotations

from pathlib import Path

from adacomed.commands.mimic import Listing
from adacomed.datasets.meds import from_meds
from adacomed.errors import InputError


def build_meds(
    source: Path | None, labels: Path | None, out: Path, task: str, window: float | None
) -> list[Listing]:
    """Build the cohort; the tables that tell how.

    Args:
        source: folder of the dataset; labels: file, or folder of files, that ACES has made.
        out: folder to write.
        task: name of what the labels say.
        window: hours before the prediction time; None: all.
    Raises:
        InputError: source or labels is not given, or `from_meds` refuses.
    """
    if source is None or labels is None:
        raise InputError("meds needs --source, a MEDS dataset, and --labels, made by ACES for it")
    document = from_meds(source, labels, out, task=task, window=window)
    keys = ("what", "subjects", "samples", "left_out", "why")
    return [
        Listing(
            "Who is in the cohort",
            ["step", "patients", "samples", "left out", "why"],
            [[step[k] for k in keys] for step in document["steps"]],
        ),
        Listing(
            "Measurements left out",
            ["why", "rows, by sample"],
            [[row["why"], row["rows"]] for row in document["dropped"]],
        ),
        Listing("Inputs", ["what", "number"], [["codes of the series", len(document["codes"])]]),
    ]
