"""The command line of a verb: its options are the parameters of a function, their help is its docstring.

A dataclass gives an option for each of its fields. A parameter before `*`, or its first field, takes words without a
dash; `*settings` takes every other word as it stands. What a text means depends on the type of its option alone:
argparse with one reader a type, because jsonargparse reads each text as YAML first, in which `0001`, `1e3` and `[a]`
are no names. This module imports no torch.
"""

import argparse
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from types import GenericAlias, NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from stpl.errors import ConfigError, did_you_mean
from stpl.option_types import items, listed, members, read


class Short:
    """Fields of a dataclass that `--help` shows; `--help-all` shows all: `Annotated[Origin, Short("network", "size")]`.

    Args:
        names: of the fields.
    """

    def __init__(self, *names: str) -> None:
        self.names = names


HELP = {"-h", "--help", "--help-all"}
_METAVARS = {int: "N", float: "X", bool: "{true,false}", Path: "PATH", str: "NAME", dict: "JSON"}


@dataclass(frozen=True)
class Option:
    """One option of a command.

    Attributes:
        name: without dashes.
        hint: its type, with annotations.
        default: `inspect.Parameter.empty` if it must be given.
        about: what it means.
        group: parameter whose dataclass it is a field of.
        hidden: only `--help-all` shows it.
    """

    name: str
    hint: Any
    default: Any
    about: str
    group: str | None = None
    hidden: bool = False

    def takes(self, kind: type) -> bool:
        """Whether values may be of a type; `list` for lists of anything."""
        return any(kind in (member, get_origin(member)) for member in members(self.hint))

    @property
    def required(self) -> bool:
        """Whether it must be given."""
        return self.default is inspect.Parameter.empty

    @property
    def metavar(self) -> str:
        """What stands for its value in help."""
        return "|".join(dict.fromkeys(map(_metavar, members(self.hint))))

    @property
    def help(self) -> str:
        """Its line of help, for argparse."""
        shown = str(self.default).lower() if isinstance(self.default, bool) else self.default
        more = " (required)" if self.required else "" if shown is None else f" (default: {shown})"
        return f"{self.about.rstrip('.')}{more}".replace("%", "%%")

    def read(self, text: str) -> Any:
        """The value that a text means; a list of names where the option takes a list.

        Raises:
            ConfigError: the type does not take it, or it lies below the least value that is annotated.
        """
        where = f"--{self.name}"
        if not text.strip():
            raise ConfigError("has no value", where=where, mend=f"write {where}=VALUE, or leave the option out")
        if text == "null" and NoneType in get_args(self.hint):
            return None
        if self.takes(list):
            return [read(name, items(self.hint), where) for name in listed(text, where)]
        return read(text, self.hint, where)


