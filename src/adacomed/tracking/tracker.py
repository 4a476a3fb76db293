"""Finished runs in MLflow: settings, curves, test metrics with their intervals, and a few files.

Local unless the user's URI says otherwise: a SQLite file beside the run folder. What is sent is
never about one patient: no row of a table of patients, no prediction. report.html shows single
patients' predictions, so it goes to a store on this machine only.
"""

from __future__ import annotations

import logging
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from adacomed import __version__
from adacomed.errors import InputError
from adacomed.schema import RunFiles
from adacomed.tracking.contents import Sent, of_comparison, of_run

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

URI, EXPERIMENT = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"  # MLflow's own variables
LOCAL = ("sqlite", "file", "")  # schemes of what is on this machine
FILE, ARTEFACTS = "mlflow.db", "mlartifacts"
RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
FEW, SOME = 2, 5  # a few seconds and about a minute, for the check and for a finished run
BATCH = {"metrics": 500, "params": 100, "tags": 100}  # below what a server takes at once
LONGEST = 6000  # of a parameter's or a tag's text


@dataclass(frozen=True)
class Tracker:
    """Where runs are tracked; made by `tracker`, which has checked that it can be reached.

    Attributes:
        uri: of the store.
        experiment: MLflow's id of its experiment.
        local: the store and its artefacts are files of this machine.
        on_fail: told in one sentence where a run could not be tracked; the run itself stands.
    """

    uri: str
    experiment: str
    local: bool
    on_fail: Callable[[str], None]

    @property
    def shown(self) -> str:
        """The URI for people: without a password."""
        return _shown(self.uri)

    def log_run(self, folder: Path, *, data: str) -> str | None:
        """Track a run folder of `adacomed train`.

        Args:
            data: `Inputs.fingerprint()` of what it was trained on.
        Returns:
            MLflow's id of the run; None where that failed.
        """
        return self.send(lambda: of_run(folder, data))

    def log_comparison(self, folder: Path, *, cohort: str, task: str, data: str) -> str | None:
        """Track the folder of `adacomed compare`: a run, and one nested in it for each method."""
        return self.send(lambda: of_comparison(folder, cohort, task, data))

    def send(self, make: Callable[[], Sent]) -> str | None:
        """Track whatever `make` gives; a failure is told to `on_fail` and raises nothing."""
        try:
            with _patience(SOME):
                return self._send(_client(self.uri), make(), None)
        except Exception as error:  # whatever a server, a driver or a disk may say
            why = _sentence(error, self.uri)
            self.on_fail(f"not tracked at {_shown(self.uri)}: {why}; the results are complete")
            return None

    def files(self, sent: Sent) -> list[Path]:
        """Those that are kept there: report.html shows single patients, and stays on this disk."""
        here = [file for file in sent.files if file.is_file()]
        return [file for file in here if self.local or file.name != RunFiles.REPORT]

    def _send(self, client: MlflowClient, sent: Sent, parent: str | None) -> str:
        from mlflow.entities import Metric, Param, RunTag

        tags = {**sent.tags, "adacomed": __version__}
        if parent is not None:
            tags["mlflow.parentRunId"] = parent
        run = client.create_run(self.experiment, run_name=sent.name)
        key, now, status = str(run.info.run_id), int(time.time() * 1000), "FAILED"
        rows: dict[str, list[Any]] = {
            "params": [Param(_name(k), _text(v)) for k, v in sent.params.items()],
            "tags": [RunTag(_name(k), _text(v)) for k, v in tags.items()],
            "metrics": [
                Metric(_name(name), float(value), now, step)
                for name, values in sent.metrics.items()
                for step, value in ([(0, values)] if isinstance(values, float | int) else values)
                if math.isfinite(value)
            ],
        }
        try:
            for kind, size in BATCH.items():
                for start in range(0, len(rows[kind]), size):
                    batch: dict[str, Any] = {kind: rows[kind][start : start + size]}
                    client.log_batch(key, **batch)
            for file in self.files(sent):
                client.log_artifact(key, str(file))
            for inner in sent.runs:
                self._send(client, inner, key)
            status = "FINISHED"
        finally:
            client.set_terminated(key, status)
        return key


