"""A training kept on disk while it runs, so that a killed one goes on to the same bits.

    .<run>.unfinished/                  beside the run folder, gone once that is written
        begun.json                      what is trained: settings, patients, split, versions
        <stage>~<part>~<n>.safetensors  a fit after an epoch; once finished, what others need of it

Every file is written under a temporary name and renamed, so a kill leaves the one before. Writing
takes at most `SHARE` of the time: epochs shorter than that allows are trained again after a kill,
to the same weights. A power cut costs a few seconds more (`DURABLE`).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from adacomed import __version__
from adacomed.cohort.split import Fold
from adacomed.config import Experiment
from adacomed.errors import InputError
from adacomed.schema import RunFiles
from adacomed.training.fit import Loop
from adacomed.training.loader import Inputs
from adacomed.training.loop_state import checksum, facts_of, put_back, tensors_of
from adacomed.training.writing import replacing, write_json

FORMAT = 1
SHARE = 0.05  # of the time, for keeping fits that are not finished
DURABLE = 5.0  # seconds between snapshots that are forced to disk; a kill alone needs none
BEGUN, LOCK = "begun.json", ".lock"
MARK = "training"  # in metrics.json of the finished run: `Unfinished.mark`

Json = dict[str, Any]


def begun_with(experiment: Experiment, inputs: Inputs, fold: Fold, **named: str) -> Json:
    """Everything that decides what a training comes to, as JSON that can be compared by name.

    Args:
        named: what else does, such as method= and task=.
    """
    rows = [None if x is None else x.tolist() for x in (fold.train, fold.val, fold.test)]
    return {
        "adacomed": __version__,
        "torch": torch.__version__,
        **named,
        "settings": experiment.model_dump(
            mode="json", by_alias=True, exclude={"cohort", "methods", "seeds"}
        ),
        "the cohort's data": inputs.fingerprint(),
        "the split": hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16],
    }


def unfinished_folder(out: Path) -> Path:
    """Where the training that becomes the run `out` is kept."""
    return out.with_name(f".{out.name}.unfinished")


@dataclass
class Unfinished:
    """A training under way, the only one in its folder.

    Attributes:
        begun: as `begun_with` gives it.
        goes_on: what is in the folder is of this training.
        finished: the run is there already; the stop came just after its end.
        over: nothing of it is needed any more.
        follows: another process of the same training writes (`distributed`); this one reads.
    """

    folder: Path
    begun: Json
    goes_on: bool = False
    finished: bool = False
    over: bool = False
    follows: bool = False
    due: float = 0.0  # when a snapshot may be written again
    durable: float = -DURABLE  # when one was last forced to disk
    _met: Counter[tuple[str, str]] = field(default_factory=Counter)

    def snapshots(self, stage: str, part: str) -> FitSnapshot:
        """Where the next fit of a stage on a part is kept; fits come in the same order always."""
        number = self._met[stage, part]
        self._met[stage, part] += 1
        name = "~".join(quote(x, safe="-_. ") for x in (stage, part, str(number)))
        return FitSnapshot(self, self.folder / f"{name.replace(' ', '-')}.safetensors", name)

    @property
    def mark(self) -> str:
        """Says that a file belongs to this training."""
        text = json.dumps([FORMAT, self.begun], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def claim(self) -> None:
        """Before the first file: what another training has left here goes."""
        if not self.goes_on:
            _empty(self.folder)
            write_json(self.folder / BEGUN, self.begun)
            self.goes_on = True

    def became(self, run: Path) -> bool:
        """Whether `run` is what this training comes to."""
        try:
            said = json.loads((run / RunFiles.METRICS).read_text("utf-8"))
            return bool(said[MARK] == self.mark)
        except (OSError, ValueError, KeyError, TypeError):
            return False


@contextmanager
def unfinished(
    out: Path, begun: Json, *, resume: bool, tell: Callable[[str], None], follows: bool = False
) -> Iterator[Unfinished]:
    """The folder of the training that becomes `out`; removed afterwards where it is `over`.

    Args:
        resume: go on where a training of the same was stopped. Without it what was kept stays only
            until the new training keeps something.
        tell: called with a sentence about what was found.
        follows: only read; another process of this training writes.
    Raises:
        InputError: another process trains the same run; or with `resume`: another training was
            stopped there.
    """
    folder = unfinished_folder(out)
    if follows:
        before = _read_begun(folder) if resume else None
        if before is not None:
            _check_same(folder, before, begun)
        made = Unfinished(folder, begun, goes_on=before is not None, follows=True)
        made.finished = resume and made.became(out)
        yield made
        return
    aside = folder.with_name(f"{folder.name}.over")  # gone at once, however many files
    shutil.rmtree(aside, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"{out}: another process is training this run; wait for it, or give another --out"
        ) from None
    made = Unfinished(folder, begun)
    try:
        before = _read_begun(folder)
        if resume and made.became(out):
            made.finished = True
            tell(f"{out}: this training is finished already")
        elif resume and before is not None:
            _check_same(folder, before, made.begun)
            made.goes_on = True
            n = len(list(folder.glob("*.safetensors")))
            tell(f"goes on in {folder}: {n} fits finished or begun")
        elif resume:
            tell(f"nothing to go on with in {folder}: training starts")
        elif before is not None:
            tell(f"{folder}: a stopped training is there; --resume would go on, this starts anew")
        yield made
    finally:
        lock.release()
        if made.over or not (folder / BEGUN).exists():
            folder.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)


def _read_begun(folder: Path) -> Json | None:
    try:
        found: Json = json.loads((folder / BEGUN).read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        raise InputError(
            f"{folder / BEGUN}: damaged; delete {folder} and run without --resume"
        ) from None
    return found


def _check_same(folder: Path, before: Json, now: Json) -> None:
    """Raise an InputError that names what differs."""
    old, new = _flat(before), _flat(now)
    changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    if not changed:
        return
    said = [
        f"{key} {old.get(key)!r} → {new.get(key)!r}" if not key.startswith("the ") else key
        for key in changed[:5]
    ]
    more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
    raise InputError(
        f"--resume: {folder} is of another training; since then changed: {', '.join(said)}{more}; "
        f"put that back, or leave out --resume to start anew"
    )


def _flat(nested: Mapping[str, Any], prefix: str = "") -> Json:
    found: Json = {}
    for key, value in nested.items():
        name = f"{prefix}{key}" if prefix or key != "settings" else ""
        found |= (
            _flat(value, f"{name}." if name else "") if isinstance(value, dict) else {name: value}
        )
    return found


def _empty(folder: Path) -> None:
    """Remove all but the lock, the name of the training first."""
    for path in [folder / BEGUN, *folder.iterdir()]:
        if path.name != LOCK:
            path.unlink(missing_ok=True)


# ---- one fit ------------------------------------------------------------------------------------
@dataclass
class FitSnapshot:
    """One fit's file (`fit.Snapshot`)."""

    training: Unfinished
    file: Path
    name: str

    def restore(self, loop: Loop) -> None:
        """Put a fresh loop where the kept one was; nothing where nothing was kept.

        Raises:
            InputError: the file is damaged, or of another training.
        """
        if not self.training.goes_on or not self.file.is_file():
            return
        try:
            tensors, facts = self._read()
            put_back(loop, tensors, facts)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError):
            raise InputError(
                f"{self.file}: damaged; delete it and run the same command again: only this fit "
                f"starts anew"
            ) from None

    def save(self, loop: Loop) -> None:
        """Keep the loop after an epoch: always once it is finished, else where time allows.

        Raises:
            FullDiskError: there is no room; the snapshot before stays.
        """
        started, training = time.perf_counter(), self.training
        if training.follows:
            return
        if not loop.finished and started < training.due:
            return
        training.claim()
        durable = started - training.durable >= DURABLE
        tensors, facts = tensors_of(loop), json.dumps(facts_of(loop))
        about = {"of": training.mark, "fit": self.name, "facts": facts}
        about["sum"] = str(checksum(tensors, about))
        with replacing(self.file, durable=durable) as partial:
            save_file(tensors, partial, about)
        ended = time.perf_counter()
        training.due = ended + (ended - started) / SHARE
        if durable:
            training.durable = ended

    def _read(self) -> tuple[dict[str, Tensor], Json]:
        with safe_open(self.file, "pt") as file:
            about = file.metadata()
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        said = about.pop("sum")
        if said != str(checksum(tensors, about)):
            raise ValueError("not what was written")
        if about["of"] != self.training.mark or about["fit"] != self.name:
            raise InputError(
                f"{self.file}: of another training; delete it and run the same command again: "
                f"only this fit starts anew"
            )
        facts: Json = json.loads(about["facts"])
        return tensors, facts
