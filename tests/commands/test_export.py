"""`adacomed export`, and the commands that take its bundle."""

from __future__ import annotations

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from adacomed.export.onnx import Session


@pytest.fixture(scope="module")
def packed(run, tmp_path_factory):
    """The run as a bundle, written by the command."""
    from tests.commands.conftest import adacomed

    file = tmp_path_factory.mktemp("packed") / "moved.adacomed"
    adacomed("export", run, "--out", file)
    return file


def test_default_is_a_bundle_here(cli, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = cli("export", run)
    assert done.exit_code == 0
    assert f"{run.name}.adacomed" in done.stdout
    assert "simulated" in done.stderr
    assert "WARNING" not in done.output
    assert [p.name for p in tmp_path.iterdir()] == [f"{run.name}.adacomed"]


def test_a_bundle_predicts_and_explains_as_its_run(cli, run, packed, simulated, tmp_path):
    a, b = tmp_path / "a.parquet", tmp_path / "b.parquet"
    assert cli("predict", run, simulated, "--out", a).exit_code == 0
    assert cli("predict", packed, simulated, "--out", b).exit_code == 0
    assert_frame_equal(pl.read_parquet(a), pl.read_parquet(b), check_exact=True)
    some = ",".join(pl.read_parquet(a)["sample_id"][:2])
    done = cli("explain", packed, simulated, "--samples", some, "--out", tmp_path / "why")
    assert done.exit_code == 0
    assert f'"run": "{packed}"' in (tmp_path / "why" / "explanations.json").read_text()


def test_predictions_go_along_loudly_and_can_be_evaluated(cli, run, packed, tmp_path):
    file = tmp_path / "with.adacomed"
    done = cli("export", run, "--out", file, "--with-predictions")
    assert "WARNING" in done.stderr
    assert "predictions.parquet" in done.stderr
    assert cli("evaluate", file, "--resamples", 20).exit_code == 0
    done = cli("evaluate", packed)
    assert done.exit_code == 2
    assert "made without --with-predictions" in done.stderr


def test_onnx_says_what_it_measured(cli, run, packed, simulated, tmp_path):
    file = tmp_path / "model.onnx"
    done = cli("export", packed, "--onnx", file, "--patients", simulated)
    assert done.exit_code == 0, done.stderr
    assert "prob within" in done.stdout
    assert "every output within" in done.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    assert Session(file).description()["simulated"] is True


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--out", "x.zip"), "ends in .adacomed"),
        (("--onnx", "x.pb"), "ends in .onnx"),
        (("--torch", "x.pt"), "ends in .pt2"),
        (("--torch", "x.pt2", "--with-predictions"), "about a bundle"),
    ],
)
def test_a_wrong_word_is_one_sentence(cli, run, words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = cli("export", run, *words)
    assert done.exit_code == 2
    assert said in done.stderr
    assert not list(tmp_path.iterdir())


def test_no_run_and_a_damaged_bundle_are_said(cli, packed, tmp_path):
    assert "not a run folder" in cli("export", tmp_path).stderr
    torn = tmp_path / "torn.adacomed"
    torn.write_bytes(packed.read_bytes()[:-2000])
    done = cli("predict", torn, tmp_path)
    assert done.exit_code == 2
    assert "not a whole .adacomed bundle" in done.stderr
