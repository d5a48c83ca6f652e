"""The folder of a run: made, locked, and cleared of what a refusal left behind. Imports no torch."""

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from stpl.errors import ConfigError, RecordError, StplError
from stpl.files import locked, writing
from stpl.runs.record import CONFIG, METRICS, RECORD

LOG = "log.txt"
"""File name of what a trial of a sweep said, which is there before its run is."""

START = "start.ckpt"
"""File name of the network that an adaptation begins with, inside its folder."""

_LOCK = ".lock"
_OF_RUNS = frozenset({_LOCK, RECORD})  # by which a run's folder is known, beside its settings
_BEFORE = frozenset({LOG, "sweep_arguments.json", "wandb.id", "wandb", "flow"})
"""What may lie in a run's folder before it: of a sweep, of W&B, and flow that a refused call estimated."""

_SHOWN = 5


@contextlib.contextmanager
def run_folder(directory: Path) -> Iterator[None]:
    """A run's folder, made if absent and locked; of a refusal before the first checkpoint, no trace stays in it.

    Raises:
        ConfigError: it holds files and is no run's folder.
        RecordError: as `lock_run`.
    """
    made = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    fresh = is_fresh(directory)
    with lock_run(directory):
        try:
            yield
        except StplError as error:
            if fresh and error.exit_code == StplError.exit_code and not (directory / RECORD).exists():
                with contextlib.suppress(OSError):  # the refusal is what matters
                    _clear(directory, made)
            raise


def is_fresh(directory: Path) -> bool:
    """Whether a folder is absent or empty; raises `ConfigError` for one that holds what no run wrote."""
    names = sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []
    if not names or _BEFORE.issuperset(names) or not _OF_RUNS.isdisjoint(names):
        return not names
    config = directory / CONFIG
    if config.is_file() and re.search(r"^run:", config.read_text(encoding="utf-8", errors="replace"), re.MULTILINE):
        return False
    shown = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
    raise ConfigError(f"holds files that no run wrote ({shown})", where=directory, mend="give another folder")


def _clear(directory: Path, made: Sequence[Path]) -> None:
    """Remove what a run wrote before its first checkpoint, then the folders that were made for it and are empty."""
    if any(path.name != START for path in directory.rglob("*.ckpt")):
        return
    inner = [path for path in directory.iterdir() if path.is_dir() and (path / CONFIG).is_file()]
    for folder in (*inner, directory):
        for name in (CONFIG, METRICS, START):
            (folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            (folder / "checkpoints").rmdir()
    (directory / _LOCK).unlink(missing_ok=True)
    for folder in (*inner, *made):
        folder.rmdir()


@contextlib.contextmanager
def lock_run(directory: Path) -> Iterator[None]:
    """Keep two processes, or two threads, from training in one folder; see `stpl.files.locked`.

    Raises:
        RecordError: another process, which it names, trains there.
        ConfigError: the file system keeps no locks.
    """
    path = directory / _LOCK

    def refuse() -> None:
        what = f"process {path.read_text(errors='replace').strip() or 'unknown'} is training in this folder"
        raise RecordError(what, where=directory, mend="wait for it to end, or stop it, then call again")

    with locked(path, refuse):
        with writing(path):
            path.write_text(f"{os.getpid()}\n")
        yield
