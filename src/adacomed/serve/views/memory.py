"""A few things kept in memory for a while, so that moving a slider does not read a file again."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Memory(Generic[T]):
    """The last things made, by key; thread-safe, and each is made once however many ask for it.

    Args:
        limit: of the sizes' sum; the one last asked for is kept even if it is larger.
        seconds: after which a thing is forgotten, for it is a patient's.
        size: of one thing, in the unit of `limit`.
        at_once: how many may be in the making.
    """

    def __init__(
        self,
        limit: int,
        *,
        seconds: float = 1800,
        size: Callable[[T], int] = lambda thing: 1,
        at_once: int = 2,
    ) -> None:
        self.limit, self.seconds, self.size = limit, seconds, size
        self._things: OrderedDict[Hashable, tuple[float, int, T]] = OrderedDict()
        self._making: dict[Hashable, threading.Lock] = {}
        self._lock = threading.Lock()
        self._room = threading.BoundedSemaphore(at_once)

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The thing of `key`, made now if it is not there; what `make` raises is not kept."""
        with self._lock:
            self._forget()
            if key in self._things:
                return self._touch(key)
            mine = self._making.setdefault(key, threading.Lock())
        with mine:
            with self._lock:
                if key in self._things:  # made while we waited
                    return self._touch(key)
            try:
                with self._room:
                    thing = make()
                with self._lock:
                    self._things[key] = (time.monotonic(), self.size(thing), thing)
                    self._shrink()
            finally:
                with self._lock:
                    self._making.pop(key, None)
        return thing

    def __len__(self) -> int:
        return len(self._things)

    def _touch(self, key: Hashable) -> T:
        _, size, thing = self._things[key]
        self._things[key] = (time.monotonic(), size, thing)
        self._things.move_to_end(key)
        return thing

    def _forget(self) -> None:
        now = time.monotonic()
        old = [k for k, (then, _, _) in self._things.items() if now - then > self.seconds]
        for key in old:
            del self._things[key]

    def _shrink(self) -> None:
        while len(self._things) > 1 and sum(n for _, n, _ in self._things.values()) > self.limit:
            self._things.popitem(last=False)
