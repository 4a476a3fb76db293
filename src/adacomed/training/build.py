"""From a spec (JSON values that a run keeps) to an untrained model of any neural method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from adacomed.encoders.backbones import load_backbones, tiny_backbones
from adacomed.encoders.weights import load_tensors
from adacomed.errors import InputError, nearest
from adacomed.models.adacomed import SmallModel
from adacomed.models.baselines.ensemble import Average, LargeEnsemble
from adacomed.models.baselines.flex_moe import build_flex_moe
from adacomed.models.baselines.gru import build_gru
from adacomed.models.baselines.healnet import build_healnet
from adacomed.models.baselines.meta_transformer import (
    MetaTransformer,
    build_meta_transformer,
    load_trunk,
)
from adacomed.models.baselines.onellm import OneLLM, build_onellm
from adacomed.models.baselines.single import SingleLarge
from adacomed.models.members import Members
from adacomed.models.presets import Preset, build_adacomed
from adacomed.models.small.multimodal_pred import build_multimodal_pred
from adacomed.models.small.scores import SCORED, Asked, ScoreSmall, sources_of
from adacomed.models.small.shallow import ShallowSmall
from adacomed.training.scaling import FittedInputs

T = TypeVar("T")
UPM_SIZES: dict[str, dict[str, Any]] = {  # of OneLLM's projection module
    "tiny": {"width": 32, "depth": 1, "heads": 2, "tokens": 4},
    "small": {"width": 64, "depth": 2, "heads": 4, "tokens": 8},
    "published": {"width": 1024, "depth": 8, "heads": 16, "tokens": 30},
}


def build_from_spec(spec: dict[str, Any], fitted: FittedInputs, classes: int) -> nn.Module:
    """An untrained model of the shape that `spec` and the fitted inputs describe."""
    if spec.get("members", 1) > 1 and spec["model"] != "average":
        one = {**spec, "members": 1}
        made = [build_from_spec(one, fitted, classes) for _ in range(spec["members"])]
        return Members(made, sigmoids=spec.get("sigmoids", False))
    return BUILDERS[spec["model"]](spec, fitted, classes)


def build_small(spec: dict[str, Any], fitted: FittedInputs, classes: int) -> SmallModel:
    """The small model of a spec: its "small" holds the experiment's settings for it.

    Raises:
        InputError: it names a modality that is not there to be read, or another width is needed.
    """
    settings = spec["small"]
    named, width = settings["modalities"], settings["width"]
    if settings["kind"] == "multimodal-pred":
        if width % 4:
            raise InputError(f"multimodal-pred: small.width {width} is not a multiple of 4")
        return build_multimodal_pred(
            _chosen(fitted.shapes, named),
            classes=classes,
            width=width,
            resnet=settings["resnet"],
        )
    if settings["kind"] in SCORED:
        return _scores(settings, fitted, classes, spec.get("asked", "classes"))
    return ShallowSmall(
        _chosen(fitted.small_widths, named),
        width=width,
        classes=classes,
        dropout=settings["dropout"],
    )


def _scores(
    settings: dict[str, Any], fitted: FittedInputs, classes: int, asked: Asked
) -> ScoreSmall:
    """Classical models as a small model; "stack" reads all modalities unless some are named."""
    there = {
        **fitted.widths,
        **{t: w for t, w in fitted.small_widths.items() if t in fitted.tables},
    }
    named = settings["modalities"]
    if named is None and settings["kind"] != "stack":
        named = fitted.small
    read = _chosen(there, named)
    tables = {name: P for name, P in read.items() if name in fitted.tables}
    vectors = [name for name in read if name not in tables]
    sources = sources_of(settings["kind"], list(tables), vectors)
    return ScoreSmall(sources, tables, classes=classes, asked=asked)


def _chosen(there: Mapping[str, T], named: Sequence[str] | None) -> dict[str, T]:
    """Those of `there` that are named, in its order; None names all."""
    for name in named or []:
        if name not in there:
            raise InputError(
                f"small.modalities: {name!r} is not there for the small model{nearest(name, there)}"
            )
    return {name: x for name, x in there.items() if named is None or name in named}


def _adacomed(spec: dict[str, Any], fitted: FittedInputs, classes: int) -> nn.Module:
    preset = replace(Preset(**spec["preset"]), bank_size=spec["bank"] or "batch")
    small = build_small(spec, fitted, classes)
    return build_adacomed(preset, fitted.widths, small, strategy=spec["strategy"])


def _small(spec: dict[str, Any], fitted: FittedInputs, classes: int) -> nn.Module:
    small = build_small(spec, fitted, classes)
    assert isinstance(small, nn.Module)
    return small


def _average(spec: dict[str, Any], fitted: FittedInputs, classes: int) -> nn.Module:
    large = build_from_spec({**spec, "model": "large-ensemble"}, fitted, classes)
    return Average(large, build_from_spec({**spec, "model": "small"}, fitted, classes))


def _large_ensemble(spec: dict[str, Any], fitted: FittedInputs, classes: int) -> nn.Module:
    p = Preset(**spec["preset"])
    return LargeEnsemble(fitted.widths, H=p.H, classes=classes, dropout=p.dropout)


def _single(spec: dict[str, Any], fitted: FittedInputs, classes: int) -> nn.Module:
    p, name = Preset(**spec["preset"]), spec["modality"]
    return SingleLarge(
        name,
        column=list(fitted.widths).index(name),
        width_in=fitted.widths[name],
        H=p.H,
        classes=classes,
        dropout=p.dropout,
    )


def _flex_moe(spec: dict[str, Any], fitted: FittedInputs, classes: int) -> nn.Module:
    p = Preset(**spec["preset"])
    return build_flex_moe(fitted.widths, classes=classes, H=p.H, heads=p.heads, dropout=p.dropout)


def _healnet(spec: dict[str, Any], fitted: FittedInputs, classes: int) -> nn.Module:
    p = Preset(**spec["preset"])
    return build_healnet(fitted.widths, classes=classes, H=p.H, heads=p.heads, dropout=p.dropout)


def _gru(spec: dict[str, Any], fitted: FittedInputs, classes: int) -> nn.Module:
    p = Preset(**spec["preset"])
    return build_gru(fitted.shapes, classes=classes, width=p.H, dropout=p.dropout)


def _meta_transformer(spec: dict[str, Any], fitted: FittedInputs, classes: int) -> nn.Module:
    return build_meta_transformer(fitted.shapes, classes=classes, size=spec["baselines"]["size"])


def _onellm(spec: dict[str, Any], fitted: FittedInputs, classes: int) -> nn.Module:
    settings = spec["baselines"]
    if settings["clip"] and settings["lm"]:
        clip, lm = load_backbones(settings["clip"], settings["lm"])
    else:
        clip, lm = tiny_backbones()
    size = UPM_SIZES[settings["size"]]
    return build_onellm(fitted.shapes, classes=classes, clip=clip, lm=lm, **size)


def stored(model: nn.Module) -> dict[str, Tensor]:
    """The weights that a run keeps: all but frozen published models, which `build_from_spec` loads.

    These are OneLLM's CLIP and language model, tens of gigabytes at their published size.
    """
    elsewhere = tuple(
        f"{name}.{part}." if name else f"{part}."
        for name, module in model.named_modules()
        if isinstance(module, OneLLM)
        for part in ("encoder.clip", "lm")
    )
    return {k: v for k, v in model.state_dict().items() if not k.startswith(elsewhere)}


def restore(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Put what `stored` gave into a model of the same spec.

    Raises:
        RuntimeError: a weight is missing, unknown or of another shape.
    """
    wanted = stored(model).keys()
    if missing := wanted - weights.keys():
        raise RuntimeError(f"weights are missing: {min(missing)}")
    if unknown := weights.keys() - wanted:  # one of a frozen model's too
        raise RuntimeError(f"unknown weights: {min(unknown)}")
    model.load_state_dict(weights, strict=False)


