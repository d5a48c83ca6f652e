"""Command-line options of a plain function, read from its signature and docstring by jsonargparse."""

from __future__ import annotations

import inspect
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml
from docstring_parser import parse
from jsonargparse import ArgumentError, ArgumentParser

from stpl.errors import AtLeast, ConfigError, check_range, did_you_mean
from stpl.yaml_files import parse_yaml

_WORDS = {"true": True, "false": False, "null": None}
_KINDS = {int: "a whole number", float: "a number", bool: "true or false"}


def call(
    function: Callable[..., Any], args: Sequence[str], *, prog: str, usage: str, positional: str | None = None
) -> Any:
    """Call `function` with the options in `args`.

    Args:
        function: typed, with a Google docstring; every parameter becomes an option.
        args: the command line after the verb.
        prog: what help calls the command.
        usage: what follows `prog` in help.
        positional: the parameter that takes the words without a dash: all of them if it is a list, else one.

    Raises:
        ConfigError: for an unknown option (with «did you mean»), one that is given twice and takes one value, an empty
            value, or a value that its type does not take; and for an integer below 1 or a real number below 0, unless
            the option's default is 0 or its annotation says `AtLeast`.
    """
    parser = ArgumentParser(prog=prog, usage=f"{prog} {usage}", exit_on_error=False)
    groups = _groups(function)
    parser.add_function_arguments(function, skip=set(groups))
    for name, group in groups.items():
        parser.add_class_arguments(group.kind, skip={name} if group.several else set())
        if group.several:
            parser.add_argument(f"--{name}", type=list[str], help=group.help)
    if "-h" in args or "--help" in args:
        parser.print_help()
        return None
    hints = {name: hint for name, hint in get_type_hints(function).items() if name not in groups}
    for name, group in groups.items():
        hints |= get_type_hints(group.kind) | ({name: list[str] | None} if group.several else {})
    options, words = _options(args, hints, prog)
    values, untouched = _values(options, hints)
    named = _positional(hints, positional, words, prog)
    for name in named.keys() & values.keys():
        raise ConfigError("is given twice, as a word and as an option", where=f"--{name}", mend="give it once")
    values |= named
    try:
        given = parser.instantiate(parser.parse_object(values)).as_dict()
    except ArgumentError as error:
        raise ConfigError(explain(error), mend=f"see `{prog} --help`") from error
    _check_ranges(function, given)
    given |= untouched
    grouped = {name: group.made(name, given) for name, group in groups.items()}
    return function(**given, **grouped)


@dataclass(frozen=True)
class _Group:
    """A parameter whose dataclass has a field of the parameter's own name: its fields are options without a prefix.

    Attributes:
        kind: the dataclass.
        several: whether the parameter takes a list of them, one for each value of that field.
        help: of that field.
    """

    kind: type[Any]
    several: bool
    help: str

    def made(self, name: str, given: dict[str, Any]) -> Any:
        """The parameter's value; takes its fields out of `given`."""
        values = {field.name: given.pop(field.name, None) for field in fields(self.kind)}
        if not self.several:
            return self.kind(**values)
        return [self.kind(**{**values, name: value}) for value in values[name] or ()]


def _groups(function: Callable[..., Any]) -> dict[str, _Group]:
    """The parameters of a function whose fields are options without a prefix."""
    found = {}
    for name, hint in get_type_hints(function).items():
        for member in _members(hint):
            several = get_origin(member) is list
            kind = get_args(member)[0] if several else member
            if is_dataclass(kind) and isinstance(kind, type) and name in {field.name for field in fields(kind)}:
                text = next((x.description for x in parse(function.__doc__ or "").params if x.arg_name == name), "")
                found[name] = _Group(kind, several, text or "")
    return found


