"""The parts put together: independence of the batch, missing modalities, the start, gradients."""

import pytest
import torch

from adacomed.models.batch import Batch, Output
from adacomed.models.presets import PRESETS
from adacomed.models.weighting import STRATEGIES
from adacomed.training.fit import evaluate
from adacomed.training.objective import Objective, class_weights

from .check_model import batch_distance, check_model
from .conftest import make_batch, make_model


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_default_preset_keeps_the_contract_of_a_model(strategy):
    check_model(make_model("default", strategy), make_batch(64), make_batch(30, seed=5))


@pytest.mark.parametrize("preset", ["paper", "authors"])
def test_paper_and_authors_depend_on_batch_mates(preset):
    model = make_model(preset, "gaussian")
    batch, mates = make_batch(64, complete=True), make_batch(30, complete=True, seed=5)
    assert batch_distance(model, batch, mates) > 1e-3


def test_authors_weigh_everyone_by_the_batch_mean_of_s():
    model = make_model("authors", "inverse")
    output = evaluate(model, make_batch(20, complete=True))
    assert output.w_large.unique().numel() == 1
    paper = evaluate(make_model("paper", "inverse"), make_batch(20, complete=True))
    assert paper.w_large.unique().numel() == 20


@pytest.mark.parametrize("d", [2, 10, 64, 200])
def test_at_step_0_the_shared_head_says_what_the_small_model_said(d):
    from dataclasses import replace

    from adacomed.models.presets import build_adacomed
    from adacomed.models.small.shallow import ShallowSmall

    from .conftest import WIDTHS

    small = ShallowSmall({"clinical": 4}, width=16, classes=2, dropout=0.3).eval()
    batch = make_batch(32)
    before = small(batch).logits
    preset = replace(PRESETS["default"], d=d, bank_size="batch")
    model = build_adacomed(preset, WIDTHS, small, strategy="ensemble").eval()
    assert torch.allclose(model(batch).logits_small, before, atol=1e-5)


def test_every_expert_parameter_gets_a_gradient_when_all_modalities_occur():
    model = make_model("default", "learnable", ready=False).train()
    batch = make_batch(64)
    Objective()(model(batch), batch.target)["loss"].backward()
    for name, p in model.named_parameters():
        if p.requires_grad:
            assert p.grad is not None, name
            assert torch.isfinite(p.grad).all(), name
            assert (p.grad != 0).any(), name
    for w in [*model.mome.experts.w1, *model.mome.experts.w2]:
        assert (w.grad.flatten(1) != 0).any(1).all()  # each expert of the stack, not just one


def test_the_contrastive_gradient_reaches_the_large_branch():
    model = make_model("default", "ensemble", ready=False).train()
    batch = make_batch(32)
    losses = Objective()(model(batch), batch.target)
    losses["contrast"].backward()
    grads = [p.grad for p in model.mome.parameters()]
    assert all(g is not None and (g != 0).any() for g in grads)


def test_the_small_body_is_frozen_and_f_is_not():
    model = make_model("default", "ensemble", ready=False).train()
    assert not any(p.requires_grad for p in model.small.parameters())
    assert all(p.requires_grad for p in model.f.parameters())
    assert not model.small.training


def test_objective_is_task_plus_lambda_contrast():
    model, batch = make_model("default", "ensemble"), make_batch(32)
    output = model(Batch(batch.embeddings, batch.present, batch.small))
    weights = class_weights(batch.target, 2)
    losses = Objective(lambda_=0.3, class_weights=weights)(output, batch.target)
    log_p = output.logits.log_softmax(-1)
    picked = -log_p[torch.arange(32), batch.target] * weights[batch.target]
    assert losses["task"].item() == pytest.approx(
        (picked.sum() / weights[batch.target].sum()).item(), rel=1e-5
    )
    assert losses["loss"].item() == pytest.approx(
        (losses["task"] + 0.3 * losses["contrast"]).item(), rel=1e-6
    )


def test_probability_mixture_of_the_paper_preset():
    model, batch = make_model("paper", "gaussian"), make_batch(16, complete=True)
    o = evaluate(model, batch)
    mixture = o.w_large[:, None] * o.logits_large.softmax(-1)
    mixture = mixture + o.w_small[:, None] * o.logits_small.softmax(-1)
    assert torch.allclose(o.logits.softmax(-1), mixture, atol=1e-5)


def test_a_patient_without_any_large_modality_is_the_small_models():
    model, batch = make_model("default", "ensemble"), make_batch(8)
    nobody = Batch(
        {m: torch.full_like(x, torch.nan) for m, x in batch.embeddings.items()},
        torch.zeros_like(batch.present),
        batch.small,
    )
    output = evaluate(model, nobody)
    assert torch.allclose(output.logits, output.logits_small)
    assert (output.w_large == 0).all()


def test_a_training_patient_does_not_meet_itself_in_the_bank():
    model = make_model("default", "ensemble")
    batch = make_batch(40, seed=9)  # the bank's own patients
    with_index = model(batch).s
    without = model(Batch(batch.embeddings, batch.present, batch.small)).s
    assert (with_index > without).all()


def test_output_concatenates_in_order():
    model, batch = make_model(), make_batch(10)
    parts = [evaluate(model, batch.rows(torch.arange(a, b))) for a, b in ((0, 4), (4, 10))]
    whole = evaluate(model, batch)
    assert torch.allclose(Output.concatenate(parts).logits, whole.logits, atol=1e-5)


def test_the_bank_is_stored_without_dropout():
    """What a patient's s is measured against is a property of the weights, not of a draw."""
    model = make_model("default", "ensemble", ready=False).train()
    before = torch.get_rng_state()
    model.refresh()
    assert torch.equal(before, torch.get_rng_state())
    stored = model.bank.z_small
    assert torch.equal(stored, model.eval().p.small(model.bank.e_small))