def resolve_uri(uri: str | None, out: Path) -> str:
    """Where to track: the URI given, else MLFLOW_TRACKING_URI, else mlflow.db beside `out`."""
    given = uri or os.environ.get(URI)
    if given:
        return given
    from sqlalchemy import URL

    file = out.absolute().parent / FILE
    return URL.create("sqlite", database=str(file)).render_as_string()


def tracker(uri: str | None, out: Path, *, on_fail: Callable[[str], None]) -> Tracker:
    """A tracker that works now, before hours of training: packages, address, right to write.

    Args:
        uri: as `resolve_uri` takes it.
        out: folder of the run; without a URI the store lies beside it.
        on_fail: see `Tracker`.
    Raises:
        InputError: MLflow is not installed, or the store cannot be reached or written to.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # of MLflow's makers; read at import
    try:
        import mlflow  # noqa: F401
        import sqlalchemy  # noqa: F401
    except ImportError:
        raise InputError("tracking needs MLflow: pip install 'adacomed[track]'") from None
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    place = resolve_uri(uri, out)
    try:
        with _patience(FEW):
            key, artefacts = _experiment(_client(place), place)
    except Exception as error:  # whatever a server, a driver or a disk may say
        raise InputError(f"cannot track at {_shown(place)}: {_sentence(error, place)}") from None
    local = all(urlsplit(at).scheme in LOCAL for at in (place, artefacts))
    return Tracker(place, key, local, on_fail)


def _experiment(client: MlflowClient, place: str) -> tuple[str, str]:
    """Id and artefacts' place of the experiment, made where there is none, and written to."""
    name = os.environ.get(EXPERIMENT) or "adacomed"
    if client.get_experiment_by_name(name) is None:
        client.create_experiment(name, _artefacts(place))
    found = client.get_experiment_by_name(name)
    if found is None or found.lifecycle_stage != "active":
        raise InputError(f"experiment {name!r} was deleted there; restore it, or set {EXPERIMENT}")
    client.set_experiment_tag(found.experiment_id, "adacomed", __version__)
    return str(found.experiment_id), str(found.artifact_location)


def _client(uri: str) -> MlflowClient:
    from mlflow.tracking import MlflowClient

    if uri.startswith("sqlite:///"):
        Path(_sqlite_file(uri)).parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _sqlite_file(uri: str) -> str:
    return unquote(uri.removeprefix("sqlite:///").partition("?")[0])


def _artefacts(uri: str) -> str | None:
    """Beside a SQLite file; a server knows itself where."""
    if not uri.startswith("sqlite:///"):
        return None
    return Path(_sqlite_file(uri)).absolute().with_name(ARTEFACTS).as_uri()


@contextmanager
def _patience(retries: int) -> Iterator[None]:
    """MLflow waits four minutes for a server that is not there, unless the user said otherwise."""
    ours = RETRIES not in os.environ
    if ours:
        os.environ[RETRIES] = str(retries)
    try:
        yield
    finally:
        if ours:
            os.environ.pop(RETRIES, None)


def _shown(uri: str) -> str:
    """The URI without the password that may be in it.

    >>> _shown("http://me:secret@host:5000/x")
    'http://host:5000/x'
    """
    return re.sub(r"//[^/@]*@", "//", uri)


def _sentence(error: Exception, uri: str) -> str:
    """The first line of what went wrong, without the URI, which may hold a password."""
    if isinstance(error, ModuleNotFoundError):
        return f"its driver {error.name} is not installed"
    lines = str(error).replace(uri, _shown(uri)).strip().splitlines()
    text = _shown(lines[0]) if lines else type(error).__name__
    reached = any(word in str(error) for word in ("Max retries", "Connection", "timed out"))
    return "nothing answers there" if reached else text[:200]


def _name(text: str) -> str:
    """A name that MLflow takes."""
    return re.sub(r"[^\w./: -]", "_", text, flags=re.ASCII)[:250]


def _text(value: Any) -> str:
    return str(value)[:LONGEST]
