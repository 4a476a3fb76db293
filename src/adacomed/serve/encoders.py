"""Encoders that are loaded once and shared by every request, one item group at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adacomed.cohort.cohort import Cohort
from adacomed.encoders.base import Encoder, EncoderCard
from adacomed.encoders.choice import load_for

PIECE = 8  # items: so that one patient need not wait for a whole cohort that is being embedded


class Shared:
    """An encoder for several threads: one of them is in it at a time.

    An item's vector does not depend on its neighbours, so pieces change no bit.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._lock = threading.Lock()

    @property
    def card(self) -> EncoderCard:
        """Of the encoder itself."""
        return self._encoder.card

    def encode(self, items: Sequence[Any]) -> NDArray[np.float32]:
        """Vectors of n items, (n, D)."""
        if len(items) <= PIECE:
            with self._lock:
                return self._encoder.encode(items)
        parts = []
        for first in range(0, len(items), PIECE):
            with self._lock:
                parts.append(self._encoder.encode(items[first : first + PIECE]))
            time.sleep(0.001)  # a lock alone is not handed to who waits for it
        return np.concatenate(parts)


class Encoders:
    """`intake.gather_for`'s `load`, that keeps what it has loaded.

    Args:
        load: what loads an encoder.
    """

    def __init__(self, load: Callable[[Cohort, str, str], Encoder] = load_for) -> None:
        self._load = load
        self._kept: dict[tuple[str, str], Shared] = {}
        self._locks: dict[tuple[str, str], threading.Lock] = {}
        self._lock = threading.Lock()

    def __call__(self, cohort: Cohort, modality: str, spec: str) -> Shared:
        """The encoder `spec` of a modality; two callers at once load it once.

        Raises:
            InputError: no such encoder, or its weights are not here.
        """
        key = (modality, spec)
        with self._lock:
            mine = self._locks.setdefault(key, threading.Lock())
        with mine:
            if key not in self._kept:
                self._kept[key] = Shared(self._load(cohort, modality, spec))
            return self._kept[key]
