"""Random patients, with every pattern of present modalities, for the model tests."""

import pytest
import torch

from adacomed.models.batch import Batch
from adacomed.models.presets import PRESETS, build_adacomed
from adacomed.models.small.shallow import ShallowSmall
from adacomed.training.fit import prepare
from adacomed.training.neural import fill_bank

WIDTHS = {"ct": 7, "wsi": 5, "note": 11}


def make_batch(n: int = 64, *, complete: bool = False, seed: int = 0) -> Batch:
    g = torch.Generator().manual_seed(seed)
    present = torch.rand(n, len(WIDTHS), generator=g) < 0.6
    present[:, 1] |= ~present.any(1)
    if complete:
        present[:] = True
    table = torch.randn(n, 4, generator=g)
    table[torch.rand(n, 4, generator=g) < 0.2] = torch.nan
    embeddings = {m: torch.randn(n, d, generator=g) for m, d in WIDTHS.items()}
    for column, x in enumerate(embeddings.values()):
        x[~present[:, column]] = torch.nan
    return Batch(
        embeddings=embeddings,
        present=present,
        small={"clinical": table},
        target=torch.randint(0, 2, (n,), generator=g),
        index=torch.arange(n),
    )


def make_model(preset: str = "default", strategy: str = "threshold", *, ready: bool = True):
    """A model in evaluation mode with a filled bank, random weights everywhere."""
    torch.manual_seed(0)
    small = ShallowSmall({"clinical": 4}, width=16, classes=2, dropout=0.1)
    model = build_adacomed(PRESETS[preset], WIDTHS, small, strategy=strategy)
    for p in model.p.shared.parameters():  # not the identity it starts as
        torch.nn.init.normal_(p, std=0.2)
    if model.bank is not None:
        fill_bank(model, make_batch(40, seed=9), seed=0)
    if ready:
        model.train()
        model(make_batch(8, complete=preset != "default"))
        prepare(model)
    return model


@pytest.fixture
def batch() -> Batch:
    return make_batch()
