"""RAD-DINO: DINOv2 base trained further on chest X-rays alone.

Source: Pérez-García et al. 2024, arXiv 2401.10815. Without the model's preprocessor_config.json the
values below stand in: shorter side 518, centre crop, mean .5307 and deviation .2583.
"""

from __future__ import annotations

import json

from adacomed.encoders.base import EncoderCard
from adacomed.encoders.dinov2 import SUBSTITUTE, Prepare, VisionEncoder, assemble
from adacomed.encoders.weights import Weights, find_weights
from adacomed.errors import InputError

CARDS = {
    "rad-dino": EncoderCard(
        name="rad-dino",
        kinds=("image",),
        id="microsoft/rad-dino",
        licence="MIT",
        gated=False,
        pooling="class token, normalised by the last layer",
        input="chest X-ray (H, W, 1 or 3) with values in [0, 1]",
        trained_on="838,000 chest X-rays of MIMIC-CXR, CheXpert, NIH-CXR, PadChest and BRAX",
        seen_datasets=("MIMIC-CXR", "MIMIC-IV-MM", "CheXpert", "NIH-CXR", "PadChest", "BRAX"),
        width=768,
    )
}
DEFAULT = Prepare(518, (0.5307,) * 3, (0.2583,) * 3, crop=True)


def rad_dino(
    id: str = CARDS["rad-dino"].id, *, revision: str | None = None, device: str = "cpu"
) -> VisionEncoder:
    """RAD-DINO, 768-d.

    Args:
        id: folder as save_pretrained writes it, or hub id.
        revision: of a hub model.
        device: where to compute, "cpu" or "cuda".
    Raises:
        InputError: the model is not here or does not fit.
    """
    weights = find_weights(id, revision=revision, substitute=SUBSTITUTE)
    card = CARDS["rad-dino"].model_copy(update={"id": id})
    return assemble(card, weights, _preparation(weights), device)


def _preparation(weights: Weights) -> Prepare:
    """Size, crop, mean and deviation of the model's own processor."""
    file = weights.folder / "preprocessor_config.json"
    if not file.is_file():
        return DEFAULT
    try:
        stated = json.loads(file.read_text("utf-8"))
        return Prepare(
            int(stated["crop_size"]["height"]),
            tuple(map(float, stated["image_mean"])),
            tuple(map(float, stated["image_std"])),
            crop=bool(stated.get("do_center_crop", True)),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: not a processor's settings ({type(error).__name__})") from None
