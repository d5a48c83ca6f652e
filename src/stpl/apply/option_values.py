"""Whether a value that a user gave, in a file or from Python, is what an option takes. This module imports no torch.

Each check takes the value and `where`, the name of its option, and raises `ConfigError` if it is none.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from stpl.apply.memory import check_size
from stpl.errors import ConfigError

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_MOST_SHOWN = 60
_DEEPEST = 3  # lists and mappings in each other, in an argument of a callable: `stpl.nn.own.Value`


def shown(value: object) -> str:
    """A value in one short line; what is no plain type by the name of its type."""
    if value is None:
        return "nothing"
    if not isinstance(value, str | bool | Real | list | tuple | dict):
        return f"a {type(value).__name__}" if not isinstance(value, type) else f"the class {value.__name__}"
    text = " ".join(repr(value).split())
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"


def is_number(value: object) -> bool:
    """Whether it is a finite number; true and false are none."""
    return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)


def is_whole(value: object) -> bool:
    """Whether it is of a type of whole numbers; true and false are none, and neither is 64.0."""
    return not isinstance(value, bool) and isinstance(value, Integral)


def text(value: Any, where: str, what: str) -> str:
    """A text that is not empty, and `what` it is; whole numbers are one, for a layer may be called by its place.

    A number with a point is none, because 1.10 would become 1.1.
    """
    if is_whole(value):
        return str(value)
    if not isinstance(value, str):
        quotes = f", in quotes: '{value}'" if isinstance(value, bool | Real) else ""
        raise ConfigError(f"{shown(value)} is no text", where=where, mend=f"give {what}{quotes}, or leave it out")
    if not value.strip() or not value.isprintable():
        found = f"{shown(value)} holds what cannot be printed" if value.strip() else "is empty"
        raise ConfigError(found, where=where, mend=f"give {what}, or leave it out")
    return value


def path(value: Any, where: str, what: str) -> Path:
    """The path of a file or folder, and `what` lies there."""
    if isinstance(value, str | os.PathLike) and isinstance(os.fspath(value), str) and os.fspath(value):
        return Path(os.fspath(value))
    found = "is empty" if value == "" else f"{shown(value)} is no path"
    raise ConfigError(found, where=where, mend=f"give the path of {what}, or leave it out")


def whole(value: Any, where: str, least: int = 0, most: int | None = None) -> int:
    """A whole number from `least` to `most`."""
    if is_whole(value) and least <= value and (most is None or value <= most):
        return int(value)
    bounds = f"of {least} or more" if most is None else f"from {least} to {most}"
    raise ConfigError(f"{shown(value)} is no whole number {bounds}", where=where, mend="give such a number")


def number(value: Any, where: str, least: float = 0.0) -> float:
    """A finite number of `least` or more."""
    if is_number(value) and value >= least:
        return float(value)
    raise ConfigError(
        f"{shown(value)} is no finite number of {least:g} or more", where=where, mend="give such a number"
    )


def size(value: Any, where: str) -> tuple[int, int]:
    """Height and width: a tuple, a list or an array of two whole numbers above 0, of a frame that memory can hold."""
    found = value.tolist() if hasattr(value, "tolist") else value
    mend = "give height and width in pixels, such as 256,512"
    if not isinstance(found, list | tuple) or len(found) != 2:
        raise ConfigError(f"{shown(found)} is not a height and a width", where=where, mend=mend)
    for one in found:
        if not is_whole(one) or one < 1:
            raise ConfigError(f"{shown(one)} is no whole number of 1 or more", where=where, mend=mend)
    height, width = int(found[0]), int(found[1])
    check_size((height, width), where=where)
    return height, width


def plain_arguments(value: Any, where: str) -> dict[str, Any]:
    """Arguments of a callable, as a checkpoint keeps them: a mapping of names to what JSON holds."""
    if not isinstance(value, Mapping):
        mend = "give names and values: {num_classes: 19}, in JSON '{\"num_classes\": 19}'"
        raise ConfigError(f"{shown(value)} is no mapping of names to values", where=where, mend=mend)
    for name, one in value.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise ConfigError(
                f"{shown(name)} is no name of an argument", where=where, mend="name it as the callable does"
            )
        _check_plain(one, f"{where}.{name}")
    plain: dict[str, Any] = json.loads(json.dumps(dict(value)))  # a tuple is a list wherever the network is built again
    return plain


def _check_plain(value: Any, where: str, deep: int = 0) -> None:
    inner = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
    if inner != () and deep == _DEEPEST:
        mend = "let the callable build what lies deeper"
        raise ConfigError(f"more than {_DEEPEST} lists or mappings lie in each other", where=where, mend=mend)
    for name, one in inner:
        if isinstance(value, Mapping) and not isinstance(name, str):
            raise ConfigError(f"the key {shown(name)} is no text", where=where, mend=f"put it in quotes: '{name}'")
        _check_plain(one, f"{where}.{name}", deep + 1)
    if inner == () and value is not None and type(value) not in (str, bool, int, float):
        mend = "give text, numbers, true, false, lists and mappings; from Python, give the network itself instead"
        raise ConfigError(f"{shown(value)} cannot be kept in a checkpoint", where=where, mend=mend)


def of_text(value: Any) -> Any:
    """Numbers as a user may write them in YAML: `64,96`, `(64, 96)`, ['64', '96'] and [64.0, 96.0] are [64, 96].

    What is written otherwise is given back as it is.
    """
    if isinstance(value, str):
        inner = value.strip()
        if inner[:1] + inner[-1:] in ("()", "[]"):
            inner = inner[1:-1]
        parts = inner.split(",")
        return [_as_number(part) for part in parts] if all(_NUMBER.fullmatch(part.strip()) for part in parts) else value
    return [_as_number(one) for one in value] if isinstance(value, list) else value


def _as_number(value: Any) -> Any:
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        value = float(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value
