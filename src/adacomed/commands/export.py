"""`adacomed export`: a finished run as one file, for another site or another program."""

from __future__ import annotations

from pathlib import Path

from adacomed.cohort.cohort import load_cohort
from adacomed.commands.console import claim_folder, embedding_progress, note, say
from adacomed.embed import known_store
from adacomed.errors import InputError
from adacomed.intake import gather_for
from adacomed.schema import BUNDLE
from adacomed.training.bundle import OF_PATIENTS, open_run, write_bundle
from adacomed.training.checkpoint import Run
from adacomed.training.loader import Inputs


def export(
    run: Path,
    out: Path | None = None,
    onnx: Path | None = None,
    torch: Path | None = None,
    with_predictions: bool = False,
    patients: Path | None = None,
) -> None:
    """Put a finished run into one file: a bundle that adacomed reads, or its model for others.

    The bundle, NAME.adacomed, holds the model, its fitted inputs, settings, cards and checksums,
    and no row, id or label of a patient; predict, explain and serve take it in the place of a run
    folder. ONNX and torch files hold the fusion model alone, calibration included; they take
    vectors and tables, any of them absent. Each is compared with the run on 200 patients with every
    subset of the modalities before it is written, and refused where an output misses by over 1e-5.

    Args:
        run: folder of a finished run, or a bundle.
        out: bundle to write, .adacomed [default: NAME.adacomed here, if nothing else is asked for].
        onnx: ONNX file to write (pip install 'adacomed[onnx]').
        torch: torch.export file to write, .pt2.
        with_predictions: put the run's predictions, stress test, explanations and report into the
          bundle too. They hold patients' ids and labels.
        patients: cohort folder or YAML on whose patients the files are compared with the run
          [default: made-up ones, drawn from what the run's scalers know].

    Example:
        adacomed export runs/demo/run --out demo.adacomed --onnx demo.onnx
    """
    _endings(out, onnx, torch)
    model = open_run(run)
    if out is None and onnx is None and torch is None:
        out = Path(f"{run.resolve().name.removesuffix(BUNDLE)}{BUNDLE}")
    for target in (out, onnx, torch):
        if target is not None:
            claim_folder(target.parent)
    if out is not None:
        _bundle(model, out, with_predictions)
    elif with_predictions:
        raise InputError("--with-predictions is about a bundle; name one with --out")
    found = None if patients is None else _patients(model, patients)
    if onnx is not None:
        from adacomed.export.onnx import write_onnx

        _say(onnx, write_onnx(model, onnx, found))
    if torch is not None:
        from adacomed.export.torch_export import write_torch

        _say(torch, write_torch(model, torch, found))
    if model.meta["simulated"]:
        note("the run was trained on simulated data")


def _endings(out: Path | None, onnx: Path | None, torch: Path | None) -> None:
    wanted = (("--out", out, BUNDLE), ("--onnx", onnx, ".onnx"), ("--torch", torch, ".pt2"))
    for flag, path, ending in wanted:
        if path is None:
            continue
        if path.suffix != ending:
            raise InputError(f"{flag} {path}: expected a file name that ends in {ending}")
        if path.is_dir():
            raise InputError(f"{flag} {path}: is a folder, expected a file to write")


def _bundle(model: Run, out: Path, with_predictions: bool) -> None:
    sizes = write_bundle(model.folder, out, with_predictions=with_predictions)
    total = out.stat().st_size
    say(f"bundle of {len(sizes)} files, {_size(total)}: {out}")
    of_patients = [name for name in sizes if name in OF_PATIENTS]
    if of_patients:
        note(
            f"WARNING: {out} holds patients' ids and labels ({', '.join(of_patients)}); it may go "
            f"only where these patients' data may go"
        )
    elif with_predictions:
        note(f"{model.folder} has no predictions, so the bundle has none")


def _patients(model: Run, cohort: Path) -> Inputs:
    found = load_cohort(cohort, labels=False)
    with embedding_progress() as progress:
        return gather_for(model, found, progress, store=known_store(found, None))


def _say(path: Path, parity: dict[str, float]) -> None:
    worst = max(parity, key=lambda name: parity[name])
    say(
        f"{path.suffix[1:]} model, {_size(path.stat().st_size)}: {path}; prob within "
        f"{parity['prob']:.1e} of the run, every output within {parity[worst]:.1e} ({worst})"
    )


def _size(n: int) -> str:
    return f"{n / 2**20:.1f} MiB" if n >= 2**20 else f"{n / 1024:.0f} KiB"
