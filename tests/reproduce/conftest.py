"""A study of a few simulated patients, small enough to train everything in seconds."""

from collections.abc import Callable
from pathlib import Path

import pytest

from adacomed.datasets import simulated
from adacomed.reproduce.study import Study
from adacomed.training.grid import run_grid

TINY = (
    "training.epochs=2",
    "training.inner_folds=2",
    "training.members=1",
    "baselines.size=tiny",
    "small.width=8",
    "small.kind=shallow",
    "model.H=8",
    "model.d=8",
)


@pytest.fixture(scope="session")
def patients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort") / "simulated"
    simulated.build(folder, samples=150, modalities=2)
    return folder


@pytest.fixture
def study(patients: Path, tmp_path: Path) -> Callable[..., Study]:
    """A study; further settings over the tiny ones."""
    return maker(patients, tmp_path)


@pytest.fixture(scope="module")
def study_kept(patients: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Study]:
    """The same, its folder kept between a file's tests: what one has trained, the next finds."""
    return maker(patients, tmp_path_factory.mktemp("study"))


def maker(patients: Path, out: Path) -> Callable[..., Study]:
    def make(*overrides: str, cohort: Path = patients, **more: object) -> Study:
        return Study(
            cohort=cohort,
            out=out,
            train=lambda grid: run_grid(
                grid, jobs=1, on_tick=lambda *_: None, on_done=lambda _: None
            ),
            overrides=(*TINY, *overrides),
            resamples=20,
            repeats=1,
            **more,  # type: ignore[arg-type]
        )

    return make
