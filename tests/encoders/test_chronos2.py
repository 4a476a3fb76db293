from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.encoders.check_encoder import check_encoder

from adacomed.encoders.base import fingerprint, load_encoder
from adacomed.encoders.chronos2 import Chronos2, chronos_2
from adacomed.errors import InputError
from adacomed.readers.series import Series

NAMES = ("hr", "map", "na", "lact", "temp")


def save_tiny(folder: Path, *, seed: int = 0, layers: int = 2) -> Path:
    """Random weights in the package's own classes, as the hub's repository holds them."""
    from chronos.chronos2 import Chronos2CoreConfig, Chronos2Model

    torch.manual_seed(seed)
    config = Chronos2CoreConfig(
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=layers,
        num_heads=2,
        initializer_factor=1.0,
        architectures=["Chronos2Model"],
        chronos_pipeline_class="Chronos2Pipeline",
        chronos_config={
            "context_length": 256,
            "input_patch_size": 8,
            "input_patch_stride": 8,
            "output_patch_size": 8,
            "quantiles": [0.1, 0.5, 0.9],
            "use_reg_token": True,
            "use_arcsinh": True,
            "max_output_patches": 2,
        },
    )
    Chronos2Model(config).save_pretrained(folder)
    return folder


def series(seed: int) -> Series:
    """A sample of 1 … 5 of the variables and 1 … 90 measurements in up to 48 hours."""
    rng = np.random.default_rng(seed)
    n, variables = int(rng.integers(1, 90)), rng.permutation(5)[: 1 + seed % 5]
    hours = np.sort(rng.uniform(0, 2 + 4 * (seed % 12), n))
    variable = rng.choice(variables, n)
    return Series(hours, variable, rng.normal(80, 20, n), NAMES)


ITEMS = [series(seed) for seed in range(14)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("chronos"))


@pytest.fixture(scope="module")
def encoder(tiny: Path) -> Chronos2:
    return chronos_2(str(tiny))


def test_contract(encoder: Chronos2) -> None:
    assert encoder.card.width == 32
    check_encoder(encoder, ITEMS)


def loops(encoder: Chronos2, items: list[Series], hours: int) -> np.ndarray:
    """Every sample in one call of the package, bins and means in plain loops."""
    grids, seen = [], []
    for item in items:
        cells: dict[tuple[int, int], list[float]] = {}
        for hour, variable, value in zip(item.hours, item.variable, item.value, strict=True):
            if 0 <= hour < hours:
                cells.setdefault((int(variable), int(hour)), []).append(float(value))
        rows = sorted({variable for variable, _ in cells})
        grid = np.full((len(rows), hours), np.nan, np.float32)
        for (variable, hour), values in cells.items():
            grid[rows.index(variable), hour] = sum(values) / len(values)
        grids.append(grid)
        seen.append({(rows.index(v), (hour + -hours % 8) // 8) for v, hour in cells})
    with torch.inference_mode():
        embedded, _ = encoder.pipeline.embed(grids)
    return np.stack(
        [
            np.mean([states[v, p].numpy() for v, p in sorted(tokens)], axis=0)
            for states, tokens in zip(embedded, seen, strict=True)
        ]
    )


@pytest.mark.parametrize("hours", [48, 20])
def test_equals_the_package_in_one_batch(tiny: Path, hours: int) -> None:
    encoder = chronos_2(str(tiny), hours=hours)
    # single precision; other processors gave up to 1.7e-5
    assert np.abs(encoder.encode(ITEMS) - loops(encoder, ITEMS, hours)).max() < 5e-5


def test_special_tokens_are_left_out(encoder: Chronos2) -> None:
    grid = encoder.prepare(ITEMS[4])
    with torch.inference_mode():
        states = encoder.pipeline.embed([grid])[0][0]
    assert states.shape == (len(grid), 48 // 8 + 2, 32)
    assert np.abs(states.mean((0, 1)).numpy() - encoder.encode([ITEMS[4]])[0]).max() > 1e-3


def test_variables_meet_within_a_sample(encoder: Chronos2) -> None:
    hours = np.arange(48.0)
    wave, zeros = np.sin(hours / 5), np.zeros(48, np.int64)
    alone = Series(hours, zeros, wave, NAMES)
    order = np.argsort(np.tile(hours, 2), kind="stable")
    both = Series(
        np.tile(hours, 2)[order],
        np.r_[zeros, zeros + 1][order],
        np.r_[wave, np.cos(hours)][order],
        NAMES,
    )
    with torch.inference_mode():
        one, two = encoder.pipeline.embed([encoder.prepare(alone), encoder.prepare(both)])[0]
    assert (one[0] - two[0]).abs().max() > 1e-3


def test_a_variable_that_is_absent_changes_nothing(encoder: Chronos2) -> None:
    item = ITEMS[6]
    wider = Series(item.hours, item.variable, item.value, (*NAMES, "crea"))
    assert np.array_equal(encoder.encode([item]), encoder.encode([wider]))


def test_every_option_changes_numbers_and_fingerprint(tiny: Path, tmp_path: Path) -> None:
    encoders = [chronos_2(str(tiny)), chronos_2(str(tiny), hours=24)]
    encoders.append(chronos_2(str(save_tiny(tmp_path, seed=1))))
    assert len({fingerprint(e.card) for e in encoders}) == 3
    assert len({tuple(e.encode([ITEMS[11]])[0]) for e in encoders}) == 3


def test_items_that_cannot_be_read(encoder: Chronos2) -> None:
    none = np.zeros(0)
    with pytest.raises(InputError, match=r"no observed value within 48 hours.*0 measurements"):
        encoder.encode([Series(none, none.astype(np.int64), none, NAMES)])
    with pytest.raises(InputError, match="1 measurements lie outside"):
        encoder.encode([Series(np.array([48.0]), np.array([0]), np.array([1.0]), NAMES)])
    with pytest.raises(InputError, match="not a finite number"):
        encoder.encode([Series(np.array([1.0]), np.array([0]), np.array([np.inf]), NAMES)])


def test_wrong_options(tiny: Path) -> None:
    with pytest.raises(InputError, match="hours 257: expected a whole number from 1 to 256"):
        chronos_2(str(tiny), hours=257)
    with pytest.raises(InputError, match="did you mean 'hours'"):
        load_encoder(f"chronos-2:{tiny}", hour=24)


def test_weights_that_do_not_fit_are_refused(tiny: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny, tmp_path / "three-layers")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "num_layers": 3}))
    with pytest.raises(InputError, match=r"parameters.*do not belong to config.json"):
        chronos_2(str(copy))
    (copy / "config.json").write_text(json.dumps({**config, "d_ff": 128}))
    with pytest.raises(InputError, match=r"three-layers: (damaged or foreign|not a Chronos)"):
        chronos_2(str(copy))
    del config["chronos_config"]
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="not a Chronos-2 model"):
        chronos_2(str(copy))


@pytest.mark.parametrize("damage", [b"", b"not weights at all", None])
def test_damaged_weights(tiny: Path, tmp_path: Path, damage: bytes | None) -> None:
    copy = shutil.copytree(tiny, tmp_path / "damaged")
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100] if damage is None else damage)
    with pytest.raises(InputError, match="damaged"):
        chronos_2(str(copy))
