"""UNI on transformers' DINOv2 classes against timm; slides of every kind through the encoder."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.encoders.check_encoder import check_encoder
from tests.readers.slide_files import save_slide, tissue_image

from adacomed.encoders.base import Staged, fingerprint, load_encoder
from adacomed.encoders.golden import golden_item
from adacomed.encoders.uni import CARDS, Uni, uni, uni2_h
from adacomed.encoders.vit_state import load_vit, network, read_shape, to_dinov2
from adacomed.encoders.weights import load_tensors
from adacomed.errors import InputError
from adacomed.readers.slide import ArraySlide, Slide, read_slide

ROOT = Path(__file__).parents[2]
TINY = {"uni": 2, "uni-heads": 3, "uni2-h": 4}  # heads; as timm_oracle.py makes them


def timm_tensors(*, width: int = 32, patch: int = 32, uni2: bool = False, seed: int = 0) -> dict:
    """Random weights in timm's naming, of 224 px and two blocks."""
    positions = (224 // patch) ** 2 + (not uni2)
    hidden = 2 * width
    sizes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, positions, width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    if uni2:
        sizes["reg_token"] = (1, 8, width)
    for i in range(2):
        layers = {
            "norm1": (width,),
            "attn.qkv": (3 * width, width),
            "attn.proj": (width, width),
            "norm2": (width,),
            "mlp.fc1": (hidden * (2 if uni2 else 1), width),
            "mlp.fc2": (width, hidden),
        }
        for name, size in layers.items():
            sizes[f"blocks.{i}.{name}.weight"] = size
            sizes[f"blocks.{i}.{name}.bias"] = size[:1]
        sizes |= {f"blocks.{i}.ls{n}.gamma": (width,) for n in (1, 2)}
    rng = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(size, generator=rng) * 0.3 for name, size in sizes.items()}
    return {n: t + (t.ndim == 1) for n, t in tensors.items()}


