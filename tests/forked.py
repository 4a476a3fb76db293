"""Real processes that are quick to start: torch and the commands are imported once, then forked.

A child is a process of its own, with its own exit code, and can be killed with any signal.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil

ROOT = str(Path(__file__).parents[1])
if ROOT not in sys.path:
    sys.path.append(ROOT)  # a child imports the test module that its function is in

PRELOADED = ("train", "compare", "embed")
_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload([f"adacomed.commands.{x}" for x in PRELOADED])


def forked(target: Callable[..., Any], *args: Any, log: Path) -> BaseProcess:
    """A started process that calls `target`; what it says, and its traceback, go to `log`."""
    child = _server.Process(target=_call, args=(target, args, log))
    child.start()
    return child


def ended(child: BaseProcess, log: Path, *, within: float = 120) -> int:
    """The exit code; −9 of a killed one."""
    child.join(within)
    assert child.exitcode is not None, f"still running after {within} s\n{log.read_text()}"
    return child.exitcode


def kill_while(child: subprocess.Popen[Any], holds: Callable[[], bool]) -> None:
    """SIGKILL at a moment when `holds()`.

    It is stopped and looked at again before: a busy machine lets it go on between look and signal.
    """
    process, end = psutil.Process(child.pid), time.monotonic() + 120
    try:
        while True:
            assert child.poll() is None, "ended before it could be killed"
            assert time.monotonic() < end, "never came to where it was to be killed"
            if holds():
                process.suspend()
                while process.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE):
                    time.sleep(0.001)
                if holds():
                    return
                process.resume()
            time.sleep(0.002)
    finally:
        child.kill()
        child.wait()


def adacomed(*words: object) -> int:
    """The command line in this process; its exit code."""
    from adacomed.cli import main

    try:
        main([str(word) for word in words])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def _call(target: Callable[..., Any], args: tuple[Any, ...], log: Path) -> None:
    import torch

    torch.set_num_threads(1)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(handle, stream)
    try:
        code = target(*args)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0)
