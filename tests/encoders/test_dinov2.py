"""DINOv2-type encoders against transformers and Pillow, on tiny models with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from adacomed.encoders.base import fingerprint, load_encoder
from adacomed.encoders.dinov2 import CARDS, Prepare, VisionEncoder, dinov2, dinov2_small
from adacomed.encoders.rad_dino import DEFAULT, rad_dino
from adacomed.errors import InputError

from .check_encoder import check_encoder


def save_tiny_dinov2(folder: Path, *, registers: bool = True, seed: int = 0) -> Path:
    """2 layers of width 32, patch 14, as save_pretrained writes it; random weights."""
    from transformers import (
        Dinov2Config,
        Dinov2Model,
        Dinov2WithRegistersConfig,
        Dinov2WithRegistersModel,
    )

    torch.manual_seed(seed)
    size = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "mlp_ratio": 2,
        "image_size": 28,
        "patch_size": 14,
        "use_swiglu_ffn": registers,  # as giant; the smaller ones have a plain MLP
    }
    if registers:
        model = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(num_register_tokens=4, **size))
    else:
        model = Dinov2Model(Dinov2Config(**size))
    for value in model.parameters():  # some start at zero or one: everything must count
        torch.nn.init.normal_(value, std=0.1)
    model.save_pretrained(folder)
    return folder


def pictures(n: int = 12) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = [
        (int(h), int(w), (1, 3)[i % 2]) for i, (h, w) in enumerate(rng.integers(20, 300, (n, 2)))
    ]
    return [rng.random(shape).astype(np.float32) for shape in shapes]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_dinov2(tmp_path_factory.mktemp("dinov2"))


@pytest.fixture(scope="module")
def encoder(tiny: Path) -> VisionEncoder:
    return dinov2(str(tiny), size=56)


def test_contract(encoder: VisionEncoder) -> None:
    check_encoder(encoder, pictures())


def test_without_registers_and_by_name(tmp_path: Path) -> None:
    folder = save_tiny_dinov2(tmp_path / "plain", registers=False)
    encoder = load_encoder(f"dinov2-small:{folder}", size=28)
    assert encoder.card.name == "dinov2-small"
    check_encoder(encoder, pictures())


def test_rad_dino(tmp_path: Path) -> None:
    folder = save_tiny_dinov2(tmp_path / "rad", registers=False)
    processor = {
        "crop_size": {"height": 42, "width": 42},
        "image_mean": [0.5] * 3,
        "image_std": [0.25] * 3,
        "do_center_crop": True,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    encoder = rad_dino(str(folder))
    assert encoder.prepare == Prepare(42, (0.5,) * 3, (0.25,) * 3, crop=True)
    assert "MIMIC-CXR" in encoder.card.seen_datasets
    check_encoder(encoder, pictures())
    (folder / "preprocessor_config.json").write_text("{}")
    with pytest.raises(InputError, match=r"preprocessor_config\.json: not a processor's settings"):
        rad_dino(str(folder))
    assert DEFAULT.size == 518


def test_vector_is_transformers_pooled_output(encoder: VisionEncoder, tiny: Path) -> None:
    """The model that transformers loads, on the same pixels, one image at a time."""
    from transformers import Dinov2WithRegistersModel

    model = Dinov2WithRegistersModel.from_pretrained(tiny).eval()
    for picture in pictures():
        pixels = torch.from_numpy(encoder.prepare(picture))[None]
        with torch.no_grad():
            expected = model(pixels).pooler_output[0].numpy()
        assert np.allclose(encoder.encode([picture])[0], expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(300, 200), (100, 400), (150, 150), (40, 60)])
def test_resizing_is_pillows_bicubic(shape: tuple[int, int]) -> None:
    picture = np.random.default_rng(1).random((*shape, 3), dtype=np.float32)
    ours = Prepare(70, (0.0,) * 3, (1.0,) * 3)(picture)
    for channel in range(3):
        plane = Image.fromarray(picture[..., channel])  # floats: no rounding between its passes
        expected = np.asarray(plane.resize((70, 70), Image.Resampling.BICUBIC)).clip(0, 1)
        assert np.abs(ours[channel] - expected).max() < 1e-5


def test_a_crop_keeps_the_middle() -> None:
    picture = np.zeros((40, 120, 1), np.float32)
    picture[:, 40:80] = 1  # the middle square
    picture[0, 40] = 0.5  # so that it is not constant
    kept = Prepare(40, (0.0,) * 3, (1.0,) * 3, crop=True)(picture)
    assert kept.mean() > 0.98
    whole = Prepare(40, (0.0,) * 3, (1.0,) * 3)(picture)
    assert whole.mean() == pytest.approx(1 / 3, abs=0.02)


def test_grey_is_three_equal_channels_and_mean_and_deviation_count() -> None:
    picture = pictures()[0][..., :1]
    plain = Prepare(28, (0.0,) * 3, (1.0,) * 3)(picture)
    assert np.array_equal(plain[0], plain[1])
    scaled = Prepare(28)(picture)
    assert np.allclose(scaled[2], (plain[2] - 0.406) / 0.225, atol=1e-6)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.full((20, 20, 1), 0.3, np.float32), "one value everywhere"),
        (np.zeros((20, 20), np.float32), r"expected an image \(H, W, 1 or 3\)"),
        (np.zeros((20, 0, 3), np.float32), "expected an image"),
        (np.linspace(0, 1, 421, dtype=np.float32).reshape(1, 421, 1), "421 × 1 pixels"),
        (np.full((20, 20, 1), np.nan, np.float32), "values in"),
        (np.arange(400, dtype=np.float32).reshape(20, 20, 1), "values in"),
    ],
)
def test_degenerate_images(encoder: VisionEncoder, picture: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        encoder.encode([picture])


def test_options_and_weights_change_the_fingerprint(
    encoder: VisionEncoder, tiny: Path, tmp_path: Path
) -> None:
    same = fingerprint(dinov2(str(tiny), size=56).card)
    other = save_tiny_dinov2(tmp_path / "other", seed=1)
    others = {
        fingerprint(dinov2(str(tiny), size=28).card),
        fingerprint(dinov2(str(other), size=56).card),
    }
    assert same == fingerprint(encoder.card)
    assert len(others | {same}) == 3


def test_what_cannot_be_loaded(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="multiple of its patch of 14 pixels"):
        dinov2(str(tiny), size=225)
    with pytest.raises(InputError, match="no such folder"):
        dinov2(str(tmp_path / "nothing"))
    torn = save_tiny_dinov2(tmp_path / "torn")
    config = json.loads((torn / "config.json").read_text())
    (torn / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(InputError, match="would be partly random"):
        dinov2_small(str(torn))


@pytest.mark.parametrize(
    ("name", "layers", "heads", "million"),
    [("dinov2", 40, 24, 1136.5), ("dinov2-large", 24, 16, 304.4), ("dinov2-base", 12, 12, 86.6)],
)
def test_published_sizes(name: str, layers: int, heads: int, million: float) -> None:
    """Widths on the cards against parameter counts as published (1.1 B, 300 M, 86 M)."""
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    config = Dinov2WithRegistersConfig(
        hidden_size=CARDS[name].width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        image_size=518,
        patch_size=14,
        num_register_tokens=4,
        use_swiglu_ffn=name == "dinov2",
    )
    with torch.device("meta"):
        model = Dinov2WithRegistersModel(config)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(million, rel=0.005)
