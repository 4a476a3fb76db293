"""A service's answers: those of `adacomed predict`, whatever else is in flight."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tests.serve.arrivals import arrival, cohort_beside, gap, offline, predict_all, same
from tests.serve.served import WIDTH

from adacomed.cohort.cohort import Cohort
from adacomed.errors import InputError
from adacomed.schema import RunFiles
from adacomed.serve.arrival import Arrival, Upload
from adacomed.serve.batching import Batcher, ClosedError, depends_on_others
from adacomed.serve.requests import NewPatient
from adacomed.serve.service import Service, nobody
from adacomed.training.checkpoint import Run, load_run

EXACT = 1e-12
SIX = ("clinical", "note", "xray", "ct", "vitals", "genes")


@pytest.fixture(scope="module")
def run(small_run: Path) -> Run:
    return load_run(small_run)


@pytest.fixture(scope="module")
def cohort(small_run: Path) -> Cohort:
    return cohort_beside(small_run)


@pytest.fixture(scope="module")
def service(run: Run) -> Iterator[Service]:
    made = Service(run, max_batch=8)
    made.warm()
    yield made
    asyncio.run(made.close())


def test_every_subset_of_the_modalities_equals_predict(service, run, cohort) -> None:
    """63 patients, each with other things missing, all at once."""
    subsets = [s for n in range(1, 7) for s in combinations(SIX, n)]
    cases = [service.case(arrival(run, cohort, i % 48, s)) for i, s in enumerate(subsets)]
    records = predict_all(service, cases)
    for i, (names, record) in enumerate(zip(subsets, records, strict=True)):
        rows = offline(run, cohort.take(np.array([i % 48])), set(SIX) - set(names))
        assert gap(record, rows[0]) <= EXACT
        assert sorted(u["modality"] for u in record["used"]) == sorted(names)
        assert sorted(record["absent"]) == sorted(set(SIX) - set(names))
        json.dumps(record, allow_nan=False)


def test_company_changes_nothing(service, run, cohort) -> None:
    cases = [service.case(arrival(run, cohort, i)) for i in range(32)]
    alone = [asyncio.run(service.predict(case)) for case in cases]
    assert same(predict_all(service, cases), alone)
    assert same(predict_all(service, cases[::-1]), alone[::-1])
    whole = offline(run, cohort)
    assert max(gap(r, whole[i]) for i, r in enumerate(alone)) <= EXACT


def test_another_size_of_batch_changes_nothing_that_shows(service, run, cohort) -> None:
    wide = Service(run, max_batch=32)
    cases = [service.case(arrival(run, cohort, i)) for i in range(5)]
    assert same(predict_all(wide, cases), predict_all(service, cases))
    asyncio.run(wide.close())


def test_taken_away_is_the_same_as_never_there(service, run, cohort) -> None:
    whole = service.case(arrival(run, cohort, 3))
    for gone in (["xray"], ["note", "clinical"], ["ct", "vitals", "genes"]):
        record = asyncio.run(service.predict(whole, gone))
        assert sorted(record["without"]) == sorted(gone)
        never = service.case(arrival(run, cohort, 3, set(SIX) - set(gone)))
        other = asyncio.run(service.predict(never))
        assert same(record["predictions"], other["predictions"])
        assert (record["absent"], other["without"]) == ([], [])
    with pytest.raises(InputError, match=r"'xrays' to take away; known: .*xray"):
        asyncio.run(service.predict(whole, ["xrays"]))


def test_without_anything_it_is_what_the_model_says_of_nobody(service, run, cohort) -> None:
    record = asyncio.run(service.predict(service.case(arrival(run, cohort, 0)), SIX))
    base = service.explain(service.case(arrival(run, cohort, 0))).base[1]
    assert record["predictions"][0]["prob"]["Y"] == pytest.approx(base, abs=EXACT)
    assert record["used"] == []


def test_items_are_pooled_and_files_do_as_well_as_values(service, run, cohort, tmp_path) -> None:
    """Vectors by file or list, notes by file, a series by file, a table by file."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(2, WIDTH)).astype(np.float32)
    for n, vector in enumerate(vectors):
        np.save(tmp_path / f"{n}.npy", vector)
    pl.DataFrame({"vector": vectors.tolist()}).write_parquet(tmp_path / "v.parquet")
    (tmp_path / "note.txt").write_text("Fever since Monday.")
    hours = pl.DataFrame({"hours": [0.0, 2.5], "variable": ["hr", "map"], "value": [70.0, 80.0]})
    hours.write_csv(tmp_path / "s.csv")
    pl.DataFrame({"age": [61], "sex": ["F"]}).write_csv(tmp_path / "t.csv")
    values = {
        "genes": vectors.tolist(),
        "note": "Fever since Monday.",
        "vitals": hours.to_dicts(),
        "clinical": {"age": 61, "sex": "F"},
    }
    by_value = service.case(Arrival(NewPatient(modalities=values)))
    first = asyncio.run(service.predict(by_value))
    assert {u["modality"]: u["items"] for u in first["used"]} == {
        "clinical": 2,
        "note": 1,
        "vitals": 2,
        "genes": 2,
    }
    for genes in (["0.npy", "1.npy"], ["v.parquet"]):
        files = [("genes", name) for name in genes]
        files += [("note", "note.txt"), ("vitals", "s.csv"), ("clinical", "t.csv")]
        uploads = tuple(Upload(m, name, tmp_path / name) for m, name in files)
        patient = NewPatient.model_construct(sample_id="new", modalities={}, index_time=None)
        by_file = service.case(Arrival(patient, uploads, tmp_path))
        assert same(asyncio.run(service.predict(by_file)), first)


