"""A fit's loop as tensors and JSON values, and back into a fresh loop, to the bit."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from adacomed.models.batch import Output
from adacomed.training.build import restore, stored
from adacomed.training.fit import Loop

Json = dict[str, Any]


def checksum(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> int:
    """CRC-32 of all values, so that a file that is whole in form alone is found out."""
    found = zlib.crc32(json.dumps([sorted(tensors), sorted(about.items())]).encode())
    for name in sorted(tensors):
        found = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, found)
    return found


def facts_of(loop: Loop) -> Json:
    """What is no tensor; JSON keeps every float to the bit."""
    return {
        "epoch": loop.epoch,
        "finished": loop.finished,
        "training": loop.model.training,  # the bank of Eq. 4 is final in evaluation mode
        "best_score": loop.best_score,
        "best_epoch": loop.result.best_epoch,
        "history": loop.result.history,
        "lr": [group["lr"] for group in loop.optimizer.param_groups],
        "schedule": loop.schedule.state_dict(),
    }


def tensors_of(loop: Loop) -> dict[str, Tensor]:
    """Name → tensor; of a finished fit without what only another epoch would need."""
    found = {"generator": loop.generator.get_state(), "torch": torch.get_rng_state()}
    device = next(loop.model.parameters()).device
    if device.type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(device)
    weights, best = stored(loop.model), loop.best_state
    if best is not None:
        found |= {f"best.{name}": best[name] for name in weights}
    if best is None or not loop.finished:
        found |= {f"model.{name}": x for name, x in weights.items()}
    if not loop.finished:
        for i, state in loop.optimizer.state_dict()["state"].items():
            found |= {f"optimizer.{i}.{name}": x for name, x in state.items()}
    result = loop.result
    if result.val_output is not None:
        found |= {f"val_output.{name}": x for name, x in _given(result.val_output).items()}
    if result.val_outputs:
        for name in _given(result.val_outputs[0]):
            epochs = [getattr(output, name) for output in result.val_outputs]
            found[f"val_outputs.{name}"] = torch.stack(epochs)
    return _apart({name: x.detach().cpu().contiguous() for name, x in found.items()})


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same; what shares memory with one before is copied, as safetensors wants it."""
    seen: set[int] = set()
    for name, x in tensors.items():
        place = x.untyped_storage().data_ptr()
        tensors[name] = x.clone() if place in seen else x
        seen.add(place)
    return tensors


def _given(output: Output) -> dict[str, Tensor]:
    there = {f.name: getattr(output, f.name) for f in fields(output)}
    return {name: x for name, x in there.items() if x is not None}


def put_back(loop: Loop, tensors: Mapping[str, Tensor], facts: Json) -> None:
    """The opposite of `tensors_of` and `facts_of`."""

    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): x for k, x in tensors.items() if k.startswith(prefix)}

    if weights := part("model."):
        restore(loop.model, weights)
    if best := part("best."):
        loop.best_state = {**loop.model.state_dict(), **best}  # the former: frozen published ones
    groups = loop.optimizer.state_dict()["param_groups"]
    for group, lr in zip(groups, facts["lr"], strict=True):
        group["lr"] = lr
    state: dict[int, dict[str, Tensor]] = {}
    for name, x in part("optimizer.").items():
        i, _, what = name.partition(".")
        state.setdefault(int(i), {})[what] = x
    loop.optimizer.load_state_dict({"state": state, "param_groups": groups})
    loop.schedule.load_state_dict(facts["schedule"])
    loop.generator.set_state(tensors["generator"])
    torch.set_rng_state(tensors["torch"])
    device = next(loop.model.parameters()).device
    if "cuda" in tensors and device.type == "cuda":
        torch.cuda.set_rng_state(tensors["cuda"], device)
    loop.model.train(facts["training"])
    loop.epoch, loop.finished = facts["epoch"], facts["finished"]
    loop.best_score, loop.result.best_epoch = facts["best_score"], facts["best_epoch"]
    loop.result.history[:] = [tuple(row) for row in facts["history"]]
    if given := part("val_output."):
        loop.result.val_output = Output(**given)
    if given := part("val_outputs."):
        epochs = zip(*(x.unbind() for x in given.values()), strict=True)
        loop.result.val_outputs[:] = [Output(**dict(zip(given, x, strict=True))) for x in epochs]
