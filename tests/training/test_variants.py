"""Methods under settings of their own, what they share in a fold, and what their recipes say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from adacomed.errors import InputError
from adacomed.inference import forward
from adacomed.models.baselines.flex_moe import FlexMoE, build_flex_moe
from adacomed.models.small.multimodal_pred import RECIPE
from adacomed.schema import Predictions
from adacomed.training.fit import Recipe, fit
from adacomed.training.grid import Cell
from adacomed.training.methods import Problem, Trainers, run_method
from adacomed.training.names import family, reads_raw, reads_vectors, variant
from adacomed.training.objective import Objective
from adacomed.training.recipes import FINE_TUNED_LR, objective_of, recipe_of, resolve_preset
from adacomed.training.scaling import fit_inputs
from adacomed.training.seed import seed_everything

from .conftest import make_experiment, make_fold, make_inputs

QUICK = {
    "training": {"epochs": 2, "inner_folds": 2, "members": 1},
    "model": {"strategy": "ensemble", "H": 8, "d": 8},
    "small": {"width": 8},
    "baselines": {"size": "tiny"},
}


def experiment(**settings):
    merged = {k: dict(v) for k, v in QUICK.items()}
    for key, value in settings.items():
        merged[key] = {**merged.get(key, {}), **value} if isinstance(value, dict) else value
    return make_experiment(**merged)


def problem(task="task", n=60, **settings) -> Problem:
    return Problem(experiment(**settings), make_inputs(n), make_fold(n), task, 0)


# ---- the name -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("adacomed?model.lamda=1", "unknown key 'model.lamda'; did you mean 'lambda'"),
        ("adacomed?modle.lambda=1", r"'modle.lambda=1' cannot vary.*model\."),
        ("adacomed?split.seed=1", "cannot vary"),
        ("adacomed?seed=1", "cannot vary"),
        ("adacomed?cohort=elsewhere", "cannot vary"),
        ("adacomed?methods=[small]", "cannot vary"),
        ("adacomed?modalities=[a]", "cannot vary"),
        ("adacomed?task=other", "cannot vary"),
        ("adacomed?model.lambda=1&seed=3", "'seed=3' cannot vary"),
        ("adacomed?model.lambda=lots", r"model.lambda: .*number"),
        ("adacomed?model.lambda", "expected key=value"),
        ("adacomed?presets=paper", "did you mean 'preset'"),
        ("adacomd?model.lambda=1", "no method 'adacomd'; did you mean 'adacomed'"),
        ("small?small.kind=multimodal-pred&small.width=66", "multiple of 4"),
        ("small?small.modalities=[b]", "'b' is not there for the small model"),
        ("small?small.kind=multimodal-pred&small.modalities=[a, nothing]", "'nothing' is not"),
        (
            "meta-transformer?baselines.weights=/no/such/file.pth",
            r"/no/such/file\.pth: not readable",
        ),
    ],
)
def test_a_wrong_variant_is_an_error_that_helps(name, message):
    with pytest.raises(InputError, match=message):
        run_method(name, problem())


def test_a_variant_is_the_experiment_with_other_settings():
    base, settings = variant("adacomed?model.lambda=2&preset=authors", experiment())
    assert base == "adacomed"
    assert (settings.model.lambda_, settings.preset) == (2, "authors")
    assert settings.model.H == 8  # the experiment's own stay
    assert resolve_preset(settings).attention == "patients"  # the preset's are the variant's
    assert variant("adacomed", experiment()) == ("adacomed", experiment())
    assert variant("multimodal-pred", experiment())[1].small.kind == "multimodal-pred"


def test_its_settings_reach_the_model():
    shared = problem()
    a = run_method("adacomed?model.d=4&model.lambda=0", shared)
    assert a.trained.model.p.adapter_small.out_features == 4
    assert set(a.predictions[Predictions.METHOD]) == {"adacomed?model.d=4&model.lambda=0"}
    assert "contrast" not in set(a.history["metric"])
    assert run_method("adacomed", shared).trained.model.p.adapter_small.out_features == 8
    assert run_method("large-ensemble?inputs.pca=2", shared).trained.fitted.widths == {
        "a": 2,
        "b": 2,
    }
    assert run_method("small?small.epochs=1", shared).choices["epochs"] == 1
    only_a = "small?small.kind=multimodal-pred&small.modalities=[a]"
    assert len(run_method(only_a, shared).trained.model.branches) == 1


@pytest.mark.parametrize(
    "name", ["adacomed", "adacomed?preset=authors&model.d=4", "onellm?baselines.clip=/models/clip"]
)
def test_a_cells_name_is_a_plain_file_name(name):
    cell = Cell(name, make_fold(), 3).name
    assert not set(cell) & set("?&/\\: ")
    assert cell.startswith(name.partition("?")[0])
    assert cell.endswith("~r0f0s3")


def test_cells_of_different_variants_have_different_names():
    names = ["adacomed", "adacomed?model.d=4", "adacomed?model.d=8", "adacomed?model.d=4&model.H=8"]
    names += ["adacomed%3Fmodel.d=4"]
    assert len({Cell(name, make_fold(), 0).name for name in names}) == len(names)


# ---- what is shared -----------------------------------------------------------------------------
FAMILY = [
    "adacomed?model.strategy=gaussian",
    "small",
    "average",
    "adacomed?model.strategy=threshold",
    "large-ensemble",
    "adacomed?model.strategy=auto",
]


@pytest.mark.parametrize("regime", ["cv", "holdout"])
def test_sharing_changes_no_bit(regime):
    """Whatever ran before in the same fold, a method's numbers are those it has alone."""
    training = {"epochs": 3, "inner_folds": 2, "members": 2, "validation": regime}
    first = problem(training=training)
    alone = {m: run_method(m, replace(first, trainers=Trainers())) for m in FAMILY}
    for order in (FAMILY * 2, [FAMILY[i] for i in (2, 5, 0, 4, 1, 3)]):
        together = replace(first, trainers=Trainers())
        for m in order:
            result = run_method(m, together)
            assert result.predictions.equals(alone[m].predictions), (order, m)
            assert result.history.equals(alone[m].history), (order, m)
            assert result.choices == alone[m].choices, (order, m)
        assert len(together.trainers.made) == 1


