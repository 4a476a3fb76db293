"""Patients that someone has uploaded: kept for a while under an address that cannot be guessed."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from adacomed.errors import InputError

if TYPE_CHECKING:
    from adacomed.serve.service import Case

MOST, MINUTES = 32, 30


@dataclass(frozen=True)
class Kept:
    """One uploaded patient, the folder of its files, and when it came (seconds of a clock)."""

    case: Case
    folder: TemporaryDirectory[str]
    since: float


class Uploaded:
    """The last patients uploaded; thread-safe. Whoever is forgotten has their files deleted.

    Args:
        most: patients; another one takes the place of the oldest.
        seconds: after which a patient is forgotten, whether or not anyone looks.
        clock: seconds.
    """

    def __init__(
        self,
        most: int = MOST,
        seconds: float = 60 * MINUTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.most, self.seconds, self.clock = most, seconds, clock
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def __len__(self) -> int:
        self.forget()
        return len(self._kept)

    def keep(self, case: Case, folder: TemporaryDirectory[str]) -> str:
        """Take a patient in, with the folder that its files lie in; returns the patient's address.

        The address has 192 random bits: to know it is to be the one who uploaded.
        """
        uid = secrets.token_urlsafe(24)
        with self._lock:
            self._kept[uid] = Kept(case, folder, self.clock())
        self.forget()
        return uid

    def case(self, uid: str) -> Case:
        """The patient of an address.

        Raises:
            InputError: forgotten, or never there.
        """
        self.forget()
        with self._lock:
            found = self._kept.get(uid)
        if found is None:
            raise InputError(
                f"this uploaded patient is not kept any more (the last {self.most} are, for "
                f"{self.seconds / 60:.0f} minutes); upload the patient again"
            )
        return found.case

    def forget(self) -> None:
        """Let go of who has been here too long, and of the oldest if there are too many."""
        with self._lock:
            now = self.clock()
            old = [uid for uid, kept in self._kept.items() if now - kept.since > self.seconds]
            spare = [uid for uid in self._kept if uid not in old]
            old += spare[: max(0, len(spare) - self.most)]
            gone = [self._kept.pop(uid) for uid in old]
            if self._kept and self._timer is None:
                self._timer = threading.Timer(self.seconds / 10, self._look_again)
                self._timer.daemon = True
                self._timer.start()
        for kept in gone:
            kept.folder.cleanup()

    def _look_again(self) -> None:
        with self._lock:
            self._timer = None
        self.forget()

    def close(self) -> None:
        """Forget everyone."""
        with self._lock:
            gone = list(self._kept.values())
            self._kept.clear()
            if self._timer is not None:
                self._timer.cancel()
        for kept in gone:
            kept.folder.cleanup()
