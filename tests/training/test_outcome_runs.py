"""Several findings and survival through the same head, weighting, runs and predictions."""

from __future__ import annotations

import functools
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.util import Surv

from adacomed.errors import InputError
from adacomed.evaluation.findings import mean_auroc
from adacomed.evaluation.survival import concordance
from adacomed.inference import forward, prediction_frame, probabilities
from adacomed.schema import Predictions
from adacomed.training.checkpoint import load_run, save_run, written_whole
from adacomed.training.methods import Problem, run_method
from adacomed.training.names import check_methods, outcome_methods
from adacomed.training.outcome import Findings, Survival
from adacomed.training.scores import FIXED

from .conftest import CARD, make_experiment, make_fold, make_inputs

N = 480
FOLD = make_fold(N)
SETTINGS = {
    "training": {"epochs": 15, "inner_folds": 2, "members": 2, "lr": 3e-3, "batch_size": 32},
    "model": {"H": 16, "d": 16, "bank_size": 32, "dropout": 0.1, "modality_dropout": 0},
    "small": {"kind": "auto", "width": 16},
    "evidence": {"stress": False},
}
QUICK = {
    **SETTINGS,
    "training": {"epochs": 1, "inner_folds": 2, "members": 1},
    "small": {"kind": "shallow", "width": 16},
}
FEW = {  # trees, to be quick
    "forest": {
        "randomforestclassifier__n_estimators": 20,
        "randomforestclassifier__min_samples_leaf": 3,
    }
}


@functools.cache
def truth():
    """Two independent severities; the first shows in modality a, the second in the table."""
    return np.random.default_rng(1).normal(size=(2, N))


@functools.cache
def findings_inputs():
    (u, v), rng = truth(), np.random.default_rng(2)
    chance = 1 / (1 + np.exp(-np.stack([2 * u, -1 + 2 * v, -2 + u + v], axis=1)))
    seen = (rng.random((N, 3)) < chance).astype(np.float64)
    seen[rng.random(N) < 0.2, 1] = np.nan
    outcome = Findings(("oedema", "effusion", "nodule"))
    return shown(u, v, rng, seen, np.nan_to_num(seen[:, 0]).astype(np.int64), outcome), chance


@functools.cache
def survival_inputs():
    (u, v), rng = truth(), np.random.default_rng(3)
    rate = np.exp(-2.5 + 0.9 * u + 0.7 * v)
    happens, lost = rng.exponential(1 / rate), rng.uniform(4, 30, N)
    seen = np.stack([np.minimum(happens, lost), happens <= lost], axis=1)
    outcome = Survival(("no", "yes"), horizon=12.0, unit="months")
    return shown(u, v, rng, seen, seen[:, 1].astype(np.int64), outcome), rate


