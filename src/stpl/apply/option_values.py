"""Whether a value that a user gave, in a file or from Python, is what an option takes. This module imports no torch.

Each check takes the value and `where`, the name of its option, and raises `ConfigError` if it is none.
"""

import json
import math
import os
import re
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from stpl.errors import ConfigError, shown
from stpl.machine import free_memory
from stpl.nn.normalization import is_number

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_DEEPEST = 3  # lists and mappings in each other, in an argument of a callable: `stpl.nn.own.Value`
_LEAST = 16  # bytes of a pixel: of a frame as bytes, and as float32 for the network; all else comes on top
_GIB = 2**30


def _is_whole(value: object) -> bool:
    """Whether it is of a type of whole numbers; true and false are none, and neither is 64.0."""
    return not isinstance(value, bool) and isinstance(value, Integral)


def text(value: Any, where: str, what: str) -> str:
    """A text that is not empty, and `what` it is; whole numbers are one, for a layer may be called by its place.

    A number with a point is none, because 1.10 would become 1.1.
    """
    if _is_whole(value):
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


def whole(value: Any, where: str, least: int, most: int | None = None) -> int:
    """A whole number from `least` to `most`."""
    if _is_whole(value) and least <= value and (most is None or value <= most):
        return int(value)
    bounds = f"of {least} or more" if most is None else f"from {least} to {most}"
    raise ConfigError(f"{shown(value)} is no whole number {bounds}", where=where, mend="give such a number")


def amount(value: Any, where: str) -> float:
    """A finite number of 0 or more; true and false are none."""
    if is_number(value) and 0 <= float(value) < math.inf:
        return float(value)
    raise ConfigError(f"{shown(value)} is no finite number of 0 or more", where=where, mend="give such a number")


def size(value: Any, where: str) -> tuple[int, int]:
    """Height and width: a tuple, a list or an array of two whole numbers above 0, of a frame that memory can hold."""
    found = value.tolist() if hasattr(value, "tolist") else value
    mend = "give height and width in pixels, such as 256,512"
    if not isinstance(found, list | tuple) or len(found) != 2:
        raise ConfigError(f"{shown(found)} is not a height and a width", where=where, mend=mend)
    for one in found:
        if not _is_whole(one) or one < 1:
            raise ConfigError(f"{shown(one)} is no whole number of 1 or more", where=where, mend=mend)
    height, width = int(found[0]), int(found[1])
    check_size((height, width), where=where)
    return height, width


def check_size(size: tuple[int, int] | None, batch_size: int | None = None, where: str = "--size") -> None:
    """Refuse a frame size, if one is given, or a number of clips a step that the memory of this machine cannot hold.

    What passes may still be too much for a network: `stpl.apply.resources` estimates that once the network is there.
    """
    if size is None:
        return
    each, free = _LEAST * size[0] * size[1], free_memory()
    if each > free:
        raise too_large(each, free, (free / each) ** 0.5, "at the least", where)
    if batch_size is not None and each * batch_size > free:
        raise too_many(batch_size, each * batch_size, free, free // each)


def too_large(need: int, free: int, shrink: float, how: str, where: str = "--size") -> ConfigError:
    """The error for frames of which not even one fits into the free bytes.

    Of height and width the share `shrink` would fit, 0 if no frame would. `how` says with what so much is needed.
    """
    smaller = f"give a size of {100 * shrink:.0f} % of its height and width, or " if shrink >= 0.005 else ""
    return ConfigError(
        f"it needs {need / _GIB:.1f} GiB {how}, {free / _GIB:.1f} are free",
        where=where,
        mend=f"{smaller}free some memory" if smaller or not shrink else "give a far smaller size",
    )


def too_many(batch_size: int, need: int, free: int, fits: int) -> ConfigError:
    """The error for clips that need more bytes together than are free, with the number that would fit."""
    what = f"{batch_size} clips a step need {need / _GIB:.1f} GiB, {free / _GIB:.1f} are free"
    return ConfigError(what, where="--batch_size", mend=f"choose {fits} or fewer")


def plain_arguments(value: Any, where: str) -> dict[str, Any]:
    """Arguments of a callable, as a checkpoint keeps them: a mapping of names to what JSON holds."""
    if not isinstance(value, Mapping):
        mend = "give names and values: {num_classes: 19}, in JSON '{\"num_classes\": 19}'"
        raise ConfigError(f"{shown(value)} is no mapping of names to values", where=where, mend=mend)
    for name, one in value.items():
        if not isinstance(name, str) or not name.isidentifier():
            what = f"{shown(name)} is no name of an argument"
            raise ConfigError(what, where=where, mend="name it as the callable does")
        _check_plain(one, f"{where}.{name}")
    plain: dict[str, Any] = json.loads(json.dumps(dict(value)))  # a tuple is a list wherever the network is built again
    return plain


def _check_plain(value: Any, where: str, deep: int = 0) -> None:
    if value is None or type(value) in (str, bool, int, float):
        return
    if not isinstance(value, Mapping | list | tuple):
        mend = "give text, numbers, true, false, lists and mappings; from Python, give the network itself instead"
        raise ConfigError(f"{shown(value)} cannot be kept in a checkpoint", where=where, mend=mend)
    if deep == _DEEPEST:
        mend = "let the callable build what lies deeper"
        raise ConfigError(f"more than {_DEEPEST} lists or mappings lie in each other", where=where, mend=mend)
    for name, one in value.items() if isinstance(value, Mapping) else enumerate(value):
        if isinstance(value, Mapping) and not isinstance(name, str):
            raise ConfigError(f"the key {shown(name)} is no text", where=where, mend=f"put it in quotes: '{name}'")
        _check_plain(one, f"{where}.{name}", deep + 1)


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
