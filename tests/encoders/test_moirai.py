from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from tests.conftest import shared
from tests.encoders.check_encoder import check_encoder
from tests.encoders.golden.make_moirai import CASES, MODELS, random_weights

from adacomed.encoders.base import fingerprint, load_encoder
from adacomed.encoders.moirai import CARDS, Moirai, Prepare, moirai, moirai_small
from adacomed.encoders.moirai_net import MoiraiConfig, MoiraiEncoder, load_network, standardise
from adacomed.encoders.series_bins import bin_hourly
from adacomed.encoders.weights import Weights
from adacomed.errors import InputError
from adacomed.readers.series import Series, SeriesTable
from adacomed.schema import SeriesCard

GOLDEN = Path(__file__).parent / "golden"
KEPT = json.loads((GOLDEN / "moirai.json").read_text())
NAMES = ("hr", "map", "na", "lact", "temp")


def save_tiny(folder: Path, name: str = "narrow", *, seed: int = 7, **config: Any) -> Path:
    """The weights of the oracle (those of forecasting too) and its config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = KEPT["models"][name]
    save_file(random_weights(kept["shapes"], seed), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**kept["config"], **config}))
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
    return save_tiny(tmp_path_factory.mktemp("moirai"))


@pytest.fixture(scope="module")
def encoder(tiny: Path) -> Moirai:
    return moirai(str(tiny))


def test_contract(tmp_path: Path, encoder: Moirai) -> None:
    assert encoder.card.width == 64
    check_encoder(encoder, ITEMS)
    wide = moirai_small(str(save_tiny(tmp_path, "wide")), hours=30, missing="zero")
    check_encoder(wide, ITEMS)


@pytest.mark.parametrize("case", range(len(CASES)))
def test_token_states_equal_uni2ts(tmp_path: Path, case: int) -> None:
    """Oracle: uni2ts 2.0.0 itself, run by golden/make_moirai.py on the same weights."""
    name, patch, variables, hours, missing = CASES[case]
    with np.load(GOLDEN / "moirai.npz") as kept:
        values, seen = kept[f"{case}.values"], kept[f"{case}.seen"]
        loc, scale, states = (kept[f"{case}.{key}"] for key in ("loc", "scale", "states"))
    network = load_network(Weights(save_tiny(tmp_path, name), "test"))
    grid = np.pad(values, ((0, 0), (-hours % patch, 0)), constant_values=np.nan).astype(float)
    scaled = standardise(grid, missing).reshape(variables, -1, patch)
    times = scaled.shape[1]
    time = torch.arange(times).repeat(variables)[None]
    variable = torch.arange(variables).repeat_interleave(times)[None]
    attended = torch.from_numpy(seen)[None]
    patches = torch.from_numpy(scaled).flatten(0, 1)[None]
    with torch.inference_mode():
        found = network(patches, time, variable, attended)[0].numpy()[seen]
    assert found.shape == states.shape == (seen.sum(), MODELS[name]["d_model"])
    assert np.abs(found - states).max() < 1e-5
    # and the scaler: what it gives back times the oracle's scale, plus its mean, is the input
    raw = grid.reshape(scaled.shape).reshape(-1, patch)[seen]
    again = scaled.reshape(-1, patch)[seen] * scale + loc
    known = ~np.isnan(raw)
    assert np.allclose(again[known], raw[known], rtol=1e-6)
    # a wrong variable, time or mask would be seen
    swapped = torch.zeros_like(variable), torch.zeros_like(time)
    for other in ((time, swapped[0], attended), (swapped[1], variable, attended)):
        with torch.inference_mode():
            wrong = network(patches, *other)[0].numpy()[seen]
        if times > 1:
            assert np.abs(wrong - states).max() > 1e-3


@pytest.mark.parametrize("hours", [48, 20])
def test_vector_is_the_mean_of_observed_patches(tiny: Path, hours: int) -> None:
    """Plain loops, and only the tokens that exist go into the network: no mask, no padding."""
    encoder = moirai(str(tiny), hours=hours)
    for item in ITEMS:
        cells: dict[tuple[int, int], list[float]] = {}
        for hour, variable, value in zip(item.hours, item.variable, item.value, strict=True):
            if 0 <= hour < hours:
                cells.setdefault((int(variable), int(hour)), []).append(float(value))
        means = {cell: sum(values) / len(values) for cell, values in cells.items()}
        tokens: dict[tuple[int, int], np.ndarray] = {}
        for (variable, hour), mean in sorted(means.items()):
            of = np.array([m for (v, _), m in means.items() if v == variable])
            spread = of.var(ddof=1) if len(of) > 1 else 0.0
            patch, place = divmod(hour + -hours % 8, 8)
            values = tokens.setdefault((variable, patch), np.zeros(8, np.float32))
            values[place] = (mean - of.mean()) / np.sqrt(spread + 1e-5)
        variables, times = (torch.tensor(ids)[None] for ids in zip(*tokens, strict=True))
        with torch.inference_mode():
            states = encoder.network(
                torch.from_numpy(np.stack(list(tokens.values())))[None],
                times,
                variables,
                torch.ones_like(times, dtype=torch.bool),
            )
        assert np.abs(states[0].mean(0).numpy() - encoder.encode([item])[0]).max() < 2e-5


def test_a_variable_that_is_absent_changes_nothing(encoder: Moirai) -> None:
    item = ITEMS[6]
    wider = Series(item.hours, item.variable, item.value, (*NAMES, "crea"))
    difference = encoder.encode([item]) - encoder.encode([wider])
    assert np.abs(difference).max() < 1e-6


def test_every_pass_has_one_shape_per_number_of_variables(encoder: Moirai) -> None:
    shapes = set()
    hook = encoder.network.register_forward_pre_hook(lambda _, args: shapes.add(args[0].shape))
    encoder.encode(ITEMS)
    hook.remove()
    assert shapes == {(1, 8 * 6, 8)}


def test_many_rows_are_the_same_vectors(encoder: Moirai) -> None:
    """The shape of a pass on a GPU, here to rounding."""
    rows = Moirai(encoder.network, prepare=encoder.prepare, card=encoder.card, rows=8)
    assert np.abs(rows.encode(ITEMS) - encoder.encode(ITEMS)).max() < 1e-5


def test_patch_size_is_the_smallest_that_fits() -> None:
    sizes = (8, 16, 32, 64, 128)
    grid = Prepare(48, sizes, 512, True, "mean")
    names = tuple(f"v{i:03}" for i in range(200))

    def shape(variables: int, prepare: Prepare = grid) -> tuple[int, ...]:
        ones, every = np.ones(variables), np.arange(variables)
        return prepare(Series(ones, every, ones, names)).values.shape

    assert shape(46) == (48, 6, 8)  # 288 tokens, 12 of them never looked at
    assert shape(85) == (85, 6, 8)  # 510: no room for more
    assert shape(86) == (88, 3, 16)
    assert shape(200) == (200, 2, 32)
    assert shape(5, Prepare(48, (64,), 512, True, "mean")) == (8, 1, 64)
    with pytest.raises(InputError, match="200 variables × 1000 hours are more than 512 tokens"):
        shape(200, Prepare(1000, sizes, 512, True, "mean"))


def test_other_variables_of_the_table_change_nothing(encoder: Moirai) -> None:
    """A new patient's table may lack variables that the training table had."""
    item = ITEMS[3]
    more = Series(item.hours, item.variable + 2, item.value, ("a", "b", *item.names, "z"))
    assert np.array_equal(encoder.encode([item]), encoder.encode([more]))


