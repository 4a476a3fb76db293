"""Table 6: what training costs, at the paper's shapes: parameters, memory, time, operations.

Counted: parameters, operations (a multiplication and an addition are two) and memory (weights,
gradients, Adam's two moments, and every tensor that the backward pass keeps). Measured: time of a
step on this machine, for the methods that fit here. The two large ones are counted on PyTorch's
meta device, which holds shapes and no numbers.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from typing import Any

import polars as pl
import torch
from torch import Tensor, nn

from adacomed.models.baselines.meta_transformer import build_meta_transformer
from adacomed.models.baselines.onellm import OneLLM, build_onellm
from adacomed.models.batch import Batch
from adacomed.models.presets import PRESETS, Preset, build_adacomed
from adacomed.models.raw import (
    Events,
    Images,
    ImageShape,
    Notes,
    SeriesShape,
    Shape,
    TableShape,
    TextShape,
)
from adacomed.models.small.multimodal_pred import build_multimodal_pred
from adacomed.report import paper
from adacomed.reproduce.counting import Cost, count, forward_flops, throughput
from adacomed.reproduce.study import Artefact

WIDTHS = {"xray": 1536, "note": 5120, "time": 1024}  # DINOv2 giant, Me-LLaMA-13B, MOIRAI large
SHAPES: dict[str, Shape] = {  # MIMIC-IV-MM as MultimodalPred reads it
    "time": SeriesShape(variables=41),
    "xray": ImageShape(views=4, size=224),
    "note": TextShape(vocabulary=30_000, width=512),
    "demographics": TableShape(columns=27),
}
BATCH = 64
PATIENTS = 5_241  # 72 % of HAIM's 7,279 stays (reference/datasets.md)
TOKENS = {"xray": 196, "time": 48, "note": 256}  # of a patient, in the unified encoders
ONELLM_MODALITIES = 8  # of the original
CLASSES = 2
EPOCHS = 100  # Sec. 4.1
PAPER_PARAMETERS = 21.3  # M, AdaCoMed


def table_6(_: object = None) -> Artefact:
    """Cost of every method of the paper's Table 6, ours beside the paper's."""
    costs = {
        "Meta-Transformer": meta_transformer(),
        "OneLLM": onellm(),
        "MultimodalPred-Small": multimodal_pred(),
        "AdaCoMed (paper's recipe)": adacomed(replace(PRESETS["paper"], bank_size="batch")),
        "AdaCoMed (our default)": adacomed(PRESETS["default"]),
    }
    H, counted = paper_width()
    costs[f"AdaCoMed with H = d = {H}"] = adacomed(replace(PRESETS["paper"], H=H, d=H))
    speed = throughput()
    embedded = embedding()
    once = float(embedded["GFLOP per patient"].to_numpy().sum())
    table = pl.DataFrame(
        [
            _row(name, cost, speed, once if name.startswith("AdaCoMed") else 0.0)
            for name, cost in costs.items()
        ]
    )
    return Artefact(
        f"Training cost at the paper's shapes (M = 3: {', '.join(map(str, WIDTHS.values()))})",
        tables={
            f"Ours, this machine ({torch.get_num_threads()} threads, CPU)": table,
            "Embedding, once for all epochs, methods and seeds": embedded,
            "The paper's (A100; batch 1 for OneLLM, 64 for the others)": paper.table_6(),
        },
        data={"table6": table},
        notes=[
            f"An epoch is {PATIENTS:,} patients. AdaCoMed reads stored embeddings: its total over "
            f"{EPOCHS} epochs has them once; its small model's own training comes on top.",
            f"H = d = {H} gives {counted / 1e6:.1f} M, nearest to the paper's {PAPER_PARAMETERS}; "
            f"the paper does not state H. 'estimated': operations over the {speed / 1e9:.0f} G/s "
            f"that a large matrix product reaches here.",
        ],
    )


def _row(name: str, cost: Cost, speed: float, once: float) -> dict[str, object]:
    """One line; a step that was not run here is estimated from its operations.

    Args:
        once: GFLOP per patient before the first epoch, of the encoders.
    """
    each = cost.flops / cost.batch / 1e9
    seconds = cost.seconds if cost.seconds is not None else cost.flops / speed
    steps = -(-PATIENTS // cost.batch)
    return {
        "method": name,
        "trained parameters (M)": f"{cost.trained / 1e6:.1f}",
        "frozen (M)": f"{cost.frozen / 1e6:.1f}",
        "batch": cost.batch,
        "memory per batch (GB)": f"{cost.memory / 1e9:.2f}",
        "GFLOP per patient and epoch": f"{each:.3g}",
        f"PFLOP in {EPOCHS} epochs, embedding included": (
            f"{PATIENTS * (once + EPOCHS * each) / 1e6:.3g}"
        ),
        "min per epoch": f"{seconds * steps / 60:.3g}",
        "time": "measured" if cost.seconds is not None else "estimated",
    }


def embedding() -> pl.DataFrame:
    """Operations of the paper's three encoders for one patient, forward only.

    One X-ray of 224 pixels, one note of 512 tokens, 46 variables × 6 patches of 8 hours. The first
    two are counted on the meta device, MOIRAI's is 2 × weights × tokens.
    """
    from transformers import (
        Dinov2WithRegistersConfig,
        Dinov2WithRegistersModel,
        LlamaConfig,
        LlamaModel,
    )

    with torch.device("meta"):
        image = Dinov2WithRegistersModel(
            Dinov2WithRegistersConfig(
                hidden_size=1536,
                num_hidden_layers=40,
                num_attention_heads=24,
                image_size=518,
                patch_size=14,
                use_swiglu_ffn=True,
            )
        )
        text = LlamaModel(
            LlamaConfig(
                hidden_size=5120,
                intermediate_size=13824,
                num_hidden_layers=40,
                num_attention_heads=40,
            )
        )
        pixels, words = torch.empty(1, 3, 224, 224), torch.empty(1, 512, 5120)
        whole = torch.zeros(1, 1, 512, 512)  # every token sees every other, as LLM2Vec has it
        image_flops = forward_flops(image, pixel_values=pixels)
        text_flops = forward_flops(text, inputs_embeds=words, attention_mask=whole, use_cache=False)
    rows: list[tuple[str, str, float, float]] = [
        ("xray", "DINOv2 giant", _millions(image), image_flops / 1e9),
        ("note", "LLaMA 13B", _millions(text), text_flops / 1e9),
    ]
    moirai = 24 * (4 * 1024**2 + 3 * 1024 * 2816)  # attention and SwiGLU of its 24 layers
    rows.append(("time", "MOIRAI large", moirai / 1e6, 2 * moirai * 46 * 6 / 1e9))
    columns = ["modality", "encoder", "parameters (M)", "GFLOP per patient"]
    return pl.DataFrame(rows, schema=columns, orient="row")


def _millions(model: nn.Module) -> float:
    return sum(p.numel() for p in model.parameters()) / 1e6


# ---- the methods --------------------------------------------------------------------------------
def multimodal_pred(batch: int = BATCH, *, run: bool = True) -> Cost:
    """MultimodalPred-Small on one X-ray, 48 time stamps and two notes a patient."""
    model = build_multimodal_pred(SHAPES, classes=CLASSES)
    patients = _raw_patients(batch)
    return count(model, lambda: model(patients).logits.sum(), batch, run=run)


def adacomed(preset: Preset, batch: int = BATCH) -> Cost:
    """AdaCoMed around MultimodalPred-Small, e_small remembered as in every fit."""
    model = _adacomed(preset)
    patients = _vectors(batch, model.small.width)
    if model.bank is not None:
        store = _vectors(int(preset.bank_size), model.small.width)
        assert store.e_small is not None
        model.bank.fill(store.e_small, torch.arange(len(store)))

    def loss() -> Tensor:
        output = model(patients)
        assert output.z_large is not None
        assert output.z_small is not None
        total: Tensor = output.logits.sum() + (output.z_large @ output.z_small.T).sum()
        return total

    return count(model, loss, batch, repeats=10)


def meta_transformer() -> Cost:
    """The published trunk over all of a patient's tokens, everything trained."""
    with torch.device("meta"):
        shapes = {**SHAPES, "note": TextShape(vocabulary=2, width=512)}  # CLIP's words are frozen
        model = build_meta_transformer(shapes, classes=CLASSES, size="published")
        width = model.norm.normalized_shape[0]
        tokens = torch.empty(BATCH, 1 + sum(TOKENS.values()) + 5, width)
        here = torch.empty(tokens.shape[:2], dtype=torch.bool)

        def loss() -> Tensor:
            x = tokens
            for block in model.trunk:
                x = block(x, here)
            total: Tensor = model.head(model.norm(x[:, 0])).sum()
            return total

        return count(model, loss, BATCH, run=False)