def test_a_ready_vector_does_where_the_run_has_an_encoder(service, run, cohort) -> None:
    raw = service.case(arrival(run, cohort, 2, ["xray"]))
    vector = raw.inputs.vectors["xray"][0].tolist()
    ready = service.case(Arrival(NewPatient(modalities={"xray": vector})))
    one, other = predict_all(service, [raw, ready])
    assert same(one["predictions"], other["predictions"])
    assert one["used"][0]["source"].startswith("moments@")
    assert other["used"][0]["source"] == "as given"


def test_fhir_observations_are_measurements(service) -> None:
    def observed(code: str, value: float, unit: str, hour: int) -> dict[str, object]:
        resource = {
            "resourceType": "Observation",
            "status": "final",
            "code": {"text": code},
            "effectiveDateTime": f"2024-01-01T{hour:02d}:00:00Z",
            "valueQuantity": {"value": value, "unit": unit},
        }
        return {"resource": resource}

    entry = [observed("hr", 70, "/min", 8), observed("map", 80, "mm[Hg]", 9)]
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": entry}
    patient = {"modalities": {"vitals": bundle}, "index_time": "2024-01-01T08:00:00Z"}
    rows = [(0.0, "hr", 70.0), (1.0, "map", 80.0)]
    plain = [{"hours": h, "variable": v, "value": x} for h, v, x in rows]
    cases = [
        service.case(Arrival(NewPatient.model_validate(p)))
        for p in (patient, {"modalities": {"vitals": plain}})
    ]
    one, other = predict_all(service, cases)
    assert same(one["predictions"], other["predictions"])


@pytest.mark.parametrize(
    ("modalities", "helps"),
    [
        ({"xrays": "x"}, ["'xrays'", "did you mean 'xray'"]),
        ({"clinical": "x"}, ["'clinical'", "object of columns", "a text arrived"]),
        ({"clinical": {"agee": 1}}, ["'agee'", "did you mean 'age'"]),
        ({"clinical": {"age": "Secret"}}, ["'age'"]),
        ({"clinical": {"age": None, "sex": " "}}, ["nothing is recorded", "genes"]),
        ({"note": ["", "  "]}, ["nothing is recorded"]),
        ({"note": {"a": 1}}, ["'note'", "a text", "an object of columns arrived"]),
        ({"genes": [0.5] * 5}, ["'genes'", "5 numbers", f"vectors of {WIDTH}"]),
        ({"genes": [[0.5] * WIDTH, [0.5]]}, ["'genes'", "1 numbers"]),
        ({"genes": [1e30] * WIDTH}, ["'genes'", "not finite"]),
        ({"xray": [0.5] * 3}, ["3 numbers", "vectors of 4", "moments:picture"]),
        ({"xray": "scan.png"}, ["files of the image", "4 numbers", "a text arrived"]),
        ({"vitals": {"hr": 70}}, ["measurements", "FHIR Bundle"]),
    ],
)
def test_what_cannot_be_used(modalities, helps, service) -> None:
    with pytest.raises(InputError) as caught:
        asyncio.run(service.predict(service.case(Arrival(NewPatient(modalities=modalities)))))
    message = str(caught.value)
    assert all(words in message for words in helps), message
    assert "Secret" not in message
    assert "\n" not in message


