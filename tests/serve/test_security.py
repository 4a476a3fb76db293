"""Who may ask: tokens, logins, other sites' pages, and what every answer forbids a browser."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.serve.served import Served, patient, serving

from adacomed.serve.security import local_path

TOKEN = "correct-horse-battery-staple"
BODY = {"patients": [patient()]}
PAGE = {"Accept": "text/html"}


def token_file(folder: Path, text: str = TOKEN, mode: int = 0o600) -> Path:
    file = folder / "ward7.token"
    file.write_text(text + "\n")
    file.chmod(mode)
    return file


@pytest.fixture(scope="module")
def guarded(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with a token."""
    file = token_file(tmp_path_factory.mktemp("token"))
    with serving(small_run, "--token-file", file) as found:
        yield found
        assert TOKEN not in found.log
        assert TOKEN not in found.audit.read_text()
        assert found.verify().returncode == 0


@pytest.fixture(scope="module")
def local(small_run: Path) -> Iterator[Served]:
    """A server without one, for this machine alone."""
    with serving(small_run) as found:
        yield found


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


# ---- the token ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer("x"),
        bearer(TOKEN[:-1]),
        bearer(TOKEN + "x"),
        bearer(TOKEN.upper()),
        bearer("é" * 20),
        {"Authorization": TOKEN},
        {"Authorization": f"Basic {TOKEN}"},
        {"Cookie": f"adacomed_session={TOKEN}"},
        {"Cookie": "adacomed_session="},
    ],
)
@pytest.mark.parametrize("path", ["/v1/predict", "/v1/model", "/metrics", "/openapi.json", "/none"])
def test_without_the_right_token(headers, path, guarded) -> None:
    encoded = {name: value.encode("utf-8") for name, value in headers.items()}
    with guarded.client() as client:
        if path == "/v1/predict":
            found = client.post(path, json=BODY, headers=encoded)
        else:
            found = client.get(path, headers=encoded)
    assert found.status_code == 401
    assert found.headers["www-authenticate"] == "Bearer"
    assert list(found.json()) == ["error"]
    assert TOKEN not in found.text


def test_with_the_token(guarded) -> None:
    with guarded.client(headers=bearer(TOKEN)) as client:
        assert client.post("/v1/predict", json=BODY).status_code == 200
        assert client.get("/v1/model").status_code == 200
        told = client.get("/openapi.json").json()
        assert told["security"] == [{"token": []}]
    assert '"who":"ward7 127.0.0.1"' in guarded.audit.read_text()


def test_what_needs_no_token(guarded) -> None:
    with guarded.client() as client:
        assert client.get("/healthz").status_code == 200
        assert client.get("/readyz").status_code == 200
        page = client.get("/login", headers=PAGE)
    assert page.status_code == 200
    assert "Small cohort" not in page.text  # nothing of the run before a login


# ---- the page's login ---------------------------------------------------------------------------
def test_a_login_and_its_end(guarded) -> None:
    with guarded.client(headers=PAGE) as client:
        first = client.get("/patients?sort=risk")
        assert first.status_code == 303
        assert first.headers["location"] == "/login?next=/patients%3Fsort%3Drisk"
        wrong = client.post("/login", data={"token": "not this one, surely"})
        assert wrong.status_code == 401
        assert "set-cookie" not in wrong.headers
        right = client.post(first.headers["location"], data={"token": f" {TOKEN} "})
        assert right.status_code == 303
        assert right.headers["location"] == "/patients?sort=risk"
        cookie = right.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert TOKEN not in cookie
        kept = client.cookies["adacomed_session"]
        assert client.get("/patients").status_code == 200
        assert client.post("/logout").status_code == 303
        client.cookies.set("adacomed_session", kept)
        assert client.get("/patients").status_code == 303  # the server has forgotten it too


def test_a_login_behind_tls_is_for_tls(guarded) -> None:
    with guarded.client() as client:
        origin = {"Origin": f"https://127.0.0.1:{guarded.port}"}
        found = client.post("/login", data={"token": TOKEN}, headers=origin)
    assert "Secure" in found.headers["set-cookie"]


def test_a_login_form_that_is_none(guarded) -> None:
    with guarded.client() as client:
        assert client.post("/login", content=b"x" * 5000).status_code == 413
        assert client.post("/login", content=b"\xff\x00").status_code == 401


@pytest.mark.parametrize("where", ["https://evil.example", "//evil.example", "/\\evil", "x", ""])
def test_a_login_leads_nowhere_else(where) -> None:
    assert local_path(where) == "/"


# ---- other sites --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "10.0.0.1", "", "[::"]
)
def test_another_name_for_this_machine_is_refused(host, local) -> None:
    """What DNS rebinding looks like from here."""
    with local.client() as client:
        found = client.get("/v1/model", headers={"Host": host})
    assert found.status_code in (400, 421)
    assert list(found.json()) == ["error"]


