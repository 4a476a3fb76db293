"""Presets: one named set of values each, printed with every result, and the builders that use them.

`paper` is the text, literally. `authors` is bug-compatible with the released code (rows 1–6 of
reference/released-code.md). `default` is what we stand behind. In `paper` and `authors` a patient's
prediction depends on who else is in the batch; in `default` it never does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

from adacomed.models.adacomed import AdaCoMed, SmallModel
from adacomed.models.alignment import Bank, Projection
from adacomed.models.mome import (
    Experts,
    MoME,
    NoAttention,
    PatientAttention,
    Projections,
    Router,
    TokenAttention,
    modality_subsets,
)
from adacomed.models.weighting import Weighting


@dataclass(frozen=True)
class Preset:
    """Every value on which the paper, the released code and the default may differ."""

    # the small model; small.kind of the settings goes before it
    small: str = "auto"
    # architecture
    H: int = 64
    d: int = 64
    heads: int = 4
    dropout: float = 0.5
    projection: Literal["mlp", "linear"] = "mlp"  # Proj_m of Eq. 1
    attention: Literal["tokens", "patients", "none"] = "tokens"
    residual: bool = True  # residual + LayerNorm around attention, p starts as the identity
    expert_view: Literal["subset", "all"] = "subset"
    max_order: int | None = None  # modalities of the largest expert; None: of all of them
    modality_dropout: float = 0.5
    complete_cases: bool = False  # patients with an absent modality are left out
    masks: bool = True  # False: an absent modality is a zero vector that counts as present
    # alignment
    tau: float = 0.07
    lambda_: float = 0.5
    beta: float = 1.0  # weight of the branches' own task losses
    score: Literal["own", "mean_negative"] = "own"
    negatives: Literal["all", "other-class"] = "all"
    bank_size: int | Literal["batch"] = 256  # "batch": the batch itself
    head_init: bool = True
    keep_small: bool = True  # its logits: training p and f on the same patients only worsens them
    # weighting
    strategy: str = "auto"  # chosen on validation among `weighting.STRATEGIES`
    inverse: Literal["inverse", "inverse_authors"] = "inverse"
    scale: Literal["quantile", "raw"] = "quantile"  # of s, where a strategy reads it
    T: float = 1.0
    alpha: float = 3.2  # with these, every strategy is level at the median of s
    sigma: float = 0.425
    t: float = 0.5
    k: float = 4.0
    detach: bool = True
    batch_mean: bool = False
    mix: Literal["logits", "probabilities", "sigmoids"] = "logits"  # the last: no classes
    # optimisation
    optimizer: Literal["adam", "adamw"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.01
    epochs: int = 20
    small_epochs: int = 40
    label_smoothing: float = 0.1
    fusion_class_weights: bool = True  # the small model's pretraining always has them
    prior_correction: bool = True  # undo the class weights' shift of the probabilities
    members: int = 3  # models averaged, each from its own seed; few patients only ("cv")


_PAPER = Preset(
    small="shallow",
    beta=0.0,
    modality_dropout=0.0,
    H=512,
    d=512,
    heads=4,
    dropout=0.1,
    residual=False,
    expert_view="all",
    complete_cases=True,
    bank_size="batch",
    head_init=False,
    keep_small=False,
    scale="raw",
    alpha=1.0,
    sigma=1.0,
    k=10.0,
    detach=False,
    mix="probabilities",
    optimizer="adam",
    lr=1e-4,
    weight_decay=0.0,
    epochs=100,
    small_epochs=100,
    label_smoothing=0.0,
    fusion_class_weights=False,
    prior_correction=False,
    members=1,
)

PRESETS: dict[str, Preset] = {
    "default": Preset(),
    "paper": _PAPER,
    "authors": replace(
        _PAPER,
        attention="patients",
        expert_view="subset",
        lambda_=0.0,
        score="mean_negative",
        inverse="inverse_authors",
        t=0.95,
        batch_mean=True,
        mix="logits",
    ),
}


def build_mome(preset: Preset, widths: Mapping[str, int]) -> MoME:
    """MoME for modalities of native widths D_m."""
    M, H = len(widths), preset.H
    subsets = modality_subsets(M, preset.max_order)
    everything = tuple(range(M))
    attention: nn.Module = NoAttention()
    if preset.attention == "tokens":
        attention = TokenAttention(
            H, heads=preset.heads, dropout=preset.dropout, residual=preset.residual
        )
    elif preset.attention == "patients":
        attention = PatientAttention(H, modalities=M, heads=preset.heads, dropout=preset.dropout)
    views = subsets if preset.expert_view == "subset" else [everything for _ in subsets]
    return MoME(
        projections=Projections(
            widths, H, dropout=preset.dropout, hidden=preset.projection == "mlp"
        ),
        attention=attention,
        router=Router(H, subsets),
        experts=Experts(H, views, dropout=preset.dropout),
    )


def build_weighting(preset: Preset, strategy: str, *, modalities: int) -> Weighting:
    """The strategy with the preset's constants."""
    return Weighting(
        preset.inverse if strategy == "inverse" else strategy,
        modalities=modalities,
        scale=preset.scale,
        T=preset.T,
        alpha=preset.alpha,
        sigma=preset.sigma,
        t=preset.t,
        k=preset.k,
        detach=preset.detach,
        batch_mean=preset.batch_mean,
    )


def build_adacomed(
    preset: Preset, widths: Mapping[str, int], small: SmallModel, *, strategy: str
) -> AdaCoMed:
    """AdaCoMed around a pretrained small model, whose weights it takes over as they are."""
    p = Projection(
        preset.H, small.width, preset.d, dropout=preset.dropout, residual=preset.residual
    )
    return AdaCoMed(
        mome=build_mome(preset, widths),
        small=small,
        p=p,
        weighting=build_weighting(preset, strategy, modalities=len(widths)),
        bank=None if preset.bank_size == "batch" else Bank(preset.bank_size, small.width, preset.d),
        temperature=preset.tau,
        score=preset.score,
        mix=preset.mix,
        head_init=preset.head_init,
        modality_dropout=preset.modality_dropout,
        masks=preset.masks,
        keep_small=preset.keep_small,
    )
