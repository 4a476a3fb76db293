from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from adacomed import cli
from adacomed.commands.evaluate import evaluate
from adacomed.errors import InputError
from adacomed.evaluation.compare import paired, read_predictions, summarise
from adacomed.evaluation.reliability import weight_reliability


def predictions(methods=("adacomed", "small"), events=20, n=80):
    y = np.arange(n) < events
    return pl.concat(
        pl.DataFrame(
            {
                "sample_id": [f"p{i:02d}" for i in range(n)],
                "subject_id": [f"p{i:02d}" for i in range(n)],
                "split": ["val" if i % 4 == 3 else "test" for i in range(n)],
                "task": "death",
                "label": y.astype(int),
                "prob": np.random.default_rng(i).random(n) * 0.6 + 0.4 * y,
                "method": method,
            }
        )
        for i, method in enumerate(methods)
    )


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "predictions.parquet"
    predictions().write_parquet(path)
    return path


def test_prints_both_tables_and_writes_them(file, tmp_path, capsys):
    evaluate(file, out=tmp_path / "a" / "b", resamples=50)
    printed = capsys.readouterr().out
    assert "method     n  events" in printed
    assert "adacomed − small" in printed
    assert "15 events: the interval is wide" in printed
    assert "\x1b" not in printed
    table = pl.read_csv(tmp_path / "a" / "b" / "table.csv")
    expected = summarise(read_predictions(file), n=50)
    assert table["auroc"].to_list() == pytest.approx(expected["auroc"].to_list())
    differences = pl.read_csv(tmp_path / "a" / "b" / "paired.csv")
    both = (paired(read_predictions(file), metric=name, n=50) for name in ("auroc", "auprc"))
    expected = pl.concat(both)
    assert differences["low"].to_list() == pytest.approx(expected["low"].to_list())


def test_a_run_folder_and_another_split(file, capsys):
    evaluate(file.parent, split="val", resamples=20)
    assert "adacomed  20       5" in capsys.readouterr().out


def test_json_is_one_object_without_nan(tmp_path, capsys):
    predictions(events=0).write_csv(tmp_path / "p.csv")
    evaluate(tmp_path / "p.csv", json=True, resamples=20)
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert [row["method"] for row in found["table"]] == ["adacomed", "small"]
    assert found["table"][0]["auroc"] is None
    assert found["table"][0]["brier"] > 0
    assert found["paired"][0]["difference"] is None


def weighted(constant):
    rng = np.random.default_rng(3)
    large, small, w = rng.normal(size=(3, 160))
    return predictions().with_columns(
        logit_large=pl.Series(large),
        logit_small=pl.Series(small),
        w_large=pl.when(pl.col("method") == "adacomed").then(0.5 if constant else pl.Series(w)),
    )


def test_weights_that_adapt_are_held_against_the_branches(tmp_path, capsys):
    weighted(constant=False).write_parquet(tmp_path / "p.parquet")
    evaluate(tmp_path / "p.parquet", json=True, resamples=50)
    [row] = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)["weights"]
    [expected] = weight_reliability(read_predictions(tmp_path / "p.parquet"), n=50).to_dicts()
    assert row == expected
    evaluate(tmp_path / "p.parquet", resamples=50)
    printed = capsys.readouterr().out
    assert "rank correlation of w_large with the better branch" in printed
    shown = f"{row['correlation']:.3f} ({row['correlation_low']:.3f} to".replace("-", "−")
    assert f"death, adacomed: {shown}" in printed
    assert f"on {row['n_discordant']} patients on whom exactly one is" in printed


def test_constant_weights_are_a_note_in_json_and_not_printed(tmp_path, capsys):
    weighted(constant=True).write_parquet(tmp_path / "p.parquet")
    evaluate(tmp_path / "p.parquet", json=True, resamples=20)
    [row] = json.loads(capsys.readouterr().out)["weights"]
    assert row["correlation"] is None
    assert "the same for every patient" in row["note"]
    evaluate(tmp_path / "p.parquet", resamples=20)
    assert "w_large" not in capsys.readouterr().out


def test_one_method_is_not_compared(tmp_path, capsys):
    predictions(["forest"]).write_parquet(tmp_path / "p.parquet")
    evaluate(tmp_path / "p.parquet", out=tmp_path / "out", resamples=20)
    assert "comparison" not in capsys.readouterr().out
    assert not (tmp_path / "out" / "paired.csv").exists()


def test_without_adacomed_it_asks_for_a_reference(tmp_path, capsys):
    predictions(["forest", "small"]).write_parquet(tmp_path / "p.parquet")
    evaluate(tmp_path / "p.parquet", resamples=20)
    captured = capsys.readouterr()
    assert "--reference, one of forest, small" in captured.err
    assert "comparison" not in captured.out
    evaluate(tmp_path / "p.parquet", reference="small", resamples=20)
    assert "small − forest" in capsys.readouterr().out