def start_at_base(model: nn.Module, columns: int) -> nn.Module:
    """Zero the head of a fresh model of sigmoids, so that it starts by saying the base (`outcome`).

    Random weights of many columns add up to an order of the patients that means nothing, and that a
    small cohort does not train long enough to forget. A model without a `head` stays as it is.

    Args:
        columns: J.
    """
    head = getattr(model, "head", None)
    layers = [] if head is None else [m for m in head.modules() if isinstance(m, nn.Linear)]
    if layers and layers[-1].out_features == columns:
        nn.init.zeros_(layers[-1].weight)
        nn.init.zeros_(layers[-1].bias)
    return model


def start_from_published(model: nn.Module, spec: dict[str, Any]) -> None:
    """Put published weights into a fresh model, where the settings name a file of them.

    Raises:
        InputError: the file is missing, unreadable or of another model.
    """
    weights = spec["baselines"]["weights"]
    if spec["model"] == "meta-transformer" and weights:
        assert isinstance(model, MetaTransformer)
        load_trunk(model, load_tensors([Path(weights)]))


BUILDERS: dict[str, Callable[[dict[str, Any], FittedInputs, int], nn.Module]] = {
    "adacomed": _adacomed,
    "small": _small,
    "average": _average,
    "single": _single,
    "large-ensemble": _large_ensemble,
    "flex-moe": _flex_moe,
    "healnet": _healnet,
    "gru": _gru,
    "meta-transformer": _meta_transformer,
    "onellm": _onellm,
}
