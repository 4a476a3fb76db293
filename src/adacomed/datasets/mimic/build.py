"""MIMIC-IV-MM, the paper's first data set, from the raw release to three tasks.

The steps are one file each: who (windows), X-rays (images), notes, events, labels, parts (the
split), and the account of it (flow, picture). Source: the paper's data section; reference/datasets.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, NamedTuple

import polars as pl

from adacomed.cohort.meds_files import new_dataset
from adacomed.datasets.mimic import flow as account
from adacomed.datasets.mimic.card import make_card
from adacomed.datasets.mimic.events import find_events
from adacomed.datasets.mimic.flow import Flow
from adacomed.datasets.mimic.images import find_images
from adacomed.datasets.mimic.items import Items, choose_items
from adacomed.datasets.mimic.labels import find_labels, overlapping
from adacomed.datasets.mimic.meds import write_meds
from adacomed.datasets.mimic.notes import find_notes
from adacomed.datasets.mimic.parts import grouped_split, original_split, strata_of, time_split
from adacomed.datasets.mimic.picture import draw
from adacomed.datasets.mimic.release import Tables, find_files
from adacomed.datasets.mimic.scan import CsvTables, Progress
from adacomed.datasets.mimic.variables import DEMOGRAPHICS
from adacomed.datasets.mimic.windows import SAMPLE, People, find_people
from adacomed.datasets.write import assert_writable, whole_or_nothing, write_tables
from adacomed.errors import InputError
from adacomed.schema import CohortFiles, Samples

Preset = Literal["default", "paper"]
Split = Literal["grouped", "time"]
FEWEST = 10  # samples, below which no split into three parts makes sense
SPLITS = {
    "grouped": "by patient, and death, long stay and readmission in proportion",
    "time": "by patient, those seen last are tested",
    "paper": "two nested random 15 %, by sample: a patient may be in several parts",
}


class Found(NamedTuple):
    """What a release holds, before it is written."""

    people: People
    samples: pl.DataFrame
    labels: pl.DataFrame
    images: pl.DataFrame
    notes: pl.DataFrame
    flow: Flow
    items: Items


def build(
    mimic_iv: Path,
    mimic_cxr_jpg: Path,
    mimic_iv_note: Path,
    out: Path,
    *,
    preset: Preset = "default",
    split: Split = "grouped",
    meds: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Build the cohort from csv or csv.gz files of MIMIC-IV 1.0, 2.x or 3.x.

    Args:
        mimic_iv: folder with hosp/ and icu/ (and core/ in 1.0).
        mimic_cxr_jpg: folder with the metadata and files/; the X-rays stay there.
        mimic_iv_note: folder with note/radiology.csv.gz.
        out: folder to write; a cohort built there before is replaced.
        preset: paper: the original's erasing of abnormal vitals, its scales over all data, its
            split and its readmission.
        split: of the default preset.
        meds: folder to write the same events into as a MEDS dataset.
        progress: called as files are read: name, bytes done, bytes.
    Returns:
        What flow.json holds.
    Raises:
        InputError: a file, a column, a cell or a label is not as expected, or nobody is left.
    """
    assert_writable(out)
    tables = CsvTables(find_files(mimic_iv, mimic_cxr_jpg, mimic_iv_note), progress)
    return build_from(tables, mimic_cxr_jpg, out, preset=preset, split=split, meds=meds)


def build_from(
    tables: Tables,
    images: Path,
    out: Path,
    *,
    preset: Preset = "default",
    split: Split = "grouped",
    meds: Path | None = None,
) -> dict[str, Any]:
    """The same from tables that lie anywhere.

    Args:
        tables: of the release (`CsvTables`, or `database.DatabaseTables`).
        images: folder of MIMIC-CXR-JPG, with files/.
    """
    _check(out, preset, split, meds)
    paper, kind = preset == "paper", "paper" if preset == "paper" else split
    dataset = nullcontext() if meds is None else new_dataset(meds)
    with whole_or_nothing(out) as folder, dataset as beside:
        into = folder.parent / "read"  # what is read lies beside the cohort, on the same disk
        into.mkdir()
        events = folder / CohortFiles.EVENTS
        found = _find(tables, images, into, events, paper=paper, kind=kind)
        told = {"layout": tables.layout, "simulated": tables.simulated}
        card = make_card(events, images, tables, paper=paper, split=SPLITS[kind])
        write_tables(folder, card, found.samples, found.labels)
        found.images.write_parquet(folder / CohortFiles.IMAGES)
        found.notes.write_parquet(folder / CohortFiles.NOTES)
        if beside is not None:
            admissions = pl.scan_parquet(into / "admissions.parquet", glob=False)
            write_meds(beside, found.people, found.samples, admissions, events, found.items, card)
        about = {"cohort": card.name, "source": card.source, "licence": card.licence}
        document = _account(found, {**about, **told, "preset": preset, "split": SPLITS[kind]})
        account.write_json(folder / CohortFiles.FLOW, document)
        (folder / CohortFiles.PICTURE).write_text(draw(document), encoding="utf-8")
    return document


