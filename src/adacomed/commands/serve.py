"""`adacomed serve`: a run as a web page and a JSON API, for this machine or behind a token."""

from __future__ import annotations

import os
import webbrowser
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from adacomed.commands.console import embedding_progress, note, say
from adacomed.commands.embed import encoder_words
from adacomed.errors import InputError, nearest
from adacomed.schema import BUNDLE
from adacomed.training.bundle import open_run
from adacomed.training.checkpoint import Run

if TYPE_CHECKING:
    from adacomed.serve.settings import Settings

MIB = 1024 * 1024


def serve(
    run: Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    token_file: Path | None = None,
    max_batch: int = 16,
    cohort: Path | None = None,
    encoder: list[str] | None = None,
    store: Path | None = None,
    audit: Path | None = None,
    max_body: float = 64,
    max_in_flight: int = 64,
    timeout: float = 60,
    open_: bool = False,
) -> None:
    """Serve a finished run: a page for people, and a JSON API for programs.

    The page has the run's results, its patients, and a form for a new one; the API is described
    under /docs. It listens on this machine alone. On any other --host every caller must show the
    token of --token-file, and since HTTP is not encrypted, put a proxy that speaks TLS before it.

    Every prediction is written to an audit log (adacomed audit verify checks it) with ids, digests
    and numbers, never a text, an image or a value of a patient. Ctrl-C or SIGTERM ends it: what was
    taken is finished first.

    Args:
        run: folder of a finished run, or a bundle (.adacomed).
        host: address to listen on; anything but this machine's own needs --token-file.
        port: to listen on; 0 takes any that is free.
        token_file: file with the token that callers show (Authorization: Bearer), 16 characters or
          more, readable by you alone.
        max_batch: patients that go through the model together.
        cohort: cohort folder or YAML whose patients the page lists [default: the run's own
          held-out patients].
        encoder: MODALITY=ENCODER where the run's encoder lies elsewhere on this machine.
        store: embedding store with vectors of the cohort's patients.
        audit: file of the audit log [default: beside the run].
        max_body: MiB of a request.
        max_in_flight: requests at work at once; the next are told to come again.
        timeout: seconds that an answer may take.
        open_: show the page in the browser.

    Example:
        adacomed serve runs/demo/run --port 8000
    """
    _assert_installed()
    settings = _settings(
        host=host,
        port=port,
        token_file=token_file,
        max_batch=max_batch,
        max_body=round(max_body * MIB),
        max_in_flight=max_in_flight,
        timeout_s=timeout,
        audit=audit or beside(run),
    )
    _serve(open_run(run), settings, cohort, encoder_words(encoder or []), store, open_)


def beside(run: Path) -> Path:
    """Where the audit log of a run is, if it is not said: runs/demo/run.audit.jsonl."""
    place = run.resolve()
    return place.with_name(f"{place.name.removesuffix(BUNDLE)}.audit.jsonl")


def _assert_installed() -> None:
    try:
        for name in ("fastapi", "uvicorn", "python_multipart", "prometheus_client"):
            import_module(name)
    except ImportError as error:
        raise InputError(f"serve needs {error.name}: pip install 'adacomed[serve]'") from None


def _settings(token_file: Path | None, **values: Any) -> Settings:
    """Settings, or a sentence that names the option that cannot be so."""
    from adacomed.serve.settings import Settings, read_token

    token = None if token_file is None else read_token(token_file)
    name = "token" if token_file is None else token_file.stem
    try:
        return Settings(token=token, token_name=name, **values)
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        option = str(wrong["loc"][0]).removesuffix("_s").replace("_", "-")
        said = wrong["msg"].replace("Input should be", "expected a value")
        raise InputError(f"--{option}: {said}") from None


def _assert_encoders(run: Run, encoders: dict[str, str]) -> None:
    """Every modality that is named has an encoder in the run."""
    has = [m for m, card in run.card.modalities.items() if getattr(card, "encoder", None)]
    for name, spec in encoders.items():
        if not name:
            raise InputError(f"--encoder {spec!r}: expected MODALITY=ENCODER")
        if name not in has:
            raise InputError(f"--encoder: no modality {name!r} with an encoder{nearest(name, has)}")


def _serve(
    run: Run,
    settings: Settings,
    cohort: Path | None,
    encoders: dict[str, str],
    store: Path | None,
    open_: bool,
) -> None:
    from adacomed.serve.app import create_app
    from adacomed.serve.audit import AuditLog
    from adacomed.serve.patients import open_patients
    from adacomed.serve.running import address, bind, run_server
    from adacomed.serve.service import Service

    _assert_encoders(run, encoders)
    listener = bind(settings)  # first: a port that is taken is known at once
    with embedding_progress() as progress:
        patients = open_patients(run, cohort, store, encoders=encoders, progress=progress)
    service = Service(run, encoders=encoders, max_batch=settings.max_batch, patients=patients)
    assert settings.audit is not None
    log = AuditLog(settings.audit)
    where = address(listener)
    say(f"{run.meta['title']}: {run.task}, {run.method}")
    say(f"page and API: {where} (the API is described under /docs)")
    say(f"audit log: {settings.audit}")
    say("research use only: not a medical device")
    if not settings.loopback:
        note(
            "other machines can reach it: every caller must show the token; HTTP is not encrypted, "
            "so put a proxy that speaks TLS before it"
        )
    if run.meta["simulated"]:
        note("the run was trained on simulated data")
    if open_:
        webbrowser.open(where)
    run_server(create_app(service, settings, log), settings, listener)
    say("stopped; what was taken is finished, the audit log is closed")
    if patients.busy:  # in native code, where the interpreter's own end would abort the process
        os._exit(0)
