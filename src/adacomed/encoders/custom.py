"""The user's own function as an encoder: `encoder: my_module:embed` in a cohort's YAML.

    # my_module.py, beside the YAML
    def embed(items):  # a list of what the readers give, such as images (H, W, C)
        return np.stack([...])  # (len(items), D)

A function without a required argument is a builder instead: it returns an object with `card` and
`encode` (see `base.Encoder`). The code is the user's own and runs here; it is never fetched.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from adacomed.encoders.base import EncoderCard, Kind, hash_json
from adacomed.encoders.golden import GOLDEN, golden_item
from adacomed.errors import InputError

CARD = EncoderCard(
    name="custom",
    kinds=get_args(Kind),
    id="",  # module:function
    licence="the user's",
    gated=False,
    pooling="the function's",
    input="what the readers give",
    trained_on="not known",
)


class FunctionEncoder:
    """Items → vectors by a plain function; its file's content is what its numbers depend on.

    Args:
        function: items → (n, D) numbers.
        name: module:function, for the card and for messages.
        kind: of the items.
    Raises:
        InputError: the function's file cannot be found, or it fails on the golden item.
    """

    def __init__(self, function: Callable[[Sequence[Any]], Any], name: str, kind: Kind) -> None:
        self.function, self.name = function, name
        file = inspect.getsourcefile(function)
        if file is None:
            raise InputError(f"encoder {name!r}: its source file cannot be found")
        source = hashlib.sha256(Path(file).read_bytes()).hexdigest()
        self.card = CARD
        golden = self.encode([golden_item(kind)])[0]
        self.card = CARD.model_copy(
            update={
                "kinds": (kind,),
                "width": len(golden),
                "golden_input": GOLDEN,
                "golden": tuple(golden.tolist()),
                "libraries": {"numpy": np.__version__},
                "name": name.replace(":", ".").replace("/", "."),
                "id": name,
                "revision": source[:12],
                "preprocessing": {"function": name},
                "preprocessing_hash": hash_json(name),
                "weights_hash": source,
            }
        )

    def encode(self, items: Sequence[Any]) -> NDArray[np.float32]:
        """Vectors of n items, (n, D) float32.

        Raises:
            InputError: the function gave something else than one row of numbers per item.
        """
        if not items:
            return np.zeros((0, self.card.width or 0), np.float32)
        try:
            found = np.asarray(self.function(list(items)), dtype=np.float32)
        except Exception as error:  # the user's code may raise anything
            raise InputError(f"encoder {self.name!r}: {type(error).__name__}: {error}") from error
        if found.ndim != 2 or len(found) != len(items):
            raise InputError(
                f"encoder {self.name!r}: expected ({len(items)}, width) numbers for {len(items)} "
                f"items, got shape {found.shape}"
            )
        if found.shape[1] != (self.card.width or found.shape[1]):
            raise InputError(
                f"encoder {self.name!r}: width {found.shape[1]} now, {self.card.width} before"
            )
        return found
