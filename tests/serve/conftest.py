"""What the tests of the service share."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.serve.served import make_run


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of every kind of modality, for real servers; not to be changed by a test."""
    return make_run(tmp_path_factory.mktemp("served") / "cohort")
