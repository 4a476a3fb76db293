"""A small model of classical parts: their scores are its embedding, weighed by a linear head."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from adacomed.models.batch import Batch, Output
from adacomed.models.small.trees import FROZEN

TINY = 1e-4  # a model that is sure of a class says 1 − 1e-4 of it
SCORED = (*FROZEN, "stack")  # kinds of small model that are made of classical ones
Source = tuple[str, str]  # (input, kind of classical model)
Asked = Literal["classes", "findings", "survival"]


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

    A source answers Q questions: which of K classes (Q = 1, K columns of evidence); or each of K
    findings, yes or no (Q = K, each one column of log-odds); or whether the event comes sooner
    than usual (Q = 1, one column: the log odds ratio of all K hazards).

    While AdaCoMed trains, a training patient's e_small comes from models that were fitted without
    that patient (`Batch.e_small`): in-sample scores of trees would be a leak of the label.

    Args:
        sources: (input, kind), kind a key of `trees.FROZEN`.
        tables: table → its number of columns.
        classes: K, columns of the head.
        asked: what the columns are.
    """

    log_prior: Tensor
    speaks: Tensor

    def __init__(
        self,
        sources: Sequence[Source],
        tables: Mapping[str, int],
        *,
        classes: int,
        asked: Asked = "classes",
    ) -> None:
        super().__init__()
        self.sources, self.tables, self.K, self.asked = list(sources), list(tables), classes, asked
        self.Q = classes if asked == "findings" else 1
        self.answers = classes if asked == "classes" else 2  # to each question
        self.columns = 1 if asked == "survival" else classes  # of e_small, from each source
        self.width = len(self.sources) * self.columns + sum(tables.values())
        each = [FROZEN[kind](self.answers) for _, kind in self.sources for _ in range(self.Q)]
        self.scorers = nn.ModuleList(each)  # a source's questions lie together
        prior = (classes,) if asked == "classes" else (self.Q, self.answers)
        self.register_buffer("log_prior", torch.zeros(prior))
        self.register_buffer("speaks", torch.ones(len(each), dtype=torch.bool))
        self.head = nn.Linear(self.width, classes)

    def embed(self, batch: Batch) -> Tensor:
        """Evidence of every source beside the tables' cells, (B, width)."""
        B = batch.present.shape[0]  # not len(): an export keeps it open
        nothing = torch.zeros(B, self.answers).to(next(iter(self.head.parameters())))
        scores = []
        for i, (scorer, speaks) in enumerate(zip(self.scorers, self.speaks, strict=True)):
            x, here = read(batch, self.sources[i // self.Q][0])
            scores.append(self.evidence(scorer(x), here, i % self.Q) if speaks else nothing)
        return self.combine(scores, batch)

    def evidence(self, log_prob: Tensor, here: Tensor, question: int = 0) -> Tensor:
        """What one source says to a question, centred over its answers.

        Args:
            log_prob: (B, answers).
            here: (B,), who has the input; the others' evidence is 0.
        """
        prior = self.log_prior.view(self.Q, -1)[question].to(log_prob)
        told = log_prob.clamp(math.log(TINY), math.log1p(-TINY)) - prior
        return torch.where(here[:, None], told - told.mean(dim=-1, keepdim=True), 0.0)

    def combine(self, scores: Sequence[Tensor], batch: Batch) -> Tensor:
        """e_small (B, width) of the scorers' evidence, each (B, answers)."""
        if self.asked != "classes":
            scores = [told[:, 1:] - told[:, :1] for told in scores]  # yes against no
        cells = [read(batch, table)[0].nan_to_num() for table in self.tables]
        return torch.cat([*scores, *cells], dim=-1)

    def weigh(self, weights: Tensor, bias: Tensor) -> None:
        """Start the head from one weight per source and question, (S, Q), and a bias (K,)."""
        S, P = len(self.sources), self.columns
        own = torch.ones(self.K, 1) if self.asked == "survival" else torch.eye(self.K)  # (K, P)
        with torch.no_grad():
            self.head.weight.zero_()
            blocks = self.head.weight[:, : S * P].view(self.K, S, P)
            blocks.copy_(weights[None] * own[:, None, :])
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
