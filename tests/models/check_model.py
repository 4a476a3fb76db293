"""What every model of the default kind must keep, in one place (AdaCoMed and the baselines)."""

import torch
from torch import nn

from adacomed.models.batch import Batch


def prob(model: nn.Module, batch: Batch) -> torch.Tensor:
    """(B,) probability of class 1, in double precision as inference computes it."""
    model = model.double().eval()
    with torch.no_grad():
        plain = Batch(batch.embeddings, batch.present, batch.small).to("cpu", torch.float64)
        return torch.softmax(model(plain).logits, -1)[:, 1]


def batch_distance(model: nn.Module, batch: Batch, mates: Batch) -> float:
    """Largest change of any patient's probability: alone, reordered, among other patients."""
    together = prob(model, batch)
    alone = torch.cat([prob(model, batch.rows(torch.tensor([i]))) for i in range(len(batch))])
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(1))
    reordered = prob(model, batch.rows(order))[torch.argsort(order)]
    joined = Batch(
        {m: torch.cat([mates.embeddings[m], x]) for m, x in batch.embeddings.items()},
        torch.cat([mates.present, batch.present]),
        {m: torch.cat([mates.small[m], x]) for m, x in batch.small.items()},
    )
    among = prob(model, joined)[len(mates) :]
    return max(float((p - together).abs().max()) for p in (alone, reordered, among))


def check_model(model: nn.Module, batch: Batch, mates: Batch) -> None:
    """A patient's prediction is the patient's own, finite, and blind to absent modalities."""
    assert torch.isfinite(prob(model, batch)).all()
    assert batch_distance(model, batch, mates) <= 1e-6
    poisoned = {m: x.clone() for m, x in batch.embeddings.items()}
    for column, x in enumerate(poisoned.values()):
        x[~batch.present[:, column]] = 1e9
    other = Batch(poisoned, batch.present, batch.small)
    assert torch.equal(prob(model, batch), prob(model, other))
