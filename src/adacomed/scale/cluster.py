"""A Ray cluster: one that is there, or one of our own that nobody else can reach."""

from __future__ import annotations

import io
import logging
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO

import adacomed
from adacomed.errors import InputError

Engine = Literal["local", "ray"]

INSTALL = "pip install 'adacomed[scale]'"
START = "`ray start --head` starts one; without --address this machine's cores are used"
FOLDER = "adacomed-ray-"  # of a cluster of our own: sockets, logs, what memory has no room for
LONGEST_FOLDER = 40  # characters; a socket's whole path may have 107
DEATHS = 5  # of processes that compute the same; then we give up
ANSWER = 5.0  # seconds that a cluster may take to answer
QUIET = {"RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_USAGE_STATS_ENABLED": "0"}
# Read by Ray when it is imported: every server of the cluster listens on 127.0.0.1 only.
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
PASSED_ON = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")  # to the workers of somebody's cluster


@dataclass(frozen=True)
class Devices:
    """What a cluster has to compute on: CPU cores and GPUs, over all its machines."""

    cpus: int
    gpus: int


def check_engine(engine: Engine, address: str | None) -> None:
    """Make sure, before hours of other work, that the engine that was asked for can be had.

    Raises:
        InputError: an address for the local engine, Ray is not installed, or no cluster answers.
    """
    if engine == "local":
        if address is not None:
            raise InputError(f"--address {address} is a Ray cluster's: add --engine ray")
        return
    if address is None:
        with _environment({**QUIET, **LOOPBACK}):
            _ray()
        return
    with joined(address):
        pass


@contextmanager
def joined(address: str | None, *, cpus: int | None = None) -> Iterator[Devices]:
    """Be connected to a Ray cluster while the block runs.

    Args:
        address: None starts one on this machine, which listens on loopback only and ends with the
            block; "auto" joins the one that runs on this machine (or RAY_ADDRESS names), HOST:PORT
            that one, which this machine must be a node of. A process that is connected stays so.
        cpus: cores of a cluster that is started; None: this machine's.
    Yields:
        What the cluster has.
    Raises:
        InputError: Ray is not installed, or the address is none or does not answer.
    """
    with _environment(QUIET if address else {**QUIET, **LOOPBACK}):
        ray = _ray()
        address = address and _checked(address)
        if ray.is_initialized():
            yield _devices(ray)
            return
        before = signal.getsignal(signal.SIGTERM)  # Ray takes it over
        folder = None if address else _new_folder()
        try:
            with _silent():
                _init(ray, address, folder, cpus)
            with redirect_stdout(_Results(sys.stdout)):
                yield _devices(ray)
        finally:
            with redirect_stdout(io.StringIO()):  # what it has not said yet of deaths
                ray.shutdown()
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, before)
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)


class Starts:
    """How often each piece of work was begun, by whichever worker: a deadly one is found out.

    An actor of Ray's; it lies in this file because that imports next to nothing.
    """

    def __init__(self) -> None:
        self.begun: Counter[int] = Counter()

    def count(self, work: int) -> int:
        """Begin a piece of work; how often it was begun, this time included."""
        self.begun[work] += 1
        return self.begun[work]


@contextmanager
def losses(what: str, fewer: str) -> Iterator[None]:
    """An InputError in place of what Ray raises when a process or machine is lost for good.

    Args:
        what: was computed, for the message.
        fewer: the option that lets fewer compute at a time.
    """
    from ray.exceptions import RayError, RayTaskError

    try:
        yield
    except RayError as error:
        if isinstance(error, RayTaskError) or getattr(error, "actor_init_failed", False):
            raise  # a bug of ours, with the worker's traceback
        raise InputError(
            f"--engine ray: the processes that compute {what} died again and again "
            f"({type(error).__name__}), perhaps for want of memory; run the command again with "
            f"fewer {fewer}: what was finished is kept"
        ) from None


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise InputError(f"--engine ray: Ray is not installed; {INSTALL}") from None
    return ray