def test_prepare_is_small_and_picklable(encoder: Moirai) -> None:
    again = pickle.loads(pickle.dumps(encoder.prepare))
    assert len(pickle.dumps(encoder.prepare)) < 1000
    prepared = [again(item) for item in ITEMS]
    assert np.array_equal(encoder.forward(prepared), encoder.encode(ITEMS))


def test_every_option_changes_numbers_and_fingerprint(tiny: Path, tmp_path: Path) -> None:
    options: list[dict[str, Any]] = [{}, {"hours": 24}, {"patch_size": 16}, {"missing": "zero"}]
    encoders = [moirai(str(tiny), **o) for o in options]
    encoders.append(moirai(str(save_tiny(tmp_path / "other", seed=1))))
    encoders.append(moirai(str(save_tiny(tmp_path / "unscaled", scaling=False))))
    assert len({fingerprint(e.card) for e in encoders}) == len(encoders)
    assert len({tuple(e.encode([ITEMS[11]])[0]) for e in encoders}) == len(encoders)


def test_half_precision_files_load(tmp_path: Path, encoder: Moirai) -> None:
    folder = save_tiny(tmp_path)
    weights = random_weights(KEPT["models"]["narrow"]["shapes"], 7)
    save_file({k: v.astype(np.float16) for k, v in weights.items()}, folder / "model.safetensors")
    half = moirai(str(folder))
    assert half.network.encoder.norm.weight.dtype == torch.float32
    assert 0 < np.abs(half.encode(ITEMS) - encoder.encode(ITEMS)).max() < 0.05


