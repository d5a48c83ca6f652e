"""Where a checkpoint lies: a file, or a source model that the package ships. This module imports no torch."""

from pathlib import Path

from stpl.errors import CheckpointError

SHIPPED = Path(__file__).parents[1] / "models"
"""The folder of the models that are part of the package."""


def located(path: Path) -> Path:
    """The file that `path` means: itself, or where there is none, the shipped model that it names.

    `streets` is the source model of seed 0 of that benchmark, `streets:3` that of seed 3; raises `CheckpointError` for
    a seed of which none is shipped.
    """
    bench, _, seed = str(path).partition(":")
    folder = SHIPPED / bench
    if not bench.isidentifier() or not folder.is_dir() or path.is_file():
        return path
    found = shipped(bench, seed or "0")
    if found.is_file():
        return found
    known = sorted(file.stem.removeprefix("source-") for file in folder.glob("source-*.safetensors"))
    mend = f"choose one of the seeds {', '.join(known)}" if known else "`make ship` trains them"
    raise CheckpointError(f"no source model of {bench} with seed {seed or 0} is shipped", where=str(path), mend=mend)


def shipped(bench: str, seed: int | str) -> Path:
    """Where the package keeps the source model of a benchmark that it ships for a seed, if it does."""
    return SHIPPED / bench / f"source-{seed}.safetensors"


def existing(path: Path) -> Path:
    """The file that `path` means (`located`); raises `CheckpointError` if there is none."""
    try:
        path = located(path)
        if path.is_file():
            return path
        is_folder = path.is_dir()
    except OSError as error:  # a name that is too long for a file, a folder that may not be looked into
        what = f"cannot be looked for ({error.strerror})"
        raise CheckpointError(what, where=str(path)[:100], mend="check the path and its permissions") from error
    if is_folder:
        raise CheckpointError("is a folder, not a checkpoint", where=path, mend="name the file in it")
    mend = "train it first, or give the path of another"
    if "://" in str(path) or ":/" in str(path):  # Path has made one slash of two
        mend = "download it first, and give the file"
    elif not path.suffix or ":" in path.name:
        mend += "; a function that builds a network is named package.module:callable"
    raise CheckpointError("no such checkpoint", where=path, mend=mend)