def test_this_machines_own_names(local) -> None:
    with local.client() as client:
        for host in ("localhost", f"localhost:{local.port}", "127.0.0.1", "[::1]:80"):
            assert client.get("/v1/model", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "http://localhost.evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_a_post_from_another_sites_page(headers, local) -> None:
    with local.client() as client:
        for path in ("/v1/predict", "/v1/explain", "/new", "/login"):
            assert client.post(path, json=BODY, headers=headers).status_code == 403
        own = {"Origin": local.url}
        assert client.post("/v1/predict", json=BODY, headers=own).status_code == 200
    assert '"who":"loopback 127.0.0.1"' in local.audit.read_text()


def test_headers_of_every_answer(local) -> None:
    with local.client() as client:
        for path in ("/", "/patients", "/new", "/v1/model", "/none", "/healthz", "/docs"):
            found = client.get(path, headers=PAGE)
            policy = found.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            scripts = next(part for part in policy.split("; ") if part.startswith("script-src"))
            assert scripts == "script-src 'self'"
            assert found.headers["x-content-type-options"] == "nosniff"
            assert found.headers["cache-control"] == "no-store"
            assert found.headers["referrer-policy"] == "same-origin"
            assert "server" not in found.headers
        assert "immutable" in client.get("/static/page.css").headers["cache-control"]


def test_errors_of_pages_are_pages(local) -> None:
    with local.client() as client:
        page = client.get("/nothing", headers=PAGE)
        assert page.status_code == 404
        assert page.headers["content-type"].startswith("text/html")
        assert client.get("/nothing").json().keys() == {"error"}
        assert client.get("/v1/nothing", headers=PAGE).json().keys() == {"error"}


# ---- starting -----------------------------------------------------------------------------------
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_other_machines_need_a_token(host, small_run, cli, tmp_path) -> None:
    ran = cli("serve", small_run, "--host", host, "--audit", tmp_path / "a.jsonl")
    assert ran.exit_code == 2
    assert "--token-file" in ran.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "mode", "helps"),
    [
        (TOKEN, 0o644, "chmod 600"),
        ("short", 0o600, "16 or more"),
        ("", 0o600, "16 or more"),
        ("two words are not one", 0o600, "one word"),
        ("é" * 20, 0o600, "ASCII"),
    ],
)
def test_a_token_file_that_does_not_do(text, mode, helps, small_run, cli, tmp_path) -> None:
    file = token_file(tmp_path, text, mode)
    ran = cli("serve", small_run, "--token-file", file, "--audit", tmp_path / "a.jsonl")
    assert ran.exit_code == 2
    assert helps in ran.stderr
    assert not text or text not in ran.stderr


@pytest.mark.parametrize(
    ("words", "helps"),
    [
        (["--token-file", "nowhere"], "openssl rand"),
        (["--port", "99999"], "--port"),
        (["--max-batch", "0"], "--max-batch"),
        (["--timeout", "0"], "--timeout"),
        (["--max-in-flight", "0"], "--max-in-flight"),
        (["--encoder", "nothing"], "MODALITY=ENCODER"),
        (["--encoder", "xra=dinov2-small"], "did you mean 'xray'"),
        (["--cohort", "nowhere.yaml"], "nowhere.yaml"),
        (["--audit", "/proc/nowhere/a.jsonl"], "/proc/nowhere"),
    ],
)
def test_options_that_cannot_be(words, helps, small_run, cli, tmp_path) -> None:
    audit = [] if "--audit" in words else ["--audit", tmp_path / "a.jsonl"]
    ran = cli("serve", small_run, "--port", "0", *audit, *words)
    assert ran.exit_code == 2, ran.output
    assert helps in ran.stderr
    assert "Traceback" not in ran.output


def test_no_run_and_a_port_that_is_taken(small_run, local, cli, tmp_path) -> None:
    ran = cli("serve", tmp_path)
    assert ran.exit_code == 2
    assert "not a run folder" in ran.stderr
    words = ["--port", local.port, "--audit", tmp_path / "a.jsonl"]
    ran = cli("serve", small_run, *words)
    assert ran.exit_code == 2
    assert "another --port" in ran.stderr.replace("\n", " ")


def test_a_second_server_on_the_same_log_is_refused(local, small_run, cli) -> None:
    ran = cli("serve", small_run, "--port", "0", "--audit", local.audit)
    assert ran.exit_code == 2
    assert "another process writes this audit log" in ran.stderr
    assert local.alive()


# ---- a bad day ----------------------------------------------------------------------------------
def test_work_that_takes_too_long(small_run) -> None:
    with serving(small_run, "--timeout", 0.001) as served, served.client() as client:
        found = client.post("/v1/explain", json=BODY)
        assert found.status_code == 504
        assert "0.001 s" in found.json()["error"]
        assert client.get("/healthz").status_code == 200


def test_a_disk_that_is_full(small_run) -> None:
    """No prediction goes out that cannot be written down; what is written down stays whole."""
    with serving(small_run, largest_file=6000) as served, served.client() as client:
        seen = [client.post("/v1/predict", json=BODY) for _ in range(20)]
        given = sum(found.status_code == 200 for found in seen)
        assert 0 < given < 20
        assert {found.status_code for found in seen} == {200, 503}
        assert seen[-1].json() == {
            "error": "the audit log cannot be written, so no prediction is given"
        }
        assert "retry-after" in seen[-1].headers
        assert len(served.audit.read_text().splitlines()) == given
        assert served.alive()
        assert served.verify().returncode == 0


def test_nothing_is_left_on_the_disk(small_run, tmp_path) -> None:
    before = set(os.listdir("/tmp"))
    with serving(small_run) as served, served.client() as client:
        note = {"note": ("n.txt", b"Fever since Monday.")}
        assert client.post("/v1/predict", files=note).status_code == 200
        assert served.end() == 0
    left = {name for name in set(os.listdir("/tmp")) - before if name.startswith("adacomed-serve")}
    assert not left


def test_a_client_that_leaves(local) -> None:
    for _ in range(5):
        with local.client(timeout=0.005) as client, pytest.raises(httpx.TimeoutException):
            client.post("/v1/explain", json=BODY)
    assert local.alive()
    assert "error " not in local.log
