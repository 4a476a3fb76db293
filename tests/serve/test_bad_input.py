"""What comes in wrong: the right status and one sentence, and the server lives to answer more."""

from __future__ import annotations

import io
import json
import struct
import time
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest
from tests.readers.dicom_files import ct_array, write_ct_series, write_xray
from tests.serve.served import WIDTH, Served, patient, png, serving, volume

SECRET = "Jane Secret, 71, HIV positive"


@pytest.fixture(scope="module")
def served(small_run: Path) -> Iterator[Served]:
    """One server for all of these tests: each must leave it fit for the next."""
    with serving(small_run) as found:
        yield found
        assert found.alive()
        checked = found.verify()
        assert checked.returncode == 0, checked.stdout + checked.stderr
        assert SECRET not in found.log
        assert SECRET not in found.audit.read_text()
        assert "Traceback" not in found.log
        assert "error " not in found.log, found.log  # our own faults have an id in it


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    with served.client() as found:
        yield found


def refused(answer: httpx.Response, status: int, *helps: str) -> str:
    """The sentence of a refusal."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert list(body) == ["error"]
    sentence = body["error"]
    assert 0 < len(sentence) <= 600
    assert "\n" not in sentence
    assert "Traceback" not in sentence
    assert "/tmp" not in sentence
    for words in helps:
        assert words in sentence, sentence
    return str(sentence)


def post(
    client: httpx.Client, body: Any, path: str = "/v1/predict", **headers: str
) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.post(
        path, content=content, headers={"Content-Type": "application/json"} | headers
    )


def with_modality(**modalities: Any) -> dict[str, Any]:
    return {"patients": [patient(modalities=modalities)]}


def form(client: httpx.Client, name: str, file: str, data: bytes, **fields: str) -> httpx.Response:
    return client.post("/v1/predict", files={name: (file, data)}, data=fields)


# ---- JSON ---------------------------------------------------------------------------------------
def test_the_same_patient_put_right_is_answered(client) -> None:
    found = post(client, {"patients": [patient()]})
    assert found.status_code == 200, found.text
    [record] = found.json()["predictions"]
    assert record["sample_id"] == "n1"
    assert 0 < record["predictions"][0]["prob"]["Y"] < 1


@pytest.mark.parametrize(
    ("body", "status", "helps"),
    [
        (b"", 400, ["not JSON"]),
        (b"{", 400, ["not JSON"]),
        (b"\xff\xfe", 400, ["not JSON"]),
        (b'{"patients": [{"modalities": {"genes": [NaN, 1, 1, 1, 1, 1]}}]}', 400, ["not JSON"]),
        (b'{"patients": [{"modalities": {"genes": [Infinity]}}]}', 400, ["not JSON"]),
        (b'{"patients": [{"modalities": {"genes": [1e999, 1, 1, 1, 1, 1]}}]}', None, []),
        (b"[" * 100_000, 400, ["not JSON"]),
        (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, 400, ["not JSON"]),
        (b"[]", 422, []),
        (b"null", 422, []),
        (b'{"patients": []}', 422, ["patients"]),
        (b'{"patients": [{}]}', 422, ["modalities"]),
        ({"patients": [patient()] * 65}, 422, ["64"]),
        ({"patients": [patient(name=SECRET)]}, 422, ["name"]),
        ({"patients": [patient(sample_id="../../etc/passwd")]}, 422, ["sample_id"]),
        ({"patients": [patient(sample_id="")]}, 422, ["sample_id"]),
        (with_modality(genes=[0.1] * (WIDTH + 1)), 422, [str(WIDTH), str(WIDTH + 1), "'genes'"]),
        (with_modality(genes=[]), 422, ["genes"]),
        (with_modality(genes=[[0.1] * WIDTH, [0.1]]), 422, ["genes"]),
        (with_modality(genes=["a"] * WIDTH), 422, ["genes"]),
        (with_modality(genes=SECRET), 422, ["genes"]),
        (with_modality(gene=[0.1] * WIDTH), 422, ["'gene'", "did you mean 'genes'"]),
        (with_modality(clinical={"agee": 71}), 422, ["'agee'", "did you mean 'age'"]),
        (with_modality(clinical={"age": SECRET}), 422, ["age"]),
        (with_modality(clinical={"age": [71]}), 422, ["age"]),
        (with_modality(vitals=[{"hours": 0, "variable": "hr"}]), 422, ["value"]),
        (with_modality(vitals={"resourceType": "Bundle", "entry": [{}]}), 422, ["index_time"]),
        (with_modality(xray="aGVsbG8="), 422, ["xray", "image"]),
    ],
)
def test_json_that_does_not_fit(body, status, helps, client) -> None:
    found = post(client, body)
    if status is None:
        status = found.status_code
        assert status in (400, 422)
    sentence = refused(found, status, *helps)
    assert SECRET not in sentence


def test_nothing_of_a_patient_is_enough(client) -> None:
    refused(post(client, with_modality(clinical={"age": None, "sex": None})), 422, "n1")


def test_explain_takes_one_patient(client) -> None:
    refused(post(client, {"patients": [patient()] * 2}, "/v1/explain"), 422, "one at a time")


def test_another_format_or_type(client) -> None:
    body = {"patients": [patient()]}
    refused(post(client, body, "/v1/predict?format=xml"), 422, "fhir")
    answer = client.post("/v1/predict", content=b"a=1", headers={"Content-Type": "text/plain"})
    refused(answer, 415, "application/json", "multipart/form-data")
    broken = {"Content-Type": "multipart/form-data"}
    refused(client.post("/v1/predict", content=b"--x", headers=broken), 400, "form")


def test_no_such_address_or_method(client) -> None:
    refused(client.get("/v1/patients"), 404)
    refused(client.get("/v1/predict"), 405)
    refused(client.request("TRACE", "/v1/predict"), 405)


# ---- files --------------------------------------------------------------------------------------
def test_every_kind_of_file_put_right_is_answered(client, tmp_path) -> None:
    np.save(tmp_path / "g.npy", np.ones(WIDTH, np.float32))
    files = [
        ("xray", ("my xray.png", png(1))),
        ("xray", ("second.png", png(2))),
        ("ct", ("ct.nii.gz", volume(tmp_path / "ct.nii.gz").read_bytes())),
        ("genes", ("g.npy", (tmp_path / "g.npy").read_bytes())),
        ("vitals", ("v.csv", b"hours,variable,value\n0,hr,70\n1,hr,71\n")),
        ("note", ("note.txt", b"Fever since Monday.")),
    ]
    fields = {"clinical.age": "71", "clinical.sex": "", "sample_id": "whole"}
    found = client.post("/v1/predict", files=files, data=fields)
    assert found.status_code == 200, found.text
    [record] = found.json()["predictions"]
    used = {one["modality"]: one for one in record["used"]}
    assert record["absent"] == []
    assert used["xray"]["items"] == 2
    assert used["clinical"]["missing"] == ["sex"]
    again = client.post("/v1/predict", files=files[::-1], data=fields).json()["predictions"][0]
    assert again["predictions"] == record["predictions"]


def test_a_form_and_json_say_the_same(client) -> None:
    whole = post(client, {"patients": [patient()]}).json()["predictions"][0]
    data = {
        "sample_id": "n1",
        "clinical.age": "71",
        "clinical.sex": "F",
        "genes": str([0.1] * WIDTH),
    }
    fields = client.post("/v1/predict", data=data, files={"none": ("", b"")})
    assert fields.status_code == 200, fields.text
    assert fields.json()["predictions"][0]["predictions"] == whole["predictions"]
    one = client.post("/v1/predict", files={"patient": ("p.json", json.dumps(patient()).encode())})
    assert one.json()["predictions"][0] == whole


def giant_png(side: int) -> bytes:
    """A PNG of some bytes whose header claims side × side pixels; of 46,000: 2 GB of grey."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body + chunk(b"IEND", b"")