def test_what_is_shared_is_trained_once():
    shared, ticks = problem(), []
    for m in FAMILY[:3]:
        run_method(m, shared, ticks.append)
    assert ticks.count("small") == 3 * 2  # two inner folds and everyone, two epochs
    run_method("small", shared, ticks.append)
    run_method("average", shared, ticks.append)
    assert ticks.count("small") == 3 * 2
    assert ticks.count("large-ensemble") == 3 * 2


def test_multimodal_pred_is_the_small_model_of_that_kind():
    shared = problem()
    names = ["adacomed?small.kind=multimodal-pred", "small?small.kind=multimodal-pred"]
    fused, small, own = (run_method(m, shared) for m in [*names, "multimodal-pred"])
    drop = Predictions.METHOD
    assert small.predictions.drop(drop).equals(own.predictions.drop(drop))
    body = {k: v for k, v in own.trained.model.state_dict().items() if not k.startswith("head")}
    inside = fused.trained.model.small.state_dict()
    assert all(torch.equal(inside[k], v) for k, v in body.items())


def test_a_family_is_what_shares_the_small_model():
    e = experiment()
    assert len({family(m, e) for m in FAMILY}) == 1
    others = ["flex-moe", "a-large", "b-large", "forest", "late-fusion", "onellm", "haim"]
    others += [f"{m}?{v}" for m in ("small", "adacomed") for v in ("model.d=4", "preset=paper")]
    groups = {family(m, e) for m in others}
    assert len(groups) == len(others) - 2  # small and adacomed under the same settings
    assert family("adacomed", e) not in groups
    assert family("small?model.d=4", e) == family("adacomed?model.d=4", e)


