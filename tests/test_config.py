"""Settings are strict, and every one of them says what it means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from adacomed.config import Experiment, Settings, load_experiment, override, parse, read_yaml
from adacomed.errors import InputError, nearest
from adacomed.schema import CohortCard

GROUPS: dict[str, type[Settings]] = {
    name: info.annotation
    for name, info in Experiment.model_fields.items()
    if isinstance(info.annotation, type) and issubclass(info.annotation, Settings)
}


def test_every_group_is_tested() -> None:
    named = {"small", "model", "training", "baselines", "split", "inputs", "evidence"}
    assert set(GROUPS) == named


def test_every_setting_is_documented() -> None:
    for group in (Experiment, *GROUPS.values()):
        assert group.__doc__
        for name, info in group.model_fields.items():
            assert info.description, f"{group.__name__}.{name}"


@pytest.mark.parametrize("group", ["", *GROUPS])
def test_a_typo_names_the_nearest_setting(group: str) -> None:
    settings = GROUPS.get(group, Experiment)
    for name, info in settings.model_fields.items():
        key = info.alias or name
        typo = f"{key}{key[-1]}x"
        path = f"{group}.{typo}" if group else typo
        if len(key) < 3:
            continue  # too short to be near anything
        with pytest.raises(InputError, match=rf"unknown key '{path}'; did you mean '{key}'\?"):
            parse(Experiment, override({"cohort": "c"}, [f"{path}=1"]), "e.yaml")


def test_a_typo_far_from_all_lists_them() -> None:
    with pytest.raises(InputError, match="known: folds, kind, repeats, seed, test_fraction"):
        parse(Experiment, {"cohort": "c", "split": {"zzzzzz": 1}}, "e.yaml")


def test_case_is_no_reason_to_miss_a_name() -> None:
    assert nearest("LACTATE", ["lactate", "age"]) == "; did you mean 'lactate'?"
    assert nearest("died", ["DIED"]) == "; did you mean 'DIED'?"


def test_override_makes_a_new_mapping_and_reads_yaml() -> None:
    data: dict[str, Any] = {"cohort": "c", "training": {"lr": 0.1}}
    words = [
        "training.lr=1e-3",
        "model.lambda=0",
        "modalities=[ct, mri]",
        "task=null",
        "split.x.y=1",
    ]
    changed = override(data, words)
    assert data == {"cohort": "c", "training": {"lr": 0.1}}
    assert changed["modalities"] == ["ct", "mri"]
    assert changed["task"] is None
    assert changed["split"] == {"x": {"y": 1}}
    del changed["split"]
    experiment = parse(Experiment, changed, "e.yaml")
    assert experiment.training.lr == 0.001  # YAML 1.1 reads 1e-3 as text
    assert experiment.model.lambda_ == 0
    assert override({"a": 1}, ["a=2", "a=3"]) == {"a": 3}


@pytest.mark.parametrize("word", ["", "=3", "epochs", ".epochs=3", "training.=3", "a..b=1"])
def test_an_override_needs_a_key_and_a_value(word: str) -> None:
    with pytest.raises(InputError, match="expected key=value"):
        override({}, [word])


def test_an_override_does_not_go_through_a_value() -> None:
    with pytest.raises(InputError, match="'cohort' is a value, not a group"):
        override({"cohort": "c"}, ["cohort.x=1"])


def test_all_problems_at_once_but_never_a_flood() -> None:
    with pytest.raises(InputError) as found:
        parse(Experiment, {"cohort": "c", **{f"key{k}": k for k in range(9)}}, "e.yaml")
    assert str(found.value).startswith("e.yaml: unknown key 'key0'")
    assert str(found.value).endswith("(+4 more)")


def test_a_message_never_repeats_a_value() -> None:
    card = {"name": "n", "table": "t.csv", "subject": ["Jane Doe"], "tasks": {}, "modalities": {}}
    with pytest.raises(InputError) as found:
        parse(CohortCard, card, "c.yaml")
    assert "subject" in str(found.value)
    assert "Jane" not in str(found.value)


def test_a_cohort_is_relative_to_the_file_else_to_here(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("there/mine", "here"):
        (tmp_path / folder).mkdir(parents=True)
    file = tmp_path / "there" / "e.yaml"
    file.write_text("cohort: mine")
    assert load_experiment(file).cohort == tmp_path / "there" / "mine"
    file.write_text("cohort: here")
    assert load_experiment(file).cohort.resolve() == tmp_path / "here"
    assert load_experiment(file, [f"cohort={tmp_path}"]).cohort == tmp_path


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    one = parse(Experiment, {"cohort": "/c", "model": {"lambda": 0.3, "strategy": "gaussian"}}, "e")
    file = tmp_path / "e.yaml"
    file.write_text(yaml.safe_dump(one.model_dump(mode="json", by_alias=True)))
    assert load_experiment(file) == one
    assert read_yaml(file)["model"]["lambda"] == 0.3