def shown(u, v, rng, seen, target, outcome):
    a = rng.normal(size=(N, 6)) * 0.7
    a[:, 0] += 1.5 * u
    table = pl.DataFrame(
        {"age": 60 + 10 * v + 5 * rng.normal(size=N), "ward": ["A", "B"] * (N // 2)}
    )
    return replace(
        make_inputs(N),
        vectors={"a": a.astype(np.float32), "b": make_inputs(N).vectors["b"]},
        tables={"clinical": table},
        target=target,
        classes=outcome.names,
        truth=seen,
        asked=outcome,
    )


INPUTS = {"findings": findings_inputs, "survival": survival_inputs}


@functools.cache
def ran(kind, method):
    settings = SETTINGS if method == "adacomed" else QUICK
    problem = Problem(make_experiment(**settings), INPUTS[kind]()[0], FOLD, "task", 0)
    with patch.dict(FIXED, FEW), patch("adacomed.training.scores.FOLDS", 3):
        return run_method(method, problem)


def on_test(result):
    return result.predictions.filter(pl.col(Predictions.SPLIT) == "test")


# ---- learning is real ---------------------------------------------------------------------------
def test_findings_are_learnt():
    inputs, chance = findings_inputs()
    rows = on_test(ran("findings", "adacomed"))
    prob = np.stack(
        [rows.filter(task=f"task: {f}")["prob"].to_numpy() for f in inputs.classes], axis=1
    )
    seen = inputs.truth[FOLD.test]
    x = views(inputs)
    rival = np.stack([_logistic(x, inputs.truth[:, j]) for j in range(3)], axis=1)
    [found], [simple], [best] = (mean_auroc(seen, p) for p in (prob, rival, chance[FOLD.test]))
    assert best > simple > 0.7  # there is something to learn
    # measured: .034 below; with the default's trees and folds .017, of another truth .036
    assert found > simple - 0.05
    assert found > 0.7


def views(inputs):
    """Everything that a linear model can read of the patients."""
    age = inputs.tables["clinical"]["age"].to_numpy()[:, None] / 10 - 6
    return np.concatenate([inputs.vectors["a"], age], axis=1).astype(float)


def _logistic(x, label):
    known = FOLD.train[~np.isnan(label[FOLD.train])]
    model = LogisticRegression(max_iter=1000).fit(x[known], label[known])
    return model.predict_proba(x[FOLD.test])[:, 1]


def test_survival_is_learnt():
    inputs, rate = survival_inputs()
    rows = on_test(ran("survival", "adacomed"))
    time, event = inputs.truth[FOLD.test].T
    assert rows["time"].to_list() == time.tolist()
    [found] = concordance(time, event, rows["prob"])
    [best] = concordance(time, event, rate[FOLD.test])
    y = Surv.from_arrays(inputs.truth[:, 1] == 1, inputs.truth[:, 0])
    cox = CoxPHSurvivalAnalysis(alpha=1.0).fit(views(inputs)[FOLD.train], y[FOLD.train])
    [simple] = concordance(time, event, cox.predict(views(inputs)[FOLD.test]))
    assert best > 0.7  # there is something to learn
    assert found > simple - 0.03  # level with a linear model, of which this makes its small one


@pytest.mark.parametrize("kind", INPUTS)
def test_auto_takes_the_stack(kind):
    """Out of fold the network is not clearly better here: it is clearly worse."""
    trained = ran(kind, "adacomed").trained
    assert trained.choices["small"] == "stack"
    assert trained.spec["small"]["kind"] == "stack"
    assert trained.spec["asked"] == kind


# ---- rows ---------------------------------------------------------------------------------------
def test_a_finding_has_a_row_a_threshold_and_branches_of_its_own():
    inputs, _ = findings_inputs()
    result = ran("findings", "adacomed")
    rows = on_test(result)
    assert rows["task"].unique(maintain_order=True).to_list() == [
        "task: oedema",
        "task: effusion",
        "task: nodule",
    ]
    assert len(rows) == 3 * len(FOLD.test)
    cuts = rows.group_by("task", maintain_order=True).agg(pl.col("threshold").unique())
    assert cuts["threshold"].explode().to_list() == result.trained.threshold
    effusion = rows.filter(task="task: effusion")
    known = ~np.isnan(inputs.truth[FOLD.test, 1])
    assert effusion["label"].is_not_null().to_numpy().tolist() == known.tolist()
    assert 0 < effusion["label"].null_count() < len(effusion)
    output = forward(result.trained, inputs.take(FOLD.test))
    assert effusion["logit_large"].to_list() == output.logits_large[:, 1].tolist()
    mixed = effusion["w_large"] * effusion["logit_large"]
    mixed += effusion["w_small"] * effusion["logit_small"]
    prob = effusion["prob"].to_numpy()
    weighted = np.log(prob / (1 - prob))
    assert mixed.to_numpy() == pytest.approx(weighted, abs=0.3)  # the mean of members' products
    shares = [rows.filter(task=t)["w_large"].to_list() for t in rows["task"].unique()]
    assert shares[0] == shares[1] == shares[2]  # the patient's, whatever the finding


def test_survival_rows_hold_the_curve_and_the_risk_at_the_horizon():
    rows = on_test(ran("survival", "adacomed"))
    ends = rows["intervals"][0].to_list()
    assert ends == sorted(ends)
    assert 12.0 in ends
    assert rows["horizon"].unique().to_list() == [12.0]
    curves = np.array(rows["survival"].to_list())
    assert ((curves > 0) & (curves < 1)).all()
    assert (np.diff(curves, axis=1) <= 0).all()
    assert 1 - curves[:, ends.index(12.0)] == pytest.approx(rows["prob"].to_numpy())
    assert set(rows["label"].unique()) == {0, 1}
    assert rows["logit_small"].is_not_null().all()


@pytest.mark.parametrize("kind", INPUTS)
def test_no_test_patient_decides_an_interval(kind):
    """Moving the test patients' times changes nothing that was fitted."""
    inputs, _ = INPUTS[kind]()
    other = inputs.truth.copy()
    other[FOLD.test] = np.nan if kind == "findings" else [1e3, 1]
    problem = Problem(make_experiment(**SETTINGS), inputs, FOLD, "task", 0)
    moved = replace(problem, inputs=replace(inputs, truth=other))
    plans = [p.trainer(p.experiment, raw=False).plan for p in (problem, moved)]
    assert plans[0].outcome == plans[1].outcome
    for before, after in zip(plans[0].parts, plans[1].parts, strict=True):
        assert torch.equal(before.train.target.nan_to_num(-1), after.train.target.nan_to_num(-1))


# ---- every method that can ----------------------------------------------------------------------
@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize(
    "method",
    ["small", "large-ensemble", "average", "a-large", "multimodal-pred", "flex-moe"],
)
def test_other_methods_say_the_same_columns(kind, method):
    rows = on_test(ran(kind, method))
    assert rows.columns == on_test(ran(kind, "adacomed")).columns
    assert rows["prob"].is_between(0, 1).all()


@pytest.mark.parametrize("kind", INPUTS)
def test_what_only_reads_classes_is_refused_before_anything_is_trained(kind):
    inputs, _ = INPUTS[kind]()
    settings = make_experiment(**SETTINGS)
    assert check_methods(None, inputs, settings) == outcome_methods(inputs)
    for name in ("logistic", "forest-all", "late-fusion", "haim", "bayes"):
        with pytest.raises(InputError, match=f"{name} reads class tasks only.*use adacomed, small"):
            check_methods([name], inputs, settings)
    with pytest.raises(InputError, match=r"strategy reliable reads class tasks only.*Table 1"):
        run_method("adacomed?model.strategy=reliable", Problem(settings, inputs, FOLD, "task", 0))
    with pytest.raises(InputError, match="no method 'smal'; did you mean 'small'"):
        check_methods(["smal"], inputs, settings)


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("preset", ["paper", "authors"])
def test_the_papers_presets_train_too(kind, preset):
    settings = {**QUICK, "preset": preset}
    settings["model"] = {"H": 8, "d": 8, "strategy": "learnable"}
    problem = Problem(make_experiment(**settings), INPUTS[kind]()[0], FOLD, "task", 0)
    trained = run_method("adacomed?small.kind=shallow", problem).trained
    assert trained.spec["preset"]["mix"] == ("sigmoids" if preset == "paper" else "logits")


# ---- runs on disk -------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("method", ["adacomed", "average"])
def test_a_loaded_run_says_bit_for_bit_the_same_of_new_patients(kind, method, tmp_path):
    inputs, _ = INPUTS[kind]()
    trained = ran(kind, method).trained
    with written_whole(tmp_path / "run") as folder:
        save_run(
            folder,
            trained,
            experiment=make_experiment(**SETTINGS),
            card=CARD,
            task="task",
            classes=inputs.classes,
            method=method,
            encoders={},
        )
    run = load_run(tmp_path / "run")
    assert run.trained.outcome == trained.outcome
    new = replace(
        inputs.take(FOLD.test),
        target=np.full(len(FOLD.test), -1),
        truth=None,
        asked=None,
        classes=(),
    )
    frames = []
    for model in (trained, run.trained):
        output = forward(model, new)
        frames.append(
            prediction_frame(
                new,
                probabilities(output, model),
                output=output,
                outcome=model.outcome,
                task="task",
                method=method,
                split="new",
                threshold=model.threshold,
            )
        )
    assert frames[0].equals(frames[1])
    assert frames[0]["label"].null_count() == len(frames[0])
    before = on_test(ran(kind, method))
    assert frames[0]["prob"].to_list() == before["prob"].to_list()