def test_what_a_method_reads():
    e = experiment()
    raw = {m: reads_raw(m, e) for m in ("adacomed", "small", "onellm", "multimodal-pred", "haim")}
    assert [m for m, reads in raw.items() if reads] == ["onellm", "multimodal-pred"]
    kind = "small.kind=multimodal-pred"
    assert reads_raw(f"adacomed?{kind}", e)
    assert reads_vectors(f"adacomed?{kind}", e)
    assert not reads_vectors(f"small?{kind}", e)
    assert reads_vectors(f"average?{kind}", e)
    assert not reads_raw(f"large-ensemble?{kind}", e)


# ---- recipes ------------------------------------------------------------------------------------
AUTHORS = "small.kind=multimodal-pred&small.recipe=authors"


def test_the_authors_recipe_is_used():
    result = run_method(f"small?{AUTHORS}&small.epochs=2", problem("mortality"))
    assert torch.equal(result.trained.log_prior, torch.tensor([1.0, 10.0]).log())
    other = run_method(f"small?{AUTHORS}&small.epochs=2", problem("icu"))
    assert not torch.equal(other.trained.log_prior, result.trained.log_prior)  # balanced
    ours = run_method("small?small.kind=multimodal-pred&small.epochs=2", problem("mortality"))
    assert torch.equal(ours.trained.log_prior, other.trained.log_prior)
    names = [Predictions.PROB]
    assert not ours.predictions.select(names).equals(other.predictions.select(names))  # its step


def test_the_loop_of_each_stage():
    _, settings = variant(f"multimodal-pred?{AUTHORS}", experiment(training={"lr": 0.5}))
    preset = resolve_preset(settings)
    recipe = recipe_of("small", settings, preset)
    assert {k: getattr(recipe, k) for k in RECIPE} == RECIPE
    assert recipe_of("adacomed", settings, preset).lr == 0.5
    target = torch.tensor([0, 0, 0, 1])
    weights = objective_of("small", settings, preset, target, 2, "longstay").class_weights
    assert weights.tolist() == [1.5, 1.0]
    weights = objective_of("adacomed", settings, preset, target, 2, "longstay").class_weights
    assert weights.tolist() == pytest.approx([4 / 6, 2])
    published = experiment(baselines={"size": "published"})
    for stage in ("meta-transformer", "onellm"):
        assert recipe_of(stage, published, resolve_preset(published)).lr == FINE_TUNED_LR
        assert recipe_of(stage, experiment(), resolve_preset(experiment())).lr == 1e-3


# ---- what a model asks of the loop --------------------------------------------------------------
def flex_moe(weight=0.01):
    seed_everything(0)
    model = build_flex_moe({"a": 6, "b": 9}, classes=2, H=8, dropout=0.0)
    model.auxiliary_weight = weight
    return model


def batch_of(n=60):
    inputs = make_inputs(n)
    batch = fit_inputs(inputs, torch.arange(n).numpy()).batch(inputs)
    return replace(batch, index=torch.arange(n))


def test_the_routers_own_loss_is_trained():
    """The gate moves otherwise under its loss; the history holds the sum of both losses."""

    def gates(model: FlexMoE):
        recipe = Recipe(epochs=3, lr=1e-2, patience=None)
        result = fit(model, batch_of(), objective=Objective(), recipe=recipe, seed=0)
        return model.blocks[0].experts.gate.clean.weight.detach(), result.history

    (without, none), (light, _), (heavy, loud) = (gates(flex_moe(w)) for w in (0.0, 0.01, 1.0))
    assert not torch.allclose(without, light, atol=1e-5)
    assert not torch.allclose(light, heavy, atol=1e-3)

    def means(history):
        losses = {(e, name): value for e, part, name, value in history if part == "train"}
        return [losses[e, "loss"] - losses[e, "task"] for e in (1, 2, 3)]

    assert means(none) == pytest.approx([0, 0, 0], abs=1e-6)
    assert min(means(loud)) > 0.1
    history = run_method("flex-moe", problem()).history.filter(part="train", epoch=1)
    value = dict(zip(history["metric"], history["value"], strict=True))
    assert value["loss"] > value["task"] + 1e-4


