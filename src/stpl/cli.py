"""The verbs of `stpl`. Nothing heavy is imported before a verb needs it, so help and reports start at once."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from io import TextIOWrapper

from stpl.errors import ConfigError, StplError, Terminated, did_you_mean, file_mend, lacking

USAGE_ERROR = 2
_MORE = "`stpl VERB --help` tells more; `make help` lists recipes."
INTERRUPTED = 130
CLOSED_PIPE = 141  # as the shell tells of a program that SIGPIPE ended
_PLAIN = {
    "→": "->", "↔": "<->", "…": "...", "–": "-", "±": "+-", "×": "x", "≠": "!=", "≤": "<=", "≥": ">=", "«": '"',
    "»": '"', "τ": "tau", "σ": "sigma", "μ": "mu", "Δ": "Delta", "·": "*", "§": "section ", "²": "2", "°": " degrees",
    "’": "'", "“": '"', "”": '"',
}  # fmt: skip


@dataclass(frozen=True)
class Verb:
    """One verb: where it lives and what it does.

    Attributes:
        target: "module:function".
        summary: one line of help.
        usage: what follows the verb.
        raw: the function takes the remaining arguments as they are; otherwise jsonargparse reads its signature.
        help: "module:function" that makes the help of a raw verb.
        positional: the function's parameter that takes words without a dash: a list takes all, any other type one.
        light: whether the function's module imports no torch.
    """

    target: str
    summary: str
    usage: str
    raw: bool = False
    help: str | None = None
    positional: str | None = None
    light: bool = False

    def function(self) -> Callable[..., object]:
        """Import the function."""
        return _imported(self.target)

    def signature(self) -> Callable[..., object]:
        """A function of the same signature and docstring, whose import takes no time."""
        from stpl.declarations import declared

        return self.function() if self.light else declared(self.target)

    def run(self, name: str, args: Sequence[str]) -> object:
        """Call the function, or print its help, for which its module need not be imported."""
        asked = not {"-h", "--help"}.isdisjoint(args)
        if self.help is not None and (asked or not args):
            print(_imported(self.help)(args))
            return None
        if self.raw:
            return self.function()(args)
        from stpl.arguments import call

        function = self.signature() if asked else self.function()
        return call(function, args, prog=f"stpl {name}", usage=self.usage, positional=self.positional)


def _imported(target: str) -> Callable[..., object]:
    module, name = target.split(":")
    function: Callable[..., object] = getattr(import_module(module), name)
    return function


VERBS = {
    "fit": Verb(
        "stpl.runs.fit:fit_command",
        "run one experiment and record it",
        "--bench=B --experiment=E [--key=value …]",
        raw=True,
        help="stpl.runs.request:fit_help",
    ),
    "test": Verb(
        "stpl.runs.fit:evaluate",
        "evaluate a checkpoint",
        "--bench=B --network=FILE",
        raw=True,
        help="stpl.runs.request:evaluation_help",
    ),
    "adapt": Verb(
        "stpl.apply.adapt:adapt_to_video", "adapt a network to video", "--network=FILE --video=FILE", light=True
    ),
    "adapt guard": Verb(
        "stpl.apply.guard_quality:guard_quality", "how well the guard chooses, by labels", "[--runs=runs] [--json=FILE]"
    ),
    "sweep": Verb(
        "stpl.sweeps:sweep", "run sweep files, one process a trial", "FILE… [--bench=B] [--seeds=N]", positional="files"
    ),
    "sweep check": Verb(
        "stpl.sweeps.check:check", "is a sweep file right, what would it run?", "FILE… [--bench=B]", positional="files"
    ),
    "sweep status": Verb(
        "stpl.sweeps.status:status", "what runs where, what failed and why", "[--bench=B] [--storage=URL]"
    ),
    "sweep serve": Verb("stpl.sweeps.storage:serve", "share a database through one port", "--storage=URL [--port=N]"),
    "report": Verb(
        "stpl.report:report", "tables, figures and a page of the runs", "[--bench=B] [--only=TABLE] [--live]"
    ),
    "dashboard wandb": Verb(
        "stpl.report.dashboard:wandb", "save a W&B workspace for the runs", "[--bench=B] [--entity=E] [--out=FILE.json]"
    ),
    "dashboard optuna": Verb(
        "stpl.report.dashboard:optuna", "Optuna's dashboard of the sweeps", "[--bench=B] [--storage=URL] [--port=N]"
    ),
    "video": Verb(
        "stpl.apply.video:video",
        "predictions side by side as a video",
        "[ROW…] [--bench=B]",
        positional="rows",
        light=True,
    ),
    "predict": Verb(
        "stpl.apply.predict:predict",
        "label video, or a benchmark's frames",
        "--video=FILE --network=FILE --out=DIR",
        raw=True,
        help="stpl.runs.request:predict_help",
    ),
    "export": Verb(
        "stpl.apply.export:export", "write a network as ONNX or TorchScript", "--network=FILE --out=FILE", light=True
    ),
    "data fake": Verb(
        "stpl.data.fake:fake", "write a tiny data set in its true layout", "SET --root=DIR", positional="dataset"
    ),
    "data check": Verb(
        "stpl.data.check:check", "look for what is missing or wrong", "SET --root=DIR", positional="dataset"
    ),
    "data flow": Verb(
        "stpl.data.flow.flow_files:flow", "estimate optical flow to files", "SET --root=DIR", positional="dataset"
    ),
    "data cache": Verb(
        "stpl.data.sequence_cache:cache",
        "keep frames and flow at training size",
        "SET --root=DIR",
        positional="dataset",
    ),
    "weights inspect": Verb(
        "stpl.nn.convert:inspect", "say what a foreign checkpoint is", "FILE", positional="checkpoint"
    ),
    "weights convert": Verb(
        "stpl.nn.convert:convert", "make a foreign checkpoint one of ours", "FILE --out=FILE", positional="checkpoint"
    ),
    "weights statistics": Verb(
        "stpl.runs.weights_statistics:weights_statistics", "weights of runs with renewed statistics", "[--bench=B]"
    ),
    "weights ship": Verb("stpl.runs.ship:ship", "make the source models that the package ships", "[--runs=runs]"),
    "completion": Verb(
        "stpl.completion:completion", "a script that completes all this in bash or zsh", "bash|zsh", positional="shell"
    ),
}
"""By name; a name of two words is one of a group: `stpl data check`. `sweep` is a verb with a group beside it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb.

    Args:
        argv: the command line without the program's name; `sys.argv[1:]` if not given.

    Returns:
        0; 2 for a mistake that the message tells how to mend; 4 for a run that diverged and 75 for one that was stopped
        before its last step; 130 after Ctrl-C, 128 and its number after another signal that ends a run (143 after
        SIGTERM), 141 if nobody reads on; a verb's own failure otherwise.
    """
    _speak_plainly()
    try:
        code = _main(argv)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered goes there
        return CLOSED_PIPE
    return code


def _main(argv: Sequence[str] | None) -> int:
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
        return error.exit_code
    except BrokenPipeError:
        raise
    except OSError as error:  # of a file or disk, wherever it was used; those that tell more are caught there
        where = "" if error.filename is None else f"{error.filename}: "
        print(f"stpl {args[0]}: {where}{error.strerror or error}\n  → {file_mend(error)}", file=sys.stderr)
        return USAGE_ERROR
    except Exception as error:
        if (told := lacking(error)) is None:
            raise
        print(f"stpl {args[0]}: {told}", file=sys.stderr)
        return told.exit_code
    except KeyboardInterrupt as interrupt:
        ended = interrupt if isinstance(interrupt, Terminated) else None
        how = f"ended by {ended.name}" if ended else "interrupted"
        print(f"stpl {args[0]}: {how}; call again to go on", file=sys.stderr)
        return ended.exit_code if ended else INTERRUPTED


def _speak_plainly() -> None:
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
    if group and (not args or args[0] in ("-h", "--help")):
        print(_help(group))
        return 0
    if group:
        name, args = f"{name} {args[0]}", args[1:]
    if name not in VERBS:
        hint = did_you_mean(name, group or VERBS).rstrip()
        print(f"stpl: no verb '{name}'{hint and f', {hint}'}\n\n{_help(group)}", file=sys.stderr)
        return USAGE_ERROR
    result = VERBS[name].run(name, args)
    return result if isinstance(result, int) else 0


def _help(names: Sequence[str] = ()) -> str:
    """Help on the verbs called `names`; on all, with groups in one line each, if there are none."""
    shown = list(names) or [name for name in VERBS if " " not in name and name != "completion"]
    groups: dict[str, list[str]] = {} if names else {"completion": ["bash", "zsh"]}
    for group, _, member in (name.partition(" ") for name in VERBS):
        if member and not names:
            groups.setdefault(group, []).append(member)
    width = max(map(len, [*shown, *groups])) + 2
    lines = []
    for name in shown:
        lines += [f"  {name:<{width}}{VERBS[name].summary}", f"  {'':<{width}}  stpl {name} {VERBS[name].usage}"]
        if beside := groups.pop(name, []):
            lines[-1] += f"; also {', '.join(f'{name} {member}' for member in beside)}"
    lines += [f"  {group:<{width}}{', '.join(verbs)}" for group, verbs in groups.items()]
    return "\n".join(["usage: stpl VERB …", "", *lines, "", _MORE])
