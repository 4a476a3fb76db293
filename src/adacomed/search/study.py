"""The study on disk: OUT/study.db, Optuna's own format, which goes on where it was killed.

A trial's place in the search is its index, not Optuna's number: a trial that was killed leaves its
number behind as failed, and its index is tried again. Every index draws from a seed of its own, so
with one process a search that was killed and went on is the same as one that was not.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout

from adacomed import __version__
from adacomed.errors import InputError
from adacomed.search.objective import Objective
from adacomed.search.space import Parameter, described, start_values, suggest
from adacomed.training.seed import derive

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

FILE, LOCK, NAME = "study.db", ".tune.lock", "adacomed"
INDEX, READY, SECONDS, REASON = "index", "ready", "seconds", "reason"
MARKS = "adacomed"
STARTUP = 10  # trials drawn at random before the sampler has anything to go by
JUDGES = 5  # finished trials before any is stopped early
WAIT = 60  # seconds for another process's write to end


def need_optuna() -> None:
    """Say what to install where Optuna is not, before anything is done.

    Raises:
        InputError: it is not installed, or is older than 5.
    """
    try:
        import optuna
        import sqlalchemy  # noqa: F401
    except ImportError:
        raise InputError("tune needs Optuna: pip install 'adacomed[search]'") from None
    if int(optuna.__version__.split(".")[0]) < 5:
        raise InputError(
            f"tune needs Optuna 5 or newer, found {optuna.__version__}: "
            f"pip install -U 'adacomed[search]'"
        )
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # a line a trial is the command's to say


def marks(objective: Objective, space: Sequence[Parameter], seed: int) -> dict[str, str]:
    """What two searches must agree in to be one study; each mark names what differs."""
    fold = objective.fold
    unread = {"cohort", "task", "methods", "seeds", "evidence"}
    settings = objective.experiment.model_dump(mode="json", exclude=unread)
    rows = [fold.train.tolist(), None if fold.val is None else fold.val.tolist()]
    return {
        "version of adacomed": __version__,
        "cohort's data": _digest([objective.inputs.fingerprint(), objective.task]),
        "split": _digest(rows),
        "experiment": _digest(settings),
        "search space": _digest(described(space)),
        "seed": str(seed),
    }


def _digest(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, default=str).encode()).hexdigest()[:16]


@contextmanager
def opened(out: Path, marks: Mapping[str, str]) -> Iterator[Study]:
    """The study of a folder, new or gone on with; nobody else may search there meanwhile.

    Trials that were running when their process was killed are marked as failed.

    Raises:
        InputError: another search is running there, it is a study of something else, or the study
            cannot be written to (a full disk); its finished trials are kept.
    """
    from optuna.exceptions import StorageInternalError

    lock = FileLock(out / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"{out}: another search is running here; give another --out") from None
    try:
        study = _load(out / FILE)
        _check(study, out, marks)
        for trial in _trials(study, "RUNNING"):
            study.tell(trial.number, state=_state("FAIL"))
        yield study
    except StorageInternalError as error:
        raise InputError(
            f"{out / FILE}: cannot be written to ({_why(error)}); what was finished is kept: the "
            f"same command goes on"
        ) from None
    finally:
        lock.release()


def _why(error: Exception) -> str:
    """What the database itself says, below the layers."""
    cause = error.__cause__
    return str(getattr(cause, "orig", None) or type(cause).__name__)


def connect(file: Path) -> Any:
    """The storage in a file, made where there is none."""
    from optuna.storages import RDBStorage
    from sqlalchemy import URL

    url = URL.create("sqlite", database=str(file.absolute())).render_as_string()
    return RDBStorage(url, engine_kwargs={"connect_args": {"timeout": WAIT}})


def _load(file: Path) -> Study:
    import optuna
    from sqlalchemy.exc import DatabaseError

    try:
        return optuna.create_study(
            storage=connect(file), study_name=NAME, direction="maximize", load_if_exists=True
        )
    except (
        *(DatabaseError, sqlite3.DatabaseError, AssertionError, RuntimeError),
        optuna.exceptions.StorageInternalError,
    ) as error:
        why = f"({type(error).__name__})"
        raise InputError(
            f"{file}: not a study that can be read {why}; give another --out"
        ) from None


def _check(study: Study, out: Path, marks: Mapping[str, str]) -> None:
    known = study.user_attrs.get(MARKS)
    if known is None:
        if study.get_trials(deepcopy=False):
            raise InputError(f"{out / FILE}: a study that adacomed tune did not make; move it away")
        study.set_user_attr(MARKS, dict(marks))
        return
    differ = [name for name, mark in marks.items() if known.get(name) != mark]
    if differ:
        raise InputError(
            f"{out}: holds a search with another {' and '.join(differ)}; give another --out, or "
            f"the same settings to go on with it"
        )


def _state(name: str) -> Any:
    from optuna.trial import TrialState

    return TrialState[name]


def _trials(study: Study, *states: str) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=[_state(name) for name in states])


def finished(study: Study) -> list[FrozenTrial]:
    """Trials that ended by themselves, by index: complete, or stopped early."""
    found = [t for t in _trials(study, "COMPLETE", "PRUNED") if INDEX in t.user_attrs]
    return sorted(found, key=lambda trial: int(trial.user_attrs[INDEX]))


def complete(study: Study) -> list[FrozenTrial]:
    """Trials with a score, by index."""
    return [trial for trial in finished(study) if trial.state == _state("COMPLETE")]


def best(study: Study) -> FrozenTrial:
    """The highest score; of several the first."""
    return max(complete(study), key=lambda trial: (trial.value, -trial.user_attrs[INDEX]))


def ask(study: Study, space: Sequence[Parameter], strategy: str, seed: int) -> Trial:
    """The next trial, with a value for every parameter that is active.

    Index 0 has the experiment's own values; an index that was killed has the values it had.

    Args:
        strategy: the experiment's own, where it is not searched.
        seed: of the search.
    """
    from optuna.samplers import TPESampler

    waiting = _trials(study, "WAITING")
    index = waiting[0].user_attrs[INDEX] if waiting else _free(study)
    if not waiting:
        values = start_values(space) if index == 0 else _killed(study, index)
        if values is not None:
            study.enqueue_trial(values, user_attrs={INDEX: index})
    study.sampler = TPESampler(n_startup_trials=STARTUP, seed=derive(seed, "trial", index))
    trial = study.ask()
    trial.set_user_attr(INDEX, index)
    suggest(trial, space, strategy)
    trial.set_user_attr(READY, True)
    return trial


def _free(study: Study) -> int:
    """The lowest index that nobody has, or is at."""
    taken = {t.user_attrs.get(INDEX) for t in _trials(study, "COMPLETE", "PRUNED", "RUNNING")}
    return next(i for i in range(len(taken) + 1) if i not in taken)


def _killed(study: Study, index: int) -> dict[str, Any] | None:
    """The values of a trial that was killed after it had them all."""
    for trial in reversed(_trials(study, "FAIL")):
        if trial.user_attrs.get(INDEX) == index and trial.user_attrs.get(READY):
            return dict(trial.params)
    return None


def worth_it(study: Study, index: int, step: int, standing: float) -> bool:
    """Whether a trial stands at least as well as the median of the complete ones at the same step.

    Nobody is stopped at the first step, which is the noisiest, and the experiment's own values
    never are: they are what the others are compared with.

    Source: the median stopping rule of Golovin et al., KDD 2017, Sec. 3.2.1, on the standing at a
        step (Optuna's own takes the trial's best of all steps, which one easy fold would settle).
    """
    if index == 0 or step < 2:
        return True
    others = [t.intermediate_values[step] for t in complete(study) if step in t.intermediate_values]
    return len(others) < JUDGES or standing >= float(np.median(others))
