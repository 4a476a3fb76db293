"""Run in a subprocess, never imported: timm's own networks and torchvision's own preprocessing.

    PYTHONPATH=ORACLES python timm_oracle.py OUT

writes OUT/<name>/pytorch_model.bin and config.json, as the hub repositories have them, and
OUT/<name>/outputs.npz: 256-px images, pixels after the authors' transform, and timm's output.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

# torchvision's wheel is a CUDA build: with CPU torch two operators must exist before its import
LIBRARY = torch.library.Library("torchvision", "DEF")
for operator in ("nms", "qnms"):
    LIBRARY.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import timm  # noqa: E402
from PIL import Image  # noqa: E402
from torchvision import transforms  # noqa: E402

COMMON = {"img_size": 224, "init_values": 1e-5, "num_classes": 0, "dynamic_img_size": True}
TINY = {
    "uni": {"patch_size": 16, "embed_dim": 128, "depth": 2, "num_heads": 2},
    "uni-heads": {"patch_size": 32, "embed_dim": 48, "depth": 2, "num_heads": 3},
    "uni2-h": {
        "patch_size": 14,
        "embed_dim": 96,
        "depth": 2,
        "num_heads": 4,
        "mlp_ratio": 2.66667 * 2,
        "no_embed_class": True,
        "mlp_layer": timm.layers.SwiGLUPacked,
        "act_layer": torch.nn.SiLU,
        "reg_tokens": 8,
    },
}
FULL = {  # as get_encoder.py of mahmoodlab/UNI gives them to timm.create_model
    "uni": ("vit_large_patch16_224", {"patch_size": 16}),
    "uni2-h": (
        "vit_giant_patch14_224",
        {
            "patch_size": 14,
            "depth": 24,
            "num_heads": 24,
            "embed_dim": 1536,
            "mlp_ratio": 2.66667 * 2,
            "no_embed_class": True,
            "mlp_layer": timm.layers.SwiGLUPacked,
            "act_layer": torch.nn.SiLU,
            "reg_tokens": 8,
        },
    ),
}


def tiny(name: str, folder: Path) -> None:
    torch.manual_seed(len(name))
    model = timm.models.VisionTransformer(**COMMON, **TINY[name]).eval()
    with torch.no_grad():  # at their initial values LayerScale and biases would hide errors
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
            if parameter.ndim == 1:
                parameter.add_(0.5)
    folder.mkdir(parents=True)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    config = {"architecture": name, "model_args": {"num_heads": TINY[name]["num_heads"]}}
    (folder / "config.json").write_text(json.dumps(config))
    images = np.random.default_rng(0).integers(0, 256, (3, 256, 256, 3), dtype=np.uint8)
    transform = transforms.Compose(
        [
            transforms.Resize(224),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    pixels = torch.stack([transform(Image.fromarray(image)) for image in images])
    with torch.inference_mode():
        outputs = model(pixels).numpy()
    np.savez(folder / "outputs.npz", images=images, pixels=pixels.numpy(), outputs=outputs)


def full() -> dict[str, dict[str, list[int]]]:
    """Shapes of every tensor of the published architectures, without memory for them."""
    shapes = {}
    for name, (architecture, options) in FULL.items():
        with torch.device("meta"):
            model = timm.create_model(architecture, **COMMON, **options)
        shapes[name] = {key: list(value.shape) for key, value in model.state_dict().items()}
    return shapes


if __name__ == "__main__":
    out = Path(sys.argv[1])
    for name in TINY:
        tiny(name, out / name)
    (out / "full.json").write_text(json.dumps(full()))
