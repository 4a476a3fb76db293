"""Eq. 7–8 and the branches' own losses, against their parts computed one by one."""

import pytest
import torch
from torch.nn import functional as F

from adacomed.models.alignment import contrastive_loss
from adacomed.models.batch import Output
from adacomed.training.objective import Objective
from tests.models.conftest import make_batch, make_model


@pytest.mark.parametrize("lambda_", [0.0, 0.5])
@pytest.mark.parametrize("beta", [0.0, 2.0])
def test_the_loss_is_the_sum_of_its_parts(lambda_, beta):
    weights = torch.tensor([0.7, 2.0])
    model, batch = make_model("default", "ensemble").train(), make_batch(32)
    output = model(batch)

    def task(logits):
        return F.cross_entropy(logits, batch.target, weight=weights, label_smoothing=0.1)

    expected = task(output.logits)
    expected += lambda_ * contrastive_loss(output.z_large, output.z_small, 0.07).mean()
    expected += beta * (task(output.logits_large) + task(output.logits_small)) / 2
    objective = Objective(lambda_=lambda_, class_weights=weights, label_smoothing=0.1, beta=beta)
    assert torch.allclose(objective(output, batch.target)["loss"], expected, atol=1e-6)


def test_branch_losses_train_a_branch_that_has_no_weight():
    """With all the weight on the small model only β reaches the large branch."""
    batch = make_batch(32)

    def gradient(beta):
        model = make_model("default", "threshold").train()
        model.weighting.weigh = lambda s: (torch.zeros_like(s), torch.ones_like(s))
        Objective(lambda_=0.0, beta=beta)(model(batch), batch.target)["loss"].backward()
        return sum(float(p.grad.abs().sum()) for p in model.mome.parameters() if p.grad is not None)

    assert gradient(0.0) == 0
    assert gradient(1.0) > 0


def test_patients_of_the_same_class_can_be_left_out_of_the_negatives():
    """Against the loss of each patient among those of the other class alone."""
    batch = make_batch(12)
    output = make_model("default", "ensemble").train()(batch)
    losses = Objective(lambda_=1.0, same_class=False)(output, batch.target)
    u, v = F.normalize(output.z_large, dim=-1), F.normalize(output.z_small, dim=-1)
    expected = []
    for i in range(12):
        who = [i, *(j for j in range(12) if batch.target[j] != batch.target[i])]
        expected.append(-torch.log_softmax(u[i] @ v[who].T / 0.07, dim=-1)[0])
    assert torch.allclose(losses["contrast"], torch.stack(expected).mean(), atol=1e-5)


def test_a_patient_without_a_large_modality_has_no_large_loss():
    logits = torch.randn(3, 2)
    output = Output(
        logits=logits,
        logits_large=torch.tensor([[9.0, -9.0], [0.0, 0.0], [0.0, 0.0]]),
        logits_small=torch.zeros(3, 2),
        z_large=torch.randn(3, 4),
        z_small=torch.randn(3, 4),
        router=torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 0.5]]),
    )
    losses = Objective(beta=1.0)(output, torch.tensor([1, 0, 1]))
    assert float(losses["branch"]) == pytest.approx(float(torch.tensor(2.0).log()))


def test_methods_without_two_branches_have_one_term():
    output = Output(logits=torch.randn(4, 2), logits_large=torch.randn(4, 2))
    losses = Objective(beta=1.0)(output, torch.tensor([0, 1, 0, 1]))
    assert losses["loss"] is losses["task"]