def giant_nifti(tmp_path: Path) -> bytes:
    """A small NIfTI file whose header claims 2 GB of voxels."""
    data = bytearray(volume(tmp_path / "v.nii").read_bytes())
    struct.pack_into("<8h", data, 40, 3, 1024, 1024, 512, 1, 1, 1, 1)
    return bytes(data)


def giant_dicom(tmp_path: Path) -> bytes:
    """A small X-ray that claims 46,000 × 46,000 pixels."""
    return write_xray(tmp_path / "x.dcm", Rows=46_000, Columns=46_000).read_bytes()


def giant_npy() -> bytes:
    """An .npy file that claims 2 GB of numbers and holds none."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "<f4", "fortran_order": False, "shape": (500_000_000,)}
    )
    return file.getvalue()


def many_rows(tmp_path: Path) -> bytes:
    """A parquet file of some kB with three million rows."""
    table = pl.DataFrame({"hours": [0.0], "variable": ["hr"], "value": [1.0]})
    pl.concat([table] * 3).select(pl.all().repeat_by(1_000_000).explode()).write_parquet(
        tmp_path / "m.parquet"
    )
    return (tmp_path / "m.parquet").read_bytes()


def test_files_that_claim_too_much(client, served, tmp_path) -> None:
    before = resident(client)
    refused(form(client, "xray", "x.png", giant_png(46_000)), 413, "x.png", "pixels")
    refused(form(client, "xray", "x.png", giant_png(7_000)), 413, "x.png", "7000 × 7000")
    refused(form(client, "xray", "x.dcm", giant_dicom(tmp_path)), 413, "46000 × 46000")
    found = form(client, "ct", "v.nii", giant_nifti(tmp_path))
    assert refused(found, found.status_code, "1024 × 1024 × 512")
    assert found.status_code in (413, 422)
    refused(form(client, "genes", "g.npy", giant_npy()), 422, "g.npy")
    refused(form(client, "vitals", "m.parquet", many_rows(tmp_path)), 413, "3000000 rows")
    assert resident(client) - before < 300e6, "something was allocated for a claim"


def resident(client: httpx.Client) -> float:
    lines = client.get("/metrics").text.splitlines()
    return float(
        next(x for x in lines if x.startswith("process_resident_memory_bytes ")).split()[1]
    )


@pytest.mark.parametrize(
    ("name", "file", "data", "helps"),
    [
        ("xray", "x.png", png()[:-40], ["x.png", "truncated"]),
        ("xray", "x.png", png()[:20], ["x.png"]),
        ("xray", "x.png", b"", ["x.png"]),
        ("xray", "x.png", SECRET.encode(), ["x.png", "PNG"]),
        ("xray", "x.gif", b"GIF89a", ["x.gif", ".png"]),
        ("ct", "v.nii.gz", b"\x1f\x8b\x08\x00broken", ["v.nii.gz"]),
        ("ct", "v.zip", b"PK\x03\x04broken", ["v.zip", "zip"]),
        ("genes", "g.npy", b"\x93NUMPYbroken", ["g.npy"]),
        ("genes", "g.npz", b"PK\x03\x04broken", ["g.npz"]),
        ("genes", "g.parquet", b"PAR1broken", ["g.parquet"]),
        ("vitals", "v.csv", SECRET.encode(), ["vitals"]),
        ("vitals", "v.json", b"{", ["not JSON"]),
        ("note", "n.txt", b"\xff\xfe\x00", ["n.txt", "UTF-8"]),
        ("gene", "g.npy", b"", ["'gene'", "did you mean 'genes'"]),
        ("xray", "../../x.png", png(), ["name"]),
        ("xray", "..\\x.png", png(), ["name"]),
        ("xray", "/etc/x.png", png(), ["name"]),
        ("xray", "x" * 300 + ".png", png(), ["200"]),
    ],
)
def test_files_that_cannot_be_used(name, file, data, helps, client) -> None:
    found = form(client, name, file, data)
    sentence = refused(found, 400 if "not JSON" in helps else 422, *helps)
    assert SECRET not in sentence


def test_a_path_in_a_raw_file_name(served) -> None:
    """What no client library would send: the name as it is, between the quotes."""
    for name in ("../../x.png", "a/b.png", "..%2fx.png", "x.png\x01", ".."):
        body = (
            b'--b\r\nContent-Disposition: form-data; name="xray"; filename="'
            + name.encode()
            + b'"\r\n\r\n'
            + png()
            + b"\r\n--b--\r\n"
        )
        with served.client() as client:
            headers = {"Content-Type": "multipart/form-data; boundary=b"}
            found = client.post("/v1/predict", content=body, headers=headers)
        assert found.status_code in (400, 422), name
        refused(found, found.status_code)


# ---- archives -----------------------------------------------------------------------------------
def archive(files: dict[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", kind) as made:
        for name, data in files.items():
            made.writestr(name, data)
    return file.getvalue()


@pytest.fixture
def series(tmp_path: Path) -> dict[str, bytes]:
    """The files of a CT series."""
    folder = tmp_path / "series"
    write_ct_series(folder, ct_array())
    return {f"IM{n}": p.read_bytes() for n, p in enumerate(sorted(folder.iterdir()))}


def test_a_zipped_series(client, series) -> None:
    plain = form(client, "ct", "series.zip", archive(series))
    assert plain.status_code == 200, plain.text
    below = archive({f"series 1/{name}": data for name, data in series.items()})
    inside = form(client, "ct", "series.zip", below)
    prob = plain.json()["predictions"][0]["predictions"]
    assert inside.json()["predictions"][0]["predictions"] == prob


def link() -> bytes:
    file, entry = io.BytesIO(), zipfile.ZipInfo("IM0")
    entry.external_attr = 0o120777 << 16
    with zipfile.ZipFile(file, "w") as made:
        made.writestr(entry, "/etc/passwd")
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "status", "helps"),
    [
        (lambda: archive({"../x.dcm": b"x"}), 422, "path"),
        (lambda: archive({"/etc/x.dcm": b"x"}), 422, "path"),
        (lambda: archive({"a\\b.dcm": b"x"}), 422, "path"),
        (lambda: archive({"a/b/c.dcm": b"x"}), 422, "path"),
        (lambda: archive({"a/1": b"x", "b/1": b"x"}), 422, "folders"),
        (link, 422, "link"),
        (lambda: archive({}), 422, "no files"),
        (lambda: archive({"1": b"no dicom"}), 422, "series.zip"),
        (lambda: archive({"1": b"x"}, zipfile.ZIP_LZMA), 422, "plain zip"),
        (lambda: archive({"1": b"\0" * 30_000_000}), 413, "smaller"),
        (lambda: archive({str(n): b"" for n in range(2001)}), 413, "2001 files"),
        (lambda: archive({"n" * 60_000 + str(n): b"" for n in range(100)}), 413, "more files"),
    ],
)
def test_archives_that_cannot_be_used(data, status, helps, client) -> None:
    refused(form(client, "ct", "series.zip", data()), status, "series.zip", helps)


def test_an_archive_that_lies_about_its_sizes(client, series) -> None:
    data = bytearray(archive({"1": b"\0" * 900_000}))
    for mark, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", data, data.index(mark) + at, 1000)
    found = form(client, "ct", "series.zip", bytes(data))
    assert found.status_code in (413, 422)
    refused(found, found.status_code, "series.zip")


# ---- sizes and times ----------------------------------------------------------------------------
def test_a_body_over_the_limit(served, client) -> None:
    headers = b"Content-Type: application/json\r\nContent-Length: 2147483648\r\n"
    answer = raw(served, b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\n" + headers + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"64 MiB" in answer
    refused(post(client, b'"' + b"x" * 17 * 1024 * 1024 + b'"'), 413, "16 MiB")


def test_a_body_that_grows_over_the_limit(served) -> None:
    """Chunked, so that nothing says how long it will be."""

    def pieces() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="xray"; filename="x.png"\r\n\r\n'
        for _ in range(80):
            yield b" " * 1024 * 1024

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    with served.client() as client:
        refused(client.post("/v1/predict", content=pieces(), headers=headers), 413, "64 MiB")
        assert client.get("/healthz").status_code == 200


def test_too_many_parts(client) -> None:
    files = [("xray", (f"{n}.png", png())) for n in range(257)]
    refused(client.post("/v1/predict", files=files), 413, "256")


def raw(served: Served, data: bytes, wait_s: float = 20) -> bytes:
    """What comes back for these bytes, until the server closes the connection."""
    with served.connect() as connection:
        connection.settimeout(wait_s)
        connection.sendall(data)
        found = b""
        while piece := connection.recv(65536):
            found += piece
        return found


SLOW = [
    b"",
    b"POST /v1/predict HTT",
    b"GET /healthz HTTP/1.1\r\nHost: loc",
    b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: 100\r\n\r\n{",
    b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; "
    b"boundary=b\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n--b\r\n\r\n",
]


def test_slow_clients(served) -> None:
    """All at once; meanwhile others are answered."""
    start = time.monotonic()
    with ThreadPoolExecutor(len(SLOW)) as callers:
        answers = [callers.submit(raw, served, data, 30) for data in SLOW]
        with served.client() as client:
            assert post(client, {"patients": [patient()]}).status_code == 200
        for data, answer in zip(SLOW, answers, strict=True):
            found = answer.result()
            assert b"HTTP/1.1 408 " in found, (data, found[:200])
            assert found.endswith(b'again"}')
    assert 8 < time.monotonic() - start < 20


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00hello TLS\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n",
        b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
        b"Content-Length: 6\r\n\r\n",
    ],
)
def test_what_is_no_http(data, served) -> None:
    answer = raw(served, data)
    assert answer.startswith(b"HTTP/1.1 400 "), answer[:200]
    assert b'{"error": "' in answer
    assert served.alive()
