"""Random patients with raw inputs of every kind, for the models that read them."""

import torch

from adacomed.models.batch import Batch
from adacomed.models.raw import (
    NONE,
    Events,
    Images,
    ImageShape,
    Notes,
    SeriesShape,
    TableShape,
    TextShape,
    VectorShape,
)

SHAPES = {
    "vitals": SeriesShape(variables=3),
    "xray": ImageShape(views=2, size=32),
    "note": TextShape(vocabulary=20, width=6),
    "ct": VectorShape(width=7),
    "clinical": TableShape(columns=4),
}


def _items(n: int, most: int, g: torch.Generator) -> torch.Tensor:
    """(n, most) row numbers, 0 … most items a patient."""
    count = torch.randint(0, most + 1, (n, 1), generator=g)
    here = torch.arange(most) < count
    item = torch.full((n, most), NONE)
    item[here] = torch.arange(int(here.sum()))
    return item


def make_raw_batch(n: int = 12, seed: int = 0) -> Batch:
    """n patients; each lacks some of vitals, xray, note, ct; the table has holes."""
    g = torch.Generator().manual_seed(seed)
    T = torch.randint(0, 6, (n, 1), generator=g)
    hours = torch.rand(n, 5, generator=g).mul(48).sort(1).values
    hours[torch.arange(5) >= T] = torch.nan
    value = torch.rand(n, 5, 3, generator=g)
    value[torch.rand(value.shape, generator=g) < 0.4] = torch.nan
    value[hours.isnan()] = torch.nan
    image, note = _items(n, 3, g), _items(n, 2, g)
    pixels = torch.randint(0, 256, (int((image >= 0).sum()), 32, 32), generator=g)
    seen = torch.where(image >= 0, torch.rand(n, 3, generator=g) * 48, torch.nan)
    notes = int((note >= 0).sum())
    token = torch.randint(1, 20, (notes, 9), generator=g)
    token[torch.arange(9) >= torch.randint(1, 10, (notes, 1), generator=g)] = 0
    ct = torch.randn(n, 7, generator=g)
    present = torch.rand(n, 1, generator=g) < 0.6
    ct[~present[:, 0]] = torch.nan
    table = torch.randn(n, 4, generator=g)
    table[torch.rand(n, 4, generator=g) < 0.2] = torch.nan
    return Batch(
        embeddings={"ct": ct},
        present=present,
        small={"clinical": table},
        target=torch.randint(0, 2, (n,), generator=g),
        index=torch.arange(n),
        raw={
            "vitals": Events(hours, value),
            "xray": Images(
                pixels.to(torch.uint8),
                torch.randint(0, 2, (len(pixels),), generator=g),
                image,
                seen,
            ),
            "note": Notes(torch.randn(notes, 6, generator=g), token, note),
        },
    )