def _check_ranges(function: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for a number that counts or measures nothing."""
    hints = get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        if name not in given:  # of a group, which checks its values itself
            continue
        value, least = given[name], 0 if parameter.default == 0 else 1
        known = next((x.least for x in getattr(hints[name], "__metadata__", ()) if isinstance(x, AtLeast)), least)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not isinstance(value, tuple):
                check_range(f"--{name}", number)
            elif isinstance(number, int) and not isinstance(number, bool):
                check_range(f"--{name}", number, known)


def _options(args: Sequence[str], hints: Mapping[str, Any], prog: str) -> tuple[dict[str, list[str]], list[str]]:
    """The values of the options among `args`, unknown ones refused, and the words that belong to none.

    A bare switch is true.
    """
    options: dict[str, list[str]] = {}
    words, rest = [], list(args)
    while rest:
        arg = rest.pop(0)
        if not arg.startswith("-"):
            words.append(arg)
            continue
        name, equals, value = arg.removeprefix("--").partition("=")
        name = name.replace("-", "_")  # `--dry-run` is `--dry_run`
        hint = hints.get(name.split(".")[0]) if name.split(".")[0] != "return" else None
        if hint is None:
            raise unknown_option(name, [known for known in hints if known != "return"], prog)
        if not equals:
            takes = bool(rest) and not rest[0].startswith("-")
            if hint is bool:
                value = rest.pop(0) if takes and rest[0] in ("true", "false") else "true"
            else:
                value = rest.pop(0) if takes else ""
        if not value.strip():
            raise ConfigError("has no value", where=f"--{name}", mend=f"write --{name}=VALUE, or leave the option out")
        if name in options and not _has(hint, list):
            raise ConfigError("is given twice and takes one value", where=f"--{name}", mend="give it once")
        options.setdefault(name, []).append(value)
    return options, words


def _positional(hints: Mapping[str, Any], name: str | None, words: Sequence[str], prog: str) -> dict[str, Any]:
    """The words without a dash, as the parameter that takes them; raises `ConfigError` if it takes fewer."""
    if not words:
        return {}
    if name is None or (len(words) > 1 and not _has(hints[name], list)):
        raise ConfigError(f"'{words[-1]}' is not an option", mend=f"write options as --name=value; see `{prog} --help`")
    found = [_named(word, hints[name]) for word in words]
    return {name: found if _has(hints[name], list) else found[0]}


def _values(options: Mapping[str, Sequence[str]], hints: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the options' texts mean: values for jsonargparse to check, and those that it must not interpret again."""
    values: dict[str, Any] = {}
    untouched: dict[str, Any] = {}
    for name, texts in options.items():
        option, *parts = name.split(".")
        hint, text = hints[option], texts[0]
        if parts:  # of a group of options
            place = values.setdefault(option, {})
            for part in parts[:-1]:
                place = place.setdefault(part, {})
            place[parts[-1]] = parse_yaml(text, f"--{name}")
        elif texts == ["null"] and type(None) in get_args(hint):
            values[option] = None
        elif _has(hint, dict):
            untouched[option] = _mapping(f"--{name}", text)
        elif _has(hint, list):
            found = [word for one in texts for word in _listed(f"--{name}", one)]
            words: Any = [_named(word, hint) for word in found]
            values[option] = untouched[option] = words[0] if len(found) == 1 and _has(hint, Path) else words
        elif _has(hint, tuple):
            values[option] = _numbers(f"--{name}", text)
        elif _has(hint, Path) or _has(hint, str):
            values[option] = untouched[option] = _named(text, hint)
        else:
            values[option] = _scalar(f"--{name}", text, hint)
    return values, untouched


def _members(hint: Any) -> Iterator[Any]:
    """The types of a union, without `None`; of another type, that type."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    yield from (kind for kind in kinds if kind is not type(None))


def _has(hint: Any, kind: type) -> bool:
    return any(get_origin(member) is kind or member is kind for member in _members(hint))


def _named(text: str, hint: Any) -> Path | str:
    """A name as it stands: a path where the type takes paths, alone or in a list."""
    return (
        Path(text) if Path in (*_members(hint), *(kind for one in _members(hint) for kind in get_args(one))) else text
    )


def _listed(where: str, text: str) -> list[str]:
    """The names in a text: `[a, b]`, or one name, which may be that of a file with brackets in it."""
    if not (text.startswith("[") and text.endswith("]")) or os.path.lexists(text):
        return [text]
    try:
        found = yaml.load(text, Loader=yaml.BaseLoader)  # names such as 0001 stay names
    except yaml.YAMLError:
        found = None
    if not isinstance(found, list) or not all(isinstance(name, str) and name.strip() for name in found):
        raise ConfigError(f"'{text}' is no list of names", where=where, mend="""write it as JSON: '["a", "b"]'""")
    return found


def _numbers(where: str, text: str) -> list[Any]:
    """The numbers in `128,256`, `[128, 256]` or `(128, 256)`."""
    inner = text.strip()
    if inner[:1] + inner[-1:] in ("[]", "()"):
        inner = inner[1:-1]
    return [_scalar(where, part.strip(), float) for part in inner.split(",")]


def _mapping(where: str, text: str) -> dict[str, Any]:
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


def _scalar(where: str, text: str, hint: Any) -> Any:
    """A number, a truth value or one of some words; raises `ConfigError` for other text where the type takes none."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    if all(member in (int, float, bool) for member in _members(hint)):
        raise ConfigError(f"'{text}' is not {_KINDS[next(_members(hint))]}", where=where, mend="write it in digits")
    return text


def unknown_option(name: str, names: Sequence[str], prog: str) -> ConfigError:
    """The error for an option that is none of `names`."""
    return ConfigError(f"unknown option --{name}", mend=f"{did_you_mean(name, names, '--{}')}see `{prog} --help`")


_KEY = re.compile(r'Parser key "([^"]+)":')
_CLASS = re.compile(r"Problem with given class_path '([^']+)'")
_REFUSED = re.compile(r"Option '([^']+)' is not accepted")
_FRAME = (
    "Parser key",
    "Problem with",
    "Given value",
    "Subtypes:",
    "Errors:",
    "Does not validate",
    "Expected a <class 'None",
)


def explain(error: Exception) -> str:
    """A parser's message in one line: the setting it is about, and the innermost of its reasons."""
    text = str(error)
    if text.startswith("unrecognized arguments:"):
        return text.splitlines()[0].replace("unrecognized arguments:", "unknown setting")
    lines = [line for line in text.splitlines() if not line.strip(" -").startswith(_FRAME) and line.strip()]
    reason = max(lines, key=lambda line: len(line) - len(line.lstrip()), default=text).strip(" -")
    keys = _KEY.findall(text)
    refused = _REFUSED.search(reason)
    if refused:
        reason = f"unknown setting '{refused.group(1)}'{_hint(refused.group(1), _CLASS.findall(text))}"
    return f"{'.'.join(keys)}: {reason}" if keys else reason


def refused_key(error: Exception) -> str | None:
    """The name of the setting that a parser's message is about, without what it belongs to; `None` if unclear."""
    refused, keys = _REFUSED.search(str(error)), _KEY.findall(str(error))
    return refused.group(1) if refused else keys[-1].split(".")[-1] if keys else None


def _hint(name: str, class_paths: Sequence[str]) -> str:
    """«did you mean» from the parameters of the innermost class."""
    if not class_paths:
        return ""
    module, _, attribute = class_paths[-1].rpartition(".")
    owner = getattr(import_module(module), attribute)
    hint = did_you_mean(name, inspect.signature(owner).parameters).rstrip()
    return f", {hint}" if hint else f" of {attribute}"