def onellm(modalities: int = ONELLM_MODALITIES) -> Cost:
    """CLIP ViT-L/14 and LLaMA-2-7B frozen, the projection trained; three of the modalities used."""
    model = published_onellm(modalities)
    routes = list(model.projection.routes)[: len(TOKENS)]
    with torch.device("meta"):
        width = model.encoder.width
        found = [torch.empty(1, n + 1, width, requires_grad=True) for n in TOKENS.values()]

        def loss() -> Tensor:
            parts = [
                model.projection.project(route, x, torch.empty(x.shape[:2], dtype=torch.bool))
                for route, x in zip(routes, found, strict=True)
            ]
            x = torch.cat(parts, dim=1)
            total: Tensor = model.head(model.lm(inputs_embeds=x).last_hidden_state[:, -1]).sum()
            return total

        return count(model, loss, 1, run=False)


def published_onellm(modalities: int) -> OneLLM:
    """OneLLM at the original's shape on the meta device: no weights, only their number."""
    from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaModel

    with torch.device("meta"):
        clip = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=1024,
                intermediate_size=4096,
                num_hidden_layers=24,
                num_attention_heads=16,
                patch_size=14,
            )
        )
        lm = LlamaModel(LlamaConfig())  # its defaults are LLaMA-2-7B's
        shapes: dict[str, Shape] = {
            f"image {i}": ImageShape(views=1, size=224) for i in range(modalities)
        }
        return build_onellm(shapes, classes=CLASSES, clip=clip, lm=lm)


