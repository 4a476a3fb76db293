"""A small model of classical parts: their scores are its embedding, weighed by a linear head."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from adacomed.models.batch import Batch, Output
from adacomed.models.small.trees import FROZEN

TINY = 1e-4  # a model that is sure of a class says 1 − 1e-4 of it
SCORED = (*FROZEN, "stack")  # kinds of small model that are made of classical ones
Source = tuple[str, str]  # (input, kind of classical model)


def sources_of(kind: str, tables: Sequence[str], vectors: Sequence[str]) -> list[Source]:
    """What a small model of a kind is made of: (input, classical model) pairs.

    Args:
        kind: a key of `FROZEN`, fitted on each table (on each vector where there is no table), or
            "stack": a ridge logistic regression on each table and vector, and a forest on each
            table.
    """
    if kind == "stack":
        both = [(table, model) for table in tables for model in ("logistic", "forest")]
        return both + [(vector, "logistic") for vector in vectors]
    return [(name, kind) for name in (tables or vectors)]


class ScoreSmall(nn.Module):
    """Classical models, each on one input, as a small multimodal model.

    e_small holds, for every source, its evidence (log-probability minus log-prevalence, centred
    over the classes; 0 where the patient lacks the input), and the tables' standardised cells (0
    where missing), so that two patients with the same scores still differ. Evidence of different
    inputs adds up, so the head is one weight per source; it starts with none for the cells.

    While AdaCoMed trains, a training patient's e_small comes from models that were fitted without
    that patient (`Batch.e_small`): in-sample scores of trees would be a leak of the label.

    Args:
        sources: (input, kind), kind a key of `trees.FROZEN`.
        tables: table → its number of columns.
        classes: K.
    """

    log_prior: Tensor
    speaks: Tensor

    def __init__(
        self, sources: Sequence[Source], tables: Mapping[str, int], *, classes: int
    ) -> None:
        super().__init__()
        self.sources, self.tables, self.K = list(sources), list(tables), classes
        self.width = len(self.sources) * classes + sum(tables.values())
        self.scorers = nn.ModuleList(FROZEN[kind](classes) for _, kind in self.sources)
        self.register_buffer("log_prior", torch.zeros(classes))
        self.register_buffer("speaks", torch.ones(len(sources), dtype=torch.bool))
        self.head = nn.Linear(self.width, classes)

    def embed(self, batch: Batch) -> Tensor:
        """Evidence of every source beside the tables' cells, (B, width)."""
        nothing = torch.zeros(len(batch), self.K).to(next(iter(self.head.parameters())))
        scores = []
        for (name, _), scorer, speaks in zip(self.sources, self.scorers, self.speaks, strict=True):
            x, here = read(batch, name)
            scores.append(self.evidence(scorer(x), here) if speaks else nothing)
        return self.combine(scores, batch)

    def evidence(self, log_prob: Tensor, here: Tensor) -> Tensor:
        """Log-probabilities (B, K) of one source → its evidence, 0 where `here` (B,) is false."""
        told = log_prob.clamp(math.log(TINY), math.log1p(-TINY)) - self.log_prior.to(log_prob)
        return torch.where(here[:, None], told - told.mean(dim=-1, keepdim=True), 0.0)

    def combine(self, scores: Sequence[Tensor], batch: Batch) -> Tensor:
        """e_small (B, width) of the sources' evidence, each (B, K)."""
        cells = [read(batch, table)[0].nan_to_num() for table in self.tables]
        return torch.cat([*scores, *cells], dim=-1)

    def weigh(self, weights: Tensor, bias: Tensor) -> None:
        """Start the head from one weight per source, (S,), and a bias (K,)."""
        S = len(self.sources)
        with torch.no_grad():
            self.head.weight.zero_()
            blocks = self.head.weight[:, : S * self.K].view(self.K, S, self.K)
            blocks.copy_(weights[None, :, None] * torch.eye(self.K)[:, None, :])
            self.head.bias.copy_(bias)

    def forward(self, batch: Batch) -> Output:
        """Logits (B, K), as the whole prediction and as the small branch."""
        logits = self.head(self.embed(batch) if batch.e_small is None else batch.e_small)
        return Output(logits=logits, logits_small=logits)


def read(batch: Batch, name: str) -> tuple[Tensor, Tensor]:
    """An input's cells (B, P), NaN = not observed, and who has any of them (B,)."""
    x = batch.small.get(name)
    if x is None:
        column = list(batch.embeddings).index(name)
        x = torch.where(batch.present[:, column, None], batch.embeddings[name], torch.nan)
    return x, ~x.isnan().all(dim=1)
