"""Weights of runs that earlier versions wrote, as today's models name them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

_FIRST = re.compile(r".*experts\.w1\.\d+")
_PROJECTION = re.compile(r"(?P<at>.*projections)\.(?P<m>\d+)\.(?P<layer>\d)\.(?P<what>weight|bias)")


def upgraded(weights: Mapping[str, Tensor], written: int) -> dict[str, Tensor]:
    """Weights by name, of a run of format `written`.

    Format 2 had a Sequential per modality where `Projections` now has one second layer for all, and
    the experts' first layers the other way round.
    """
    if written > 2:
        return dict(weights)
    found: dict[str, Tensor] = {}
    second: dict[str, dict[int, Tensor]] = defaultdict(dict)
    for name, x in weights.items():
        old = _PROJECTION.fullmatch(name)
        if _FIRST.fullmatch(name):
            found[name] = x.mT.contiguous()
        elif old is None:
            found[name] = x
        elif old["layer"] == "3":  # after Linear, GELU and dropout
            second[f"{old['at']}.{'w2' if old['what'] == 'weight' else 'b2'}"][int(old["m"])] = x
        else:  # 0, or 1 behind the dropout of a linear projection
            found[f"{old['at']}.first.{old['m']}.{old['what']}"] = x
    for name, layers in second.items():
        stacked = torch.stack([layers[m] for m in sorted(layers)])
        found[name] = stacked.transpose(1, 2).contiguous() if name.endswith("w2") else stacked
    return found