@pytest.mark.parametrize(
    ("name", "width", "layers", "million"),
    [("moirai-small", 384, 6, 13.8), ("moirai-base", 768, 12, 91.4), ("moirai", 1024, 24, 311)],
)
def test_published_sizes(name: str, width: int, layers: int, million: float) -> None:
    """14, 91 and 311 million parameters as published, of which few are not the encoder's."""
    config = MoiraiConfig(width, layers, (8, 16, 32, 64, 128), 512)
    with torch.device("meta"):
        network = MoiraiEncoder(config)
    parameters = sum(value.numel() for value in network.parameters()) / 1e6
    assert million * 0.75 < parameters < million * 1.005
    assert CARDS[name].width == width


def test_items_that_cannot_be_read(encoder: Moirai) -> None:
    none = np.zeros(0)
    with pytest.raises(InputError, match=r"no observed value within 48 hours.*0 measurements"):
        encoder.encode([Series(none, none.astype(np.int64), none, NAMES)])
    before = Series(np.array([-1.0, 48.0]), np.array([0, 1]), np.array([1.0, 2.0]), NAMES)
    with pytest.raises(InputError, match="2 measurements lie outside"):
        encoder.encode([before])
    for bad in (np.nan, np.inf):
        with pytest.raises(InputError, match="not a finite number"):
            encoder.encode([Series(np.array([1.0]), np.array([0]), np.array([bad]), NAMES)])


def test_wrong_options(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"patch_size 12: .* has 8, 16"):
        moirai(str(tiny), patch_size=12)
    for hours in (0, 9000, 2.5):
        with pytest.raises(InputError, match=r"expected a whole number from 1 to 8192"):
            moirai(str(tiny), hours=hours)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="expected mean or zero"):
        moirai(str(tiny), missing="last")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="did you mean 'patch_size'"):
        load_encoder(f"moirai-small:{tiny}", patchsize=8)
    with pytest.raises(InputError, match=r"no config.json|no model\*"):
        moirai(str(tmp_path))


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "layers", num_layers=3)
    with pytest.raises(InputError, match=r"12 parameters .*encoder.layers.2.*config.json"):
        moirai(str(folder))
    folder = save_tiny(tmp_path / "width", d_model=128)
    with pytest.raises(InputError, match="differ in name or shape"):
        moirai(str(folder))
    for change in ({"d_model": 10}, {"num_layers": 10**9}, {"patch_sizes": []}):
        with pytest.raises(InputError, match="no MOIRAI model has these sizes"):
            moirai(str(save_tiny(tmp_path / "sizes", **change)))
    (folder / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(InputError, match="not the config of a MOIRAI"):
        moirai(str(folder))


@pytest.mark.parametrize("damage", [b"", b"not weights at all", None])
def test_damaged_weights(tiny: Path, tmp_path: Path, damage: bytes | None) -> None:
    copy = shutil.copytree(tiny, tmp_path / "damaged")
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100] if damage is None else damage)
    with pytest.raises(InputError, match="damaged"):
        moirai(str(copy))


def test_bins() -> None:
    hours = np.array([-0.1, 0.0, 0.5, 0.99, 1.0, 2.999, 3.0])
    variable = np.array([0, 0, 0, 1, 0, 0, 1])
    item = Series(hours, variable, np.array([9.0, 1, 3, 7, 5, 4, 9]), ("a", "b", "c"))
    nan = np.nan
    expected = [[2, 5, 4], [7, nan, nan], [nan, nan, nan]]
    assert np.array_equal(bin_hourly(item, 3), expected, equal_nan=True)
    assert np.array_equal(
        bin_hourly(item, 3, step=2), [[3, 4], [7, nan], [nan, nan]], equal_nan=True
    )


def test_real_intensive_care_series(tmp_path: Path) -> None:
    """48 variables of an intensive care unit, wide, hourly for a day."""
    path = shared("icu-demo") / "dyn.parquet"
    import polars as pl

    frame = pl.read_parquet(path)
    columns = frame.columns[2:]
    card = SeriesCard(
        kind="series", table=path, sample="stay_id", time="time", columns=columns, window=(0, 24)
    )
    stays = frame["stay_id"].unique().sort()[:20].to_list()
    items = SeriesTable(path, card).read(stays)
    mine = frame.filter(pl.col("stay_id").is_in(stays)).select(columns)
    assert sum(len(item.hours) for item in items if item) == mine.count().sum_horizontal()[0]
    assert all(item and item.names == tuple(columns) for item in items)
    folder = save_tiny(tmp_path, max_seq_len=512)
    encoder = moirai(str(folder), hours=24)
    seen = len(np.unique(items[0].variable[items[0].hours < 24]))
    assert encoder.prepare(items[0]).values.shape == (-(-seen // 8) * 8, 3, 8)
    check_encoder(encoder, items)
