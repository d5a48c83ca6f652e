"""The verbs of `stpl`. Nothing heavy is imported before a verb needs it, so help and reports start at once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module

from stpl.errors import StplError

USAGE_ERROR = 2
INTERRUPTED = 130


@dataclass(frozen=True)
class Verb:
    """One verb: where it lives and what it does.

    Attributes:
        target: "module:function".
        summary: one line of help.
        usage: what follows the verb.
        raw: the function takes the remaining arguments as they are; otherwise jsonargparse reads its signature.
        positional: the function's parameter that takes words without a dash.
    """

    target: str
    summary: str
    usage: str
    raw: bool = False
    positional: str | None = None

    def function(self) -> Callable[..., object]:
        """Import the function."""
        module, name = self.target.split(":")
        function: Callable[..., object] = getattr(import_module(module), name)
        return function


VERBS = {
    "fit": Verb(
        "stpl.fit:fit_command", "run one experiment and record it", "--bench=B --experiment=E [--key=value …]", raw=True
    ),
    "test": Verb("stpl.fit:evaluate", "evaluate a checkpoint", "--bench=B --checkpoint=FILE", raw=True),
    "adapt": Verb("stpl.video.adapt:adapt", "adapt a checkpoint to a video", "--checkpoint=FILE --video=FILE"),
    "sweep": Verb(
        "stpl.sweeps:sweep", "run sweep files, one process a trial", "FILE… [--bench=B] [--seeds=N]", positional="files"
    ),
    "report": Verb("stpl.report:report", "write and print tables of what is recorded", "[--bench=B]"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb.

    Args:
        argv: the command line without the program's name; `sys.argv[1:]` if not given.

    Returns:
        0; 2 for a mistake that the message tells how to mend; 130 after Ctrl-C; a verb's own failure otherwise.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if args[0] == "--version":
        print(f"stpl {import_module('stpl').__version__}")
        return 0
    try:
        return _run(*args)
    except StplError as error:
        print(f"stpl {args[0]}: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print(f"stpl {args[0]}: interrupted; call again to go on", file=sys.stderr)
        return INTERRUPTED


def _run(name: str, *args: str) -> int:
    if name not in VERBS:
        close = get_close_matches(name, VERBS, 1)
        hint = f", did you mean '{close[0]}'?" if close else ""
        print(f"stpl: no verb '{name}'{hint}\n\n{_help()}", file=sys.stderr)
        return USAGE_ERROR
    verb = VERBS[name]
    if verb.raw:
        result = verb.function()(args)
    else:
        from stpl.arguments import call

        result = call(verb.function(), args, prog=f"stpl {name}", usage=verb.usage, positional=verb.positional)
    return result if isinstance(result, int) else 0


def _help() -> str:
    lines = [f"  {name:<8}{verb.summary}\n  {'':<8}  stpl {name} {verb.usage}" for name, verb in VERBS.items()]
    return "\n".join(
        ["usage: stpl VERB …", "", *lines, "", "`stpl VERB --help` tells more; `make help` lists recipes."]
    )