def _init(ray: Any, address: str | None, folder: Path | None, cpus: int | None) -> None:
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        if address is None:
            ray.init(
                address="local",
                num_cpus=cpus,
                include_dashboard=False,
                _temp_dir=str(folder),
                **quiet,
            )
        else:
            ray.init(address=address, runtime_env=_runtime(), **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError) as error:
        why = str(error).partition("\n")[0].strip() or type(error).__name__
        if address is None:
            raise InputError(f"--engine ray: Ray could not be started here: {why}") from None
        if address == "auto":
            raise InputError(f"--address auto: no Ray cluster runs here ({why}); {START}") from None
        raise InputError(
            f"--address {address}: {why}; a cluster that asks for a token is joined with --address "
            f"auto on one of its machines, or with RAY_AUTH_MODE=token"
        ) from None


def _runtime() -> dict[str, Any]:
    """What the workers of somebody's cluster are given: this very package, and one thread each."""
    passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    package = str(Path(adacomed.__file__).parent)
    return {"py_modules": [package], "env_vars": {"OMP_NUM_THREADS": "1", **passed}}


def _devices(ray: Any) -> Devices:
    found = ray.cluster_resources()
    return Devices(max(int(found.get("CPU", 1)), 1), int(found.get("GPU", 0)))


def _checked(address: str) -> str:
    """The address; an InputError if it is none, or nobody is there.

    Ray itself would wait for minutes, and then end the process.
    """
    where = os.environ.get("RAY_ADDRESS") or _last_started() if address == "auto" else address
    if where is None:
        return address  # Ray looks for one among the processes of this machine
    if where.startswith("ray://"):
        raise InputError(
            f"--address {where}: Ray Data does not run through the Ray client; start the command "
            f"on a machine of the cluster, with --address auto"
        )
    form = re.fullmatch(r"(\[[\da-fA-F:]+\]|[^:\s/]+):(\d{1,5})", where)
    if form is None:
        raise InputError(f"--address {where}: expected auto, or HOST:PORT of a Ray cluster")
    try:
        socket.create_connection((form[1].strip("[]"), int(form[2])), timeout=ANSWER).close()
    except (OSError, OverflowError):
        named = where if where == address else f"{address} ({where})"
        raise InputError(f"--address {named}: no Ray cluster answers there; {START}") from None
    return address  # not `where`: Ray looks for the cluster's token only for "auto"


def _last_started() -> str | None:
    """Where `ray start` last started a cluster on this machine; it may be gone since."""
    place = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    try:
        return (Path(place) / "ray" / "ray_current_cluster").read_text().strip() or None
    except OSError:
        return None


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set variables, and in the end put back these and whatever Ray has set of its own."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in os.environ.keys() | before.keys():
            if name in variables or name.startswith("RAY_") or name == "PYTHONBREAKPOINT":
                if name in before:
                    os.environ[name] = before[name]
                else:
                    os.environ.pop(name, None)


class _Results(io.TextIOBase):
    """stdout while Ray is connected: its own threads' pages of text do not end up between results.

    They tell of deaths, of which one sentence on stderr is enough.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        if not threading.current_thread().name.startswith("ray_"):
            return self._stream.write(text)
        if "worker died" in text:
            sys.stderr.write("a worker of the Ray cluster died; what it had is computed again\n")
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return self._stream.isatty()


@contextmanager
def _silent() -> Iterator[None]:
    """Nothing on stderr from below Python, where Ray says how it sets its logging."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def _new_folder() -> Path:
    """A folder that only we can read; those of processes that were killed are removed."""
    place = Path(tempfile.gettempdir())
    if len(str(place)) > LONGEST_FOLDER and Path("/tmp").is_dir():
        place = Path("/tmp")
    for left in place.glob(f"{FOLDER}*"):
        process = left.name.removeprefix(FOLDER).partition("-")[0]
        if process.isdigit() and not _runs(int(process)):
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{FOLDER}{os.getpid()}-", dir=place))


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True
