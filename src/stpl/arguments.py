"""Command-line options of a plain function, read from its signature and docstring by jsonargparse."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from stpl.errors import ConfigError


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
        ConfigError: for an unknown option (with «did you mean»), a value that its type does not take, or a number below
            0 or a size of 0: no verb counts or measures anything that could be.
    """
    parser = ArgumentParser(prog=prog, usage=f"{prog} {usage}", exit_on_error=False)
    parser.add_function_arguments(function)
    if "-h" in args or "--help" in args:
        parser.print_help()
        return None
    options, words = _options(args, inspect.signature(function).parameters, prog)
    options += _positional(function, positional, words, prog)
    try:
        config = parser.parse_args(options)
    except ArgumentError as error:
        raise ConfigError(explain(error), mend=f"see `{prog} --help`") from error
    given = parser.instantiate(config).as_dict()
    for name, value in given.items():
        least, kind = (1, "positive") if isinstance(value, tuple) else (0, "possible")  # a pair is a height and a width
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and not number >= least:
                raise ConfigError(f"{number} is not {kind}", where=f"--{name}", mend=f"choose {least} or more")
    return function(**given)


_NUMBERS = re.compile(r"^(--[\w.-]+=)?(\d+(?:,\d+)+)$")  # 128,256 is written for [128,256]


def _options(
    args: Sequence[str], parameters: Mapping[str, inspect.Parameter], prog: str
) -> tuple[list[str], list[str]]:
    """The options among `args`, unknown ones refused, and the words that belong to none. A bare switch is true."""
    options, words, rest = [], [], list(args)
    while rest:
        arg = rest.pop(0)
        if not arg.startswith("-"):
            words.append(arg)
            continue
        name, equals, value = arg.removeprefix("--").partition("=")
        name = name.replace("-", "_")  # `--dry-run` is `--dry_run`
        parameter = parameters.get(name.split(".")[0])
        if parameter is None:
            raise unknown_option(name, list(parameters), prog)
        arg = f"--{name}{equals}{value}"
        if parameter.annotation in (bool, "bool") and not equals and (not rest or rest[0] not in ("true", "false")):
            arg = f"{arg}=true"
        options.append(arg)
        if "=" not in arg and rest and not rest[0].startswith("-"):
            options.append(rest.pop(0))
    return [_NUMBERS.sub(r"\1[\2]", _as_name(option)) for option in options], words


def _as_name(option: str) -> str:
    """The option; a file whose name begins like a comment of YAML gets a folder before it."""
    name, equals, value = option.partition("=")
    return f"{name}=./{value}" if equals and value.startswith("#") and os.path.lexists(value) else option


def _positional(function: Callable[..., Any], name: str | None, words: Sequence[str], prog: str) -> list[str]:
    """`words` as options of the positional parameter; raises `ConfigError` if there are more than it takes."""
    takes_many = name is not None and "list" in str(inspect.signature(function).parameters[name].annotation)
    if (len(words) > 1 and not takes_many) or (words and name is None):
        raise ConfigError(f"'{words[-1]}' is not an option", mend=f"write options as --name=value; see `{prog} --help`")
    return [f"--{name}{'+' if takes_many else ''}={word}" for word in words]


def unknown_option(name: str, names: Sequence[str], prog: str) -> ConfigError:
    """The error for an option that is none of `names`."""
    close = get_close_matches(name, names, 1)
    hint = f"did you mean --{close[0]}? " if close else ""
    return ConfigError(f"unknown option --{name}", mend=f"{hint}see `{prog} --help`")


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
    close = get_close_matches(name, inspect.signature(owner).parameters, 1)
    return f", did you mean '{close[0]}'?" if close else f" of {attribute}"
