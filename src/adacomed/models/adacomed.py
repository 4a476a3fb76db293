"""AdaCoMed: the parts put together (Fig. 3, Eq. 6 and the mixture inside Eq. 7)."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from adacomed.models import alignment
from adacomed.models.alignment import Bank, Projection
from adacomed.models.batch import Batch, Output
from adacomed.models.mome import MoME, drop_modalities
from adacomed.models.shared import silent
from adacomed.models.weighting import Weighting, mixture


class SmallModel(Protocol):
    """What any small multimodal model must offer to take part."""

    width: int
    head: nn.Linear

    def embed(self, batch: Batch) -> Tensor:
        """Whatever it reads of a batch → e_small (B, width)."""
        ...


class AdaCoMed(nn.Module):
    """Large branch, small branch, shared head, adaptive weights.

    Args:
        mome: embeddings, present → e_large (B, H), router weights (B, C) (Eq. 1–2).
        small: pretrained small model; its body stays frozen, its head becomes f.
        p: projection into the joint space (Eq. 3).
        weighting: s → w_large, w_small (Table 1).
        bank: fixed candidates of Eq. 4; None: the batch itself, as in `paper`.
        temperature: τ of Eq. 4.
        score: "own" is Eq. 4; "mean_negative" is the released code's.
        mix: what Eq. 7 mixes, the branches' "logits", "probabilities" or "sigmoids".
        head_init: start p and f so that f(z_small) equals the pretrained logits.
        modality_dropout: chance that the large branch misses a modality in a training step.
        masks: False (an ablation): an absent modality is a zero vector that counts as present.
        keep_small: ŷ_small stays what the pretrained model says, which f(z_small) is at step 0;
            False lets it follow p and f as they learn (Eq. 6 to the letter).
    Attributes:
        watched: s is wanted in training steps too. Without it a step whose weights do not read s
            leaves it out: the bank's patients would cost as much as the batch's own.
    """

    def __init__(
        self,
        *,
        mome: MoME,
        small: SmallModel,
        p: Projection,
        weighting: Weighting,
        bank: Bank | None,
        temperature: float = 0.07,
        score: Literal["own", "mean_negative"] = "own",
        mix: Literal["logits", "probabilities", "sigmoids"] = "logits",
        head_init: bool = True,
        modality_dropout: float = 0.0,
        masks: bool = True,
        keep_small: bool = False,
    ) -> None:
        super().__init__()
        assert isinstance(small, nn.Module)
        d = p.adapter_small.out_features
        self.mome, self.p, self.weighting, self.bank = mome, p, weighting, bank
        self.temperature, self.score, self.mix = temperature, score, mix
        self.modality_dropout, self.masks = modality_dropout, masks
        self.keep_small, self.watched = keep_small, False
        self.to_head = nn.Linear(d, small.width)  # d is free; f keeps the small model's width
        self.f = nn.Linear(small.width, small.head.out_features)
        self.f.load_state_dict(small.head.state_dict())
        self.small = small.requires_grad_(False)
        if head_init:
            self._start_from_small_model()

    def _start_from_small_model(self) -> None:
        """f(z_small) equals the pretrained logits at step 0, whatever d is (Sec. 3.3)."""
        Q = alignment.head_isometry(self.f.weight.detach(), self.to_head.in_features)  # (d, E)
        with torch.no_grad():
            self.p.adapter_small.weight.copy_(Q)
            self.p.adapter_small.bias.zero_()
            self.to_head.weight.copy_(Q.T)
            self.to_head.bias.zero_()

    def train(self, mode: bool = True) -> AdaCoMed:
        """Training mode for everything but the frozen small body (its dropout stays off)."""
        super().train(mode)
        self.small.train(False)
        return self

    def head(self, z: Tensor) -> Tensor:
        """Eq. 6: the shared head f, z (B, d) → logits (B, K)."""
        logits: Tensor = self.f(self.to_head(z))
        return logits

    def forward(self, batch: Batch) -> Output:
        """Predict B patients; see `Output` for the fields."""
        e_large, router = self.mome(*self._seen(batch))  # (B, H), (B, C)
        e_small = batch.e_small if batch.e_small is not None else self.embed_small(batch)
        z_large, z_small = self.p(e_large, e_small)  # (B, d)
        wanted = self.weighting.reads_s or self.watched or not self.training
        s = self._similarity(z_large, z_small, batch.index) if wanted else None
        logits_large = self.head(z_large)  # (B, K)
        logits_small = self.small.head(e_small) if self.keep_small else self.head(z_small)
        candidates = len(batch) if self.bank is None else self.bank.candidates
        told = z_large.new_zeros(z_large.shape[0]) if s is None else s
        w_large, w_small = self.weighting(
            told, logits_large, logits_small, batch.present, candidates
        )
        return Output(
            logits=mixture(logits_large, logits_small, (w_large, w_small), self.mix),
            logits_large=logits_large,
            logits_small=logits_small,
            z_large=z_large,
            z_small=z_small,
            s=s,
            w_large=w_large,
            w_small=w_small,
            router=router,
        )

    def replayable(self, batch: Batch) -> bool:
        """Whether a card may be given a step as a whole (`training/replayed.py`)."""
        return batch.e_small is not None

    @torch.no_grad()
    def embed_small(self, batch: Batch) -> Tensor:
        """e_small (B, width) of the frozen small model; in full precision, as `remember` has it."""
        with torch.autocast(batch.present.device.type, enabled=False):
            return self.small.embed(batch)

    def remember(self, batch: Batch, *, rows: int = 256) -> Batch:
        """The batch with its e_small: the small body is frozen, so a fit computes it once."""
        if batch.e_small is not None:
            return replace(batch, raw={})
        self.small.train(False)
        parts = torch.split(torch.arange(len(batch)), rows)
        e_small = torch.cat([self.embed_small(batch.rows(index)) for index in parts])
        return replace(batch, e_small=e_small, raw={})

    def _seen(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """What the large branch is given: embeddings and which of them count as present."""
        embeddings, present = batch.embeddings, batch.present
        if self.training and self.modality_dropout > 0:
            present = drop_modalities(present, self.modality_dropout)
        if self.masks:
            return embeddings, present
        filled = {
            name: torch.where(present[:, m, None], x, 0.0)
            for m, (name, x) in enumerate(embeddings.items())
        }
        return filled, torch.ones_like(present)

    def _similarity(self, z_large: Tensor, z_small: Tensor, index: Tensor | None) -> Tensor:
        """s, without a graph where no gradient goes through it."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.weighting.detach):
            return self.similarity(z_large, z_small, index)

    def similarity(self, z_large: Tensor, z_small: Tensor, index: Tensor | None) -> Tensor:
        """s of Eq. 4, (B,): against the bank where there is one, else within the batch."""
        if self.score == "mean_negative":
            return alignment.mean_negative_similarity(
                z_large, z_small, temperature=self.temperature
            )
        if self.bank is None:
            return alignment.log_similarity(z_large, z_small, temperature=self.temperature).exp()
        bank = self.bank.z_small
        if self.training:  # p has moved since
            with silent():
                bank = self.p.small(self.bank.e_small)
        return alignment.log_similarity(
            z_large,
            z_small,
            temperature=self.temperature,
            bank=bank,
            exclude=self.bank.exclude(index),
        ).exp()

    def refresh(self) -> None:
        """Store the bank's z_small under the current p; a loaded model's bank is final already."""
        if self.bank is not None and self.training:
            with silent():  # what is stored is what the weights say, without dropout
                self.bank.freeze(self.p)
