"""The cohort that is built from a generated release is the true one, which was never read."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from adacomed.cohort.check import check
from adacomed.cohort.cohort import load_cohort
from adacomed.datasets.mimic.build import build
from adacomed.datasets.mimic_release import build as simulated_mimic

PARTS = ("mimic-iv", "mimic-cxr-jpg", "mimic-iv-note")
MADE = {"3.1": True, "1.0": False}  # release → as csv.gz


@pytest.fixture(scope="module", params=list(MADE))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated release of 400 stays, with the true cohort."""
    out = tmp_path_factory.mktemp("release") / "release"
    version = request.param
    simulated_mimic.build(out, stays=400, release=version, seed=4, compress=MADE[version])
    return out


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_the_cohort_is_the_true_one(made: Path, preset: str, tmp_path: Path) -> None:
    document = build(*(made / p for p in PARTS), tmp_path / "c", preset=preset)
    for name, truth in (
        ("samples", "samples"),
        ("labels", f"labels_{preset}"),
        ("events", f"events_{preset}"),
        ("images", "images"),
        ("notes", "notes"),
    ):
        expected = pl.read_parquet(made / "truth" / f"{truth}.parquet")
        found = pl.read_parquet(tmp_path / "c" / f"{name}.parquet")
        assert len(expected) > 300
        # the true samples have no split; nothing else is left out of the comparison
        assert found.columns == [*expected.columns[:2], "split", *expected.columns[2:]] or (
            name != "samples" and found.columns == expected.columns
        )
        assert_frame_equal(found.select(expected.columns), expected, rel_tol=1e-12, abs_tol=0)
    stays = pl.read_parquet(made / "truth" / "stays.parquet")
    assert document["steps"][0]["stays"] == len(stays)
    assert document["steps"][-1]["stays"] == stays["left_out"].null_count()
    assert document["simulated"]
    assert document == json.loads((tmp_path / "c" / "flow.json").read_text())
    report = check(tmp_path / "c")
    assert report.errors == []
    assert load_cohort(tmp_path / "c").card.simulated
    drawn = ElementTree.parse(tmp_path / "c" / "flow.svg").getroot()
    texts = [t.text for t in drawn.iter("{http://www.w3.org/2000/svg}text")]
    for step in document["steps"]:
        assert step["what"] in texts
        assert not step["left_out"] or f"{step['left_out']:,} stays left out" in texts