class Command:
    """A verb's function as a program.

    Args:
        function: typed, with a Google docstring.
        prog: what help calls it: `stpl data check`.
    """

    def __init__(self, function: Callable[..., Any], prog: str) -> None:
        self.function, self.prog = function, prog
        kinds = {parameter.kind: name for name, parameter in inspect.signature(function).parameters.items()}
        self.settings = kinds.get(inspect.Parameter.VAR_POSITIONAL)
        self.options = {option.name: option for option in _options(function) if option.name != self.settings}
        """By name, in the order of the signature."""
        words = inspect.Parameter.POSITIONAL_OR_KEYWORD in kinds
        self.word = next(iter(self.options.values())) if words else None

    def run(self, args: Sequence[str]) -> Any:
        """Call the function with the command line after the verb, or print its help.

        Raises:
            ConfigError: for an unknown option (with «did you mean»), one that is given twice and takes one value, one
                that is missing, and what `Option.read` refuses.
        """
        if self.options and (HELP & set(args) or (self.settings and not args)):
            print(self.parser(everything="--help-all" in args).format_help(), end="")
            return None
        given, rest = self._parse(args)
        missing = [name for name, option in self.options.items() if option.required and name not in given]
        if missing:
            where = missing[0].upper() if self.word and missing[0] == self.word.name else f"--{missing[0]}"
            raise ConfigError("is missing", where=where, mend=f"give it; see `{self.prog} --help`")
        for name, value in given.items():
            if isinstance(value, list) and len(value) == 1 and self.options[name].takes(Path):
                given[name] = value[0]
        return self.function(*rest, **self._grouped(given))

    def _grouped(self, given: dict[str, Any]) -> dict[str, Any]:
        """The function's arguments: options that are fields of a dataclass as one object, or one for each of a list."""
        hints = get_type_hints(self.function)
        for group in dict.fromkeys(option.group for option in self.options.values() if option.group):
            fields = [name for name, option in self.options.items() if option.group == group and name in given]
            kind, several = _dataclass(hints[group])
            values = {name: given.pop(name) for name in fields}
            if not several:
                given[group] = kind(**values)
            elif values and group not in values:
                raise ConfigError("is missing", where=f"--{group}", mend=f"give it, or leave --{fields[0]} out")
            elif values:
                given[group] = [kind(**{**values, group: name}) for name in values.get(group, ())]
        return given

    def _parse(self, args: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        """The values of the options that are given, and further settings."""
        found, rest = self._parser().parse_known_args(list(self._switched(args)))
        given = vars(found)
        if self.settings:
            return given, rest
        for word in rest:
            if word.startswith("-"):
                raise unknown_option(word, self.options, self.prog)
        option = self.word
        if rest and (option is None or (len(rest) > 1 and not option.takes(list))):
            mend = f"write options as --name=value; see `{self.prog} --help`"
            raise ConfigError(f"'{rest[-1]}' is not an option", mend=mend)
        if rest and option is not None:
            if option.name in given:
                where = f"--{option.name}"
                raise ConfigError("is given twice, as a word and as an option", where=where, mend="give it once")
            words = [read(word, items(option.hint), option.name) for word in rest]
            given[option.name] = words if option.takes(list) else words[0]
        return given, []

    def _switched(self, args: Sequence[str]) -> Iterator[str]:
        """The words, with `--dry-run` as `--dry_run` and a bare switch as `--switch=true`."""
        for word, following in zip_longest(args, args[1:]):
            name, equals, value = word.partition("=")
            option = self.options.get(name.removeprefix("--").replace("-", "_")) if name.startswith("--") else None
            if option is None:
                yield word
            elif not equals and option.takes(bool) and following not in ("true", "false"):
                yield f"--{option.name}=true"
            else:
                yield f"--{option.name}{equals}{value}"

    def parser(self, *, everything: bool = True) -> argparse.ArgumentParser:
        """Its options for help and completion.

        Args:
            everything: show those of `--help-all` as well.
        """
        parser, word = self._parser(everything), self.word
        named = []
        if word is not None:
            parser.add_argument(word.name, nargs="*", help=word.help, metavar=word.name.upper())
            text = f"{word.name.upper()}{' …' if word.takes(list) else ''}"
            named = [text if word.required else f"[{text}]"]
        hidden = [f"--{option.name}" for option in self.options.values() if option.hidden and not everything]
        if hidden:
            parser.epilog = textwrap.fill(f"--help-all shows more: {', '.join(hidden)}", 79)
        needed = [f"--{o.name}={o.metavar}" for o in self.options.values() if o.required and o is not word]
        parser.usage = " ".join([self.prog, *named, *needed, "[--option=VALUE …]"])
        about = re.split(r"\n\n(?:Args|Raises|Returns):\n", inspect.cleandoc(self.function.__doc__ or ""))[0]
        parser.description = "\n\n".join(textwrap.fill(" ".join(part.split()), 79) for part in about.split("\n\n"))
        return parser

    def _parser(self, everything: bool = True) -> argparse.ArgumentParser:
        form = partial(_Formatter, max_help_position=24, width=79)
        parser = argparse.ArgumentParser(self.prog, add_help=False, allow_abbrev=False, formatter_class=form)
        for option in self.options.values():
            shown = option is not self.word and (everything or not option.hidden)
            parser.add_argument(
                f"--{option.name}",
                type=option.read,
                action=_Store,
                nargs="?",
                const="",  # which its reader refuses
                default=argparse.SUPPRESS,
                help=option.help if shown else argparse.SUPPRESS,
                metavar=option.metavar,
            )
        return parser


class _Store(argparse.Action):
    """Keeps a value that is given once, and lists as one list."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        before = getattr(namespace, self.dest, None)
        if hasattr(namespace, self.dest) and not isinstance(values, list):
            raise ConfigError("is given twice and takes one value", where=option_string, mend="give it once")
        setattr(namespace, self.dest, [*before, *values] if before else values)


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        return str(action.metavar or default_metavar)


def unknown_option(word: str, names: Mapping[str, Any], prog: str) -> ConfigError:
    """The error for a `word` that is no option of the program `prog`, with «did you mean» of the `names` there are."""
    name = word.lstrip("-").partition("=")[0]
    return ConfigError(f"unknown option --{name}", mend=f"{did_you_mean(name, names, '--{}')}see `{prog} --help`")


def _options(function: Callable[..., Any]) -> Iterator[Option]:
    """The options of a function or dataclass, those of a parameter that is a dataclass in its place."""
    from docstring_parser import parse

    hints = get_type_hints(function if inspect.isfunction(function) else function.__init__, include_extras=True)
    about = {item.arg_name: " ".join((item.description or "").split()) for item in parse(function.__doc__ or "").params}
    for name, parameter in inspect.signature(function).parameters.items():
        kind, *notes = get_args(hints[name]) if get_origin(hints[name]) is Annotated else (hints[name],)
        group, several = _dataclass(kind)
        if group is not None:
            short = next((note.names for note in notes if isinstance(note, Short)), None)
            for field in _options(group):
                hint = GenericAlias(list, members(field.hint)[0]) if several and field.name == name else field.hint
                yield replace(field, hint=hint, group=name, hidden=short is not None and field.name not in short)
        else:
            yield Option(name, hints[name], parameter.default, about.get(name, ""))


def _dataclass(hint: Any) -> tuple[Any, bool]:
    """The dataclass that a parameter takes, and whether it takes a list of them; no dataclass for other types."""
    kind = next(iter(members(items(hint))), None)
    return (kind if is_dataclass(kind) else None), items(hint) is not hint


def _metavar(kind: Any) -> str:
    inner = get_args(kind)
    if get_origin(kind) is Literal:
        return f"{{{','.join(map(str, inner))}}}"
    if get_origin(kind) is tuple:
        return "HEIGHT,WIDTH" if len(inner) == 2 else ",".join("X" for _ in inner)
    kind = items(kind)
    return _METAVARS.get(get_origin(kind) or kind, "VALUE")