def save_tiny(folder: Path, **options: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(timm_tensors(**options), folder / "pytorch_model.bin")
    config = {"architecture": "vit_large_patch16_224", "model_args": {"num_heads": 2}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("uni"))


@pytest.fixture(scope="module")
def encoder(tiny: Path) -> Uni:
    return uni(str(tiny))


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> list[Slide]:
    """Ten: in memory and in files, of 1 to 6 patches."""
    folder, found = tmp_path_factory.mktemp("slides"), []
    for seed in range(10):
        width, height = 300 + 40 * seed, 280 + 25 * seed
        image = tissue_image(width, height, [(0.4, 0.35, 0.3)], seed)
        mpp = 0.5 if seed % 3 else 0.25
        if seed % 2:
            found.append(ArraySlide(image, mpp))
        else:
            found.append(read_slide(save_slide(folder / f"{seed}.tif", image, mpp=mpp)))
    return found


# ---- timm --------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What timm_oracle.py writes, run beside the libraries that only it may import."""
    libraries = Path(os.environ.get("ADACOMED_ORACLES", ROOT / ".venv" / "oracles"))
    if not (libraries / "timm").is_dir():
        make = f"pip install --target {libraries} --no-deps timm 'torchvision==0.28.*'"
        assert os.environ.get("CI") != "true", f"no timm to compare with: {make}"
        pytest.skip(make)
    out = tmp_path_factory.mktemp("timm")
    script = Path(__file__).with_name("timm_oracle.py")
    environment = {**os.environ, "PYTHONPATH": str(libraries)}
    subprocess.run([sys.executable, str(script), str(out)], env=environment, check=True)
    return out


@pytest.mark.parametrize("name", TINY)
def test_network_and_preprocessing_equal_timm(oracle: Path, name: str) -> None:
    saved = np.load(oracle / name / "outputs.npz")
    expected = saved["outputs"]
    assert np.abs(expected[0] - expected[1]).max() > 0.1, "the oracle says the same of everything"
    encoder = {"uni2-h": uni2_h}.get(name, uni)(str(oracle / name))
    assert encoder.network.config.num_attention_heads == TINY[name]
    with torch.inference_mode():
        states = encoder.network(torch.from_numpy(saved["pixels"])).pooler_output
    assert np.abs(states.numpy() - expected).max() < 1e-5
    for image, vector in zip(saved["images"], expected, strict=True):
        patch = encoder.prepare(ArraySlide(image, 0.5))  # all of it is one patch
        assert patch.xy.tolist() == [[0, 0]]
        assert np.abs(encoder.forward([patch])[0] - vector).max() < 1e-5


def test_every_wrong_detail_of_the_mapping_would_show(oracle: Path) -> None:
    """Order of q, k, v; number of heads; positions; LayerScale; gate; registers."""
    folder = oracle / "uni2-h"
    saved, tensors = np.load(folder / "outputs.npz"), load_tensors([folder / "pytorch_model.bin"])

    def distance(changed: dict, heads: int = 4) -> float:
        trunk = load_vit(tensors | changed, "x", heads)
        with torch.inference_mode():
            states = trunk(torch.from_numpy(saved["pixels"])).pooler_output
        return float(np.abs(states.numpy() - saved["outputs"]).max())

    assert distance({}) < 1e-5
    assert distance({}, heads=2) > 1e-3
    qkv, fc1 = "blocks.0.attn.qkv.weight", "blocks.1.mlp.fc1.weight"
    assert distance({qkv: tensors[qkv].roll(96, 0)}) > 1e-3
    assert distance({fc1: torch.cat(tensors[fc1].chunk(2)[::-1])}) > 1e-3
    assert distance({"pos_embed": tensors["pos_embed"].roll(1, 1)}) > 1e-3
    assert distance({"blocks.0.ls1.gamma": torch.ones(96)}) > 1e-3
    assert distance({"reg_token": tensors["reg_token"].neg()}) > 1e-3


@pytest.mark.parametrize(
    ("name", "parameters", "width", "heads"),
    [("uni", 303_350_784, 1024, 16), ("uni2-h", 681_394_176, 1536, 24)],
)
def test_full_architectures(
    oracle: Path, name: str, parameters: int, width: int, heads: int
) -> None:
    """Every tensor of timm's full model has its place in transformers', with its shape."""
    shapes = json.loads((oracle / "full.json").read_text())[name]
    tensors = {key: torch.empty(size, device="meta") for key, size in shapes.items()}
    assert sum(t.numel() for t in tensors.values()) == parameters
    shape = read_shape(tensors, name)
    assert (shape.width, shape.heads, shape.depth, shape.side) == (width, heads, 24, 224)
    assert CARDS[name].width == width
    state = to_dinov2(tensors, shape, name)
    with torch.device("meta"):
        model = network(shape)
    extra = width * (2 if shape.registers else 1)  # mask token; position of the class token
    assert sum(p.numel() for p in model.parameters()) == parameters + extra
    assert len(state) == len(shapes) + 1 + 2 * 2 * 24  # mask token; q, k, v apart


# ---- the encoder -------------------------------------------------------------------------------
def test_contract(encoder: Uni, slides: list[Slide]) -> None:
    assert isinstance(encoder, Staged)
    check_encoder(encoder, slides)


def test_contract_uni2(tmp_path: Path, slides: list[Slide]) -> None:
    check_encoder(uni2_h(str(save_tiny(tmp_path, uni2=True))), slides)


def test_vector_is_the_mean_of_its_patches(encoder: Uni) -> None:
    """A plain loop: every patch alone, in double precision."""
    from PIL import Image

    slide = ArraySlide(tissue_image(1280, 768, [(0.5, 0.3, 0.35)]), 0.5)
    patches = encoder.prepare(slide)
    assert len(patches.xy) > 2 * encoder.rows
    trunk = load_vit(timm_tensors(), "x", 2).double()
    states = []
    for x, y in patches.xy.tolist():
        image = Image.fromarray(slide.read(x, y, patches.size0, 256))
        pixels = np.asarray(image.resize((224, 224), Image.Resampling.BILINEAR)) / 255
        pixels = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        with torch.inference_mode():
            batch = torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None]
            states.append(trunk(batch).pooler_output[0].numpy())
    assert np.abs(encoder.encode([slide])[0] - np.mean(states, axis=0)).max() < 1e-5


