"""`adacomed tune`: search the settings on validation patients; test patients stay unseen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from adacomed.commands.console import claim_folder, embedding_progress, err, note, say
from adacomed.config import load_experiment
from adacomed.errors import InputError
from adacomed.search.objective import METHOD, Objective
from adacomed.search.page import write_page
from adacomed.search.results import BEST, PAGE, collect, text_found, write
from adacomed.search.run import Search, run
from adacomed.search.space import Parameter, search_space
from adacomed.search.study import (
    INDEX,
    REASON,
    SECONDS,
    best,
    complete,
    finished,
    marks,
    need_optuna,
    opened,
)
from adacomed.search.tracked import sent
from adacomed.strict_json import dumps
from adacomed.tracking.tracker import Tracker, tracker
from adacomed.training.names import check_methods
from adacomed.training.prepare import Prepared, describe, one_fold, prepare

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial


def tune(
    experiment: Path,
    overrides: list[str] = [],  # noqa: B006  (Typer copies it)
    out: Path = Path("runs/tune"),
    trials: int = 50,
    timeout: float | None = None,
    seed: int = 0,
    search: list[str] | None = None,
    store: Path | None = None,
    jobs: int = 1,
    track: bool = False,
    tracking_uri: str | None = None,
    json: bool = False,
) -> None:
    """Search AdaCoMed's settings by their score on validation patients; no test patient is read.

    Trial 0 is the experiment as it is; every other one is compared with it. Stopped at any moment,
    the same command goes on where it was. OUT/best.yaml is what `adacomed train` takes next.

    Args:
        experiment: YAML with at least cohort: (a cohort folder or YAML).
        overrides: settings over the file's, such as training.epochs=30: where the search starts.
        out: folder for study.db, best.yaml, trials.csv and search.html.
        trials: how many in all, those of earlier calls among them.
        timeout: seconds after which no trial is started any more [default: none].
        seed: of the search; the experiment's own seed is that of the training.
        search: a range of your own, model.tau=0.05:0.2:log, choices, model.d=32,64, or one value,
            which fixes it [default: lambda, d, tau, strategy and its constants, training.lr].
        store: embedding store [default: store/ beside the cohort's YAML].
        jobs: trials at a time, each in a process; with 1 the same seed gives the same trials.
        track: log the search to MLflow, a run per trial.
        tracking_uri: MLflow's address, implies --track [default: MLFLOW_TRACKING_URI, else
            mlflow.db beside OUT].
        json: print one JSON object instead of the table.

    Example:
        adacomed tune experiment.yaml --out runs/tune --trials 50 --search model.lambda=0.05:2:log
    """
    _check(trials, timeout, jobs)
    need_optuna()
    settings, space = search_space(load_experiment(experiment, overrides), search or [])
    claim_folder(out)
    tracking = None
    if track or tracking_uri is not None:
        tracking = tracker(tracking_uri, out, on_fail=note)
    with embedding_progress() as progress:
        prepared = prepare(settings, store=store, progress=progress, methods=[METHOD])
    check_methods([METHOD], prepared.inputs, settings)
    fold = one_fold(settings, prepared)
    note(f"{describe(prepared, [fold])}\n{_space_text(space)}")
    objective = Objective(settings, prepared.inputs, fold, prepared.task, settings.seed)
    what = Search(objective, space, seed, out)
    with opened(out, marks(what.objective, space, seed)) as study:
        with _progress(study, trials) as bar:
            run(
                what,
                study,
                trials=trials,
                timeout=timeout,
                jobs=jobs,
                on_trial=bar.ended,
                on_tick=bar.tick,
            )
        _finish(what, study, prepared, tracking, json)


def _check(trials: int, timeout: float | None, jobs: int) -> None:
    if trials < 1:
        raise InputError(f"--trials {trials}: expected 1 or more")
    if jobs < 1:
        raise InputError(f"--jobs {jobs}: expected 1 or more")
    if timeout is not None and not timeout > 0:
        raise InputError(f"--timeout {timeout:g}: expected seconds, above 0")


def _space_text(space: list[Parameter]) -> str:
    lines = [
        f"  {p.name}: {p.text()}" + (f" [only {', '.join(p.strategies)}]" if p.strategies else "")
        for p in space
    ]
    return "\n".join(["searched, on validation patients only:", *lines])


def _finish(
    what: Search, study: Study, prepared: Prepared, tracking: Tracker | None, json: bool
) -> None:
    """Write the results and say them."""
    found = collect(what, study, prepared.title)
    if found is None:
        note("no trial has a score yet; the same command goes on")
        return
    write(what, found)
    write_page(found, study, what.space, what.out / PAGE)
    if tracking is not None:
        card, data = prepared.cohort.card, prepared.inputs.fingerprint()
        key = tracking.send(lambda: sent(what, found, study, card, prepared.task, data))
        if key is not None:
            note(f"tracked: {tracking.shown} run {key}")
    if json:
        say(dumps({**found.to_dict(), "out": str(what.out)}))
        return
    say(f"{found.title}\n{text_found(found)}")
    say(f"settings: {what.out / BEST}\npage: {what.out / PAGE}")


class _Bar:
    """Trials done and the best score so far: a live bar, or a line per trial when piped."""

    def __init__(self, progress: Progress | None, study: Study, trials: int) -> None:
        self._progress, self._trials, self._epochs = progress, trials, 0
        done = len(finished(study))
        if done:
            note(f"{done} trials of before are kept")
        self._text = _best_text(study)
        self._task = (
            progress.add_task(self._text, total=trials, completed=done) if progress else None
        )

    def tick(self, stage: str) -> None:
        """One more epoch of the running trial."""
        self._epochs += 1
        if self._progress and self._task is not None and self._epochs % 5 == 0:
            text = f"{self._text} · {stage}, epoch {self._epochs}"
            self._progress.update(self._task, description=text)

    def ended(self, study: Study, trial: FrozenTrial) -> None:
        """A trial ended."""
        self._epochs, self._text = 0, _best_text(study)
        done, about = len(finished(study)), trial.user_attrs
        if self._progress and self._task is not None:
            self._progress.update(self._task, completed=done, description=self._text)
            return
        score = about[REASON] or f"{trial.value:.4f}"
        head = f"[{done}/{self._trials}] trial {about[INDEX]}: {score}"
        note(f"{head} ({about[SECONDS]:.0f} s); {self._text}")


def _best_text(study: Study) -> str:
    if not complete(study):
        return "no score yet"
    top = best(study)
    return f"best {top.value:.4f} (trial {top.user_attrs[INDEX]})"


@contextmanager
def _progress(study: Study, trials: int) -> Iterator[_Bar]:
    if not err.is_terminal:
        yield _Bar(None, study, trials)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err) as progress:
        yield _Bar(progress, study, trials)
