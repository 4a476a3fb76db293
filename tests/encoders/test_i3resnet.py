"""Against the published counts and shapes, torch's own functions, and transformers' ResNet."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from adacomed.encoders.i3resnet import I3ResNet, from_tensors

Tensors = dict[str, Tensor]


def random_trunk(width: int = 4, blocks: tuple[int, ...] = (1, 1, 1, 1), seed: int = 0) -> Tensors:
    """Parameters that keep a signal's size, and batch norms that do something."""
    draw = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        shapes = {name: t.shape for name, t in I3ResNet(width, blocks).state_dict().items()}
    tensors = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            tensors[name] = torch.tensor(7)
        elif len(shape) == 5:
            tensors[name] = torch.randn(shape, generator=draw) * 1.4 / shape[1:].numel() ** 0.5
        elif name.endswith(("running_var", "weight")):
            tensors[name] = torch.rand(shape, generator=draw) + 0.5
        else:
            tensors[name] = torch.randn(shape, generator=draw) * 0.1
    return tensors


@pytest.fixture(scope="module")
def published() -> I3ResNet:
    """The network at its full size, without memory."""
    with torch.device("meta"):
        return I3ResNet().eval()


def test_parameters_are_those_of_resnet152_inflated(published: I3ResNet) -> None:
    """From the published count of the 2-D ResNet-152, 60,192,808, and what inflation adds."""
    classifier = 2048 * 1000 + 1000
    stem = 64 * 3 * 7 * 7 * (3 - 1)  # 7×7 → 3×7×7
    stages = {64: 3, 128: 8, 256: 36, 512: 3}  # width of the middle convolution → blocks
    middle = sum(n * w * w * 3 * 3 * (3 - 1) for w, n in stages.items())  # 3×3 → 3×3×3
    count = sum(parameter.numel() for parameter in published.parameters())
    assert count == 60_192_808 - classifier + stem + middle == 117_366_208
    assert published.width == 2048


@torch.inference_mode()
def test_feature_maps_have_the_published_shapes(published: I3ResNet) -> None:
    shapes = {}
    for name, module in published.named_children():
        module.register_forward_hook(
            lambda _, __, out, name=name: shapes.update({name: tuple(out.shape[1:])})
        )
    assert published(torch.zeros(1, 224, 224, 160, device="meta")).shape == (1, 2048)
    assert shapes["conv1"] == (64, 160, 112, 112)
    assert shapes["maxpool"] == (64, 80, 56, 56)
    assert shapes["layer1"] == (256, 80, 56, 56)
    assert shapes["layer2"] == (512, 40, 28, 28)
    assert shapes["layer3"] == (1024, 20, 14, 14)
    assert shapes["layer4"] == (2048, 10, 7, 7)


def reference(p: Tensors, volumes: Tensor, blocks: tuple[int, ...]) -> Tensor:
    """The network from torch's functions alone, in double precision."""
    p = {name: tensor.double() for name, tensor in p.items()}

    def conv(x: Tensor, name: str, stride: int | tuple[int, ...] = 1) -> Tensor:
        kernel = p[f"{name}.weight"]
        padding = [n // 2 for n in kernel.shape[2:]]
        return F.conv3d(x, kernel, stride=stride, padding=padding)

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, scale, shift = (
            p[f"{name}.{part}"][:, None, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    slices_first = torch.einsum("bxyz->bzxy", volumes.double())
    x = torch.stack([slices_first] * 3, dim=1)
    x = norm(conv(x, "conv1", (1, 2, 2)), "bn1").clamp(min=0)
    x = F.max_pool3d(F.pad(x, (1,) * 6, value=-torch.inf), 3, stride=2)
    for stage, depth in enumerate(blocks, start=1):
        for i in range(depth):
            name = f"layer{stage}.{i}"
            stride = 2 if stage > 1 and i == 0 else 1
            y = norm(conv(x, f"{name}.conv1"), f"{name}.bn1").clamp(min=0)
            y = norm(conv(y, f"{name}.conv2", stride), f"{name}.bn2").clamp(min=0)
            y = norm(conv(y, f"{name}.conv3"), f"{name}.bn3")
            if i == 0:
                x = norm(conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
            x = (x + y).clamp(min=0)
    return x.flatten(2).mean(-1)


@pytest.mark.parametrize(("width", "blocks"), [(4, (1, 1, 1, 1)), (6, (2, 1, 3, 2))])
@torch.inference_mode()
def test_network_against_a_reference(width: int, blocks: tuple[int, ...]) -> None:
    tensors = random_trunk(width, blocks)
    volumes = torch.rand(2, 37, 26, 19, generator=torch.Generator().manual_seed(1))
    found, expected = from_tensors(tensors, "here")(volumes), reference(tensors, volumes, blocks)
    assert found.shape == (2, width * 32)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    turned = reference(tensors, volumes.transpose(1, 2), blocks)
    assert (found - turned).abs().max() > 1e-2 * expected.abs().max()  # x and y are told apart


@torch.inference_mode()
def test_a_single_slice_is_the_two_dimensional_resnet() -> None:
    """Only the central taps touch a single slice: what is left is transformers' ResNet."""
    from transformers import ResNetConfig, ResNetModel

    torch.manual_seed(0)
    depths = [2, 1, 2, 1]
    flat = ResNetModel(
        ResNetConfig(embedding_size=4, hidden_sizes=[16, 32, 64, 128], depths=depths)
    ).eval()
    tensors = random_trunk(4, tuple(depths))
    theirs = flat.state_dict()
    for name, tensor in tensors.items():
        middle = tensor[:, :, tensor.shape[2] // 2] if tensor.ndim == 5 else tensor
        theirs[name_in_transformers(name)].copy_(middle)
    image = torch.rand(2, 45, 38, generator=torch.Generator().manual_seed(1))
    expected = flat(image[:, None].repeat(1, 3, 1, 1)).pooler_output.flatten(1)
    found = from_tensors(tensors, "here")(image.unsqueeze(-1))
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


def name_in_transformers(name: str) -> str:
    stem = {"conv1": "convolution", "bn1": "normalization"}
    first, *rest = name.split(".")
    if first in stem:
        return f"embedder.embedder.{stem[first]}.{rest[0]}"
    block = f"encoder.stages.{int(first[-1]) - 1}.layers.{rest[0]}"
    if rest[1] == "downsample":
        return f"{block}.shortcut.{('convolution', 'normalization')[int(rest[2])]}.{rest[3]}"
    kind = "convolution" if rest[1].startswith("conv") else "normalization"
    return f"{block}.layer.{int(rest[1][-1]) - 1}.{kind}.{rest[2]}"
