"""Chronos-2: multivariate series → vectors, by the mean of its encoder's embeddings.

The variables observed in a sample are one group of the model (they attend to each other); samples
never meet, since every forward pass holds one. Of a variable's embeddings, those of context patches
in which it was observed are in the mean; the register token and the masked output patch, which the
package appends, are not.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from adacomed.encoders.base import EncoderCard, hash_json
from adacomed.encoders.golden import GOLDEN, golden_item
from adacomed.encoders.series_bins import check_hours, observed_grid
from adacomed.encoders.weights import Weights, file_sha256, find_weights, quiet
from adacomed.errors import InputError
from adacomed.readers.series import Series

SUBSTITUTE = "use the encoder 'moirai-small' (CC-BY-NC-4.0)"

CARDS = {
    "chronos-2": EncoderCard(
        name="chronos-2",
        kinds=("series",),
        id="amazon/chronos-2",
        licence="Apache-2.0",
        gated=False,
        pooling="mean of the embeddings of observed context patches, without special tokens",
        input="measurements in any units, hours from the index time; hourly means",
        trained_on="public series of the Chronos and GIFT-Eval corpora, and synthetic ones",
        seen_datasets=(),
        width=768,
    )
}


def chronos_2(
    id: str = CARDS["chronos-2"].id,
    *,
    hours: int = 48,
    revision: str | None = None,
    device: str = "cpu",
) -> Chronos2:
    """Chronos-2, 768-d.

    Args:
        id: hub id, or a folder as save_pretrained writes it.
        hours: length of the window, from the index time.
        revision: of a hub model.
        device: where to compute, "cpu" or "cuda".
    Raises:
        InputError: the package is not installed, or the model is not here or does not fit.
    """
    check_hours(hours)
    weights = find_weights(id, revision=revision, substitute=SUBSTITUTE)
    half = device.startswith("cuda") and torch.cuda.is_bf16_supported()
    pipeline = load_pipeline(weights, torch.bfloat16 if half else torch.float32, device)
    check_hours(hours, pipeline.model_context_length)
    settings: dict[str, str | int | float | bool] = {
        "hours": hours,
        "step_hours": 1.0,
        "bin": "mean",
        "dtype": "bfloat16" if half else "float32",
    }
    config_hash = file_sha256(weights.folder / "config.json")
    packages = ("torch", "transformers", "chronos-forecasting")
    measured = {
        "id": id,
        "revision": weights.revision,
        "preprocessing": settings,
        "preprocessing_hash": hash_json({**settings, "config.json": config_hash}),
        "weights_hash": weights.sha256(),
        "libraries": {p: importlib.metadata.version(p) for p in packages},
    }
    card = CARDS["chronos-2"].model_copy(update=measured)
    return Chronos2(pipeline, prepare=Prepare(hours), card=card)


@dataclass(frozen=True)
class Prepare:
    """A `Series` → (V′, T) float32: the observed variables' hourly means, NaN between them."""

    hours: int

    def __call__(self, item: Series) -> NDArray[np.float32]:
        """Raises InputError: nothing observed in the window, or not a finite number."""
        grid = observed_grid(item, self.hours)
        return grid[~np.isnan(grid).all(axis=1)].astype(np.float32)


class Chronos2:
    """Series → vectors, (n, D) float32.

    Args:
        pipeline: a `Chronos2Pipeline`, on its device.
        prepare: a series → its hourly grid.
        card: measured but for width and golden vector, which are found here.
    """

    def __init__(self, pipeline: Any, *, prepare: Prepare, card: EncoderCard) -> None:
        self.pipeline, self.prepare, self.card = pipeline, prepare, card
        golden = self.encode([golden_item("series")])[0]
        found = {"width": len(golden), "golden_input": GOLDEN, "golden": tuple(golden.tolist())}
        self.card = card.model_copy(update=found)

    def encode(self, items: Sequence[Series]) -> NDArray[np.float32]:
        """Vectors of n series, (n, D) float32, in their order."""
        return self.forward([self.prepare(item) for item in items])

    def forward(self, prepared: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Vectors of n prepared series, (n, D) float32, in their order."""
        vectors = [self._embed(torch.from_numpy(grid)) for grid in prepared]
        width = self.pipeline.model.config.d_model
        return np.stack(vectors) if vectors else np.zeros((0, width), np.float32)

    @torch.inference_mode()
    def _embed(self, grid: torch.Tensor) -> NDArray[np.float32]:
        """Vector of one sample's grid (V′, T)."""
        embedded, _ = self.pipeline.embed([grid], batch_size=len(grid))
        observed = (~self.pipeline.model.patch(grid).isnan()).any(dim=-1)  # (V′, P)
        context = embedded[0][:, : observed.shape[1]].float()  # (V′, P, D)
        vector: NDArray[np.float32] = context[observed].mean(dim=0).numpy()
        return vector


def load_pipeline(weights: Weights, dtype: torch.dtype, device: str) -> Any:
    """A `Chronos2Pipeline` in evaluation mode, every parameter from the file.

    Raises:
        InputError: not installed, unreadable, another model, or parameters that are not there.
    """
    try:
        from chronos import (  # type: ignore[import-untyped, unused-ignore]
            Chronos2Model,
            Chronos2Pipeline,
        )
        from safetensors import SafetensorError
    except ImportError:
        raise InputError("chronos-2 needs its package: pip install 'adacomed[series]'") from None
    folder = str(weights.folder)
    try:
        with quiet():
            # eager attention is one kernel always
            model, info = Chronos2Model.from_pretrained(
                folder, attn_implementation="eager", dtype=dtype, output_loading_info=True
            )
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise InputError(f"{folder}: not a Chronos-2 model ({reason})") from None
    except (AttributeError, RuntimeError, SafetensorError) as error:
        raise InputError(f"{folder}: damaged or foreign weights ({type(error).__name__})") from None
    wrong = sorted({*info["missing_keys"], *info["unexpected_keys"]})
    if wrong:
        raise InputError(
            f"{folder}: {len(wrong)} parameters of the weights file and of Chronos-2 differ "
            f"({wrong[0]}, …); the weights do not belong to config.json, or are of another model"
        )
    return Chronos2Pipeline(model.eval().to(device))
