"""Which names are one setting, and which values one value, however a sweep file spells them.

Where a file gives two spellings, a run would be made twice, or one of two values would win without a word.
"""

import os
import re
from collections.abc import Callable, Hashable, Iterable
from contextlib import suppress
from typing import Any, TypeVar

from stpl.errors import ConfigError
from stpl.yaml_files import parse_yaml

_T = TypeVar("_T")
_ALIASES = {"run.bench": "bench", "run.experiment": "experiment"}
_NAMES = ("bench", "experiment")
_PLAIN = re.compile(r"[A-Za-z_][\w-]*")
_SWITCHES = {"true", "false", "yes", "no", "on", "off", "y", "n", "null"}


def setting(name: str) -> str:
    """The setting that a parameter's name means: without `init_args`, `class_path` and the `+` of a longer list."""
    parts = [part for part in name.rstrip("+").split(".") if part != "init_args"]
    if len(parts) > 1 and parts[-1] == "class_path":
        parts.pop()
    joined = ".".join(parts)
    return _ALIASES.get(joined, joined)


def same_setting(names: Iterable[str]) -> tuple[str, str] | None:
    """The first two of the names that mean one setting; `None` if all differ."""
    return _first_pair(names, setting)


def same_value(name: str, values: Iterable[Any]) -> tuple[Any, Any] | None:
    """The first two of a parameter's values that a trial reads as one; `None` if all differ."""
    return _first_pair(values, str if setting(name) in _NAMES else _meaning)


def _first_pair(items: Iterable[_T], meaning: Callable[[_T], Hashable]) -> tuple[_T, _T] | None:
    seen: dict[Hashable, _T] = {}
    for item in items:
        meant = meaning(item)
        if meant in seen:
            return seen[meant], item
        seen[meant] = item
    return None


def _meaning(value: Any) -> Hashable:
    """What a trial reads: equal for equal numbers, switches, paths, and lists of these."""
    if isinstance(value, bool):
        return "switch", value  # True == 1, but no option takes both
    if isinstance(value, int | float):
        return "number", value
    if isinstance(value, list):
        return "list", tuple(_meaning(item) for item in value)
    if isinstance(value, dict):
        return "mapping", frozenset((str(key), _meaning(item)) for key, item in value.items())
    return _meaning_of_text(value) if isinstance(value, str) else ("other", repr(value))


def _meaning_of_text(text: str) -> Hashable:
    if _PLAIN.fullmatch(text) and text.lower() not in _SWITCHES:
        return "text", text
    with suppress(ValueError):
        return "number", float(text)  # YAML 1.1 takes 1e-1 for a text; the trial does not
    read: Any = text
    with suppress(ConfigError):
        read = parse_yaml(text)
    if read is not None and not isinstance(read, str):
        return _meaning(read)
    return "text", _path(text)


def _path(text: str) -> str:
    """One spelling of a path below the working directory; any other text as it is."""
    if "/" not in text or "://" in text:
        return text
    return os.path.relpath(text) if text.startswith("/") else os.path.normpath(text)
