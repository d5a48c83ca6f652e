"""`stpl completion`: scripts that complete verbs, options and names in a shell, made by shtab. Imports no torch."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Iterable
from dataclasses import fields
from typing import Any, Literal, get_args

import shtab

from stpl.apply.origin import NetworkOrigin
from stpl.cli import VERBS, Verb
from stpl.runs.experiments import SWEEPS, benches, load_catalogue

Shell = Literal["bash", "zsh"]

_RAW = ("bench", "experiment", "experiments", "network", "seed_everything", "start_from", "config", "out")
"""Options of the verbs that take any setting."""


def completion(shell: Shell = "bash") -> None:
    """Print a script that completes `stpl` in a shell: verbs, options, benchmarks, experiments, files.

    For bash: `stpl completion bash > ~/.local/share/bash-completion/completions/stpl`. For zsh:
    `stpl completion zsh > _stpl` in a folder of `$fpath`.

    Args:
        shell: bash or zsh.
    """
    print(shtab.complete(_parser(), shell=shell))


def _parser() -> argparse.ArgumentParser:
    """All verbs as one parser, which only tells names."""
    parser = argparse.ArgumentParser(prog="stpl")
    parser.add_argument("--version", action="store_true", help="print the version")
    verbs = parser.add_subparsers()
    groups: dict[str, Any] = {}
    for name, verb in VERBS.items():
        group, _, member = name.partition(" ")
        if not member:
            _declare(verbs.add_parser(name, help=verb.summary), name, verb)
        elif group not in VERBS:  # `sweep check` is among the words that `sweep` takes
            if group not in groups:
                groups[group] = verbs.add_parser(group, help=f"{group} …").add_subparsers()
            _declare(groups[group].add_parser(member, help=verb.summary), name, verb)
    return parser


def _declare(parser: argparse.ArgumentParser, name: str, verb: Verb) -> None:
    if verb.raw:
        for option in _RAW:
            _add(parser, f"--{option}", option, str)
        return
    for option, parameter in inspect.signature(verb.signature()).parameters.items():
        if "NetworkOrigin" in str(parameter.annotation):
            for field in fields(NetworkOrigin):
                _add(parser, f"--{field.name}", field.name, field.type)
        elif option == verb.positional:
            _add(parser, option, option, parameter.annotation, nargs="*")
            if name == "sweep":
                members = [other.removeprefix("sweep ") for other in VERBS if other.startswith("sweep ")]
                words = parser._actions[-1]
                words.choices = [*members, *sorted(path.stem for path in SWEEPS.glob("*.yaml"))]
                del words.complete  # type: ignore[attr-defined]
        else:
            _add(parser, f"--{option}", option, parameter.annotation)


def _add(parser: argparse.ArgumentParser, flag: str, option: str, hint: Any, nargs: str | None = None) -> None:
    action = parser.add_argument(flag, nargs=nargs)
    choices = _choices(option, hint)
    if choices:
        action.choices = list(choices)
    elif "Path" in str(hint) or option in ("checkpoint", "network", "config", "out", "experiments"):
        action.complete = shtab.FILE  # type: ignore[attr-defined]


def _choices(option: str, hint: Any) -> Iterable[str]:
    """The words that an option takes, where there are few."""
    if option == "bench":
        return benches()
    if option in ("experiment", "chosen", "rows", "start_from"):
        return load_catalogue().experiments
    kinds = [hint, *get_args(hint)]
    literal = next((kind for kind in kinds if getattr(kind, "__origin__", None) is Literal), None)
    if literal is not None:
        return [str(value) for value in get_args(literal)]
    return ["true", "false"] if bool in kinds else []
