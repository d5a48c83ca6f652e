"""Types of options, and the value of a type that a text means. Imports no torch."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from stpl.errors import ConfigError, check_range, unknown
from stpl.yaml_files import parse_yaml


@dataclass(frozen=True)
class AtLeast:
    """The least value of a numeric option, in its annotation."""

    least: float


Count = Annotated[int, AtLeast(1)]
Natural = Annotated[int, AtLeast(0)]
Amount = Annotated[float, AtLeast(0)]
Size = tuple[Count, Count]
"""Height and width in pixels."""

_SWITCH = {"true": True, "false": False}
_NUMBERS = {int: "a whole number", float: "a number"}


def members(hint: Any) -> list[Any]:
    """The types of a union but for `None`, without annotations; of another type, that type."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    plain = [get_args(kind)[0] if get_origin(kind) is Annotated else kind for kind in kinds]
    return [kind for kind in plain if kind is not NoneType]


def items(hint: Any) -> Any:
    """The type of one item of a list; another type itself."""
    lists = [member for member in members(hint) if get_origin(member) is list]
    return get_args(lists[0])[0] if lists else hint


def read(text: str, hint: Any, where: str) -> Any:
    """The value of a type that a text means, and that its annotations allow; raises `ConfigError` if there is none."""
    if get_origin(hint) in (Union, UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not NoneType]
        hint = next((kind for kind in kinds if kind is Path), kinds[0])
    kind, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    if kind is bool:
        if text.lower() not in _SWITCH:
            raise ConfigError(f"'{text}' is neither true nor false", where=where, mend=f"write {where}=true or =false")
        return _SWITCH[text.lower()]
    if kind in _NUMBERS:
        try:
            number = kind(text)
        except ValueError:
            raise ConfigError(f"'{text}' is not {_NUMBERS[kind]}", where=where, mend="write it in digits") from None
        for note in notes:
            check_range(where, number, note.least)
        return number
    if get_origin(kind) is Literal:
        if text not in get_args(kind):
            raise unknown("value", text, get_args(kind), where)
        return text
    if get_origin(kind) is tuple:
        return _numbers(text, get_args(kind), where)
    if get_origin(kind) is dict:
        return _mapping(text, where)
    return kind(text)


def _numbers(text: str, kinds: Sequence[Any], where: str) -> tuple[Any, ...]:
    """The numbers in `128,256`, `[128, 256]` or `(128, 256)`."""
    inner = text.strip()
    if inner[:1] + inner[-1:] in ("[]", "()"):
        inner = inner[1:-1]
    parts = inner.split(",")
    if len(parts) != len(kinds):
        raise ConfigError(f"'{text}' is not {len(kinds)} numbers", where=where, mend="write them with commas between")
    return tuple(read(part.strip(), kind, where) for part, kind in zip(parts, kinds, strict=True))


def listed(text: str, where: str) -> list[str]:
    """The names in a text: `[a, b]`, or one name, which may be that of a file with brackets in it."""
    if not (text.startswith("[") and text.endswith("]")) or os.path.lexists(text):
        return [text]
    import yaml

    try:
        found = yaml.load(text, Loader=yaml.BaseLoader)  # names such as 0001 stay names
    except yaml.YAMLError:
        found = None
    if not isinstance(found, list) or not all(isinstance(name, str) and name.strip() for name in found):
        raise ConfigError(f"'{text}' is no list of names", where=where, mend="""write it as JSON: '["a", "b"]'""")
    return found


def _mapping(text: str, where: str) -> dict[str, Any]:
    """A mapping in JSON, whose values stay what they are, or in YAML."""
    try:
        found = json.loads(text, object_pairs_hook=_once, parse_constant=lambda name: _no_constant(name, where))
    except ValueError:
        found = parse_yaml(text, where)
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise ConfigError(f"'{text}' is no mapping", where=where, mend="write it as JSON: '{\"name\": value}'")
    return found


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """A mapping in JSON; raises `ValueError` for a key that is given twice, as the YAML door then says."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is given twice")
    return found


def _no_constant(name: str, where: str) -> Any:
    raise ConfigError(f"{name} is no number of JSON", where=where, mend="give a finite number")