def test_the_first_tenth_meets_complete_patients_first():
    model, seen = flex_moe(), []
    model.register_forward_pre_hook(
        lambda module, args: seen.append(args[0].index.tolist()) if module.training else None
    )
    batch = batch_of(60)
    recipe = Recipe(epochs=20, batch_size=20, patience=None, stop_after=4)
    fit(model, batch, objective=Objective(), recipe=recipe, seed=0)
    epochs = [[*a, *b, *c] for a, b, c in zip(*[iter(seen)] * 3, strict=True)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(60))] * 4
    order = torch.argsort(batch.present.sum(1), descending=True, stable=True).tolist()
    assert epochs[0] == epochs[1] == order
    assert epochs[2] != order
    assert epochs[3] not in (order, epochs[2])
    complete = batch.present.all(1)[order].tolist()
    assert complete == sorted(complete, reverse=True)
    assert 0 < sum(complete) < 60


# ---- what was wrong once ------------------------------------------------------------------------
@pytest.mark.parametrize(
    "name", ["average", "average?small.kind=multimodal-pred&small.recipe=authors"]
)
def test_an_averages_threshold_is_on_the_scale_of_its_predictions(name):
    """Each branch is trained with class weights of its own; both are undone."""
    p = problem("mortality", 100, training={"validation": "holdout"}, small={"epochs": 1})
    trained = run_method(name, p).trained
    [trainer] = p.trainers.made.values()
    again = forward(trained, p.inputs.take(trainer.plan.val_rows))
    assert torch.allclose(again.logits.float(), trained.val_output.logits.float(), atol=1e-5)


def test_the_authors_class_weights_are_left_out_where_they_do_not_fit():
    inputs = make_inputs(60, classes=3)
    p = Problem(experiment(small={"epochs": 1}), inputs, make_fold(60), "mortality", 0)
    name = "small?small.kind=multimodal-pred&small.recipe=authors"
    assert run_method(name, p).predictions.height > 0


def test_scaling_reaches_the_classical_methods():
    p = problem()
    plain, reduced = (
        run_method(name, p).predictions[Predictions.PROB].to_list()
        for name in ("logistic-all", "logistic-all?inputs.pca=2")
    )
    assert plain != reduced


def test_the_ceiling_has_no_settings_and_heads_must_divide_the_width():
    p = problem()
    p = replace(p, inputs=replace(p.inputs, bayes_prob=np.full(60, 0.3)))
    with pytest.raises(InputError, match="bayes has no settings"):
        run_method("bayes?training.epochs=1", p)
    with pytest.raises(InputError, match=r"model\.H=8 is not a multiple of model\.heads=3"):
        run_method("adacomed?model.heads=3", p)


def test_a_long_variant_is_a_file_name_still_and_its_own():
    settings = "&".join(
        f"model.{k}=1" for k in ("lambda", "beta", "tau", "sigma", "T", "alpha") * 5
    )
    cells = [Cell(f"adacomed?{settings}&model.k={k}", make_fold(60), 0) for k in (1, 2)]
    assert all(len(cell.name) < 200 for cell in cells)
    assert cells[0].name != cells[1].name


def test_subjects_and_the_ceiling_are_part_of_the_fingerprint():
    inputs = make_inputs(60)
    others = replace(inputs, subject_id=inputs.subject_id[::-1].copy())
    ceiling = [replace(inputs, bayes_prob=np.full(60, p)) for p in (0.3, 0.4)]
    prints = {x.fingerprint() for x in (inputs, others, *ceiling)}
    assert len(prints) == 4
