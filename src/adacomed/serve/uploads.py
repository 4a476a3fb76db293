"""A request's body → new patients and their files, each file under a name of ours."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic_core import from_json
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from adacomed.errors import InputError, nearest
from adacomed.readers.tabular import Category
from adacomed.serve.archives import unpack_series
from adacomed.serve.arrival import Arrival, Upload
from adacomed.serve.claims import check_claims
from adacomed.serve.refusals import Refusal
from adacomed.serve.requests import NewPatient, PredictRequest
from adacomed.serve.settings import MIB, Settings
from adacomed.training.checkpoint import Run

LONGEST_NAME = 200
PATIENT = "patient"  # the part with the JSON of a NewPatient
WHO = ("sample_id", "index_time")
VECTOR_FILES = (".npy", ".npz", ".parquet")
FILES: Mapping[str, tuple[str, ...]] = {  # kind → endings that a file of it may have
    "image": (".png", ".jpg", ".jpeg", ".dcm", ".dicom", ""),  # a DICOM file often has none
    "volume": (".nii", ".nii.gz", ".zip"),
    "slide": (".svs", ".tif", ".tiff", ".ndpi", ".scn", ".bif"),
    "text": (".txt",),
    "series": (".csv", ".tsv", ".json"),
    "tabular": (".csv", ".tsv", ".json"),
    "embedding": (".json",),
}


async def read_arrival(request: Request, folder: Path, settings: Settings) -> list[Arrival]:
    """The new patients of a request in JSON, or the one of a form with files.

    A form has files in parts named by their modality, a text in a field named by its modality, a
    table's cells in fields `modality.column` (empty: not recorded), and may have `sample_id`,
    `index_time`, and `patient`, the JSON of a NewPatient.

    Args:
        folder: an empty one, where uploads are put.
    Raises:
        Refusal: 400 not JSON or no form; 413 too large; 415 another type; 422 a file name.
        InputError, ValidationError: what is in it does not fit.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().casefold()
    if kind == "multipart/form-data":
        return [await _read_form(request, folder, settings)]
    if kind == "application/json":
        body = await _read_json(request, settings)
        parsed = await run_in_threadpool(_parsed, body)
        wanted = await run_in_threadpool(PredictRequest.model_validate, parsed)
        return [Arrival(patient) for patient in wanted.patients]
    raise Refusal(
        415, "application/json or multipart/form-data would work as Content-Type", reason="type"
    )


async def _read_json(request: Request, settings: Settings) -> bytes:
    """The body of a JSON request, which has a limit of its own: as objects it is ten times it."""
    pieces, size = [], 0
    async for piece in request.stream():
        size += len(piece)
        if size > settings.max_json:
            most = f"{settings.max_json / MIB:.0f} MiB"
            raise Refusal(413, f"JSON of over {most}; send files in a form instead", reason="large")
        pieces.append(piece)
    return b"".join(pieces)


def _parsed(text: str | bytes) -> Any:
    """JSON as values; NaN, infinity and hundreds of brackets within each other are none."""
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError as error:  # it says where, not what
        raise Refusal(400, f"not JSON: {error}"[:200], reason="json") from None


