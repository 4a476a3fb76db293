from __future__ import annotations

import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.ndimage import map_coordinates
from tests.encoders.check_encoder import check_encoder
from tests.encoders.test_i3resnet import Tensors, random_trunk, reference

from adacomed.encoders.base import Staged, fingerprint, load_encoder
from adacomed.encoders.i3resnet import I3ResNet
from adacomed.encoders.merlin import CHECKPOINT, PREFIX, Merlin, Prepare, load_trunk, merlin
from adacomed.encoders.weights import Weights, find_weights
from adacomed.errors import InputError
from adacomed.readers.volume import Volume

SHAPE, SPACING = (24, 20, 16), (3.0, 3.0, 4.0)


def save_checkpoint(folder: Path, trunk: Tensors | None = None) -> Path:
    """The file as it lies on the hub: image trunk, its two heads, text tower, logit scale."""
    trunk = random_trunk() if trunk is None else trunk
    others = {
        "logit_scale": torch.ones(()),
        "encode_text.linear_layer.weight": torch.zeros(5, 3),
        f"{PREFIX}classifier.weight": torch.zeros(6, 128, 1, 1, 1),
        f"{PREFIX}contrastive_head.weight": torch.zeros(5, 128, 1, 1, 1),
    }
    folder.mkdir(parents=True, exist_ok=True)
    named = {PREFIX + name: tensor for name, tensor in trunk.items()}
    torch.save({**others, **named}, folder / CHECKPOINT)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("merlin"))


@pytest.fixture(scope="module")
def tiny(checkpoint: Path) -> Merlin:
    return merlin(str(checkpoint), shape=SHAPE, spacing=SPACING)


