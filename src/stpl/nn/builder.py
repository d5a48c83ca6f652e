"""`package.module:callable`: how it is written, found and called. This module imports no torch.

What its author's code does wrong becomes one line that names the file and its line: a syntax error, an exception at
import or in the call, and `sys.exit` in either, which would end this program without a word.
"""

import importlib
import importlib.util
import re
import sys
import sysconfig
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stpl.errors import ConfigError, StplError, did_you_mean, first_line
from stpl.machine import find_own_modules

_NAME = re.compile(r"\w+(\.\w+)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_OURS = Path(__file__).parents[1]


def _check_name(text: str, where: str) -> None:
    """Raise `ConfigError`, with what may be meant, unless `text` is written as `package.module:callable`."""
    if _NAME.fullmatch(text):
        return
    module, _, name = text.partition(":")
    meant = f"{module.removesuffix('.py').lstrip('./').replace('/', '.')}:{name.removesuffix('()')}"
    mend = "write package.module:callable, such as my_networks:build"
    if _NAME.fullmatch(meant) and not module.startswith("/") and ".." not in module:
        mend = f"write it as Python imports it: {meant}"
    raise ConfigError(f"'{text}' names no callable", where=where, mend=mend)


def check_found(build: str, where: str) -> None:
    """Raise `ConfigError` if `build` is written otherwise, or its package is not there; nothing is imported."""
    _check_name(build, where)
    package = build.partition(":")[0].partition(".")[0]
    if package in sys.modules:
        return
    find_own_modules()
    try:
        found = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        found = None
    if found is None:
        mend = "check the name, or install it; modules of the working directory are found"
        raise ConfigError(f"No module named '{package}'", where=where, mend=mend)


def call(build: str, arguments: Mapping[str, Any], where: str) -> Any:
    """What the callable `build` returns for arguments by name.

    Raises:
        ConfigError: there is no such callable, or its author's code fails or ends the program. It names a line of that
            code, or where none is known an option in the group `where`.
    """
    _check_name(build, f"{where}.builder")
    called = imported(build, f"{where}.builder")
    try:
        return called(**arguments)
    except (StplError, KeyboardInterrupt):
        raise
    except BaseException as error:  # whatever its author's code raises, SystemExit too
        mend = "call it so by yourself first"
        place = _place(error) or f"{where}.arguments"
        raise ConfigError(f"{build} {_fault(error)}", where=place, mend=mend) from error


def imported(build: str, where: str) -> Any:
    """What `package.module:callable` names, imported; raises `ConfigError` if its author's code fails."""
    module_name, _, name = build.partition(":")
    find_own_modules()
    try:
        found: Any = importlib.import_module(module_name)
    except (StplError, KeyboardInterrupt):
        raise
    except BaseException as error:
        if isinstance(error, ImportError) and _place(error) is None:
            raise ConfigError(first_line(error), where=where, mend="check the name, or install it") from error
        what = f"importing {module_name} {_fault(error)}"
        if isinstance(error, SyntaxError) and error.filename:
            what = error.msg
        mend = f"mend it until `python -c 'import {module_name}'` works"
        raise ConfigError(what, where=_place(error) or where, mend=mend) from error
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            mend = did_you_mean(part, dir(found)).rstrip() or "check the name"
            raise ConfigError(f"{module_name} has no '{name}'", where=where, mend=mend) from error
        except Exception as error:  # of a property, or of a module that makes its names on access
            raise ConfigError(f"{build} {_fault(error)}", where=_place(error) or where, mend="check it") from error
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(found, torch.nn.Module):
        what = f"{build} is a network, not what builds one"
        raise ConfigError(what, where=where, mend="name a function that gives it, anew at each call")
    if not callable(found):
        what = f"{build} is of the type {type(found).__name__}, which cannot be called"
        raise ConfigError(what, where=where, mend="name a function or a class that gives the network")
    return found


def _fault(error: BaseException) -> str:
    """What somebody else's code did wrong, as the end of a sentence."""
    if isinstance(error, SystemExit):
        return f"calls sys.exit({'' if error.code is None else repr(error.code)})"
    kind = type(error).__name__
    return f"fails: {first_line(error)} ({kind})" if str(error).strip() else f"fails: {kind}"


def _place(error: BaseException) -> str | None:
    """File and line of somebody else's code that an error comes from; `None` if it is of no code of theirs."""
    places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    places = [place for place in places if _is_theirs(place[0])]
    if isinstance(error, SyntaxError) and error.filename:
        places = [(error.filename, error.lineno)]
    if not places:
        return None
    path, here = Path(places[-1][0]), Path.cwd()
    return f"{path.relative_to(here) if path.is_relative_to(here) else path}:{places[-1][1]}"


def _is_theirs(filename: str) -> bool:
    """Whether a file is neither of this package, nor of Python, nor of an installed package."""
    path, paths = Path(filename), sysconfig.get_paths()
    known = [_OURS, *(Path(paths[name]) for name in ("stdlib", "platstdlib", "purelib", "platlib"))]
    installed = {"site-packages", "dist-packages"} & set(path.parts) or any(map(path.is_relative_to, known))
    return path.is_file() and not installed
