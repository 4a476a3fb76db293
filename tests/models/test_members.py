"""Several models as one: their mean, and how far apart they are."""

import pytest
import torch
from torch import nn

from adacomed.models.batch import Batch, Output
from adacomed.models.members import Members

from .conftest import make_batch


class Says(nn.Module):
    """A model that says the same of everyone."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, batch: Batch) -> Output:
        return Output(logits=self.logits.expand(len(batch), -1))


def test_two_classes_spread_by_their_log_odds():
    output = Members([Says(0.0, 1.0), Says(2.0, 1.0), Says(0.0, 0.0)])(make_batch(5))
    odds = torch.tensor([1.0, -1.0, 0.0])
    assert (output.logits[:, 1] - output.logits[:, 0]).tolist() == pytest.approx([0.0] * 5)
    assert output.spread.tolist() == pytest.approx([odds.std(correction=0).item()] * 5)


def test_the_spread_of_many_classes_is_that_of_the_most_disputed():
    output = Members([Says(0.0, 0.0, 3.0), Says(0.0, 0.0, -3.0)])(make_batch(2))
    assert output.spread.tolist() == pytest.approx([3.0, 3.0])  # class 2 against the other two


def test_a_prior_correction_does_not_change_it():
    shift = torch.tensor([0.0, 5.0])
    plain = Members([Says(0.0, 1.0), Says(2.0, 1.0)])(make_batch(3)).spread
    moved = Members([Says(0.0, 6.0), Says(*(torch.tensor([2.0, 1.0]) + shift).tolist())])
    assert torch.allclose(moved(make_batch(3)).spread, plain)
