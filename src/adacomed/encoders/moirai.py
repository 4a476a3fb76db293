"""MOIRAI: multivariate series → vectors, by the mean of its encoder's states.

The model forecasts and has no embedding of its own, so the states of its last layer are taken, in
a window of hourly means: every variable is cut into patches of hours, every patch in which
something was observed is a token, and no other token exists (attention does not see it, and it is
not in the mean). A variable that a sample lacks therefore changes nothing.
"""

from __future__ import annotations

import importlib.metadata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from adacomed.encoders.base import EncoderCard, hash_json
from adacomed.encoders.golden import GOLDEN, golden_item
from adacomed.encoders.lanes import run_passes
from adacomed.encoders.moirai_net import MoiraiEncoder, load_network, standardise
from adacomed.encoders.series_bins import check_hours, observed_grid
from adacomed.encoders.weights import file_sha256, find_weights
from adacomed.errors import InputError
from adacomed.readers.series import Series

SUBSTITUTE = "use the encoder 'chronos-2' (Apache-2.0)"
FILL = 8  # variables; a sample's rows are filled up to a multiple of it
SMALLEST = 8  # hours of a patch that is chosen by itself


def _card(name: str, size: str, width: int) -> EncoderCard:
    return EncoderCard(
        name=name,
        kinds=("series",),
        id=f"Salesforce/moirai-1.1-R-{size}",
        licence="CC-BY-NC-4.0",
        gated=False,
        pooling="mean of the last normed states of observed patches",
        input="measurements in any units, hours from the index time; hourly means",
        trained_on="LOTSA: 27 billion observations of public series (energy, traffic, weather, …)",
        seen_datasets=(),
        width=width,
    )


CARDS = {
    "moirai": _card("moirai", "large", 1024),
    "moirai-base": _card("moirai-base", "base", 768),
    "moirai-small": _card("moirai-small", "small", 384),
}


def moirai(
    id: str = CARDS["moirai"].id,
    *,
    hours: int = 48,
    patch_size: int | None = None,
    missing: Literal["mean", "zero"] = "mean",
    revision: str | None = None,
    device: str = "cpu",
) -> Moirai:
    """MOIRAI 1.1-R large, 1024-d; any 1.0-R or 1.1-R model by its id or folder.

    Args:
        id: hub id, or a folder with config.json and model.safetensors.
        hours: length of the window, from the index time.
        patch_size: hours a token; default: the smallest of the model's sizes, 8 or more, with
            which all variables of the cohort fit into the model (46 variables and 48 hours: 8).
        missing: what stands for a value that was not observed: "mean": the variable's own mean,
            0 after scaling; "zero": 0 before scaling, as in uni2ts.
        revision: of a hub model.
        device: where to compute, "cpu" or "cuda".
    Raises:
        InputError: the model is not here, does not fit, or an option has no such value.
    """
    return _build("moirai", id, hours, patch_size, missing, revision, device)


def moirai_base(
    id: str = CARDS["moirai-base"].id,
    *,
    hours: int = 48,
    patch_size: int | None = None,
    missing: Literal["mean", "zero"] = "mean",
    revision: str | None = None,
    device: str = "cpu",
) -> Moirai:
    """MOIRAI 1.1-R base, 768-d; options as of `moirai`."""
    return _build("moirai-base", id, hours, patch_size, missing, revision, device)


def moirai_small(
    id: str = CARDS["moirai-small"].id,
    *,
    hours: int = 48,
    patch_size: int | None = None,
    missing: Literal["mean", "zero"] = "mean",
    revision: str | None = None,
    device: str = "cpu",
) -> Moirai:
    """MOIRAI 1.1-R small, 384-d; options as of `moirai`."""
    return _build("moirai-small", id, hours, patch_size, missing, revision, device)


@dataclass(frozen=True)
class Patches:
    """One sample, standardised: V variables, P patches of p hours."""

    values: NDArray[np.float32]  # (V, P, p)
    observed: NDArray[np.bool_]  # (V, P) whether anything was observed


