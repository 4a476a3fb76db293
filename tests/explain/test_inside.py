"""Inside tables and series: removal for any model, gradients where there are some."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

from adacomed.cohort.cohort import load_cohort
from adacomed.cohort.split import Fold
from adacomed.errors import InputError
from adacomed.explain import inside as inside_module
from adacomed.explain import removal
from adacomed.explain.gradients import (
    SMALL,
    Fused,
    Undetached,
    has_gradient,
    integrated,
    table_gradients,
)
from adacomed.explain.inside import Inside, captum_attr, log_odds
from adacomed.explain.removal import Cells, Measurements, by_removal
from adacomed.explain.within import explain_within
from adacomed.inference import forward
from adacomed.intake import gather_for
from adacomed.models.weighting import STRATEGIES, Weighting
from adacomed.readers.series import Series
from adacomed.training.methods import Problem, run_method
from adacomed.training.perturb import without
from adacomed.training.prepare import prepare
from tests.training.conftest import make_experiment, saved_run
from tests.training.raw_cohort import Files, random_files, write

from .conftest import QUICK

pytest.importorskip("captum")


def told(trained, inputs, k: int) -> float:
    return float(log_odds(forward(trained, inputs).logits, k)[0])


@pytest.mark.parametrize("small", ["logistic", "shallow"])
def test_cells_of_a_table_by_removal(small: str, fitted) -> None:
    trained, everyone = fitted(small=small)
    for i in range(4):
        one = everyone.take(np.array([i]))
        found = by_removal(trained, Cells(one, "clinical"), "clinical", 1)
        whole, gone = told(trained, one, 1), told(trained, without(one, ["clinical"]), 1)
        assert found.total == pytest.approx(whole - gone, abs=1e-9)
        assert sum(found.values) == pytest.approx(found.total, abs=1e-9)
        age = one.tables["clinical"]["age"][0]
        assert (found.values[0] == 0.0) == (age is None)
        if age is not None:  # two players: the mean of first and last
            no_age = replace(
                one, tables={"clinical": one.tables["clinical"].with_columns(age=None)}
            )
            no_ward = replace(
                one, tables={"clinical": one.tables["clinical"].with_columns(ward=None)}
            )
            last, first = whole - told(trained, no_age, 1), told(trained, no_ward, 1) - gone
            assert found.values[0] == pytest.approx((last + first) / 2, abs=1e-9)


def test_a_vector_made_of_a_table_is_a_part_of_it(fitted) -> None:
    trained, everyone = fitted()
    one = everyone.take(np.array([0]))
    also = replace(one, tables={**one.tables, "a": one.tables["clinical"]})
    parts = Cells(also, "a")
    assert [p.name for p in parts.parts] == ["age", "ward", removal.VECTOR]
    kept = parts.kept(np.array([[True, True, False], [False, False, True]]))
    assert np.isnan(kept.vectors["a"]).all(axis=1).tolist() == [True, False]
    assert kept.tables["a"]["age"].null_count() == 1
    assert trained is not None


def test_many_parts_are_sampled_with_their_error(fitted, monkeypatch) -> None:
    trained, everyone = fitted(small="logistic")
    one = everyone.take(np.array([0]))
    exact = by_removal(trained, Cells(one, "clinical"), "clinical", 1)
    monkeypatch.setattr(removal, "EXACT", 1)
    found = by_removal(trained, Cells(one, "clinical"), "clinical", 1, seed=3)
    again = by_removal(trained, Cells(one, "clinical"), "clinical", 1, seed=3)
    assert found.values == again.values
    assert found.errors is not None
    assert exact.errors is None
    assert "sampled" in found.method
    assert sum(found.values) == pytest.approx(found.total, abs=1e-5)
    for value, error, truth in zip(found.values, found.errors, exact.values, strict=True):
        assert abs(value - truth) <= 4 * error + 1e-5


# ---- gradients ----------------------------------------------------------------------------------
@pytest.mark.parametrize("method", ["adacomed", "small", "average"])
@pytest.mark.parametrize(("classes", "members"), [(2, 2), (3, 1)])
def test_gradients_of_a_table_are_complete(method, classes, members, fitted) -> None:
    trained, everyone = fitted(method, classes=classes, members=members)
    assert has_gradient(trained, everyone, "clinical")
    for i in range(6):
        one = everyone.take(np.array([i]))
        found = table_gradients(trained, one, "clinical", classes - 1)
        assert sum(found.values) == pytest.approx(found.total, rel=0.02, abs=SMALL)
        assert found.gap == pytest.approx(found.total - sum(found.values), abs=1e-9)
        assert [p.name for p in found.parts] == ["age", "ward"]
        missing = one.tables["clinical"]["age"][0] is None
        assert (found.values[0] == 0.0) == missing


def test_our_gap_is_captums_delta(fitted) -> None:
    trained, everyone = fitted(members=2)
    fused = Fused(trained, everyone.take(np.array([1])))
    x = fused.batch.embeddings["a"]

    def function(z: torch.Tensor) -> torch.Tensor:
        batch = fused.rows(len(z))
        return fused(replace(batch, embeddings={**batch.embeddings, "a": z}), 1)

    (found,), total, gap = integrated(function, [x], [torch.zeros_like(x)])
    (last,), _, delta = integrated(function, [x], [torch.zeros_like(x)], steps=[50])
    method = captum_attr().IntegratedGradients(function)
    theirs, captums = method.attribute(
        x, n_steps=50, method="riemann_middle", return_convergence_delta=True
    )
    torch.testing.assert_close(last, theirs)
    assert delta == pytest.approx(-float(captums), abs=1e-9)
    assert abs(gap) <= max(0.02 * abs(total), SMALL)
    assert float(found.sum()) == pytest.approx(total - gap)


def test_more_steps_where_the_sum_misses() -> None:
    def steep(x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(200 * (x[:, 0] - 0.73)) * x[:, 1]

    ends = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    (found,), total, gap = integrated(steep, [ends], [torch.zeros_like(ends)])
    assert total == pytest.approx(2.0, abs=1e-6)
    assert abs(gap) <= 0.02 * total
    assert float(found.sum()) == pytest.approx(total - gap)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_weighting_is_the_same_with_its_gradient(strategy: str) -> None:
    torch.manual_seed(0)
    weighting = Weighting(strategy, modalities=2, scale="quantile").eval()
    weighting.rest(torch.rand(50))
    if strategy == "reliable":
        weighting.theta.copy_(torch.randn(5))
    s, large, small = torch.rand(9), torch.randn(9, 3), torch.randn(9, 3)
    present = torch.rand(9, 2) < 0.6
    present[0] = False
    mine = Undetached(weighting)(s.requires_grad_(), large.requires_grad_(), small, present)
    for a, b in zip(mine, weighting(s, large, small, present), strict=True):
        torch.testing.assert_close(a, b)
    if strategy != "ensemble":
        mine[0].sum().backward()
        assert (s.grad is not None and s.grad.abs().sum() > 0) or strategy == "learnable"


def test_what_has_no_gradient(fitted) -> None:
    trained, inputs = fitted(small="logistic")
    assert not has_gradient(trained, inputs, "clinical")
    trained, inputs = fitted()
    assert not has_gradient(trained, replace(inputs, tables={"a": inputs.tables["clinical"]}), "a")


def test_captum_is_asked_for_in_words(monkeypatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(inside_module, "import_module", absent)
    with pytest.raises(InputError, match="adacomed\\[explain\\]"):
        captum_attr()


# ---- series and whole runs ----------------------------------------------------------------------
def series_run(folder: Path, method: str, files: Files, names: tuple[str, ...], **small: object):
    path = write(folder, files, names=names)
    experiment = make_experiment(**{**QUICK, "cohort": str(path), "small": {"width": 8, **small}})
    prepared = prepare(experiment, methods=[method])
    fold = Fold(0, 0, train=np.arange(20), test=np.arange(20, 28))
    result = run_method(method, Problem(experiment, prepared.inputs, fold, prepared.task, 0))
    run = saved_run(folder / "run", result, experiment, prepared, method)
    cohort = load_cohort(path, labels=False).take(np.arange(16, 28))
    return run, cohort, gather_for(run, cohort)


@pytest.fixture(scope="module")
def files() -> Files:
    return random_files()


def sums(found: Inside) -> dict[str, float]:
    table = pl.DataFrame({"level": [p.level for p in found.parts], "value": found.values})
    return dict(table.group_by("level").agg(pl.col("value").sum()).iter_rows())


def test_gradients_of_a_series(files, tmp_path) -> None:
    run, cohort, inputs = series_run(tmp_path, "gru", files, ("labs", "clinical"))
    found = explain_within(run, cohort, inputs, "labs")
    have = [p for p in inputs.sample_id if any(r["sample_id"] == p for r in files.labs)]
    assert [one.sample_id for one in found] == have
    for one in found:
        mine = [r for r in files.labs if r["sample_id"] == one.sample_id]
        for level, total in sums(one).items():
            assert total == pytest.approx(one.total, rel=0.02, abs=SMALL), level
        hours = [p.position for p in one.parts if p.level == "time"]
        np.testing.assert_allclose(hours, sorted(r["hours"] for r in mine), atol=1e-4)
        lacking = {"heart", "lactate", "pressure"} - {r["variable"] for r in mine}
        values = {p.name: v for p, v in zip(one.parts, one.values, strict=True)}
        assert all(values[name] == 0.0 for name in lacking)


def test_a_series_by_removal(files, tmp_path) -> None:
    names = ("labs", "clinical")
    run, cohort, inputs = series_run(
        tmp_path, "small", files, names, kind="multimodal-pred", resnet="tiny"
    )
    assert not has_gradient(run.trained, inputs, "labs")
    seen: list[tuple[int, int]] = []
    found = explain_within(run, cohort, inputs, "labs", tick=lambda *t: seen.append(t))
    assert seen[-1] == (len(seen), len(seen))
    assert {p.level for one in found for p in one.parts} == {"variable", "time"}
    index = inputs.sample_id.tolist()
    for one in found:
        patient = inputs.take(np.array([index.index(one.sample_id)]))
        gone = told(run.trained, without(patient, ["labs"]), 1)
        assert one.total == pytest.approx(told(run.trained, patient, 1) - gone, abs=1e-9)
        assert sum(one.values) == pytest.approx(one.total, abs=1e-4)
    table = explain_within(run, cohort, inputs, "clinical")
    assert all(one.method.startswith("Shapley") for one in table)


def test_a_series_that_is_embedded_is_embedded_again(fitted) -> None:
    trained, everyone = fitted()
    one = everyone.take(np.array([0]))
    hours = np.array([0.0, 1.0, 1.0, 5.0])
    variable, value = np.array([0, 0, 1, 1]), np.array([1.0, 2.0, 3.0, 4.0])
    series = Series(hours, variable, value, ("x", "y", "never"))

    def embed(some: list[Series]) -> np.ndarray:
        return np.array([[s.value.sum()] * 6 for s in some], np.float32)

    own = replace(one, vectors={**one.vectors, "a": np.array(embed([series]))})
    parts = Measurements(own, "a", series, "variable", embed)
    kept = parts.kept(np.array([[True, False, True], [False, False, False]]))
    assert kept.vectors["a"][0].tolist() == [3.0] * 6
    assert np.isnan(kept.vectors["a"][1]).all()
    found = by_removal(trained, parts, "a", 1)
    assert found.values[2] == 0.0
    assert sum(found.values) == pytest.approx(found.total, abs=1e-9)
    assert found.total == pytest.approx(
        told(trained, own, 1) - told(trained, without(own, ["a"]), 1), abs=1e-9
    )
    times = Measurements(own, "a", series, "time", embed)
    assert [p.position for p in times.parts] == [0.0, 1.0, 5.0]
    assert times.kept(np.array([[False, True, False]])).vectors["a"][0].tolist() == [5.0] * 6


def test_what_cannot_be_looked_into(files, tmp_path) -> None:
    run, cohort, inputs = series_run(
        tmp_path, "small", files, ("note", "vectors", "clinical"), kind="multimodal-pred"
    )
    with pytest.raises(InputError, match="reads no modality 'nots'; did you mean 'note'"):
        explain_within(run, cohort, inputs, "nots")
    with pytest.raises(InputError, match="made elsewhere"):
        explain_within(run, cohort, inputs, "vectors")
    with pytest.raises(InputError, match="reads each text itself"):
        explain_within(run, cohort, inputs, "note")


def test_every_pair_of_columns_is_its_own_row() -> None:
    parts = [inside_module.Part("variable", n) for n in "ab"]
    one = Inside("p1", "clinical", 1, "m", parts, [0.1, 0.2], 0.3, 0.0, words=None)
    assert list(one.rows()) == [
        ("p1", 1, "variable", "clinical", "a", None, 0.1),
        ("p1", 1, "variable", "clinical", "b", None, 0.2),
    ]
    assert one.to_dict()["parts"][0] == {"level": "variable", "name": "a", "position": None}


def test_log_odds_are_against_all_others() -> None:
    logits = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    prob = nn.functional.softmax(logits, dim=1)
    for k in range(3):
        torch.testing.assert_close(log_odds(logits, k), torch.logit(prob[:, k]))
