"""The program `stpl`: which verb is called, and how it ends. Nothing heavy is imported before a verb needs it."""

import codecs
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper

from stpl.arguments import Command
from stpl.commands import VERBS, function
from stpl.errors import ConfigError, StplError, Terminated, did_you_mean, file_mend, lacking, note

USAGE_ERROR = 2
_OF_A_NETWORK = ("test", "adapt", "predict", "export", "video")
INTERRUPTED = 130
CLOSED_PIPE = 141  # as a shell reports a program that SIGPIPE ended
_PLAIN = {
    "→": "->", "↔": "<->", "…": "...", "–": "-", "±": "+-", "×": "x", "≠": "!=", "≤": "<=", "≥": ">=", "«": '"',
    "»": '"', "τ": "tau", "σ": "sigma", "μ": "mu", "Δ": "Delta", "·": "*", "§": "section ", "²": "2", "°": " degrees",
    "’": "'", "“": '"', "”": '"',
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb.

    Args:
        argv: the command line without the program's name; `sys.argv[1:]` if not given.

    Returns:
        0; 2 for a mistake whose message says how to mend it; 4 for a run that diverged and 75 for one that was stopped
        before its last step; 130 after Ctrl-C, 128 and its number after another signal that ends a run (143 after
        SIGTERM), 141 if nobody reads on; a verb's own failure otherwise.
    """
    _use_plain_letters()
    try:
        code = _main(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered goes there
        return CLOSED_PIPE
    return code


def _main(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help", "--help-all", "help"):
        print(_help())
        return 0
    if args[0] == "--version":
        print(f"stpl {import_module('stpl').__version__}")
        return 0
    try:
        return _run(*args)
    except StplError as error:
        print(f"stpl {args[0]}: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        raise
    except OSError as error:  # of a file or disk, wherever it was used; those that say more are caught there
        where = "" if error.filename is None else f"{error.filename}: "
        print(f"stpl {args[0]}: {where}{error.strerror or error}\n  → {file_mend(error)}", file=sys.stderr)
        return USAGE_ERROR
    except Exception as error:
        if (known := lacking(error)) is None:
            raise
        print(f"stpl {args[0]}: {known}", file=sys.stderr)
        return known.exit_code
    except KeyboardInterrupt as interrupt:
        ended = interrupt if isinstance(interrupt, Terminated) else None
        how = f"ended by {ended.name}" if ended else "interrupted"
        print(f"stpl {args[0]}: {how}; call again to go on", file=sys.stderr)
        return ended.exit_code if ended else INTERRUPTED


def _use_plain_letters() -> None:
    """Have a terminal that is not UTF-8 show plain letters for what it lacks."""
    codecs.register_error("stpl.plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and not stream.encoding.lower().startswith("utf"):
            stream.reconfigure(errors="stpl.plain")


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_PLAIN.get(letter, "?") for letter in lacking), error.end


def _check_text(args: Sequence[str]) -> None:
    """Refuse arguments that are not UTF-8, such as names of files from an old disk: configurations cannot hold them."""
    for arg in args:
        try:
            arg.encode()
        except UnicodeEncodeError:
            shown = arg.encode(errors="backslashreplace").decode()
            raise ConfigError(f"'{shown}' is not UTF-8", mend="rename the file or folder") from None


def _run(name: str, *args: str) -> int:
    _check_text(args)
    group = [verb for verb in VERBS if verb.startswith(f"{name} ")]
    if name in VERBS and (not args or f"{name} {args[0]}" not in group):
        group = []
    if group and (not args or args[0] in ("-h", "--help", "--help-all")):
        print(_help(group))
        return 0
    if group:
        name, args = f"{name} {args[0]}", args[1:]
    if name not in VERBS:
        hint = did_you_mean(name, group or VERBS).rstrip()
        print(f"stpl: no verb '{name}'{hint and f', {hint}'}\n\n{_help(group)}", file=sys.stderr)
        return USAGE_ERROR
    result = Command(function(name), f"stpl {name}").run(_translated(name, args))
    return result if isinstance(result, int) else 0


def _translated(verb: str, args: Sequence[str]) -> list[str]:
    """The words of a verb that takes a network, former options by their present names, with a note that names these."""
    if verb not in _OF_A_NETWORK:
        return list(args)
    given = {word.partition("=")[0] for word in args}
    names = dict.fromkeys(("--checkpoint", "--checkpoints"), "--network")
    if verb != "test" and "--bench" not in given:  # where --model is the LightningModule
        names["--model"] = "--builder" if given & names.keys() else "--network"
    found = {former: present for former, present in names.items() if former in given}
    if found:
        note(", ".join(f"{former} is now {present}" for former, present in found.items()), f"stpl {verb}")
    words = (word.partition("=") for word in args)
    return [f"{found.get(name, name)}{equals}{value}" for name, equals, value in words]


def _help(names: Sequence[str] = ()) -> str:
    """Help on the verbs called `names`; on all, with groups in one line each, if there are none."""
    groups: dict[str, list[str]] = {}
    for name in names or VERBS:
        verb, _, member = name.partition(" ")
        if names or not member:
            groups[name] = [VERBS[name]]
        else:
            groups.setdefault(verb, []).append(f"also {name}" if verb in VERBS and len(groups[verb]) < 2 else member)
    width = max(map(len, groups)) + 2
    lines = [f"  {name:<{width}}{', '.join(about)}" for name, about in groups.items()]
    return "\n".join(["usage: stpl VERB …", "", *lines, "", "`stpl VERB --help` says more; `make help` lists recipes."])
