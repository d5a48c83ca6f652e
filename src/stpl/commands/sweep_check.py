"""`stpl sweep check`: is a sweep file right, for W&B's schema and for the program that it runs?

It stands outside `stpl.sweeps`, which knows runs only by what they leave on disk: here the trials' options are parsed.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stpl.errors import ConfigError, StplError
from stpl.option_types import Count

if TYPE_CHECKING:
    from stpl.sweeps.grid import Cell
    from stpl.sweeps.schema import Sweep


def sweep_check(
    files: list[Path],
    *,
    bench: str | None = None,
    seeds: Count | None = None,
    data: Path | None = None,
    experiments: Path | None = None,
    runs: Path = Path("runs"),
) -> None:
    """Check sweep files and print the commands that they would run.

    Each file is held against W&B's sweep schema. Where its command is `stpl fit`, every value of every parameter, and
    the ends of every range, are parsed by that program as well. Nothing is run and nothing is written.

    Args:
        files: sweep files.
        bench: benchmark to check for instead of the one in the files.
        seeds: as for `stpl sweep`.
        data: as for `stpl sweep`.
        experiments: as for `stpl sweep`.
        runs: as for `stpl sweep`.
    """
    from stpl.sweeps.grid import cells, command_line, examples, narrow
    from stpl.sweeps.schema import read_sweep

    plans = [narrow(read_sweep(path), bench, seeds, data, experiments) for path in files]
    for plan in plans:
        checked = [_check_options(plan, cell, runs) for cell in examples(plan)]
        shown = cells(plan) if plan.method == "grid" else examples(plan)
        for cell in shown:
            print(shlex.join(command_line(plan, cell, runs)))
        print(f"{plan.path}: {_summary(plan, len(shown), all(checked))}")


def _summary(plan: Sweep, commands: int, checked: bool) -> str:
    what = f"{commands} cells" if plan.method == "grid" else f"{plan.run_cap} trials by {plan.method}, examples above"
    return what if checked else f"{what}; options not checked, the command is not `stpl fit`"


def _check_options(plan: Sweep, cell: Cell, runs: Path) -> bool:
    """Parse the options of a cell; whether its command is one that can be."""
    from stpl.sweeps.grid import command_line

    arguments = _fit_arguments(command_line(plan, cell, runs))
    if arguments is None:
        return False
    from stpl.runs.build import parse

    try:
        parse(arguments)
    except StplError as error:
        raise _blamed(error, plan, cell) from error
    return True


def _blamed(error: StplError, plan: Sweep, cell: Cell) -> ConfigError:
    """The error of a cell's options, at the file that it names, or else at the sweep file's parameters."""
    settings = ", ".join(f"{name}={value}" for name, value in cell.parameters.items())
    mend = error.mend or "mend the parameter"
    if error.where is not None and _names_a_file(error.where):
        return ConfigError(f"{error.what} (for {plan.path} with {settings})", where=error.where, mend=mend)
    option = "" if error.where is None else f"{error.where}: "
    return ConfigError(f"{option}{error.what} (with {settings})", where=f"{plan.path}: parameters", mend=mend)


def _names_a_file(where: str) -> bool:
    """Whether the place of an error is a file or a place in one (`file:line`, `file: key`), and no option."""
    names = (where, where.rpartition(":")[0], where.partition(": ")[0])
    return os.sep in where or any(Path(name).is_file() for name in names if name)


def _fit_arguments(command: Sequence[str]) -> list[str] | None:
    """What follows `stpl fit` in a command; `None` if it is another program."""
    for place, word in enumerate(command[:-1]):
        if Path(word).name == "stpl" and command[place + 1] == "fit":
            return list(command[place + 2 :])
    return None