def test_a_broken_file_is_named_as_its_owner_named_it(service, tmp_path) -> None:
    broken = tmp_path / "u0.png"
    broken.write_bytes(b"\x89PNG not really")
    patient = NewPatient.model_construct(sample_id="new", modalities={}, index_time=None)
    with pytest.raises(InputError) as caught:
        service.case(Arrival(patient, (Upload("xray", "thorax.png", broken),), tmp_path))
    message = str(caught.value)
    assert "thorax.png" in message
    assert "u0" not in message
    assert str(tmp_path) not in message
    assert "adacomed embed" not in message


def test_an_error_reaches_its_own_caller_only(run, service, cohort) -> None:
    batcher = Batcher(run, 8)
    good = service.case(arrival(run, cohort, 0)).inputs
    wrong = replace(good, vectors={**good.vectors, "genes": np.ones((1, 3), np.float32)})
    answers = [batcher.submit(x) for x in (good, wrong, good, wrong, good)]
    rows = [a.result() for a in answers[::2]]
    assert same(rows[0], rows[1])
    assert same(rows[0], rows[2])
    for bad in answers[1::2]:
        with pytest.raises(InputError, match=f"width 3, the model was trained on {WIDTH}"):
            bad.result()
    gone = batcher.submit(good)
    gone.cancel()
    assert same(batcher.submit(good).result(), rows[0])
    batcher.close()


def test_closing_finishes_what_was_taken(run) -> None:
    batches: list[int] = []
    batcher = Batcher(run, 4, batches.append)
    answers = [batcher.submit(nobody(run)) for _ in range(30)]
    batcher.close()
    assert all(a.done() for a in answers)
    assert all(same(a.result(), answers[0].result()) for a in answers)
    assert sum(batches) == 30
    assert max(batches) == 4
    with pytest.raises(ClosedError, match="stopping"):
        batcher.submit(nobody(run))


def test_a_preset_that_mixes_patients_gets_them_alone(run) -> None:
    mixing = replace(run, meta={**run.meta, "preset": "authors"})
    assert not depends_on_others(run)
    assert depends_on_others(mixing)
    batcher = Batcher(mixing, 16)
    assert batcher.size == 1
    batcher.close()


def test_an_encoder_that_is_not_here_is_told_and_vectors_still_do(run) -> None:
    service = Service(run, encoders={"note": "no_such_module_here:embed"})
    service.warm()
    assert service.ready
    assert "no_such_module_here" in service.unavailable["note"]
    with pytest.raises(InputError, match="'note'"):
        service.case(Arrival(NewPatient(modalities={"note": "Fever."})))
    case = service.case(Arrival(NewPatient(modalities={"note": [6.0, 0.0, 2.0, 1.0]})))
    assert asyncio.run(service.predict(case))["used"][0]["source"] == "as given"
    asyncio.run(service.close())


def test_nothing_of_a_case_stays_on_disk(service) -> None:
    rows = [{"hours": 1, "variable": "hr", "value": 70}]
    case = service.case(Arrival(NewPatient(modalities={"vitals": rows})))
    folder = case.keep.path  # type: ignore[attr-defined]
    assert list(folder.iterdir())
    assert folder.stat().st_mode & 0o077 == 0
    del case
    assert not folder.exists()


def test_the_record_says_what_was_used(service, run) -> None:
    values = {"clinical": {"sex": "X"}, "genes": [0.0] * WIDTH}
    case = service.case(Arrival(NewPatient(sample_id="n-1", modalities=values)))
    record = asyncio.run(service.predict(case))
    clinical, genes = record["used"]  # in the order of the cohort
    assert (clinical["cells"], clinical["missing"], clinical["unseen"]) == (1, ["age"], ["sex"])
    assert (genes["items"], genes["source"]) == (1, "as given")
    assert record["provenance"]["model_hash"] == run.model_hash
    assert set(case.hashes) == {"clinical", "genes"}
    assert all(len(digest) == 64 for digest in case.hashes.values())
    said = record["predictions"][0]
    assert said["positive"] == (said["prob"]["Y"] >= said["threshold"])
    assert RunFiles.MODEL not in json.dumps(record)
