"""Aligning large and small: projection p (Eq. 3), similarity s (Eq. 4), the loss of Eq. 5."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adacomed.models.mome import mlp
from adacomed.models.shared import whole


class Projection(nn.Module):
    """p of Eq. 3: a linear adapter per branch (their widths differ), then one shared MLP.

    With `residual` the shared MLP starts as the identity, z = a + MLP(a) with its last layer zero,
    so that training departs from the pretrained small model instead of from noise.
    """

    def __init__(
        self, width_large: int, width_small: int, d: int, *, dropout: float, residual: bool = True
    ) -> None:
        super().__init__()
        self.adapter_large = nn.Linear(width_large, d)
        self.adapter_small = nn.Linear(width_small, d)
        self.shared = mlp(d, d, hidden=d, dropout=dropout, rows=-2)
        self.residual = residual
        if residual:
            last = self.shared[-1]
            assert isinstance(last, nn.Linear)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, e_large: Tensor, e_small: Tensor) -> tuple[Tensor, Tensor]:
        """Both of the same B patients, (B, d) each, through the shared MLP together."""
        a = torch.stack([self.adapter_large(e_large), self.adapter_small(e_small)])
        z_large, z_small = self._shared(a)  # of (2, B, d)
        return z_large, z_small

    def large(self, e_large: Tensor) -> Tensor:
        """e_large (B, H) → z_large (B, d)."""
        return self._shared(self.adapter_large(e_large))

    def small(self, e_small: Tensor) -> Tensor:
        """e_small (B, width of the small model) → z_small (B, d)."""
        return self._shared(self.adapter_small(e_small))

    def _shared(self, a: Tensor) -> Tensor:
        z: Tensor = self.shared(a)
        return a + z if self.residual else z


def head_isometry(weight: Tensor, d: int) -> Tensor:
    """Q (d, E), orthonormal, a detour that a linear head of `weight` (K, E) cannot notice.

    weight @ Q.T @ Q == weight, for any d ≥ K: where d ≥ E nothing is lost at all, where d < E the
    d kept directions span the head's rows. With Q as the small adapter and Q.T before the head,
    f(z_small) equals the pretrained logits at step 0 although d is free.

    Raises:
        ValueError: d < K, the head itself does not fit through d directions.
    """
    K, E = weight.shape
    if d < min(K, E):
        raise ValueError(f"d={d} is smaller than the {K} classes; take d ≥ {K}")
    _, _, v = torch.linalg.svd(weight.double(), full_matrices=True)  # v (E, E), head's rows first
    if d >= E:
        return torch.cat([torch.eye(E), torch.zeros(d - E, E)]).to(weight)
    Q: Tensor = v[:d].to(weight)
    return Q


def log_similarity(
    z_large: Tensor,
    z_small: Tensor,
    *,
    temperature: float = 0.07,
    bank: Tensor | None = None,
    exclude: Tensor | None = None,
    negatives: Tensor | None = None,
) -> Tensor:
    """log s of Eq. 4: how well z_large picks out its own z_small among the candidates.

    Args:
        z_large, z_small: (B, d), any scale (cosine similarity).
        temperature: τ, dimensionless, > 0.
        bank: (N, d) candidates beside the patient's own z_small. None: the batch's z_small, as in
            the paper; a patient's s then depends on its batch-mates.
        exclude: (B, N) bool, bank rows that are the patient itself.
        negatives: without a bank: (B, B) bool, which of the batch's other patients are candidates.
    Returns:
        (B,), ≤ 0.
    Source: AdaCoMed Eq. 4.
    """
    if z_large.shape != z_small.shape:
        raise ValueError(
            f"z_large {tuple(z_large.shape)} and z_small {tuple(z_small.shape)} differ"
        )
    u, v = F.normalize(z_large, dim=-1), F.normalize(z_small, dim=-1)
    own = (u * v).sum(-1) / temperature  # (B,)
    if bank is None:
        candidates = u @ whole(v).T / temperature  # (B, B), the patient's own among them
        if negatives is not None:
            own_too = negatives | torch.eye(len(u), dtype=torch.bool, device=u.device)
            candidates = candidates.masked_fill(~own_too, -torch.inf)
        return own - torch.logsumexp(candidates, dim=-1)
    others = u @ F.normalize(bank, dim=-1).T / temperature  # (B, N)
    if exclude is not None:
        others = others.masked_fill(exclude, -torch.inf)
    return own - torch.logsumexp(torch.cat([own[:, None], others], dim=-1), dim=-1)


def mean_negative_similarity(z_large: Tensor, z_small: Tensor, *, temperature: float) -> Tensor:
    """Preset `authors` only: the released score, own against the MEAN of the batch's negatives.

    Args and returns as `log_similarity` without a bank, but s itself, (B,) in (0, 1).
    """
    u, v = F.normalize(z_large, dim=-1), F.normalize(z_small, dim=-1)
    scores = torch.exp(u @ whole(v).T / temperature)  # (B, B)
    own = torch.exp((u * v).sum(-1) / temperature)
    negatives = (scores.sum(-1) - own) / max(scores.shape[1] - 1, 1)
    return own / (own + negatives)


def contrastive_loss(
    z_large: Tensor,
    z_small: Tensor,
    temperature: float = 0.07,
    negatives: Tensor | None = None,
) -> Tensor:
    """Pull a patient's large and small representations together, push other patients' apart.

    Args:
        z_large: shape (B, d), any scale (normalised here).
        z_small: shape (B, d); row i is the same patient as `z_large[i]`.
        temperature: dimensionless, > 0.
        negatives: shape (B, B), bool, who may be pushed apart; None: everyone else.
    Returns:
        Loss per patient, shape (B,), in nats; 0 for a patient without a negative.
    Raises:
        ValueError: shapes differ, or B < 2 (there is no negative).
    Source: AdaCoMed Eq. 4–5.
    """
    if len(z_large) < 2:
        raise ValueError("the contrastive loss needs at least two patients in a batch")
    return -log_similarity(z_large, z_small, temperature=temperature, negatives=negatives)


class Bank(nn.Module):
    """The fixed candidates of Eq. 4: a sample of training patients, saved with the model.

    While training it holds their e_small (constant: the small body is frozen), so z_small follows p
    as p learns. `freeze` stores the final z_small; from then on s is a property of the patient and
    the model alone.
    """

    e_small: Tensor
    index: Tensor
    z_small: Tensor

    def __init__(self, size: int, width_small: int, d: int) -> None:
        super().__init__()
        self.register_buffer("e_small", torch.zeros(size, width_small), persistent=False)
        self.register_buffer("index", torch.full((size,), -1), persistent=False)
        self.register_buffer("z_small", torch.zeros(size, d))

    @property
    def candidates(self) -> int:
        """Of Eq. 4: the bank's patients and the patient's own."""
        return len(self.z_small) + 1

    def fill(self, e_small: Tensor, index: Tensor) -> None:
        """Take (N, width_small) training representations and their rows in the training set."""
        self.e_small, self.index = e_small.detach(), index
        self.z_small = e_small.new_zeros(len(e_small), self.z_small.shape[1])

    def freeze(self, p: Projection) -> None:
        """Store z_small under the final p."""
        with torch.no_grad():
            self.z_small = p.small(self.e_small)

    def exclude(self, index: Tensor | None) -> Tensor | None:
        """Rows (B, N) where the bank holds the patient itself; None outside training."""
        return None if index is None else index[:, None] == self.index[None, :]
