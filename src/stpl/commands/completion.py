"""`stpl completion`: scripts that complete verbs, options and names in a shell, made by shtab."""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from stpl.arguments import Command, Option
from stpl.commands import VERBS, function
from stpl.option_types import members

_OF_FIT = {
    "bench": str, "experiment": str, "experiments": Path, "config": Path, "start_from": str, "seed_everything": int,
}  # fmt: skip
"""Options of `stpl fit`, which reads them from its settings, and their types."""
_OF_EVALUATION = ("experiments", "config")
"""Those of them that other verbs with settings take beside their own options."""


def completion(shell: Literal["bash", "zsh"] = "bash") -> None:
    """Print a script that completes `stpl` in a shell: verbs, options, benchmarks, experiments, files.

    For bash: `stpl completion bash > ~/.local/share/bash-completion/completions/stpl`. For zsh:
    `stpl completion zsh > _stpl` in a folder of `$fpath`.

    Args:
        shell: bash or zsh.
    """
    import shtab

    print(shtab.complete(_parser(), shell=shell))


def _parser() -> argparse.ArgumentParser:
    """All verbs as one parser."""
    parser = argparse.ArgumentParser(prog="stpl")
    parser.add_argument("--version", action="store_true", help="print the version")
    verbs = parser.add_subparsers()
    groups: dict[str, Any] = {}
    for verb in VERBS:
        group, _, member = verb.partition(" ")
        if not member:
            _add(verbs, verb, verb)
        elif group not in VERBS:  # `sweep check` is among the words that `sweep` takes
            if group not in groups:
                groups[group] = verbs.add_parser(group, help=f"{group} …").add_subparsers()
            _add(groups[group], member, verb)
    return parser


def _add(parsers: Any, name: str, verb: str) -> None:
    """Add a verb's parser, whose options know the words and files that they take."""
    import shtab

    command = Command(function(verb), f"stpl {verb}")
    options, parser = dict(command.options), command.parser()
    for other in () if command.settings is None else _OF_EVALUATION if options else _OF_FIT:
        options[other] = Option(other, _OF_FIT[other], None, "")
        parser.add_argument(f"--{other}")
    actions: list[Any] = parser._actions
    for action in actions:
        option = options[action.dest]
        if found := list(_words(option)):
            action.choices = found
        elif option.takes(Path) or option.name == "network":
            action.complete = shtab.FILE
    members = [other.removeprefix(f"{verb} ") for other in VERBS if other.startswith(f"{verb} ")]
    if members:
        words = next((action for action in actions if not action.option_strings), None)
        words = words or parser.add_argument("member", nargs="?")
        words.choices = [*members, *(words.choices or ())]
    parsers.add_parser(name, help=VERBS[verb], parents=[parser])


def _words(option: Option) -> Iterable[str]:
    """The words that an option takes, where there are few."""
    from stpl.runs.experiments import SWEEPS, benches, load_catalogue

    if option.name == "files":
        return sorted(path.stem for path in SWEEPS.glob("*.yaml"))
    if option.name == "bench":
        return benches()
    if option.name in ("experiment", "chosen", "rows", "start_from"):
        return load_catalogue().experiments
    if option.takes(bool):
        return ["true", "false"]
    return [str(word) for kind in members(option.hint) if get_origin(kind) is Literal for word in get_args(kind)]
