"""A run of format 2 predicts what it predicted: its projections and experts, layer by layer."""

import torch
from torch import nn

from adacomed.models.mome import Experts, Projections, mlp
from adacomed.training.upgrade import upgraded


def test_old_projections_give_the_same_tokens():
    widths = {"a": 3, "b": 7}
    old = nn.ModuleList(mlp(D, 4, hidden=4, dropout=0.5) for D in widths.values()).eval()
    weights = {f"members.0.mome.projections.{k}": v for k, v in old.state_dict().items()}
    new = Projections(widths, 4, dropout=0.5).eval()
    found = upgraded({**weights, "other": torch.ones(1)}, 2)
    assert found.pop("other") == 1
    new.load_state_dict(
        {k.removeprefix("members.0.mome.projections."): v for k, v in found.items()}
    )
    x = {m: torch.randn(5, D) for m, D in widths.items()}
    tokens = new(x, torch.ones(5, 2, dtype=torch.bool))
    for m, (name, projection) in enumerate(zip(widths, old, strict=True)):
        assert torch.allclose(tokens[:, m], projection(x[name]), atol=1e-6)


def test_old_linear_projections():
    old = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 4))
    found = upgraded({f"mome.projections.0.{k}": v for k, v in old.state_dict().items()}, 2)
    assert found.keys() == {"mome.projections.first.0.weight", "mome.projections.first.0.bias"}


def test_old_experts_first_layers_are_turned():
    new = Experts(4, [(0,), (1,), (0, 1)], dropout=0.0)
    old = {f"mome.experts.{name}": x for name, x in new.state_dict().items()}
    old |= {name: x.mT for name, x in old.items() if ".w1." in name}
    found = upgraded(old, 2)
    assert found.keys() == old.keys()
    for name, x in new.state_dict().items():
        assert found[f"mome.experts.{name}"].equal(x)
        assert found[f"mome.experts.{name}"].is_contiguous()


def test_todays_weights_stay_as_they_are():
    weights = {"mome.projections.first.0.weight": torch.ones(2)}
    assert upgraded(weights, 3) == weights
