"""What the parser, or a class of the user's own, refuses while a run is built: in one line, with its place.

The parser wraps what a constructor raises into a list of all the types that a value is not. What was raised is found
again at the end of the chain of causes.
"""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Iterator
from inspect import isclass

from jsonargparse import ArgumentError

from stpl import methods
from stpl.arguments import explain, refused_key
from stpl.errors import ConfigError, StplError
from stpl.runs.request import Request

_FRAMEWORK = {"stpl", "jsonargparse", "lightning", "torch", "torchmetrics", "yaml", "numpy", *sys.stdlib_module_names}
_NO_CLASS = re.compile(r"Not a valid subclass of (\w+)")
_LIST = re.compile(r"Subclass types expect one of:((?:\n *- a .*)+)")
_NO_MODEL = "the following arguments are required: model"


def told(error: BaseException, request: Request) -> BaseException:
    """An error of building `request` as users are to read it; itself where nothing is known that tells more.

    Returns:
        The `StplError` that caused it; else the place in the user's own code and what was raised there; else the
        parser's reason with the setting and its file.
    """
    causes = list(_causes(error))
    known = next((cause for cause in causes if isinstance(cause, StplError)), None)
    if known is not None:
        return known
    own = _of_own_code(causes[-1])
    if own is not None:
        return own
    text = str(error)
    if _NO_CLASS.search(text) or text.startswith(_NO_MODEL):
        return _no_class(text, request)
    if isinstance(error, ArgumentError) or "Option '" in text:
        where = request.file_with(refused_key(error)) if isinstance(error, Exception) else None
        return ConfigError(explain(error), where=where, mend="mend the setting, or see `stpl fit --help`")
    return error


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what led to it, the first cause last."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__


def _of_own_code(error: BaseException) -> ConfigError | None:
    """The error if code of the user's own raised it, or called what did."""
    said = str(error).strip().splitlines() or ["without a word"]
    what = f"{type(error).__name__}: {said[0]}"
    if isinstance(error, SyntaxError) and error.filename:
        return ConfigError(f"SyntaxError: {error.msg}", where=f"{error.filename}:{error.lineno}", mend="mend this line")
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    lines = [line for _, line in traceback.walk_tb(error.__traceback__)]
    own = [
        (frame.f_code, line)
        for frame, line in zip(frames, lines, strict=True)
        if str(frame.f_globals.get("__name__", "")).split(".")[0] not in _FRAMEWORK
    ]
    if not own:
        return None
    code, line = own[-1]
    name = "the module" if code.co_qualname == "<module>" else code.co_qualname
    verb = "ended the program with" if isinstance(error, SystemExit) else "raised"
    return ConfigError(f"{name} {verb} {what}", where=f"{code.co_filename}:{line}", mend="mend this code of your own")


def _no_class(text: str, request: Request) -> ConfigError:
    """The error for a group of settings whose class no file names, with what it may be."""
    key = next(iter(re.findall(r'Parser key "([^"]+)":', text)), "model")
    kind, listed = _NO_CLASS.search(text), _LIST.search(text)
    expected = [] if listed is None else [line.strip(" -") for line in listed.group(1).strip().splitlines()]
    what = "no class is named" if kind is None else f"no subclass of {kind.group(1)} is named"
    known = (
        f", one of {', '.join(_methods())}, or a class of your own as package.module.Class" if key == "model" else ""
    )
    where = f"experiment {request.experiment}" if request.experiment else None
    return ConfigError(
        f"{key}: {what}{'; expected is ' if expected else ''}{', or '.join(expected)}",
        where=where,
        mend=f"write 'class_path: NAME' below '{key}:' in one of its files{known}",
    )


def _methods() -> list[str]:
    found = (getattr(methods, name) for name in methods.__all__)
    return sorted(kind.__name__ for kind in found if isclass(kind) and issubclass(kind, methods.Method))
