"""I3ResNet: a bottleneck ResNet inflated to three dimensions, the image tower of Merlin.

Feature maps are (B, C, Z, X, Y): slices first, then the two axes of a slice. Only the stem
(3, 7, 7), the max pool and the middle convolution of a block (3, 3, 3) look across slices. The stem
keeps every slice; the max pool and the first block of layers 2 to 4 halve all three axes.

Source: Blankemeier et al., Merlin (2024), and the published package merlin-vlm (MIT), whose names
of parameters are kept; blocks as He et al. (2016) with the stride in the middle convolution.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from adacomed.errors import InputError

EXPANSION = 4  # channels out of a block over the width of its middle convolution
STAGES = 4
TRUNK = re.compile(r"(conv1|bn1|layer\d+)\.")  # what a head's name does not start with
COUNTER = "num_batches_tracked"  # of training; no number depends on it


class Bottleneck(nn.Module):
    """1×1×1, 3×3×3 (carries the stride), 1×1×1, and the shortcut.

    Args:
        channels: of the input.
        width: of the middle convolution; the output has four times as many.
        stride: along all three axes.
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        out = width * EXPANSION
        self.conv1 = nn.Conv3d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.conv2 = nn.Conv3d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm3d(width)
        self.conv3 = nn.Conv3d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(out)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or channels != out:
            projection = nn.Conv3d(channels, out, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm3d(out))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, Z, X, Y) → (B, 4 · width, Z / stride, X / stride, Y / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.bn1(self.conv1(x)).relu_()
        x = self.bn2(self.conv2(x)).relu_()
        out: Tensor = self.bn3(self.conv3(x))
        return out.add_(shortcut).relu_()


class I3ResNet(nn.Module):
    """The trunk, without heads.

    Args:
        width: channels of the stem; the embedding is 32 times as wide.
        blocks: per layer; Merlin's are 3, 8, 36, 3 (ResNet-152).
    """

    def __init__(self, width: int = 64, blocks: Sequence[int] = (3, 8, 36, 3)) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(3, width, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.maxpool = nn.MaxPool3d(3, stride=2, padding=1)
        channels = width
        for stage, depth in enumerate(blocks):
            inner = width * 2**stage
            layer = nn.Sequential()
            for i in range(depth):
                layer.append(Bottleneck(channels, inner, stride=2 if stage and not i else 1))
                channels = inner * EXPANSION
            self.add_module(f"layer{stage + 1}", layer)
        self.width = channels

    def forward(self, volumes: Tensor) -> Tensor:
        """Volumes (B, X, Y, Z), in [0, 1] → global average of the last map, (B, D) float32."""
        x = volumes.permute(0, 3, 1, 2).unsqueeze(1).expand(-1, 3, -1, -1, -1)
        x = self.maxpool(self.bn1(self.conv1(x)).relu_())
        for stage in range(STAGES):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        pooled: Tensor = x.float().mean((2, 3, 4))
        return pooled


def from_tensors(tensors: Mapping[str, Tensor], origin: str) -> I3ResNet:
    """The network whose width and depth these tensors have, float32, in evaluation mode.

    Args:
        tensors: by the names of `I3ResNet`; heads beside the trunk are left out.
        origin: the weights' folder or file, said in the errors.
    Raises:
        InputError: a parameter is missing, unknown, of another shape, or not finite.
    """
    trunk = {name: tensor.float() for name, tensor in tensors.items() if TRUNK.match(name)}
    stem = trunk.get("conv1.weight")
    depth = [_depth(trunk, stage) for stage in range(1, STAGES + 1)]
    if stem is None or stem.ndim != 5 or not all(depth):
        raise InputError(f"{origin}: not an I3ResNet: no stem (conv1) and layers 1 to 4 in it")
    with torch.device("meta"):
        network = I3ResNet(stem.shape[0], depth)
    try:
        found = network.load_state_dict(trunk, strict=False, assign=True)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise InputError(f"{origin}: the weights do not fit an I3ResNet: {reason}") from None
    missing = [name for name in found.missing_keys if not name.endswith(COUNTER)]
    for problem, names in (("missing", missing), ("unknown", found.unexpected_keys)):
        if names:
            raise InputError(
                f"{origin}: {len(names)} parameters of the I3ResNet are {problem} ({names[0]}, …)"
            )
    if not all(bool(tensor.isfinite().all()) for tensor in trunk.values()):
        raise InputError(f"{origin}: weights that are not finite numbers, so the file is damaged")
    return network.eval()


def _depth(trunk: Mapping[str, Tensor], stage: int) -> int:
    """Blocks of a layer: one more than the highest number in the names, 0 without any."""
    numbers = [re.match(rf"layer{stage}\.(\d{{1,3}})\.", name) for name in trunk]
    return max((int(number[1]) + 1 for number in numbers if number), default=0)
