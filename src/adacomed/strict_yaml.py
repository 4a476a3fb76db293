"""The strict reading of every YAML: a wrong key names the nearest one, all in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from adacomed.errors import InputError, nearest

T = TypeVar("T", bound=BaseModel)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping safely.

    Raises:
        InputError: no such file, not YAML, or not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
        data = yaml.safe_load(text)
        repeated = _repeated_key(yaml.compose(text, Loader=yaml.SafeLoader))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder, expected a YAML file") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a UTF-8 text file ({error.reason})") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: 2020-13-45
        where = getattr(error, "problem_mark", None)
        line = f" at line {where.line + 1}" if where else ""
        raise InputError(f"{path}: not valid YAML{line}") from None
    if not isinstance(data, dict):
        found = "nothing" if data is None else f"a {type(data).__name__}"
        raise InputError(f"{path}: expected keys and values such as name: value, found {found}")
    if repeated is not None:
        raise InputError(
            f"{path}: the key {repeated.value!r} is there twice, again at line "
            f"{repeated.start_mark.line + 1}"
        )
    return data


def _repeated_key(node: Any) -> yaml.ScalarNode | None:
    """The first key that a mapping has twice; PyYAML would silently take the last."""
    if isinstance(node, yaml.SequenceNode):
        return next(filter(None, map(_repeated_key, node.value)), None)
    if not isinstance(node, yaml.MappingNode):
        return None
    seen = set()
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode):
            if key.value in seen:
                return key
            seen.add(key.value)
        if (inner := _repeated_key(value)) is not None:
            return inner
    return None


def parse(model: type[T], data: dict[str, Any], where: str) -> T:
    """Validate `data` as `model`; every problem becomes one sentence.

    Args:
        where: what the data came from, named in the message (a file).
    Raises:
        InputError: with up to five problems, each with its key and what would work.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems = [_problem(model, data, dict(e)) for e in error.errors()[:5]]
        more = len(error.errors()) - len(problems)
        tail = f" (+{more} more)" if more > 0 else ""
        raise InputError(f"{where}: {'; '.join(problems)}{tail}") from None


def _problem(model: type[BaseModel], data: dict[str, Any], error: dict[str, Any]) -> str:
    """One pydantic error as a clause; input values are left out, they may be a patient's."""
    loc: Sequence[Any] = error["loc"]
    key, kind, context = _path(data, loc), error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown key {key!r}{nearest(str(loc[-1]), _keys_at(model, loc[:-1]))}"
    if kind == "missing":
        return f"key {key!r} is missing"
    if kind == "union_tag_invalid":
        known = [tag.strip(" '") for tag in context["expected_tags"].split(",")]
        return f"{key}: no kind {context['tag']!r}{nearest(context['tag'], known)}"
    if kind == "union_tag_not_found":
        return f"key '{key}.kind' is missing"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"{key}: expected keys and values, found a single value or a list"
    message = str(error["msg"]).removeprefix("Value error, ")
    message = message.removesuffix(" for <class 'pathlib.Path'>")
    return f"{key}: {message}" if key else message


def _path(data: Any, loc: Sequence[Any]) -> str:
    """`modalities.labs.columns`, as the user wrote it: without pydantic's names of a union."""
    parts = []
    for part in loc:
        inside = isinstance(data, dict) and part in data
        if inside or part == loc[-1] or isinstance(part, int):
            parts.append(str(part))
        if inside:
            data = data[part]
    return ".".join(parts)


def _keys_at(model: type[BaseModel], loc: Sequence[Any]) -> list[str]:
    """The keys that would be accepted at `loc` inside `model`."""
    candidates: list[Any] = [model]
    for part in loc:
        following: list[Any] = []
        for candidate in candidates:
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                for name, info in candidate.model_fields.items():
                    if part in (name, info.alias):
                        following += _models_in(info.annotation)
        if following:
            candidates = following
    tagged = [c for c in candidates if _tag(c) in loc]
    return sorted({name for c in (tagged or candidates) for name in _names(c)})


def _models_in(annotation: Any) -> list[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for inner in get_args(annotation) for m in _models_in(inner)]


def _tag(model: Any) -> str | None:
    kind = model.model_fields.get("kind")
    return get_args(kind.annotation)[0] if kind else None


def _names(model: Any) -> list[str]:
    return [info.alias or name for name, info in model.model_fields.items()]


def override(data: dict[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Apply `key.sub=value` overrides (value read as YAML) to a nested mapping, as a new one.

    >>> override({"training": {"lr": 0.1}}, ["training.epochs=3", "seed=1"])
    {'training': {'lr': 0.1, 'epochs': 3}, 'seed': 1}
    """
    result: dict[str, Any] = {k: dict(v) if isinstance(v, dict) else v for k, v in data.items()}
    for assignment in assignments:
        key, sign, text = assignment.partition("=")
        if not sign or not all(key.split(".")):
            raise InputError(
                f"override {assignment!r}: expected key=value, such as training.epochs=3"
            )
        *groups, last = key.split(".")
        node = result
        for group in groups:
            inner = node.setdefault(group, {})
            if not isinstance(inner, dict):
                raise InputError(f"override {assignment!r}: {group!r} is a value, not a group")
            node[group] = dict(inner)
            node = node[group]
        try:
            node[last] = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError):
            raise InputError(f"override {assignment!r}: the value is not valid YAML") from None
    return result
