"""What is kept in memory: bounded, made once, forgotten in time."""

from __future__ import annotations

import threading
import time

import pytest

from adacomed.serve.views.memory import Memory


def test_the_oldest_gives_way():
    memory = Memory(10, size=len)
    for key in "abc":
        memory.get(key, lambda: "xxxx")
    made = []
    memory.get("c", lambda: made.append(1) or "new")
    memory.get("a", lambda: made.append(1) or "xxxx")
    assert len(made) == 1  # c was there, a was not
    assert len(memory) == 2


def test_one_larger_than_the_limit_is_kept_while_it_is_the_last():
    memory = Memory(1, size=len)
    memory.get("a", lambda: "x" * 100)
    assert len(memory) == 1
    memory.get("b", lambda: "x")
    assert len(memory) == 1


def test_it_forgets_in_time():
    memory = Memory(10, seconds=0.05)
    memory.get("a", lambda: "old")
    time.sleep(0.08)
    assert memory.get("a", lambda: "new") == "new"


def test_an_error_is_not_kept():
    memory = Memory(10)
    with pytest.raises(ValueError):
        memory.get("a", lambda: int("x"))
    assert memory.get("a", lambda: 3) == 3


def test_many_who_ask_at_once_get_one_thing_made_once():
    memory, made, found = Memory(10), [], []

    def make():
        made.append(1)
        time.sleep(0.05)
        return object()

    threads = [
        threading.Thread(target=lambda: found.append(memory.get("a", make))) for _ in "12345678"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert len({id(thing) for thing in found}) == 1


def test_no_more_are_in_the_making_than_there_is_room_for():
    memory, now, most = Memory(10, at_once=2), [0], [0]
    lock = threading.Lock()

    def make():
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.03)
        with lock:
            now[0] -= 1
        return 1

    threads = [threading.Thread(target=memory.get, args=(k, make)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 2
