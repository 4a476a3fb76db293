"""JSON that every reader takes: NaN and infinity, which JSON has not, are null."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def dumps(data: Any, *, indent: int | None = None) -> str:
    """Any nest of values as JSON text, in UTF-8 as it is; what JSON does not know, as its text.

    >>> dumps({"auroc": [0.5, float("nan")]})
    '{"auroc": [0.5, null]}'
    """
    plain = _finite(data)
    return json.dumps(plain, indent=indent, ensure_ascii=False, default=str, allow_nan=False)


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    return [_finite(value) for value in data] if isinstance(data, list | tuple) else data
