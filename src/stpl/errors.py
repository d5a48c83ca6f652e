"""The errors a user can cause, and how they are reported.

Every message names what was wrong, where, the value found, and what to do next. The command line prints the message
alone (no traceback) and exits with the error's code, 2 for nearly all; anything else is a defect of this program.
"""

import errno
import math
import re
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from numbers import Real
from pathlib import Path
from traceback import walk_tb

DIVERGED = 4
"""Exit code of a run whose numbers went off: trying again gives the same."""

_MOST_SHOWN = 60  # letters of a value

STOPPED = 75
"""Exit code of a run that something ended before its last step (EX_TEMPFAIL of sysexits.h): the same call goes on."""


class StplError(Exception):
    """Base of all errors that a user can mend.

    Args:
        what: what is wrong, with the value found.
        where: the file, key or option it was found in.
        mend: what to do next, in one imperative sentence.

    Attributes:
        exit_code: of the command that ends with it.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str | Path | None = None, mend: str | None = None) -> None:
        self.what, self.where, self.mend = what, None if where is None else str(where), mend
        super().__init__(what)

    def __str__(self) -> str:
        where = "" if self.where is None else f"{self.where}: "
        mend = "" if self.mend is None else f"\n  → {self.mend}"
        return f"{where}{self.what}{mend}"


class DataError(StplError):
    """A data set, frame, label, flow file or video that is missing, torn or inconsistent."""


class ConfigError(StplError):
    """An option, overlay or sweep file that cannot be used as written."""


class CheckpointError(StplError):
    """A checkpoint that is missing, torn or made for another network or label space."""


class RecordError(StplError):
    """A run record that is torn or of another schema."""


class DivergedError(StplError):
    """A loss, weights, or what a network makes of a clip are no longer finite: there is nothing to go on with."""

    exit_code = DIVERGED


class StoppedError(StplError):
    """A run ended before its last step and left a checkpoint to go on from."""

    exit_code = STOPPED


class Terminated(KeyboardInterrupt):
    """One of `stpl.signals.ENDING_SIGNALS`, treated like Ctrl-C but for the exit code.

    Args:
        number: of the signal.

    Attributes:
        exit_code: 128 and the signal's number, as a shell reports it.
        name: of the signal.
    """

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__(number)
        self.exit_code, self.name = 128 + number, signal.Signals(number).name


def note(what: str, where: str | Path | None = None) -> None:
    """Print one line on stderr about a file or option: `what` is no error, and the user should know it."""
    print(f"note: {what}" if where is None else f"note: {where}: {what}", file=sys.stderr)


_WHAT_MENDS: tuple[tuple[set[int], str], ...] = (
    ({errno.ENOSPC, errno.EDQUOT}, "free some space, or choose a folder on another disk"),
    ({errno.EACCES, errno.EPERM, errno.EROFS}, "mend the rights there, or choose another path"),
    ({errno.ENOTDIR, errno.EEXIST}, "a file stands where a folder should: move it, or choose a writable folder"),
    ({errno.EISDIR}, "a folder stands where a file should: move it, or choose another path"),
    ({errno.ENOTEMPTY, errno.EBUSY}, "something is in use there: move it, or choose another path"),
    ({errno.ENOENT}, "check the path"),
    ({errno.ENAMETOOLONG}, "choose a shorter name"),
    ({errno.ELOOP}, "links there lead back to themselves: delete them, or choose another path"),
    ({errno.EFBIG}, "no file may be so large there (`ulimit -f`, or the file system): choose another disk"),
    ({errno.ENOMEM}, "free some memory"),
    ({errno.EMFILE, errno.ENFILE}, "too many files are open: raise the limit (`ulimit -n`)"),
)
_WITHOUT_NUMBER: dict[type[OSError], int] = {
    PermissionError: errno.EACCES, NotADirectoryError: errno.ENOTDIR, FileExistsError: errno.EEXIST,
    IsADirectoryError: errno.EISDIR, FileNotFoundError: errno.ENOENT,
}  # fmt: skip


def cannot_write(
    path: str | Path, error: Exception, *, kind: type[StplError] = StplError, then: str | None = None
) -> StplError:
    """The error for a file or folder that cannot be written: its cause, what mends that, and what to do `then`."""
    reason = (error.strerror if isinstance(error, OSError) else None) or first_line(error)
    mend = file_mend(error)
    return kind(f"cannot be written: {reason}", where=path, mend=mend if then is None else f"{mend}; then {then}")


def file_mend(error: Exception) -> str:
    """What mends an error of the file system or the network, by its number; one without a number by its type."""
    if isinstance(error, ConnectionError | TimeoutError):
        return "check the network, then call again"
    found = error.errno if isinstance(error, OSError) else errno.ENOSPC  # torch's own writer reports no more than that
    if found is None:
        found = next((number for kind, number in _WITHOUT_NUMBER.items() if isinstance(error, kind)), None)
    return next((mend for numbers, mend in _WHAT_MENDS if found in numbers), "check the disk and the path")


_OUT_OF_MEMORY = ("allocate memory", "out of memory", "Storage size calculation overflowed", "array is too big")


def lacking(error: Exception) -> StplError | None:
    """The error for what a machine lacks: memory, or shared memory of loader processes; `None` for any other error."""
    text = first_line(error)
    if "DataLoader worker" in text and ("killed by signal" in text or "exited unexpectedly" in text):
        mend = "set data.loading.num_workers=0: shared memory (/dev/shm) or memory is too small for these processes"
        return ConfigError(f"a loader process died ({text[:120]})", where="data.loading.num_workers", mend=mend)
    if isinstance(error, MemoryError) or any(sign in text for sign in _OUT_OF_MEMORY):
        asked = re.search(r"allocate (\d+) bytes", text)
        what = f"it needs {int(asked[1]) / 2**30:.1f} GiB at once" if asked else f"out of memory: {text[:200]}"
        return StplError(what, mend="give smaller frames or fewer at once, or free memory")
    return None


def did_you_mean(name: str, known: Iterable[str], form: str = "'{}'") -> str:
    """A question that begins a hint, with a space at its end: "did you mean 'x'? "; empty if nothing is close to it.

    `form` says how the closest of the `known` names is written.
    """
    close = get_close_matches(name, list(known), 1)
    return f"did you mean {form.replace('{}', close[0])}? " if close else ""


def shown(value: object) -> str:
    """A value that a user gave, in one short line; what is no plain type by the name of its type."""
    if value is None:
        return "nothing"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if not isinstance(value, str | Real | list | tuple | dict):
        return f"a {type(value).__name__}"
    text = " ".join(repr(value).split())
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"


def unknown(kind: str, name: str, known: Iterable[str], where: str | Path | None = None) -> ConfigError:
    """The error for a `name` that is none of the `known` ones."""
    names = sorted(known)
    mend = f"{did_you_mean(name, names)}known: {', '.join(names) or 'none'}"
    return ConfigError(f"unknown {kind} '{name}'", where=where, mend=mend)


def check_range(where: str, value: float, low: float = 0.0, high: float = math.inf) -> None:
    """Raise `ConfigError` unless the option `where` is finite and lies between `low` and `high`, ends included."""
    if math.isfinite(value) and low <= value <= high:
        return
    bounds = f"{low:g} or more" if high == math.inf else f"between {low:g} and {high:g}"
    what = f"{value:g} is not {bounds}" if math.isfinite(value) else f"{value:g} is not finite"
    raise ConfigError(what, where=where, mend=f"choose {bounds}" if high == math.inf else f"choose a number {bounds}")


@contextmanager
def refusals(where: str | None = None, mend: str = "mend the setting it names", among: str = "") -> Iterator[None]:
    """Within, what another library raises becomes one line, for it refuses a user's settings.

    What is raised in our own code is a defect and keeps its traceback. Errors of files and memory pass through as well.

    Args:
        where: what is being set up.
        mend: what to do next.
        among: only errors raised in modules whose name begins so.
    """
    try:
        yield
    except (StplError, OSError, MemoryError):
        raise
    except Exception as error:
        module = _raised_in(error)
        if module.split(".")[0] in ("stpl", "__main__") or not module.startswith(among):
            raise
        raise ConfigError(first_line(error), where=where, mend=mend) from error


def first_line(error: BaseException) -> str:
    """What an error says, in its first line that says anything; its kind if it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _raised_in(error: BaseException) -> str:
    """Name of the module in which an error, or what it says it was caused by, was raised."""
    while error.__cause__ is not None:
        error = error.__cause__
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    return str(frames[-1].f_globals.get("__name__", "")) if frames else ""