def test_half_precision_stays_near(tiny: Path, encoder: Uni, slides: list[Slide]) -> None:
    """What a GPU does (bfloat16 products), on the CPU: the vectors are float32, and close."""
    half = uni(str(tiny))
    settings = {**half.card.preprocessing, "dtype": "bfloat16"}
    half.card = half.card.model_copy(update={"preprocessing": settings})
    vectors, exact = half.encode(slides[:3]), encoder.encode(slides[:3])
    assert vectors.dtype == np.float32
    assert 0 < np.abs(vectors - exact).max() < 0.05 * np.abs(exact).max()


def test_every_pass_has_one_shape(encoder: Uni, slides: list[Slide]) -> None:
    shapes = []

    def see(_: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        shapes.append(tuple(inputs[0].shape))

    hook = encoder.network.register_forward_pre_hook(see)
    patches = [encoder.prepare(slide) for slide in slides[:4]]
    encoder.forward(patches)
    hook.remove()
    assert set(shapes) == {(4, 3, 224, 224)}
    assert len(shapes) == sum(-(-len(p.xy) // 4) for p in patches)


def test_prepared_slides_travel_between_processes(encoder: Uni, slides: list[Slide]) -> None:
    prepare = pickle.loads(pickle.dumps(encoder.prepare))
    assert len(pickle.dumps(encoder.prepare)) < 2000
    sent = pickle.dumps([prepare(slide) for slide in slides[:4:2]])
    assert len(sent) < 10_000, "a file's patches travel without pixels"
    assert np.array_equal(encoder.forward(pickle.loads(sent)), encoder.encode(slides[:4:2]))


def test_reading_ahead_is_bounded(encoder: Uni) -> None:
    """A slow network does not let the images of a whole slide pile up."""
    slide = ArraySlide(tissue_image(256 * 40, 256, [(0.5, 0.0, 2.0)]), 0.5)
    patches = encoder.prepare(slide)
    assert len(patches.xy) == 40
    read: list[int] = []

    class Counted(type(patches)):
        def read(self, index: int) -> np.ndarray:
            read.append(index)
            return super().read(index)

    passes = encoder._passes(Counted(**vars(patches)))
    next(passes)
    assert len(read) <= 4 * 6
    assert [start for start, _ in passes] == list(range(4, 40, 4))
    assert sorted(read) == list(range(40))


def test_a_damaged_slide_names_its_file(encoder: Uni, tmp_path: Path) -> None:
    path = save_slide(tmp_path / "s.tif", tissue_image(1200, 900), compression="jpeg")
    patches = encoder.prepare(read_slide(path))
    raw = bytearray(path.read_bytes())
    start = len(raw) // 20
    raw[start : start + 20_000] = bytes(20_000)
    path.write_bytes(raw)
    patches = pickle.loads(pickle.dumps(patches))  # opened anew
    with pytest.raises(InputError, match=r"s\.tif: damaged"):
        encoder.forward([patches])


def test_options_change_numbers_and_fingerprint(tiny: Path) -> None:
    options = [
        {},
        {"patch_mpp": 1.0},
        {"paper": True},
        {"tissue_area": 0.01},
        {"threshold": 20},
        {"mpp": 0.25},
        {"heads": 4},
    ]
    encoders = [uni(str(tiny), **o) for o in options]
    assert len({fingerprint(e.card) for e in encoders}) == len(options)
    image = tissue_image(1200, 900, [(0.3, 0.3, 0.2), (0.75, 0.53, 0.06)])  # the second: small
    image[350:, :200] = (240, 225, 232)  # faint
    slide = ArraySlide(image, 0.25)
    vectors = {tuple(e.encode([slide])[0]) for e in encoders if e.prepare.mpp is None}
    assert len(vectors) == len(options) - 1
    unknown = ArraySlide(image, None)
    assert np.array_equal(encoders[5].encode([unknown]), encoders[0].encode([slide]))


def test_safetensors_or_bin_config_or_not(tiny: Path, tmp_path: Path, slides: list[Slide]) -> None:
    save_file(timm_tensors(), tmp_path / "model.safetensors")
    with_heads = uni(str(tmp_path), heads=2)
    assert np.array_equal(with_heads.encode(slides[:2]), uni(str(tiny)).encode(slides[:2]))
    assert uni(str(tmp_path)).network.config.num_attention_heads == 1  # width / 64, at least 1
    by_name = load_encoder(f"uni:{tiny}", patch_mpp=1.0)
    assert by_name.card.id == str(tiny)


def test_golden_slide(encoder: Uni) -> None:
    vector = encoder.encode([golden_item("slide")])[0]
    assert np.array_equal(vector, np.float32(encoder.card.golden))
    assert len(encoder.prepare(golden_item("slide")).xy) > 4


# ---- what the user can put right ---------------------------------------------------------------
def test_degenerate_slides(encoder: Uni) -> None:
    empty = np.full((600, 600, 3), 244, np.uint8)
    with pytest.raises(InputError, match="no tissue"):
        encoder.prepare(ArraySlide(empty, 0.5))
    with pytest.raises(InputError, match="option mpp"):
        encoder.encode([ArraySlide(tissue_image(), None)])


def change(name: str, tensors: dict) -> object:
    width = 32
    return {
        "a block's tensor missing": lambda: tensors.pop("blocks.1.attn.qkv.bias"),
        "no LayerScale": lambda: [tensors.pop(f"blocks.{i}.ls1.gamma") for i in (0, 1)],
        "a tensor too many": lambda: tensors.update({"fc_norm.weight": torch.ones(width)}),
        "positions": lambda: tensors.update(pos_embed=torch.zeros(1, 44, width)),
        "channels": lambda: tensors.update(
            {"patch_embed.proj.weight": torch.zeros(width, 1, 32, 32)}
        ),
        "another width inside": lambda: tensors.update({"norm.weight": torch.ones(16)}),
        "hidden width": lambda: [
            tensors.update({f"blocks.{i}.mlp.fc2.weight": torch.zeros(width, 50)}) for i in (0, 1)
        ],
        "nothing": tensors.clear,
        "not a tensor": lambda: tensors.update(epoch=3),
        "nested": lambda: tensors.update(model={}),
    }[name]()


@pytest.mark.parametrize(
    "name",
    [
        *("a block's tensor missing", "no LayerScale", "a tensor too many", "positions"),
        *("channels", "another width inside", "hidden width", "nothing", "not a tensor", "nested"),
    ],
)
def test_other_weights_are_refused(tmp_path: Path, name: str) -> None:
    tensors = timm_tensors()
    change(name, tensors)
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model\.bin: "):
        uni(str(tmp_path))


def test_a_classifiers_head_is_left_out(tmp_path: Path, encoder: Uni) -> None:
    extra = {"head.weight": torch.ones(5, 32), "head.bias": torch.ones(5)}
    torch.save(timm_tensors() | extra, tmp_path / "pytorch_model.bin")
    assert uni(str(tmp_path), heads=2).card.golden == encoder.card.golden


@pytest.mark.parametrize("text", ["{", "[]", '{"model_args": {"num_heads": "2"}}'])
def test_config_that_is_none(tiny: Path, tmp_path: Path, text: str) -> None:
    folder = shutil.copytree(tiny, tmp_path / "copy")
    (folder / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json: "):
        uni(str(folder))


def test_wrong_options(tiny: Path) -> None:
    with pytest.raises(InputError, match="does not divide by 5 heads"):
        uni(str(tiny), heads=5)
    with pytest.raises(InputError, match="expected 0 … 254"):
        uni(str(tiny), threshold=300)
    with pytest.raises(InputError, match="did you mean 'patch_mpp'"):
        load_encoder(f"uni:{tiny}", patch_mp=1.0)
    with pytest.raises(InputError, match=r"pytorch_model\*\.bin or model\*\.safetensors"):
        uni(str(tiny.parent))


def test_a_model_that_is_not_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"huggingface\.co/MahmoodLab/UNI2-h") as error:
        uni2_h()
    assert "bring another pathology model's vectors" in str(error.value)
