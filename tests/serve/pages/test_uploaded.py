"""Uploaded patients are kept for a while, a bounded number of them, and leave nothing behind."""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from adacomed.errors import InputError
from adacomed.serve.pages.uploaded import Uploaded
from adacomed.serve.record import Case
from adacomed.training.loader import Inputs


def case(name: str) -> Case:
    who = np.array([name])
    inputs = Inputs(
        sample_id=who, subject_id=who, vectors={}, tables={}, small=[], own=[],
        target=np.array([-1]), classes=(),
    )  # fmt: skip
    return Case(sample_id=name, cohort=None, inputs=inputs)


def folder() -> TemporaryDirectory[str]:
    made = TemporaryDirectory()
    (Path(made.name) / "0000.png").write_bytes(b"a file")
    return made


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_address_leads_to_its_patient_and_cannot_be_guessed():
    kept = Uploaded()
    uids = [kept.keep(case(f"p{i}"), folder()) for i in range(5)]
    assert [kept.case(uid).sample_id for uid in uids] == [f"p{i}" for i in range(5)]
    assert len(set(uids)) == 5
    assert all(len(uid) >= 32 for uid in uids)
    with pytest.raises(InputError, match="upload the patient again"):
        kept.case(uids[0][:-1])
    kept.close()


def test_the_oldest_makes_room_and_its_files_go():
    kept, folders = Uploaded(most=2), [folder() for _ in range(3)]
    uids = [kept.keep(case(f"p{i}"), f) for i, f in enumerate(folders)]
    assert len(kept) == 2
    assert [Path(f.name).exists() for f in folders] == [False, True, True]
    with pytest.raises(InputError, match="the last 2 are"):
        kept.case(uids[0])
    kept.close()
    assert not any(Path(f.name).exists() for f in folders)


def test_who_has_been_here_too_long_is_forgotten():
    clock, files = Clock(), folder()
    kept = Uploaded(seconds=60, clock=clock)
    uid = kept.keep(case("p"), files)
    clock.now = 60
    assert kept.case(uid).sample_id == "p"
    clock.now = 60.1
    with pytest.raises(InputError, match="for 1 minutes"):
        kept.case(uid)
    assert not Path(files.name).exists()
    kept.close()


def test_files_go_though_nobody_looks():
    kept, files = Uploaded(seconds=0.3), folder()
    kept.keep(case("p"), files)
    end = time.monotonic() + 5
    while Path(files.name).exists() and time.monotonic() < end:
        time.sleep(0.02)
    assert not Path(files.name).exists()
    kept.close()
