"""A run's fusion model as a torch.export program (.pt2): run with torch alone, no adacomed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from torch.export import Dim, ExportedProgram

from adacomed.export.feeds import KEY, Feeds, description, feeds_of
from adacomed.export.fusion import Fusion
from adacomed.export.parity import Array, check, drawn_patients, measure
from adacomed.training.checkpoint import Run
from adacomed.training.loader import Inputs

EXTRA = f"{KEY}.json"  # the description, among the file's extra files


def program_of(run: Run, fusion: Fusion) -> ExportedProgram:
    """The fusion model as a graph that takes any number of patients."""
    batch = Dim("batch", min=1, max=2**31 - 1)
    shapes = {
        "present": {0: batch},
        "vectors": {m: {0: batch} for m in fusion.vectors},
        "tables": {m: {0: batch} for m in fusion.tables},
    }
    example = tensors(feeds_of(fusion, run, drawn_patients(run, 5)))
    with torch.no_grad():
        return torch.export.export(fusion, example, dynamic_shapes=shapes, strict=False)


def tensors(feeds: Feeds) -> tuple[torch.Tensor, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The arguments of an exported program."""
    return (
        torch.from_numpy(feeds.present),
        {m: torch.from_numpy(x) for m, x in feeds.vectors.items()},
        {m: torch.from_numpy(x) for m, x in feeds.tables.items()},
    )


def write_torch(run: Run, out: Path, patients: Inputs | None = None) -> dict[str, float]:
    """Write the run's fusion model as a .pt2 file; `torch.export.load(out).module()` reads it.

    Args:
        patients: on whom it is compared with the run; None: drawn ones (`drawn_patients`).
    Returns:
        Output → the largest difference to the run, over subsets of the modalities and patients.
    Raises:
        InputError: a model that reads raw inputs, or one that the file would miss by more than
            `parity.MOST`.
    """
    fusion = Fusion(run)
    program = program_of(run, fusion)
    module = program.module()

    def answer(feeds: Feeds) -> dict[str, Array]:
        with torch.no_grad():
            return {name: x.numpy() for name, x in module(*tensors(feeds)).items()}

    parity = measure(run, fusion, drawn_patients(run) if patients is None else patients, answer)
    check(parity, str(out))
    told = json.dumps(description(fusion, run, parity), ensure_ascii=False)
    partial = out.with_name(f".{out.stem}.{os.getpid()}.partial.pt2")  # torch wants the ending
    try:
        torch.export.save(program, partial, extra_files={EXTRA: told})
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return parity