@dataclass(frozen=True)
class Prepare:
    """A `Series` → its `Patches`; the window's end is the last patch's end.

    Only the sample's observed variables count, so nothing depends on which others the cohort's
    table has; rows without observation, which nothing attends to, fill up to a multiple of eight
    and let samples share a shape.
    """

    hours: int
    patch_sizes: tuple[int, ...]  # that may be chosen from, ascending
    max_tokens: int
    scaling: bool
    missing: Literal["mean", "zero"]

    def __call__(self, item: Series) -> Patches:
        """Raises InputError: nothing observed in the window, or too many variables."""
        grid = observed_grid(item, self.hours)
        grid = grid[~np.isnan(grid).all(axis=1)]
        size = self._size(len(grid))
        most = self.max_tokens // -(-self.hours // size)
        spare = min(-len(grid) % FILL, most - len(grid))
        grid = np.pad(grid, ((0, spare), (-self.hours % size, 0)), constant_values=np.nan)
        observed = ~np.isnan(grid)
        if self.scaling:
            scaled = standardise(grid, self.missing)
        else:
            scaled = np.where(observed, grid, 0).astype(np.float32)
        shape = (len(grid), -1, size)
        values = scaled.reshape(shape)
        seen: NDArray[np.bool_] = np.any(observed.reshape(shape), axis=-1)
        if not np.isfinite(values).all():
            raise InputError("values too large for single precision; are the units right?")
        return Patches(values, seen)

    def _size(self, variables: int) -> int:
        """Hours of a patch: the first size with which all variables fit."""
        for size in self.patch_sizes:
            if variables * -(-self.hours // size) <= self.max_tokens:
                return size
        raise InputError(
            f"{variables} variables × {self.hours} hours are more than {self.max_tokens} tokens "
            f"with patches of {self.patch_sizes[-1]} hours; keep fewer variables or hours"
        )


class Moirai:
    """Series → vectors, (n, D) float32.

    Args:
        network: loaded, in evaluation mode, on its device.
        prepare: a series → patches.
        card: measured but for width and golden vector, which are found here.
        rows: samples of every forward pass.
    """

    def __init__(
        self, network: MoiraiEncoder, *, prepare: Prepare, card: EncoderCard, rows: int
    ) -> None:
        self.network, self.prepare, self.card, self.rows = network, prepare, card, rows
        golden = self.encode([golden_item("series")])[0]
        found = {"width": len(golden), "golden_input": GOLDEN, "golden": tuple(golden.tolist())}
        self.card = card.model_copy(update=found)

    def encode(self, items: Sequence[Series]) -> NDArray[np.float32]:
        """Vectors of n series, (n, D) float32, in their order."""
        return self.forward([self.prepare(item) for item in items])

    def forward(self, prepared: Sequence[Patches]) -> NDArray[np.float32]:
        """Vectors of n prepared series, (n, D) float32, in their order."""
        vectors = np.zeros((len(prepared), self.network.config.d_model), np.float32)
        shapes: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for i, patches in enumerate(prepared):
            shapes[patches.values.shape].append(i)
        parts = [
            members[start : start + self.rows]
            for members in shapes.values()
            for start in range(0, len(members), self.rows)
        ]
        device = next(self.network.parameters()).device
        passes = [[prepared[i] for i in rows] for rows in parts]
        for rows, found in zip(parts, run_passes(self._pass, passes, device), strict=True):
            vectors[rows] = found[: len(rows)]
        return vectors

    @torch.inference_mode()
    def _pass(self, some: list[Patches]) -> NDArray[np.float32]:
        """Vectors of up to `rows` samples of one shape, (rows, D); a spare row repeats one."""
        some = some + [some[0]] * (self.rows - len(some))
        device = next(self.network.parameters()).device
        values = torch.from_numpy(np.stack([s.values for s in some])).to(device)  # (B, V, P, p)
        attended = torch.from_numpy(np.stack([s.observed for s in some])).to(device).flatten(1)
        _, variables, times, _ = values.shape
        time = torch.arange(times, device=device).repeat(variables).expand(len(some), -1)
        variable = torch.arange(variables, device=device).repeat_interleave(times)
        half = self.card.preprocessing["dtype"] == "bfloat16"
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            states = self.network(values.flatten(1, 2), time, variable.expand_as(time), attended)
        weight = attended.unsqueeze(-1).float()  # (B, N, 1)
        vectors: NDArray[np.float32] = (
            ((states.float() * weight).sum(1) / weight.sum(1)).cpu().numpy()
        )
        return vectors


def _build(
    name: str,
    id: str,
    hours: int,
    patch_size: int | None,
    missing: Literal["mean", "zero"],
    revision: str | None,
    device: str,
) -> Moirai:
    check_hours(hours)
    if missing not in ("mean", "zero"):
        raise InputError(f"missing {missing!r}: expected mean or zero")
    weights = find_weights(id, revision=revision, substitute=SUBSTITUTE)
    network = load_network(weights)
    config = network.config
    if patch_size is not None and patch_size not in config.patch_sizes:
        sizes = ", ".join(map(str, config.patch_sizes))
        raise InputError(f"patch_size {patch_size!r}: {id} has {sizes}")
    sizes_left = [s for s in config.patch_sizes if s >= SMALLEST] or [max(config.patch_sizes)]
    sizes_left = sorted(sizes_left) if patch_size is None else [patch_size]
    prepare = Prepare(hours, tuple(sizes_left), config.max_seq_len, config.scaling, missing)
    on_cuda = device.startswith("cuda")
    settings: dict[str, str | int | float | bool] = {
        "hours": hours,
        "step_hours": 1.0,
        "bin": "mean",
        "patch_hours": "smallest that fits" if patch_size is None else patch_size,
        "missing": missing,
        "dtype": "bfloat16" if on_cuda and torch.cuda.is_bf16_supported() else "float32",
    }
    config_hash = file_sha256(weights.folder / "config.json")
    measured = {
        "id": id,
        "revision": weights.revision,
        "preprocessing": settings,
        "preprocessing_hash": hash_json({**settings, "config.json": config_hash}),
        "weights_hash": weights.sha256(),
        "libraries": {p: importlib.metadata.version(p) for p in ("torch", "numpy")},
    }
    card = CARDS[name].model_copy(update=measured)
    return Moirai(network.to(device), prepare=prepare, card=card, rows=8 if on_cuda else 1)
