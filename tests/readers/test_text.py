from pathlib import Path

import pytest

from adacomed.errors import InputError
from adacomed.readers.text import read_text


def test_kept_as_it_is(tmp_path: Path) -> None:
    note = "[**2101-03-04**] Pt. ___ seen by Dr. ___.\n\n  ü µg/ml\n"
    (tmp_path / "a.txt").write_bytes(note.encode())
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbf" + note.encode())
    assert read_text(tmp_path / "a.txt") == read_text(tmp_path / "b.txt") == note


@pytest.mark.parametrize(
    ("content", "message"),
    [(b" \n", "is empty"), (b"caf\xe9", "not UTF-8"), (b"x" * 10_000_001, "10 MB of text")],
)
def test_what_cannot_be_read(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.txt: .*{message}|a\.txt: {message}"):
        read_text(tmp_path / "a.txt")
