"""The trials one after the other, or several at a time, until there are enough of them."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from adacomed.errors import InputError
from adacomed.search import validation
from adacomed.search.objective import BehindError, Objective
from adacomed.search.space import STRATEGY, Parameter, applied, start_of
from adacomed.search.study import (
    FILE,
    INDEX,
    NAME,
    REASON,
    SECONDS,
    ask,
    best,
    complete,
    connect,
    finished,
    worth_it,
)
from adacomed.training.engine import die_with_parent, one_core
from adacomed.training.selection import Tick

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

OnTrial = Callable[["Study", "FrozenTrial"], None]


@dataclass(frozen=True)
class Search:
    """What is searched, on what, and where it is kept.

    Attributes:
        seed: of the search, not of the training.
    """

    objective: Objective
    space: list[Parameter]
    seed: int
    out: Path

    @property
    def strategy(self) -> str:
        """The experiment's own, which decides what is active where it is not searched."""
        return str(start_of(self.objective.experiment, STRATEGY))


class Ended(NamedTuple):
    """How a trial ended: with a score, or without one and why."""

    score: float | None
    reason: str
    seconds: float


def run(
    search: Search,
    study: Study,
    *,
    trials: int,
    timeout: float | None,
    jobs: int,
    on_trial: OnTrial,
    on_tick: Tick = lambda stage: None,
) -> None:
    """Go on until the study has `trials` that ended by themselves.

    Args:
        timeout: seconds after which no trial is started any more.
        jobs: processes; 1 runs in this one, and is the same search every time.
        on_trial: told of the study and of every trial that ended.
        on_tick: called after every epoch, with jobs 1.
    Raises:
        InputError: the experiment's own values cannot be trained, or a process was killed.
    """
    deadline = np.inf if timeout is None else time.monotonic() + timeout

    def more(running: int = 0) -> bool:
        return len(finished(study)) + running < trials and time.monotonic() < deadline

    if jobs > 1:
        _in_parallel(search, study, jobs, more, on_trial)
        return
    while more():
        trial = ask(study, search.space, search.strategy, search.seed)
        _tell(search, study, trial, evaluate(search, study, trial, on_tick), set())
        on_trial(study, _frozen(study, trial))


def evaluate(search: Search, study: Study, trial: Trial, tick: Tick) -> Ended:
    """Train one trial; its validation probabilities are on disk before it returns."""
    index, started = int(trial.user_attrs[INDEX]), time.perf_counter()

    def report(step: int, standing: float) -> bool:
        trial.report(standing, step)
        return worth_it(study, index, step, standing)

    score, reason = None, ""
    try:
        experiment = applied(search.objective.experiment, trial.params)
        judged = search.objective(experiment, report, tick)
    except BehindError:
        reason = "stopped early"
    except FloatingPointError as error:
        if index == 0:
            raise InputError(f"the experiment's own settings: {error}; lower training.lr") from None
        reason = str(error)
    except InputError as error:
        if index == 0:
            raise
        reason = str(error)
    else:
        if np.isfinite(judged.score):
            score = judged.score
            validation.keep(search.out, index, judged, search.objective.inputs)
        else:
            reason = "no score"
    return Ended(score, reason, round(time.perf_counter() - started, 2))


def _tell(search: Search, study: Study, trial: Trial, ended: Ended, running: set[int]) -> None:
    """The trial is finished; of the probabilities only those that may be asked for are kept."""
    from optuna.trial import TrialState

    trial.set_user_attr(SECONDS, ended.seconds)
    trial.set_user_attr(REASON, ended.reason)
    if ended.score is None:
        study.tell(trial, state=TrialState.PRUNED)
        return
    study.tell(trial, ended.score)
    if complete(study):
        validation.keep_only(search.out, {0, int(best(study).user_attrs[INDEX]), *running})


def _frozen(study: Study, trial: Trial) -> FrozenTrial:
    return study.get_trials(deepcopy=False)[trial.number]


# ---- several at a time --------------------------------------------------------------------------
def _in_parallel(
    search: Search, study: Study, jobs: int, more: Callable[[int], bool], on_trial: OnTrial
) -> None:
    """This process alone asks and tells; the others train, and report to the study themselves."""
    context = multiprocessing.get_context("spawn")  # fork and torch's threads do not mix
    running: dict[Future[Ended], Trial] = {}
    with ProcessPoolExecutor(jobs, context, _start_worker, (search,)) as pool:
        try:
            while True:
                while len(running) < jobs and more(len(running)):
                    trial = ask(study, search.space, search.strategy, search.seed)
                    running[pool.submit(_work, trial._trial_id)] = trial
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    ended, trial = future.result(), running.pop(future)
                    others = {int(t.user_attrs[INDEX]) for t in running.values()}
                    _tell(search, study, trial, ended, others)
                    on_trial(study, _frozen(study, trial))
        except BrokenProcessPool:
            raise InputError(
                "a process of the search was killed (memory?); the same command goes on, with "
                "fewer --jobs if it was memory"
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_worker: tuple[Search, Any] | None = None


def _start_worker(search: Search) -> None:
    import optuna

    global _worker
    one_core()
    die_with_parent()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.load_study(study_name=NAME, storage=connect(search.out / FILE))
    _worker = (search, study)


def _work(trial_id: int) -> Ended:
    from optuna import Trial

    assert _worker is not None
    search, study = _worker
    return evaluate(search, study, Trial(study, trial_id), lambda stage: None)
