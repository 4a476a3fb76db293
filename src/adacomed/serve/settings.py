"""How a service is run: where it listens, who may ask, and what it takes at most."""

from __future__ import annotations

import ipaddress
import stat
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from adacomed.errors import InputError

MIB = 1024 * 1024
SHORTEST_TOKEN = 16  # characters
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


class Settings(BaseModel):
    """Settings of `adacomed serve`; sizes in bytes, times in seconds.

    Attributes:
        token: what a caller must show; None: everyone on this machine may ask (loopback alone).
        token_name: what the audit log calls whoever shows it.
        max_batch: rows of the model's fixed batch.
        max_body: of a request; max_json of one in JSON, which grows when it is read.
        max_files, max_fields: of a form; a wide table has a field for every column.
        max_pixels: of an image, max_voxels of a volume: claimed by its header, before decoding.
        max_zip_entries, max_zip_ratio, max_unpacked: of an archive.
        max_in_flight: requests at work; the next is asked to come again (429).
        timeout_s: for our work on a request that is here in full (504).
        pause_s: between two pieces of a request (408), and for its first line and headers.
        body_s: for a whole request to arrive (408).
        drain_s: for what was taken to be finished after SIGTERM.
        session_s: a login on the page lasts.
        workers: threads for encoders and explanations.
        audit: the audit log's file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)  # 0: any that is free
    token: SecretStr | None = None
    token_name: str = "token"
    max_batch: int = Field(16, ge=1, le=4096)
    max_body: int = Field(64 * MIB, ge=1024)
    max_json: int = Field(16 * MIB, ge=1024)
    max_files: int = Field(256, ge=1)
    max_fields: int = Field(5000, ge=1)
    max_pixels: int = Field(40_000_000, ge=1)
    max_voxels: int = Field(512 * 512 * 1024, ge=1)
    max_zip_entries: int = Field(2000, ge=1)
    max_zip_ratio: float = Field(200, ge=1)
    max_unpacked: int = Field(1024 * MIB, ge=1)
    max_in_flight: int = Field(64, ge=1)
    timeout_s: float = Field(60, gt=0)
    pause_s: float = Field(10, gt=0)
    body_s: float = Field(300, gt=0)
    drain_s: float = Field(30, gt=0)
    session_s: float = Field(8 * 3600, gt=0)
    workers: int = Field(4, ge=1)
    audit: Path | None = None

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the service."""
        return is_loopback(self.host)

    @model_validator(mode="after")
    def _token_where_others_reach(self) -> Settings:
        if self.token is None and not self.loopback:
            raise InputError(
                f"--host {self.host}: other machines can reach it, so a caller must show a token; "
                f"give --token-file FILE, or leave out --host to serve this machine alone"
            )
        return self


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own."""
    name = host.strip("[]").casefold()
    if name in LOOPBACK_NAMES or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def read_token(path: Path) -> SecretStr:
    """The token that a file holds, in its only line.

    Raises:
        InputError: no such file, one that others may read, or a token that can be guessed.
    """
    if not path.is_file():
        raise InputError(
            f"--token-file {path}: no such file; make one that only you can read, such as by: "
            f"(umask 077; openssl rand -hex 32 > {path})"
        )
    if path.stat().st_mode & stat.S_IROTH:
        raise InputError(f"--token-file {path}: everyone may read it; chmod 600 {path} would work")
    token = path.read_text("utf-8", errors="replace").strip()
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable():
        raise InputError(
            f"--token-file {path}: expected {SHORTEST_TOKEN} or more printable ASCII characters, "
            f"found {len(token)}; openssl rand -hex 32 makes a good one"
        )
    if " " in token:
        raise InputError(f"--token-file {path}: expected one word in it, found a space")
    return SecretStr(token)
