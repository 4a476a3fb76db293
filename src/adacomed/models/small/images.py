"""The image branch of MultimodalPred-Small: one ResNet-18 per kind of view → one vector.

Within a view a patient's images are summed with weights softmax(hours), so that the latest counts
most; the views that a patient has are averaged. Pixels go in as grey in [0, 1], three times.
Source: Wang, Yin, Zhang, Heliyon 2024, the joint variant, and facts read off its public code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from adacomed.errors import InputError
from adacomed.models.batch import Batch
from adacomed.models.raw import Images

ResNetSize = Literal["18", "tiny"]
SIZES: dict[str, dict[str, Any]] = {
    "18": {"embedding_size": 64, "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2]},
    "tiny": {"embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]},
}
CHUNK = 64  # images of one forward pass in evaluation, where rows do not depend on each other


class ViewNetwork(nn.Module):
    """A ResNet and its linear layer: grey images → vectors.

    Batch normalisation needs at least two images to have a spread to divide by: a training batch
    with a single image of this view is normalised by the running statistics, which it leaves as
    they are. In evaluation every batch is.

    Raises:
        InputError: transformers is not installed.
    """

    def __init__(self, *, width: int, resnet: ResNetSize) -> None:
        super().__init__()
        try:
            from transformers import ResNetConfig, ResNetModel
        except ImportError:
            raise InputError(
                "MultimodalPred's images need transformers: pip install 'adacomed[image]'"
            ) from None
        self.trunk: nn.Module = ResNetModel(ResNetConfig(layer_type="basic", **SIZES[resnet]))
        self.fc = nn.Linear(SIZES[resnet]["hidden_sizes"][-1], width)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (N, S, S) in [0, 1] → (N, width)."""
        if self.training and len(pixels) > 1:
            return self._embed(pixels)
        training = self.training
        self.trunk.eval()
        y = torch.cat([self._embed(x) for x in torch.split(pixels, CHUNK)])
        self.trunk.train(training)
        return y

    def _embed(self, pixels: Tensor) -> Tensor:
        trunk = self.trunk(pixels[:, None].expand(-1, 3, -1, -1))
        y: Tensor = self.fc(trunk.pooler_output.flatten(1))
        return y


class ImageEncoder(nn.Module):
    """A patient's images of all views → (B, width).

    Args:
        name: of the modality in `Batch.raw`.
        views: number of kinds of view, each with a network of its own.
    """

    def __init__(self, *, name: str, views: int, width: int, resnet: ResNetSize) -> None:
        super().__init__()
        self.name, self.width = name, width
        self.networks = nn.ModuleList(ViewNetwork(width=width, resnet=resnet) for _ in range(views))

    def forward(self, batch: Batch) -> Tensor:
        """(B, width); zeros for a patient without an image."""
        images = batch.raw[self.name]
        assert isinstance(images, Images)
        here = images.item >= 0  # (B, I)
        rows, position = torch.unique(images.item[here], return_inverse=True)
        view = images.view[rows]
        vectors = self._vectors(images.pixels, rows, view)  # (U, width)

        kind = torch.full_like(images.item, -1).masked_scatter(here, view[position])
        of_view = kind[..., None] == torch.arange(len(self.networks), device=kind.device)
        weights = hour_weights(images.hours, of_view)  # (B, I, views)
        y = vectors.new_zeros(*here.shape, self.width)
        y = y.index_put((here,), vectors[position])  # (B, I, width)
        # a view's sum and the mean over a patient's views, in one weight per image
        views = of_view.any(1).sum(1).clamp_min(1)  # (B,)
        return torch.einsum("bi,biw->bw", weights.sum(2) / views[:, None], y)

    def _vectors(self, pixels: Tensor, rows: Tensor, view: Tensor) -> Tensor:
        """Each of the batch's images once, through the network of its view: (U, width)."""
        dtype = next(self.networks.parameters()).dtype  # pixels are integers and have none
        vectors = torch.zeros(len(rows), self.width, dtype=dtype, device=pixels.device)
        for v, network in enumerate(self.networks):
            mine = (view == v).nonzero().squeeze(1)
            if len(mine):
                x = pixels[rows[mine]].to(dtype) / 255
                vectors = vectors.index_copy(0, mine, network(x).to(vectors.dtype))
        return vectors


def hour_weights(hours: Tensor, of_view: Tensor) -> Tensor:
    """Weight of each image within its patient's images of the same view.

    Args:
        hours: (B, I) from the index time; not read where `of_view` is false everywhere.
        of_view: (B, I, views) bool, which image is of which view.
    Returns:
        (B, I, views), softmax over I of the hours; exactly zero for images of other views.
    """
    lowest = torch.finfo(hours.dtype).min
    scores = hours[..., None].expand_as(of_view).masked_fill(~of_view, lowest)
    return scores.softmax(1).masked_fill(~of_view, 0.0)


def load_resnet(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put published ResNet weights into every view's network; the linear layers stay as they are.

    Args:
        model: holds any number of `ViewNetwork`s.
        tensors: a state dict as of microsoft/resnet-18, with or without its "resnet." prefix; its
            classifier is left out.
    Raises:
        InputError: the model has no such network, or a tensor is missing, left over or misshapen.
    """
    networks = [m.trunk for m in model.modules() if isinstance(m, ViewNetwork)]
    if not networks:
        raise InputError("these weights are a ResNet's, and the model reads no images")
    given = {
        name.removeprefix("resnet."): x
        for name, x in tensors.items()
        if not name.startswith("classifier.")
    }
    want = networks[0].state_dict()
    counters = {name for name in want if name.endswith("num_batches_tracked")}
    wrong = sorted((set(want) ^ set(given)) - counters)
    wrong += [n for n, x in want.items() if n in given and x.shape != given[n].shape]
    if wrong:
        raise InputError(
            f"not the weights of this ResNet: {wrong[0]!r} and {len(wrong) - 1} more tensors are "
            f"missing, unknown or of another shape; microsoft/resnet-18's would work"
        )
    for network in networks:
        network.load_state_dict(want | given)
