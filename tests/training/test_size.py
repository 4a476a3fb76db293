"""What is said of the mixture's size is what the model has."""

import pytest

from adacomed.config import Experiment, parse
from adacomed.errors import InputError
from adacomed.models.presets import build_mome
from adacomed.training.recipes import resolve_preset
from adacomed.training.size import mixture_size


def experiment(**model):
    return parse(Experiment, {"cohort": "c", "model": model}, "test")


@pytest.mark.parametrize(
    ("M", "model"),
    [(4, {}), (8, {"H": 16}), (20, {"H": 8, "max_order": 2}), (3, {"expert_view": "all"})],
)
def test_the_line_counts_the_experts_and_the_router_of_the_model(M, model):
    settings = experiment(**model)
    mome = build_mome(resolve_preset(settings), {f"m{i}": 5 for i in range(M)})
    parts = (mome.router, mome.experts)
    counted = sum(p.numel() for part in parts for p in part.parameters())
    line = mixture_size(settings, M)
    assert f"{len(mome.router.needs):,} experts" in line
    assert f"{counted / 1e6:,.2f} M parameters" in line


def test_too_many_experts_name_what_would_work():
    with pytest.raises(InputError, match=r"16,383 experts of at most 14 of 14 .*such as 5"):
        mixture_size(experiment(), 14)
    assert "1,470 experts" in mixture_size(experiment(max_order=4), 14)


def test_nobody_is_without_an_expert():
    """A patient with one modality of many has its own expert, whatever max_order is."""
    mome = build_mome(resolve_preset(experiment(max_order=1, H=8)), {f"m{i}": 5 for i in range(9)})
    assert mome.router.needs.sum(1).tolist() == [1] * 9