def volume(
    shape: tuple[int, int, int], spacing: tuple[float, float, float] = SPACING, seed: int = 0
) -> Volume:
    """A blob of soft tissue in air, at a place of its own, with noise."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"), axis=-1)
    inside = ((grid - rng.uniform(-0.4, 0.4, 3)) ** 2).sum(-1) < rng.uniform(0.3, 0.9)
    hu = np.where(inside, 60.0, -1000.0) + rng.normal(0, 30, shape)
    return Volume(hu.astype(np.float32), spacing)


# ---- preparation ---------------------------------------------------------------------------------
def resampled(item: Volume, spacing: tuple[float, ...], shape: tuple[int, ...]) -> np.ndarray:
    """The whole grid by scipy, then padded and cropped with numpy."""
    counts = [
        round((n - 1) * old / new + 1)
        for n, old, new in zip(item.hu.shape, item.spacing, spacing, strict=True)
    ]
    steps = [new / old for old, new in zip(item.spacing, spacing, strict=True)]
    grid = np.meshgrid(
        *(np.arange(n) * step for n, step in zip(counts, steps, strict=True)), indexing="ij"
    )
    hu = map_coordinates(item.hu.astype(float), grid, order=1, mode="nearest")
    unit = np.clip((hu + 1000) / 2000, 0, 1)
    short = [max(want - n, 0) for want, n in zip(shape, counts, strict=True)]
    unit = np.pad(unit, [(n // 2, n - n // 2) for n in short])
    starts = [max(n // 2 - want // 2, 0) for n, want in zip(counts, shape, strict=True)]
    window = tuple(slice(a, a + want) for a, want in zip(starts, shape, strict=True))
    return unit[window]


@pytest.mark.parametrize(
    ("size", "spacing"),
    [
        ((40, 36, 24), (1.5, 1.5, 3.0)),
        ((51, 64, 33), (0.8, 0.7, 1.25)),
        ((20, 90, 7), (5.0, 1.1, 10.0)),
        ((9, 8, 120), (1.5, 3.3, 0.6)),
        ((61, 61, 1), (1.5, 1.5, 5.0)),
    ],
)
@pytest.mark.parametrize("shape", [(32, 31, 20), (33, 30, 21)])
def test_preparation_against_scipy(
    size: tuple[int, int, int], spacing: tuple[float, float, float], shape: tuple[int, int, int]
) -> None:
    rng = np.random.default_rng(0)
    item = Volume(rng.uniform(-1500, 1500, size).astype(np.float32), spacing)
    found = Prepare(shape)(item)
    assert (found.shape, found.dtype) == (shape, np.float32)
    assert np.abs(found - resampled(item, (1.5, 1.5, 3.0), shape)).max() < 1e-6


def test_axes_keep_their_order_and_direction() -> None:
    hu = np.full((60, 50, 40), -1000, np.float32)
    hu[10:14, 25:29, 30:34] = 1000  # on the patient's left, in the middle, high up
    prepare = Prepare((40, 40, 40), (1.0, 1.0, 1.0))
    found = prepare(Volume(hu, (1.0, 1.0, 1.0)))
    assert [(at.min(), at.max()) for at in np.nonzero(found)] == [(0, 3), (20, 23), (30, 33)]
    mirrored = prepare(Volume(hu[::-1].copy(), (1.0, 1.0, 1.0)))
    assert np.array_equal(mirrored, found[::-1])
    assert not np.array_equal(mirrored, found)
    # half the spacing along z: the same patient is half as high
    flat = prepare(Volume(hu, (1.0, 1.0, 0.5)))
    assert [(at.min(), at.max()) for at in np.nonzero(flat)][2] == (25, 26)


def test_a_mirrored_patient_has_another_vector(tiny: Merlin) -> None:
    item = volume((24, 20, 16))
    mirrored = Volume(item.hu[::-1].copy(), item.spacing)
    one, other = tiny.encode([item, mirrored])
    assert np.abs(one - other).max() > 1e-3 * np.abs(one).max()


def test_memory_is_that_of_the_crop_whatever_the_scan() -> None:
    hu = np.random.default_rng(0).uniform(-900, 900, (300, 80, 80)).astype(np.float32)
    item, prepare = Volume(hu, (0.5, 1.0, 1.0)), Prepare((16, 16, 16))
    tracemalloc.start()
    try:
        prepare(item)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < hu.nbytes / 30


def test_prepare_is_small_and_picklable(tiny: Merlin) -> None:
    item = volume((24, 20, 16))
    packed = pickle.dumps(tiny.prepare)
    assert len(packed) < 1000
    assert np.array_equal(pickle.loads(packed)(item), tiny.prepare(item))
    assert isinstance(tiny, Staged)
    assert np.array_equal(tiny.forward([tiny.prepare(item)]), tiny.encode([item]))


NOISE = np.random.default_rng(0).uniform(-1000, 1000, (8, 8, 8)).astype(np.float32)
HOLED = np.where(np.arange(8) == 4, np.nan, NOISE).astype(np.float32)


@pytest.mark.parametrize(
    ("hu", "spacing", "says"),
    [
        (NOISE[:0], SPACING, "has voxels"),
        (NOISE[0], SPACING, "has voxels"),
        (NOISE, (1.0, 1.0), "2 spacings"),
        (HOLED, SPACING, "not finite"),
        (np.where(np.isnan(HOLED), np.inf, HOLED), SPACING, "not finite"),
        (np.full_like(NOISE, 40), SPACING, "same value everywhere"),
        (np.full_like(NOISE, -2000) + NOISE / 2, SPACING, "same value everywhere"),
        (NOISE, (1.0, 0.0, 1.0), "along y: not a scan's"),
        (NOISE, (1.0, -1.0, 1.0), "along y: not a scan's"),
        (NOISE, (1.0, 1.0, float("nan")), "along z: not a scan's"),
        (NOISE, (float("inf"), 1.0, 1.0), "along x: not a scan's"),
        (NOISE, (1.0, 1.0, 1e300), "along z: not a scan's"),
        (NOISE[:, :, :1], (1.0, 1.0, 1.9), "less than half of one at 4 mm"),
        (NOISE, (0.001, 1.0, 1.0), "along x are less than half"),  # metres
    ],
)
def test_degenerate_volumes_are_refused(
    tiny: Merlin, hu: np.ndarray, spacing: tuple[float, float, float], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        tiny.encode([volume((24, 20, 16)), Volume(hu, spacing)])


# ---- encoder -------------------------------------------------------------------------------------
def test_contract(tiny: Merlin) -> None:
    rng = np.random.default_rng(0)
    items = [
        volume(tuple(rng.integers(8, 60, 3)), tuple(rng.uniform(0.6, 6.0, 3)), seed)
        for seed in range(12)
    ]
    assert tiny.card.width == 128
    assert tiny.ignored == 4
    check_encoder(tiny, items)


def test_every_pass_has_one_shape(tiny: Merlin) -> None:
    shapes = set()
    hook = tiny.network.register_forward_pre_hook(lambda _, args: shapes.add(args[0].shape))
    tiny.encode([volume((30, 20, 10)), volume((9, 40, 50)), volume((24, 20, 16))])
    hook.remove()
    assert shapes == {(1, *SHAPE)}


def test_the_vector_is_the_reference_of_the_prepared_volume(tiny: Merlin) -> None:
    item = volume((50, 44, 30), (2.0, 2.0, 2.5))
    prepared = resampled(item, SPACING, SHAPE)
    expected = reference(random_trunk(), torch.from_numpy(prepared)[None], (1, 1, 1, 1))
    found = tiny.encode([item])
    assert np.abs(found - expected.numpy()).max() < 1e-5 * expected.abs().max()


def test_by_name_from_a_folder(checkpoint: Path, tiny: Merlin) -> None:
    encoder = load_encoder(f"merlin:{checkpoint}", shape=list(SHAPE), spacing=list(SPACING))
    assert fingerprint(encoder.card) == fingerprint(tiny.card)
    assert encoder.card.golden == tiny.card.golden


def test_options_change_the_fingerprint(checkpoint: Path, tiny: Merlin) -> None:
    wider = merlin(str(checkpoint), shape=(20, 20, 16), spacing=SPACING)
    finer = merlin(str(checkpoint), shape=SHAPE, spacing=(2.0, 2.0, 4.0))
    assert len({fingerprint(e.card) for e in (tiny, wider, finer)}) == 3
    assert len({e.card.golden for e in (tiny, wider, finer)}) == 3
    assert tiny.card.preprocessing["spacing_mm"] == "3×3×4"
    assert tiny.card.preprocessing["dtype"] == "float32"


@pytest.mark.parametrize(
    "options",
    [
        {"shape": (224, 224)},
        {"shape": (0, 20, 20)},
        {"shape": (20.5, 20, 20)},
        {"shape": (10**6, 10**6, 10**6)},
        {"spacing": (1.5, 1.5)},
        {"spacing": (1.5, 1.5, 0.0)},
        {"spacing": (1.5, 1.5, float("nan"))},
    ],
)
def test_wrong_options(checkpoint: Path, options: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(options))} .*expected three"):
        merlin(str(checkpoint), **options)  # type: ignore[arg-type]


# ---- loading -------------------------------------------------------------------------------------
def trunk_of(folder: Path) -> I3ResNet:
    weights = find_weights(
        str(folder), substitute="", patterns=(CHECKPOINT, "model*.safetensors"), config=False
    )
    return load_trunk(weights)[0]


def test_safetensors_and_half_precision_files(tmp_path: Path, tiny: Merlin) -> None:
    named = {PREFIX + name: t for name, t in random_trunk().items()}
    save_file(named, tmp_path / "model.safetensors")
    again = merlin(str(tmp_path), shape=SHAPE, spacing=SPACING)
    assert again.card.golden == pytest.approx(tiny.card.golden, rel=1e-5, abs=1e-6)
    assert again.ignored == 0
    halves = {n: t.half() for n, t in random_trunk().items()}
    network = trunk_of(save_checkpoint(tmp_path / "half", halves))
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_a_checkpoint_without_training_counters(tmp_path: Path, tiny: Merlin) -> None:
    trunk = {n: t for n, t in random_trunk().items() if not n.endswith("num_batches_tracked")}
    again = merlin(str(save_checkpoint(tmp_path, trunk)), shape=SHAPE, spacing=SPACING)
    assert again.card.golden == pytest.approx(tiny.card.golden, rel=1e-5, abs=1e-6)
    assert again.ignored == tiny.ignored


def drop(name: str) -> Callable[[Tensors], Tensors]:
    return lambda trunk: {n: t for n, t in trunk.items() if n != name}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (drop("layer3.0.bn2.running_var"), r"1 parameters of the I3ResNet are missing \(layer3"),
        (drop("conv1.weight"), "no stem"),
        (lambda t: {n: v for n, v in t.items() if "layer4" not in n}, "layers 1 to 4"),
        (lambda t: {**t, "conv1.bias": torch.ones(4)}, "1 parameters .* unknown .conv1.bias"),
        (lambda t: {**t, "layer5.0.conv1.weight": torch.ones(4)}, "unknown .layer5"),
        (lambda t: {**t, "bn1.weight": torch.ones(9)}, "do not fit an I3ResNet: size mismatch"),
        (lambda t: {**t, "bn1.bias": torch.full((4,), torch.nan)}, "not finite"),
        (lambda t: {f"module.{n}": v for n, v in t.items()}, "no stem"),
    ],
)
def test_checkpoints_that_do_not_fit(
    tmp_path: Path, change: Callable[[Tensors], Tensors], says: str
) -> None:
    save_checkpoint(tmp_path, change(random_trunk()))
    with pytest.raises(InputError, match=says) as told:
        trunk_of(tmp_path)
    assert CHECKPOINT in str(told.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / CHECKPOINT
    torch.save({"state_dict": random_trunk()}, file)
    with pytest.raises(InputError, match="1 entries, none named encode_image"):
        trunk_of(tmp_path)
    file.write_bytes(save_checkpoint(tmp_path / "whole").joinpath(CHECKPOINT).read_bytes()[:5000])
    with pytest.raises(InputError, match=r"epoch_99.pt: .*weights"):
        trunk_of(tmp_path)
    file.write_bytes(pickle.dumps(Weights, protocol=2))  # a pickle that would import
    with pytest.raises(InputError, match=r"epoch_99.pt: .*weights"):
        trunk_of(tmp_path)


def test_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"no i3_resnet.* or model\*.safetensors in it"):
        merlin(str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"huggingface.co/stanfordmimi/Merlin.*kind 'embedding'"):
        merlin()