@dataclass
class _Form:
    """What a form has brought so far."""

    run: Run
    folder: Path
    settings: Settings
    patient: dict[str, Any] = field(default_factory=dict)
    modalities: dict[str, Any] = field(default_factory=dict)
    uploads: list[Upload] = field(default_factory=list)

    def kind_of(self, modality: str) -> str:
        """The kind of one of the run's modalities."""
        cards = self.run.card.modalities
        if modality not in cards:
            raise InputError(f"no modality {modality!r}{nearest(modality, cards)}"[:400])
        return cards[modality].kind

    def add(self, name: str, value: str) -> None:
        """A field."""
        if not value.strip():
            return  # left blank
        if name == PATIENT:
            parsed = _parsed(value)
            if not isinstance(parsed, dict):
                raise InputError("patient: expected the JSON object of one patient")
            self.modalities |= _objects(parsed.pop("modalities", {}))
            self.patient |= parsed
        elif name in WHO:
            self.patient[name] = value.strip()
        elif (table := self._table_of(name)) is not None:
            self._add_cell(table, name.removeprefix(f"{table}."), value)
        else:
            self._add_value(name, self.kind_of(name), value)

    def add_file(self, name: str, file: UploadFile) -> None:
        """A file: named plainly, bounded by what it claims, kept under a name of ours."""
        if not file.filename and not file.size:
            return  # a browser's field without a file
        told = plain(file.filename or "")
        if name == PATIENT:
            self.add(name, _text(file, told, self.settings.max_json))
            return
        kind = self.kind_of(name)
        ending = ending_of(told, kind, name)
        if ending == ".json":
            self._merge(name, _parsed(_text(file, told, self.settings.max_json)))
            return
        place = self.folder / f"{len(self.uploads):04d}{ending}"
        with place.open("xb") as target:
            shutil.copyfileobj(file.file, target)
        if ending == ".zip":
            archive, place = place, place.with_suffix("")
            unpack_series(archive, place, told, self.settings)
            archive.unlink()
        upload = Upload(name, told, place)
        try:
            check_claims(place, told, self.settings)
        except InputError as error:
            raise in_their_words(error, [upload]) from None
        self.uploads.append(upload)

    def arrival(self) -> Arrival:
        """The one patient of the form."""
        # a patient may have files alone, which the JSON of a patient does not know
        shown = self.modalities or dict.fromkeys({u.modality for u in self.uploads}, "a file")
        patient = NewPatient.model_validate({**self.patient, "modalities": shown})
        if not self.modalities:
            patient = patient.model_copy(update={"modalities": {}})
        return Arrival(patient, tuple(self.uploads), self.folder)

    def _table_of(self, name: str) -> str | None:
        """The table whose column a field is, where its name is `modality.column`."""
        tables = [m for m, c in self.run.card.modalities.items() if c.kind == "tabular"]
        return max((t for t in tables if name.startswith(f"{t}.")), key=len, default=None)

    def _add_cell(self, table: str, column: str, value: str) -> None:
        cells = self.modalities.setdefault(table, {})
        if not isinstance(cells, dict) or column in cells:
            raise InputError(f"{table}.{column}: given twice")
        encoder = self.run.trained.fitted.tables.get(table)
        known = {c.name: c for c in encoder.columns} if encoder else {}
        category = isinstance(known.get(column), Category)
        number = None if category else _number(value)
        if number is None and column in known and not category:
            raise InputError(f"{table}.{column}: expected a number, or nothing")
        cells[column] = value.strip() if number is None else number

    def _add_value(self, name: str, kind: str, value: str) -> None:
        if kind == "text":
            self._merge(name, value)
        elif kind == "series" and value.lstrip()[:1] not in "[{":
            place = self.folder / f"{len(self.uploads):04d}.csv"
            place.write_text(value, "utf-8")
            self.uploads.append(Upload(name, f"what was pasted for {name}", place))
        else:
            self._merge(name, _parsed(value))

    def _merge(self, name: str, value: Any) -> None:
        """A further value: texts beside each other, anything else once."""
        if name not in self.modalities:
            self.modalities[name] = value
            return
        before = self.modalities[name]
        texts = [*before] if isinstance(before, list) else [before]
        if not isinstance(value, str) or not all(isinstance(text, str) for text in texts):
            raise InputError(f"{name}: given twice")
        self.modalities[name] = [*texts, value]


async def _read_form(request: Request, folder: Path, settings: Settings) -> Arrival:
    try:
        form = await request.form(
            max_files=settings.max_files,
            max_fields=settings.max_fields,
            max_part_size=settings.max_json,
        )
    except HTTPException as error:
        large = any(word in str(error.detail) for word in ("Too many", "exceeded"))
        raise Refusal(
            413 if large else 400, f"the form cannot be read: {error.detail}", reason="form"
        ) from None
    run: Run = request.app.state.service.run
    found = _Form(run, folder, settings)

    def take() -> Arrival:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                found.add_file(name, value)
            else:
                found.add(name, value)
        return found.arrival()

    try:
        return await run_in_threadpool(take)
    finally:
        await form.close()


def in_their_words(error: InputError, uploads: Iterable[Upload]) -> InputError:
    """A reader's sentence with the caller's names for the files, in place of where we put them."""
    sentence = str(error)
    for upload in uploads:
        sentence = sentence.replace(str(upload.path), upload.name)
        sentence = sentence.replace(str(upload.path.parent) + "/", "")
    return InputError(sentence)


def plain(name: str) -> str:
    """A file's name as its owner gave it, if it is nothing but a name.

    Raises:
        Refusal: 422 it is, or hides, a path; or is too long, or not printable.
    """
    if not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        raise Refusal(
            422, f"a file's name has 1 to {LONGEST_NAME} printable characters", reason="name"
        )
    if "/" in name or "\\" in name or ".." in name:
        raise Refusal(422, "a file's name must be a name, without a path in it", reason="name")
    return name


def ending_of(name: str, kind: str, modality: str) -> str:
    """The ending that a file of a modality gets here; its content is looked at by the readers."""
    folded = name.casefold()
    known = (*FILES[kind], *VECTOR_FILES)
    for ending in sorted(known, key=len, reverse=True):
        if ending and folded.endswith(ending):
            return ending
    if "" in known and "." not in folded.strip("."):
        return ""
    some = ", ".join(dict.fromkeys(e for e in known if e))
    raise Refusal(422, f"{name}: a file of {modality} ends with one of {some}", reason="name")


def _text(file: UploadFile, name: str, most: int) -> str:
    data = file.file.read(most + 1)
    if len(data) > most:
        raise Refusal(413, f"{name}: over {most / MIB:.0f} MiB", reason="large")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{name}: not UTF-8 text; save it as UTF-8") from None


def _objects(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError("patient.modalities: expected an object, modality → value")
    return value


def _number(text: str) -> float | None:
    """A finite number with a point; None for anything else: 1,000 is one or a thousand."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if abs(number) <= 1e300 else None
