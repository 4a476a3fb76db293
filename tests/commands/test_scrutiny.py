"""What `adacomed evaluate` adds on request: groups, calibration, sets, stress, a second cohort."""

import json
import shutil

import polars as pl
import pytest

from adacomed.cohort.cohort import load_cohort
from adacomed.commands.evaluate import evaluate
from adacomed.errors import InputError


def printed(capsys, *args, **options):
    evaluate(*args, resamples=30, json=True, **options)
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="session")
def groups(run, tmp_path_factory):
    """Sex and age of the run's patients, by sample."""
    ids = pl.read_parquet(run / "predictions.parquet")["sample_id"].unique().sort()
    file = tmp_path_factory.mktemp("groups") / "groups.csv"
    frame = pl.DataFrame(
        {
            "sample_id": ids,
            "sex": ["F" if i % 2 else "M" for i in range(len(ids))],
            "age": [20 + i % 70 for i in range(len(ids))],
        }
    )
    frame.write_csv(file)
    return file


def test_by_groups_of_a_file_and_by_modalities(run, groups, capsys):
    found = printed(capsys, run, split="val", groups=groups, by="sex,age,modalities")
    levels = {(r["group"], r["level"]) for r in found["subgroups"]}
    assert {("sex", "F"), ("sex", "M"), ("age", "< 40"), ("age", "≥ 80")} <= levels
    sexes = [r for r in found["subgroups"] if r["group"] == "sex"]
    assert sum(r["n"] for r in sexes) == found["table"][0]["n"]
    assert {g["gap"] for g in found["gaps"]} >= {"equalised_odds", "calibration", "auroc"}


def test_groups_by_subject_are_the_same(run, groups, tmp_path, capsys):
    by_subject = tmp_path / "subjects.csv"
    pl.read_csv(groups).rename({"sample_id": "subject_id"}).write_csv(by_subject)
    one = printed(capsys, run, split="val", groups=groups, by="sex")
    two = printed(capsys, run, split="val", groups=by_subject, by="sex")
    assert one["subgroups"] == two["subgroups"]


def test_calibrated_here_keeps_the_ranking(run, capsys):
    before = printed(capsys, run)["table"][0]
    after = printed(capsys, run, calibrate="temperature")["table"][0]
    assert after["auroc"] == pytest.approx(before["auroc"], abs=1e-12)
    assert after["log_loss"] != before["log_loss"]


def test_a_runs_own_sets_and_others(run, capsys):
    own = printed(capsys, run)["sets"]
    wider = printed(capsys, run, coverage=0.99)["sets"]
    assert [r["class"] for r in own] == [None, 0, 1]
    assert wider[0]["size"] >= own[0]["size"]


def test_stress_has_every_set_of_modalities_and_noise(run, tmp_path, capsys):
    found = printed(capsys, run, stress=True)["stress"]
    modalities = found[0]["kept"].split(" + ")
    assert len([r for r in found if not r["noise"]]) == 2 ** len(modalities)
    assert [r["noise"] for r in found if r["noise"]] == [0.5, 1.0, 2.0]
    assert found[0]["value"] == pytest.approx(printed(capsys, run)["table"][0]["auroc"])
    evaluate(run, resamples=20, stress=True, out=tmp_path)
    assert "With modalities taken away" in capsys.readouterr().out
    assert pl.read_csv(tmp_path / "stress.csv")["kept"].to_list() == [r["kept"] for r in found]


def test_a_second_cohort_like_the_first_and_one_that_is_not(run, simulated, tmp_path, capsys):
    same = printed(capsys, run, second=simulated)
    assert same["shift"][0]["shift_p"] > 0.05
    assert same["shift"][0]["shift_auroc"] < 0.6
    other = tmp_path / "other"
    shutil.copytree(simulated, other)
    table = pl.read_parquet(other / "samples.parquet")
    moved = next(iter(load_cohort(simulated).table("clinical").columns))
    table.with_columns(pl.col(moved) + 3 * table[moved].std()).write_parquet(
        other / "samples.parquet"
    )
    found = printed(capsys, run, second=other)
    assert found["shift"][0]["input"] == f"clinical: {moved}"
    assert found["shift"][0]["smd"] == pytest.approx(3, abs=0.2)
    assert found["shift"][0]["shift_p"] < 0.05
    assert {r["metric"] for r in found["transfer"]} >= {"auroc", "prevalence"}
    prevalence = next(r for r in found["transfer"] if r["metric"] == "prevalence")
    assert prevalence["n_there"] == 120


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "sexe"}, "no column to split by for 'sexe'"),
        ({"calibrate": "plat"}, "did you mean 'platt'"),
        ({"coverage": 1.5}, "expected a share between 0 and 1"),
    ],
)
def test_wrong_options_are_one_sentence(run, options, message):
    with pytest.raises(InputError, match=message):
        evaluate(run, **options)


def test_wrong_files_are_named(run, tmp_path):
    table = tmp_path / "predictions.csv"
    frame = pl.read_parquet(run / "predictions.parquet").drop("present", "router", "prediction_set")
    frame.write_csv(table)
    with pytest.raises(InputError, match=r"stress.parquet: no such file"):
        evaluate(table, stress=True)
    with pytest.raises(InputError, match="not a run folder"):
        evaluate(table, second=tmp_path)
    groups = tmp_path / "groups.csv"
    groups.write_text("who,sex\np1,F\n")
    with pytest.raises(InputError, match="expected a column sample_id or subject_id"):
        evaluate(table, groups=groups)
    groups.write_text("sample_id,sex\np1,F\np1,M\n")
    with pytest.raises(InputError, match="p1 occurs twice"):
        evaluate(table, groups=groups)