def _check(out: Path, preset: str, split: str, meds: Path | None) -> None:
    """Raise an InputError where what is asked cannot be, before anything is read."""
    if preset not in ("default", "paper") or split not in ("grouped", "time"):
        raise InputError(
            f"preset {preset!r}, split {split!r}: expected default or paper, grouped or time"
        )
    if preset == "paper" and split != "grouped":
        raise InputError("--preset paper has a split of its own; leave --split out")
    if meds is None:
        return
    if preset == "paper":
        raise InputError(
            "--meds needs a split by patient, and --preset paper splits by sample; leave one out"
        )
    if meds.resolve().is_relative_to(out.resolve()) or out.resolve().is_relative_to(meds.resolve()):
        raise InputError(f"--meds {meds} and --out {out}: give two folders beside each other")


def _find(
    tables: Tables, images: Path, into: Path, events: Path, *, paper: bool, kind: str
) -> Found:
    """Everything of the cohort; the events are written at once."""
    d_items, d_labitems = (tables.read(t, into).collect() for t in ("d_items", "d_labitems"))
    items, flow = choose_items(d_items, d_labitems), Flow()
    people = find_people(tables, into, flow)
    xrays = find_images(tables, people, images, into, flow)
    people = _step(flow, people, xrays[SAMPLE], "with an AP X-ray", "no AP X-ray in the window")
    notes = find_notes(tables, people, into, flow)
    people = _step(flow, people, notes[SAMPLE], "with a radiology note", "no note in the window")
    _assert_some(people, flow)
    seen = find_events(tables, items, people, into, events, flow, erase=paper)
    people = _step(flow, people, seen, "with an event: the samples", "no event in the window")
    _assert_some(people, flow)
    labels = find_labels(people, paper=paper)
    samples = _samples(people, labels, kind)
    of = pl.col(SAMPLE).is_in(samples[SAMPLE].implode())
    return Found(people, samples, labels, xrays.filter(of), notes.filter(of), flow, items)


def _step(flow: Flow, people: People, samples: pl.Series, what: str, why: str) -> People:
    kept = people.only(samples.unique())
    flow.step(what, kept.stays, why)
    return kept


def _assert_some(people: People, flow: Flow) -> None:
    if len(people.stays) < FEWEST:
        steps = "; ".join(f"{s['what']}: {s['samples']}" for s in flow.steps)
        raise InputError(
            f"{len(people.stays)} samples are left, at least {FEWEST} are needed ({steps}); are "
            f"the three folders of the same patients, and whole?"
        )


def _samples(people: People, labels: pl.DataFrame, kind: str) -> pl.DataFrame:
    """samples.parquet: sample_id, subject_id, split, hadm_id, stay_id, demographics."""
    stays = people.stays
    if kind == "paper":
        parts = original_split(len(stays))
    elif kind == "time":
        parts = time_split(stays[Samples.SUBJECT_ID], stays["period"])
    else:
        parts = grouped_split(stays[Samples.SUBJECT_ID], strata_of(stays, labels))
    return stays.select(
        SAMPLE,
        Samples.SUBJECT_ID,
        pl.Series(Samples.SPLIT, parts),
        "hadm_id",
        "stay_id",
        *DEMOGRAPHICS,
    )


def _account(found: Found, about: dict[str, Any]) -> dict[str, Any]:
    """What flow.json holds."""
    labels = account.label_rows(found.labels, len(found.samples))
    notes = [
        f"{overlapping(found.people)} admissions of the samples have another admission of the "
        "patient begin before their discharge: taken as the same episode, not as a readmission."
    ]
    about |= {"parts": account.splits(found.samples), "items": found.items.told, "notes": notes}
    return account.document(found.flow, labels, about)
