"""How YAML files are read: one door for all of them, and typed access to what they hold. Imports no torch."""

from __future__ import annotations

import math
import re
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import yaml

from stpl.errors import ConfigError, unknown

_T = TypeVar("_T")
_MOST_BYTES = 2**24
_MOST_REPEATED = 10_000
_SHOWN = 60
_ENDINGS = (".yaml", ".yml", ".json")
_INT = "tag:yaml.org,2002:int"
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)$")


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice (plain YAML silently keeps the last one) and anchors without an end.

    Whole numbers are decimal: YAML 1.1 would take 010 for 8 and 1:30 for 90.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 -- as its base has it
        first: [(tag, _DECIMAL if tag == _INT else pattern) for tag, pattern in found]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def get_single_node(self) -> yaml.Node | None:
        """The document's root, its aliases checked before anything follows them."""
        root: yaml.Node | None = super().get_single_node()
        if root is not None:
            _check_aliases(root, {}, set())
        return root

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """The value of a node; raises `ConstructorError` where its text is no such value: a 13th month, say."""
        try:
            value = super().construct_object(node, deep)
        except (yaml.YAMLError, RecursionError):
            raise
        except Exception as error:
            kind = str(node.tag).rpartition(":")[2]
            raise _fault(f"{shown(node.value)} is not a value of YAML's type {kind}", node) from error
        if isinstance(value, int) and abs(value) > sys.float_info.max:
            raise _fault(f"{shown(node.value)} is too large a number", node)
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping node as a dict; raises `ConstructorError` at the second of two equal keys."""
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.value in seen:
                raise _fault(f"the key '{key.value}' is given twice", key)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _fault(problem: str, node: yaml.Node) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _check_aliases(node: yaml.Node, sizes: dict[int, int], above: set[int]) -> int:
    """The number of values in `node` where every alias counts as what it stands for.

    A node that holds itself is refused, and so are aliases that repeat more than 10,000 values: whoever copies or
    writes such a document would never come to an end.

    Args:
        node: a part of the document.
        sizes: identity → size, of the nodes that are counted already.
        above: identities of the nodes that hold this one.
    """
    if id(node) in above:
        raise _fault("an anchor (&name) holds itself through its alias (*name)", node)
    if id(node) in sizes:
        return sizes[id(node)]
    children = node.value if isinstance(node, yaml.CollectionNode) else []
    if isinstance(node, yaml.MappingNode):
        children = chain.from_iterable(children)
    above.add(id(node))
    size = 1 + sum(_check_aliases(child, sizes, above) for child in children)
    above.remove(id(node))
    sizes[id(node)] = size
    if size > len(sizes) + _MOST_REPEATED:
        raise _fault(f"aliases (*name) repeat more than {_MOST_REPEATED:,} values", node)
    return size


def parse_yaml(text: str, where: str | Path | None = None) -> Any:
    """What a text in YAML says.

    Raises:
        ConfigError: for a syntax error, a key that is given twice, a value that is none, an anchor that holds itself or
            aliases that repeat more than 10,000 values (with the line), and for what is nested too deeply.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        what = str(error.problem or error.context)
        if where is not None and error.problem_mark is not None:
            where = f"{where}:{error.problem_mark.line + 1}"
        raise ConfigError(what, where=where, mend="mend the YAML at this line") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"is not YAML: {' '.join(str(error).split())}", where=where, mend="mend the file") from error
    except RecursionError as error:
        raise ConfigError("is nested too deeply to be read", where=where, mend="write fewer levels") from error


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping in the YAML file `path`. Every YAML file of a user's is read here first.

    Raises:
        ConfigError: if it is no mapping of texts to values, or for what `read_yaml` refuses.
    """
    content = read_yaml(path)
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError("must be a mapping of names to values", where=path, mend="begin with 'name: value' lines")
    return content


def read_yaml(path: Path) -> Any:
    """What the YAML file `path` says.

    Raises:
        ConfigError: if the file is missing or larger than 16 MiB, if it is no regular one (a pipe or a device would be
            waited for, or have no end), or for what `parse_yaml` refuses.
    """
    try:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            raise ConfigError("is a folder, not a YAML file", where=path, mend="give the file in it")
        if not stat.S_ISREG(found.st_mode):
            raise ConfigError("is not a regular file", where=path, mend="write its content to a file and give that")
        if found.st_size > _MOST_BYTES:
            what = f"is {found.st_size / 2**20:,.0f} MiB; settings take at most {_MOST_BYTES >> 20}"
            raise ConfigError(what, where=path, mend="check the path: this is no file of settings")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        fault = "it is not text in UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror or error
        raise ConfigError(f"cannot be read: {fault}", where=path, mend="check the path") from error
    return parse_yaml(text, path)


def check_named_files(content: Any, folder: Path, seen: frozenset[Path] = frozenset()) -> None:
    """Read the YAML and JSON files that settings name, and those that these name: the parser will follow the names.

    Args:
        content: settings, from YAML.
        folder: which relative names are looked for in.
        seen: files that led here.

    Raises:
        ConfigError: for what `read_yaml` refuses.
    """
    if isinstance(content, dict | list):
        for value in content.values() if isinstance(content, dict) else content:
            check_named_files(value, folder, seen)
    elif isinstance(content, str) and content.endswith(_ENDINGS):
        path = folder / content
        if is_file(path) and path not in seen:
            check_named_files(read_yaml(path), path.parent, seen | {path})


def is_file(path: Path) -> bool:
    """Whether a file is there; a text that is too long for a name is none."""
    try:
        return path.is_file()
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class Section:
    """A mapping in a YAML file whose values are read by their type, so that a wrong one is named and never used.

    Attributes:
        content: the mapping.
        where: the file, and the entry in it.
        prefix: of its keys in messages: what lies between `where` and them.
    """

    content: Mapping[str, Any]
    where: str
    prefix: str = ""

    @classmethod
    def of(cls, value: Any, where: str, prefix: str = "") -> Section:
        """`value` as a section; raises `ConfigError` unless it is a mapping whose keys are texts."""
        place = f"{where}, '{prefix[:-1]}'" if prefix else where
        for key in _typed(value, dict, place):
            if not isinstance(key, str):
                raise ConfigError(f"the key {shown(key)} is not a text", where=place, mend=_quotes(key))
        return cls(value, where, prefix)

    def __contains__(self, key: str) -> bool:
        """Whether the key is written."""
        return key in self.content

    def check_keys(self, *known: str) -> None:
        """Raise `ConfigError` for a key that is none of the `known`."""
        for key in self.content:
            if key not in known:
                raise unknown("key", key, known, self.where)

    def text(self, key: str) -> str:
        """A text that must be there."""
        return _text_of(self._value(key), self._place(key))

    def flag(self, key: str, default: bool) -> bool:
        """`true` or `false`; `default` where the key is not written."""
        return default if key not in self else _typed(self._value(key), bool, self._place(key))

    def items(self, key: str) -> list[Any]:
        """A list of anything that must be there."""
        return list(_typed(self._value(key), list, self._place(key)))

    def texts(self, key: str, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """A list of texts; `default` where the key is not written and there is one."""
        if key not in self and default is not None:
            return default
        return tuple(_text_of(item, self._place(key)) for item in self.items(key))

    def section(self, key: str) -> Section:
        """The section below a key; an empty one where the key is not written."""
        return Section.of(self.content.get(key, {}), self.where, f"{self.prefix}{key}.")

    def sections(self, key: str) -> dict[str, Section]:
        """Name → section, of the sections below a key; none where the key is not written."""
        found = self.section(key).content.items()
        return {name: Section.of(item, f"{self.where}: {key}.{name}") for name, item in found}

    def number(self, key: str) -> float:
        """A finite number that must be there."""
        return self._number(self._value(key), key)

    def numbers(self, key: str) -> tuple[float, ...]:
        """A list of finite numbers that must be there."""
        return tuple(self._number(item, key) for item in self.items(key))

    def _number(self, value: Any, key: str) -> float:
        if not is_number(value):
            what = f"{shown(value)} is not a number, in '{self.prefix}{key}'"
            raise ConfigError(what, where=self.where, mend="write a number here")
        return float(value)

    def _value(self, key: str) -> Any:
        if key not in self:
            raise ConfigError(f"lacks '{self.prefix}{key}'", where=self.where, mend=f"add '{key}:'")
        return self.content[key]

    def _place(self, key: str) -> str:
        return f"{self.where}, '{self.prefix}{key}'"


def is_number(value: Any) -> bool:
    """Whether a value is a finite number: an int or a float, but no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def shown(value: Any) -> str:
    """A value as people who write YAML know it, shortened to 60 characters."""
    text = "null" if value is None else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _quotes(value: Any) -> str:
    written = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
    return f"write it in quotes: '{written}'"


def _text_of(value: Any, where: str) -> str:
    if isinstance(value, bool | int | float):
        raise ConfigError(f"{shown(value)} is not a text", where=where, mend=_quotes(value))
    return _typed(value, str, where)


def _typed(value: Any, kind: type[_T], where: str) -> _T:
    if isinstance(value, kind):
        return value
    names: dict[type, str] = {dict: "mapping", list: "list", str: "text", bool: "switch (true or false)"}
    what, mend = f"{shown(value)} is not a {names[kind]}", f"write a {names[kind]} here, or leave the key out"
    raise ConfigError(what, where=where, mend=mend)
