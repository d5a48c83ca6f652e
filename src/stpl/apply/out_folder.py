"""The folder that a command fills: checked before anything is computed, and there only once all is written.

Imports no torch.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import FrameType

from stpl.errors import ConfigError, Terminated, cannot_write
from stpl.files import PARTIAL, half_written, writing
from stpl.signals import ENDING_SIGNALS, heard


def check_out(out: Path) -> None:
    """Refuse a folder to write into unless it is absent or empty, and can be written; a link to one is followed.

    Raises:
        ConfigError: it holds something, lies below a file, or may not be written.
    """
    target = _target(out)
    if target.exists() and not (target.is_dir() and all(map(_is_left_over, target.iterdir()))):
        raise ConfigError("there is something here already", where=out, mend="delete it, or give another --out")
    above = next(folder for folder in (target, *target.parents) if os.path.lexists(folder))
    if not above.is_dir():
        raise ConfigError(f"{above} is no folder", where=out, mend="give another --out")
    if not os.access(above, os.W_OK | os.X_OK):
        what = f"permission denied: nothing may be written into {above}"
        raise ConfigError(what, where=out, mend="give another --out")


@contextmanager
def filled(out: Path) -> Iterator[Path]:
    """A hidden folder to write into, which becomes `out` at the end; whatever fails, nothing of it stays.

    An `out` that is there already, empty, is filled at the end and not replaced: it may be a link or a disk.

    Raises:
        ConfigError: as `check_out`.
        StplError: it cannot be written.
    """
    check_out(out)
    target = _target(out)
    place = target if target.is_dir() else target.parent
    with writing(out), half_written(place) as partial, signals_raise():
        partial.mkdir()
        yield partial
        check_out(out)  # something may have come to lie there meanwhile
        if place == target:
            for entry in sorted(partial.iterdir()):
                entry.replace(target / entry.name)
            partial.rmdir()
        else:
            partial.replace(target)


def _target(out: Path) -> Path:
    """Where `out` leads; raises `ConfigError` for a link that leads to itself and for a name that cannot be."""
    target = Path(os.path.realpath(out))
    try:
        looped = target.is_symlink()
        target.exists()
    except OSError as error:
        raise cannot_write(out, error, kind=ConfigError) from None
    if looped:
        raise ConfigError("the link leads to itself", where=out, mend="give another --out")
    return target


def _is_left_over(path: Path) -> bool:
    """Whether it is left of an earlier call that was killed."""
    return path.name.startswith(".") and path.suffix == PARTIAL


def signals_raise() -> AbstractContextManager[None]:
    """Within it, signals that end a run raise `Terminated`, so that what is half-written is removed."""

    def terminate(number: int, _: FrameType | None) -> None:
        raise Terminated(number)

    return heard(terminate, ENDING_SIGNALS)
