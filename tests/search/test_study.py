"""The study: the same trials every time, killed or not, and nobody else's trials among them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
from pathlib import Path
from typing import Any

import optuna
import pytest

from adacomed.errors import InputError
from adacomed.search.objective import Objective
from adacomed.search.results import collect, trials_table, write
from adacomed.search.run import Search, run
from adacomed.search.space import search_space
from adacomed.search.study import FILE, INDEX, ask, finished, marks, need_optuna, opened, worth_it
from adacomed.search.validation import FOLDER
from tests.training.conftest import make_experiment, make_fold, make_inputs


@pytest.fixture(autouse=True)
def quiet() -> None:
    need_optuna()


def search(out: Path, *words: str, seed: int = 0, **settings: Any) -> Search:
    out.mkdir(exist_ok=True)
    experiment, space = search_space(make_experiment(**settings), words)
    return Search(Objective(experiment, make_inputs(), make_fold(), "task", 0), space, seed, out)


def go(what: Search, trials: int, **more: Any) -> list[dict[str, Any]]:
    settings: dict[str, Any] = {"timeout": None, "jobs": 1, "on_trial": lambda *_: None} | more
    with opened(what.out, marks(what.objective, what.space, what.seed)) as study:
        run(what, study, trials=trials, **settings)
        return trials_table(study, [p.name for p in what.space]).drop("seconds").to_dicts()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    out = tmp_path_factory.mktemp("whole") / "out"
    need_optuna()
    return out, go(search(out), 12)


def test_trial_0_is_the_experiment_and_the_others_are_their_own(whole) -> None:
    out, rows = whole
    assert [row["trial"] for row in rows] == list(range(12))
    first = rows[0]
    assert first["state"] == "complete"
    assert (first["model.strategy"], first["model.lambda"], first["model.d"]) == ("auto", 0.5, 64)
    assert len({row["model.tau"] for row in rows}) == 12
    kept = {int(f.stem) for f in (out / FOLDER).iterdir()}
    scored = [row for row in rows if row["state"] == "complete"]
    assert kept == {0, max(scored, key=lambda r: (r["score"], -r["trial"]))["trial"]}


def test_one_seed_one_search(whole, tmp_path: Path) -> None:
    assert go(search(tmp_path / "same"), 4) == whole[1][:4]
    other = go(search(tmp_path / "other", seed=1), 2)
    assert other[0] == whole[1][0]  # where it starts is nobody's draw
    assert other[1] != whole[1][1]


def test_stopped_and_gone_on_with_it_is_the_same_search(whole, tmp_path: Path) -> None:
    what = search(tmp_path / "out")

    def stop(study: optuna.Study, trial: Any) -> None:
        if trial.user_attrs[INDEX] == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(what, 12, on_trial=stop)
    with opened(what.out, marks(what.objective, what.space, 0)) as study:
        before = {t.number: t.datetime_complete for t in finished(study)}
        assert len(before) == 10
        killed = ask(study, what.space, "auto", 0)  # and then the process dies
    assert go(what, 12) == whole[1]
    with opened(what.out, marks(what.objective, what.space, 0)) as study:
        after = {t.number: t.datetime_complete for t in finished(study)}
        assert {number: after[number] for number in before} == before
        assert study.get_trials()[killed.number].state.name == "FAIL"
        again = study.get_trials()[killed.number + 1]
        assert again.user_attrs[INDEX] == 10
        assert again.params == killed.params
    assert go(what, 12) == whole[1]  # nothing is left to do
    assert go(what, 5) == whole[1]  # fewer are there already


def test_killed_before_the_first_trial_had_its_values_it_still_starts_there(tmp_path: Path) -> None:
    what = search(tmp_path / "out")
    with opened(what.out, marks(what.objective, what.space, 0)) as study:
        study.ask()  # no index, no values
    rows = go(what, 1)
    assert (rows[0]["trial"], rows[0]["model.lambda"]) == (0, 0.5)


def test_processes_try_every_index_once_and_a_killed_one_loses_no_trial(
    whole, tmp_path: Path
) -> None:
    what = search(tmp_path / "out")
    rows = go(what, 3, jobs=2)
    assert [row["trial"] for row in rows] == [0, 1, 2]
    assert rows[0] == whole[1][0]
    assert {row["state"] for row in rows} == {"complete"}

    def kill(study: optuna.Study, trial: Any) -> None:
        for child in multiprocessing.active_children():
            os.kill(child.pid or 0, signal.SIGKILL)

    with pytest.raises(InputError, match="was killed"):
        go(what, 9, jobs=2, on_trial=kill)
    after = go(what, 6)
    assert after[:4] == [*rows, after[3]]
    assert [row["trial"] for row in after] == list(range(6))


def test_a_timeout_starts_no_further_trial(tmp_path: Path) -> None:
    assert len(go(search(tmp_path / "out"), 50, timeout=1e-9)) == 0
    what = search(tmp_path / "two")
    with opened(what.out, marks(what.objective, what.space, 0)) as study:
        assert collect(what, study, "title") is None


def test_a_trial_behind_the_median_of_others_is_stopped(tmp_path: Path) -> None:
    study = optuna.create_study(direction="maximize")
    for index in range(1, 6):
        trial = study.ask()
        trial.set_user_attr(INDEX, index)
        for step in (1, 2, 3):
            trial.report(0.6 + index / 100, step)
        assert worth_it(study, 9, 2, 0.0)  # too few judges yet
        study.tell(trial, 0.7)
    assert worth_it(study, 9, 2, 0.63)  # the median itself
    assert not worth_it(study, 9, 2, 0.62)
    assert worth_it(study, 9, 1, 0.0)  # nobody is stopped at the first step
    assert worth_it(study, 0, 2, 0.0)  # nor the experiment's own values
    assert worth_it(study, 9, 7, 0.0)  # where nobody else has been


def test_trials_are_stopped_in_a_search_and_have_no_score(tmp_path: Path) -> None:
    words = ["training.lr=1e-9:0.01:log"]  # half of it learns nothing
    rows = go(search(tmp_path / "out", *words, training={"inner_folds": 4, "epochs": 3}), 18)
    stopped = [row for row in rows if row["state"] == "stopped"]
    assert stopped
    assert {row["reason"] for row in stopped} == {"stopped early"}
    assert all(row["score"] is None and row["steps"] < 4 for row in stopped)
    assert rows[0]["state"] == "complete"
    assert all(row["steps"] == 4 for row in rows if row["state"] == "complete")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"words": ["model.tau=0.02:0.4:log"]}, "search space"),
        ({"seed": 1}, "seed"),
        ({"model": {"H": 32}}, "experiment"),
        ({"inputs": make_inputs(seed=1)}, "cohort's data"),
        ({"fold": make_fold(100)}, "split"),
    ],
)
def test_a_study_of_something_else_is_refused(change, says: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    go(search(out), 1)
    words, seed = change.pop("words", []), change.pop("seed", 0)
    model = {"model": change.pop("model")} if "model" in change else {}
    what = search(out, *words, seed=seed, **model)
    old = what.objective
    data = {"inputs": old.inputs, "fold": old.fold} | change
    new = Objective(old.experiment, data["inputs"], data["fold"], "task", 0)
    with pytest.raises(InputError, match=says) as error:
        go(Search(new, what.space, seed, out), 2)
    assert "another --out" in str(error.value)


def test_a_file_that_is_no_study_of_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"not a database" * 100)
    with pytest.raises(InputError, match="not a study"):
        go(search(tmp_path), 1)
    (tmp_path / FILE).unlink()
    with sqlite3.connect(tmp_path / FILE) as other:
        other.execute("create table version_info (x text)")
    with pytest.raises(InputError, match="not a study"):
        go(search(tmp_path), 1)
    (tmp_path / FILE).unlink()
    foreign = optuna.create_study(storage=f"sqlite:///{tmp_path / FILE}", study_name="adacomed")
    foreign.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(InputError, match="did not make"):
        go(search(tmp_path), 1)


def test_two_searches_in_one_folder_do_not_mix(tmp_path: Path) -> None:
    what = search(tmp_path / "a b#c%20")
    known = marks(what.objective, what.space, 0)
    with opened(what.out, known), pytest.raises(InputError, match="another search"):  # noqa: SIM117
        with opened(what.out, known):
            pass
    assert (what.out / FILE).is_file()


def test_an_experiment_that_cannot_be_trained_is_the_users_to_mend(tmp_path: Path) -> None:
    what = search(tmp_path / "out", training={"inner_folds": 60})
    with pytest.raises(InputError, match="60 folds"):
        go(what, 3)
    what = search(tmp_path / "nan", "training.lr=1.0", "model.lambda=1e30:1e38:log")
    with pytest.raises(InputError, match=r"own settings|loss"):
        go(search(tmp_path / "nan2", model={"lambda": 1e38}, training={"lr": 1.0}), 2)


def test_the_difference_is_paired_and_the_best_of_equals_is_the_first(whole) -> None:
    out, rows = whole
    what = search(out)
    with opened(out, marks(what.objective, what.space, 0)) as study:
        found = collect(what, study, "title")
    assert found is not None
    top = max((r for r in rows if r["score"] is not None), key=lambda r: r["score"])
    assert found.best["score"] == top["score"]
    if found.gain is None:
        assert top["trial"] == 0
    else:
        assert found.gain.difference == pytest.approx(top["score"] - rows[0]["score"], abs=1e-12)
        assert found.gain.low <= found.gain.difference <= found.gain.high
        assert found.gain.patients == 90
    write(what, found)