def written(tmp_path, **columns):
    frame = predictions(["forest"]).with_columns(split=pl.lit("test")).with_columns(**columns)
    frame.write_csv(tmp_path / "p.csv")
    return tmp_path / "p.csv"


def test_perfect_and_constant_scores_and_one_class_are_said(cli, tmp_path):
    found = cli("evaluate", written(tmp_path, prob=pl.col("label") * 0.8 + 0.1), "--resamples", 50)
    assert "1.000 (0.9" in found.stdout
    assert "the scores separate the classes completely, so no Calibration slope" in found.stdout
    found = cli("evaluate", written(tmp_path, prob=pl.lit(0.3)), "--resamples", 50)
    assert "0.500 (0.50–0.50)" in found.stdout
    assert "every patient has the same score" in found.stdout
    found = cli("evaluate", written(tmp_path, label=pl.lit(0)), "--resamples", 50)
    assert "no events, so no AUROC, AUPRC" in found.stdout
    assert "nan" not in found.stdout.lower()


def test_the_same_sample_twice_is_the_users_error(cli, tmp_path):
    twice = pl.concat([predictions(["forest"])] * 2)
    twice.write_csv(tmp_path / "p.csv")
    found = cli("evaluate", tmp_path / "p.csv")
    assert found.exit_code == 2
    assert "twice" in found.stderr


def test_several_samples_of_a_subject_are_resampled_together(cli, tmp_path):
    subject = "s" + (pl.int_range(pl.len()) // 4).cast(pl.String)
    path = written(tmp_path, subject_id=subject)
    cli("evaluate", path, "--resamples", 50, "--out", tmp_path / "out")
    table = pl.read_csv(tmp_path / "out" / "table.csv")
    assert table["auroc_interval"].to_list() == ["bootstrap"]


def test_five_classes_and_every_number_in_json(cli, tmp_path):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 5, 80)
    prob = np.eye(5)[y] + rng.exponential(size=(80, 5))
    prob /= prob.sum(axis=1, keepdims=True)
    columns = {f"prob_{k}": pl.Series(prob[:, k]) for k in range(5)}
    path = written(tmp_path, label=pl.Series(y), **columns)
    found = cli("evaluate", path, "--resamples", 50, "--json")
    [row] = json.loads(found.stdout, parse_constant=pytest.fail)["table"]
    assert row["sensitivity"] == pytest.approx(row["mAR"])
    assert row["net_benefit"] is None
    assert "more than two classes" in row["note"]


def test_a_winner_is_named_where_every_test_agrees(cli, tmp_path):
    rng = np.random.default_rng(0)
    frame = predictions(["adacomed", "small", "near"], events=40).with_columns(split=pl.lit("test"))
    y = frame["label"].to_numpy()
    strength = {"adacomed": 2.0, "small": 0.0, "near": 2.0}
    shift = np.array([strength[m] for m in frame["method"]])
    frame = frame.with_columns(
        prob=pl.Series(1 / (1 + np.exp(-(shift * y + rng.normal(size=240)))))
    )
    frame.write_csv(tmp_path / "p.csv")
    found = cli("evaluate", tmp_path / "p.csv", "--resamples", 500)
    assert "winner" in found.stdout
    assert "DeLong (Holm)" in found.stdout
    assert "death, AUROC: adacomed is better than 1 of 2 rivals by every test" in found.stdout


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"split": "tset"}, "no rows of split 'tset'; did you mean 'test'"),
        ({"reference": "smal"}, "no method 'smal' .*did you mean 'small'"),
        ({"resamples": 0}, "0 resamples"),
    ],
)
def test_wrong_options_are_the_users_error(file, options, says):
    with pytest.raises(InputError, match=says):
        evaluate(file, **options)


def test_no_labels_and_an_out_that_is_a_file(file, tmp_path):
    with pytest.raises(InputError, match="takes a folder"):
        evaluate(file, out=file)
    predictions().with_columns(label=pl.lit(None, pl.Int64)).write_parquet(tmp_path / "new.parquet")
    with pytest.raises(InputError, match="no row of split 'test' has a label"):
        evaluate(tmp_path / "new.parquet")


def test_on_a_terminal_the_table_is_rich(file, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "140")
    evaluate(file, resamples=20)
    printed = capsys.readouterr().out
    assert "─" in printed
    assert "Paired differences on the same patients" in printed
    assert "15 events: the interval is wide" in printed


def test_the_command_line_and_its_help(file, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["evaluate", "--help"])
    assert stopped.value.code == 0
    assert "Example:" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        cli.main(["evaluate", str(file), "--split", "tset"])
    assert stopped.value.code == 2
    assert "did you mean 'test'" in capsys.readouterr().err


def test_evaluation_imports_no_torch():
    code = "import sys, adacomed.commands.evaluate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
