"""Where overlays and sweep files lie: in a folder of the user's own, and beside it those that the package ships.

In a checkout the shipped ones are `experiments/` and `sweeps/` at its top; a wheel carries copies of both.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from stpl.errors import ConfigError

_PACKAGE = Path(__file__).parents[1]
_HOME = next(place for place in (_PACKAGE / "recipes", _PACKAGE.parents[1]) if (place / "experiments").is_dir())

EXPERIMENTS, SWEEPS = _HOME / "experiments", _HOME / "sweeps"
"""What is shipped."""

VARIABLE = "STPL_EXPERIMENTS"
"""Environment variable that names the user's folder of overlays, where no option does."""


def experiment_folders(own: Path | None = None) -> list[Path]:
    """The folders in which overlays are looked for, in this order, the shipped one last.

    Args:
        own: the user's folder; `$STPL_EXPERIMENTS` or else `experiments` in the working directory, if it is there, if
            not given.

    Raises:
        ConfigError: if the named folder is not there.
    """
    named = own or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    if named is not None and not named.is_dir():
        raise ConfigError("no such folder of experiments", where=named, mend="check --experiments, or leave it out")
    here = named or Path("experiments")
    return [here, EXPERIMENTS] if here.is_dir() and not here.samefile(EXPERIMENTS) else [EXPERIMENTS]


def find(name: str, folders: Sequence[Path]) -> Path:
    """The overlay `name` (no suffix) in the first of the folders that has it; otherwise where the last should."""
    paths = [folder / f"{name}.yaml" for folder in folders]
    return next((path for path in paths if path.is_file()), paths[-1])


def sweep_file(path: Path) -> Path:
    """A sweep file, or the shipped one of that name (`sweeps/table3.yaml` or `table3`) where it is not there."""
    if path.exists() or path.parent.name not in ("", SWEEPS.name) or path.name in ("", ".."):
        return path
    shipped = SWEEPS / path.with_suffix(".yaml").name
    return shipped if shipped.is_file() else path
