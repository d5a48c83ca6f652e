"""What the parser, or a class of the user's own, refuses while a run is built: in one line, with its place."""

import inspect
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from importlib import import_module

from jsonargparse import ArgumentError
from jsonargparse._paths import PathError

from stpl.errors import ConfigError, StplError, did_you_mean
from stpl.runs.request import Request
from stpl.training import Method

_FRAMEWORK = {"stpl", "jsonargparse", "lightning", "torch", "torchmetrics", "yaml", "numpy", *sys.stdlib_module_names}
_NO_CLASS = re.compile(r"Not a valid subclass of (\w+)")
_NO_MODEL = "the following arguments are required: model"
_KEY = re.compile(r'Parser key "([^"]+)":')
_CLASS = re.compile(r"Problem with given class_path '([^']+)'")
_REFUSED = re.compile(r"Option '([^']+)' is not accepted")
_FRAME = (
    "Parser key", "Problem with", "Given value", "Subtypes:", "Errors:", "Does not validate", "Expected a <class 'None",
)  # fmt: skip


def explained(error: BaseException, request: Request) -> BaseException:
    """An error of building `request` as users are to read it; itself where nothing more is known.

    That is the `StplError` that caused it; else the place in the user's own code and what was raised there; else the
    parser's reason with the setting and its file.
    """
    causes = list(_causes(error))
    known = next((cause for cause in causes if isinstance(cause, StplError)), None)
    found = known or _of_own_code(causes[-1], wrapped=len(causes) > 1)
    if found is not None:
        return found
    text = str(error)
    if _NO_CLASS.search(text) or text.startswith(_NO_MODEL):
        return _no_class(text, request)
    if isinstance(error, ArgumentError) or (isinstance(error, ValueError) and "Option '" in text):
        where = request.file_with(_refused_key(error))
        return ConfigError(_explain(error), where=where, mend="mend the setting, or see `stpl fit --help`")
    return error


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what led to it, the first cause last."""
    found: BaseException | None = error
    while found is not None:
        yield found
        context = None if found.__suppress_context__ else found.__context__
        found = found.__cause__ or context or _lost(found)
        if isinstance(found, PathError):  # the parser tries a configuration's text as the name of a file first
            return


def _lost(error: BaseException) -> BaseException | None:
    """What the parser was about to say when it failed itself: it cannot indent an exception without a message."""
    if not isinstance(error, IndexError):
        return None
    held = [frame.f_locals.get("exceptions") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return next((found[0] for found in held if isinstance(found, list) and found), None)


def _of_own_code(error: BaseException, *, wrapped: bool) -> ConfigError | None:
    """The error if code of the user's own raised it, or called what did; an installed class if it is `wrapped`."""
    said = str(error).strip().splitlines() or ["without a word"]
    what = f"{type(error).__name__}: {said[0]}"
    if isinstance(error, SyntaxError) and error.filename:
        return ConfigError(f"SyntaxError: {error.msg}", where=f"{error.filename}:{error.lineno}", mend="mend this line")
    foreign = [
        (frame.f_code, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__", "")).split(".")[0] not in _FRAMEWORK
    ]
    own = [(code, line) for code, line in foreign if "-packages" not in code.co_filename]  # site- or dist-packages
    if not own and not (wrapped and foreign):  # what a library refuses when the package calls it is no own code
        return None
    code, line = (own or foreign)[-1]
    name = "the module" if code.co_qualname == "<module>" else code.co_qualname
    verb = "ended the program with" if isinstance(error, SystemExit) else "raised"
    return ConfigError(f"{name} {verb} {what}", where=f"{code.co_filename}:{line}", mend="mend this code")


def _no_class(text: str, request: Request) -> ConfigError:
    """The error for a group of settings whose class no file names, with the classes that there are."""
    key = next(iter(_KEY.findall(text)), "model")
    kind = _NO_CLASS.search(text)
    named = "no class is named" if kind is None else f"no subclass of {kind.group(1)} is named"
    known = f"; methods: {', '.join(_methods())}; or package.module.Class of your own" if key == "model" else ""
    where = f"experiment {request.experiment}" if request.experiment else None
    mend = f"write 'class_path: NAME' below '{key}:' in one of its files{known}"
    return ConfigError(f"{key}: {named}", where=where, mend=mend)


def _methods(kind: type[Method] = Method) -> list[str]:
    """Names of the package's methods: all classes below `kind`."""
    found = {name for below in kind.__subclasses__() for name in (below.__name__, *_methods(below))}
    return sorted(name for name in found if not name.startswith("_"))


def _explain(error: Exception) -> str:
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


def _refused_key(error: Exception) -> str | None:
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
