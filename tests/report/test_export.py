"""What is written beside the page: tables as data, the model card, the checklist."""

from __future__ import annotations

import json
import re

import polars as pl
import pytest

from adacomed.report.export import as_json, write_csv
from adacomed.report.report import Page, read_page, write_page
from adacomed.report.tripod import ITEMS


@pytest.fixture(scope="module")
def page(synthetic, tmp_path_factory) -> Page:
    frame = synthetic.predictions(n=150, methods=("adacomed", "small"))
    return read_page(synthetic.write_run(tmp_path_factory.mktemp("export") / "run", frame))


@pytest.fixture(scope="module")
def written(page, tmp_path_factory):
    folder = tmp_path_factory.mktemp("beside")
    write_page(page, folder / "page.html")
    return folder


def test_every_table_is_in_the_json_as_numbers(page):
    found = json.loads(as_json(page.title, page.sections))
    assert found["title"] == page.title
    sections = {t["section"] for t in found["tables"]}
    assert {"results", "calibration", "decisions", "subgroups", "robustness", "sets"} <= sections
    [headline] = [t for t in found["tables"] if t["section"] == "results"]
    mine = next(r for r in headline["rows"] if r["method"] == "adacomed")
    assert isinstance(mine["auroc"], float)
    assert mine["auroc_low"] < mine["auroc"] < mine["auroc_high"]
    shown = sum(len(s.tables) + sum(f.table is not None for f in s.figures) for s in page.sections)
    assert len(found["tables"]) == shown > 15


def test_every_table_is_a_csv(page, tmp_path):
    paths = write_csv(page.sections, tmp_path / "tables")
    assert len(set(paths)) == len(list((tmp_path / "tables").iterdir())) == len(paths)
    assert len(paths) == len(json.loads(as_json("", page.sections))["tables"])
    stress = next(p for p in paths if p.name.startswith("robustness-auroc-with-modalities"))
    table = pl.read_csv(stress)
    assert set(table["kept"].drop_nulls()) >= {"ct + wsi"}
    assert table["value"].is_between(0, 1).all()


def test_model_card_and_checklist_are_written_beside_the_page(page, written):
    names = {path.name for path in written.iterdir()}
    assert names == {"page.html", "model_card.md", "tripod_ai.md"}
    card = (written / "model_card.md").read_text()
    assert card.startswith("# Model card: AdaCoMed on drawn numbers (simulated)")
    assert f"| AUROC | {page.known.scores['auroc']} |" in card
    assert "| wsi | slide |" in card
    assert "Contamination: the encoder of wsi has seen Drawn-Numbers" in card
    assert "labelled: 10 left out (no label)" in card
    assert "SECRET-" not in card


def test_all_27_items_say_something(written):
    text = (written / "tripod_ai.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (.+?) \| (.+?) \| (.+?) \|$", text, flags=re.M)
    assert [int(r[0]) for r in rows] == list(range(1, 28)) == [item.number for item in ITEMS]
    said = {int(r[0]): r[2] for r in rows}
    assert "125 samples" in said[10]
    assert "Absent in test patients: ct" in said[11]
    assert said[17].startswith("not reported by the software: state")
    assert "AUROC ." in said[23]


def test_sections_that_the_checklist_points_to_are_on_the_page(page):
    titles = {section.title for section in page.sections}
    for item in ITEMS:
        for name in item.where.split("; "):
            assert name in titles | {"–"}, item