def paper_width() -> tuple[int, int]:
    """(H, trained parameters): the H = d, a multiple of 4, nearest to the paper's 21.3 M."""
    target = PAPER_PARAMETERS * 1e6

    def trained(H: int) -> int:
        with torch.device("meta"):
            model = _adacomed(replace(PRESETS["paper"], H=H, d=H))
        return sum(p.numel() for p in model.parameters() if p.requires_grad)

    widths = range(64, 1025, 4)
    above = bisect_left(widths, target, key=trained)  # the count grows with H
    H = min(widths[above - 1 : above + 1], key=lambda H: abs(trained(H) - target))
    return H, trained(H)


def _adacomed(preset: Preset) -> Any:
    small = build_multimodal_pred(SHAPES, classes=CLASSES)
    return build_adacomed(preset, WIDTHS, small, strategy="gaussian")


# ---- made-up patients ---------------------------------------------------------------------------
def _vectors(n: int, width_small: int) -> Batch:
    return Batch(
        embeddings={m: torch.randn(n, D) for m, D in WIDTHS.items()},
        present=torch.ones(n, len(WIDTHS), dtype=torch.bool),
        index=torch.arange(n),
        e_small=torch.randn(n, width_small),
    )


def _raw_patients(n: int) -> Batch:
    """One X-ray, 48 hourly time stamps and two notes each."""
    series = Events(
        torch.arange(48.0).expand(n, 48).clone(),
        torch.rand(n, 48, SHAPES["time"].variables),  # type: ignore[union-attr]
    )
    item = torch.arange(n)[:, None]
    pixels = torch.randint(0, 256, (n, 224, 224), dtype=torch.uint8)
    images = Images(pixels, torch.arange(n) % 4, item, torch.zeros(n, 1))
    words = torch.ones(2 * n, 8, dtype=torch.int64)
    notes = Notes(torch.randn(2 * n, 512), words, torch.arange(2 * n).view(n, 2))
    return Batch(
        embeddings={},
        present=torch.ones(n, 0, dtype=torch.bool),
        small={"demographics": torch.randn(n, 27)},
        raw={"time": series, "xray": images, "note": notes},
    )
