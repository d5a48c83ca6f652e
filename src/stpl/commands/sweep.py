"""The verbs of `stpl sweep`.

`check` stands outside `stpl.sweeps`, which knows runs only by what they leave on disk: here trials' options are parsed.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stpl.errors import ConfigError, StplError
from stpl.option_types import Count, Natural
from stpl.sweeps.supervisor import WorkerOptions

if TYPE_CHECKING:
    from stpl.sweeps.grid import Cell
    from stpl.sweeps.schema import Sweep


@dataclass(frozen=True)
class SweepFiles:
    """Sweep files, and what is changed in them.

    Attributes:
        files: sweep files in W&B's schema; `table3` is the shipped one of that name.
        bench: benchmark to run on instead of the one in the files.
        seeds: run the seeds from a file's smallest one to this number minus one (a constant seed stays).
        data: folder of the data sets, handed to every trial as `data.root`.
        experiments: folder of your own overlays and tables.yaml, beside the shipped ones; ./experiments if not given.
    """

    files: list[Path]
    bench: str | None = None
    seeds: Count | None = None
    data: Path | None = None
    experiments: Path | None = None

    def read(self) -> list[Sweep]:
        """The sweeps; raises `ConfigError` for what is wrong in a file."""
        from stpl.sweeps.grid import narrow
        from stpl.sweeps.schema import read_sweep

        return [narrow(read_sweep(path), self.bench, self.seeds, self.data, self.experiments) for path in self.files]


def sweep(sweeps: SweepFiles, *, options: WorkerOptions, workers: Natural = 1, dry_run: bool = False) -> None:
    """Run the cells of sweep files, one subprocess each, skipping what is recorded.

    The files run in the given order; one begins only when every cell of those before it is done. Call it again at
    any time: what is recorded is skipped, what was killed resumes from its checkpoint. Call it on several machines with
    one `storage` and one shared folder of runs, and they share the work.

    Args:
        sweeps: what to run.
        options: of each worker.
        workers: trials side by side on this machine, each with its own GPU, or its share of the CPU cores where there
            is none; 0 for one per GPU, or without any one per core, at most four.
        dry_run: list the cells and whether they are recorded, and run nothing.
    """
    from stpl.sweeps.engine import run

    run(sweeps.read(), options, workers, dry_run=dry_run)


def sweep_tune(
    file: Path,
    *,
    options: WorkerOptions,
    rows: list[str] | None = None,
    tables: Path = Path("tuning"),
    workers: Natural = 1,
) -> None:
    """Search the settings of many rows, each in the same way.

    A tuning file names the rows, what their runs have in common, and for each the settings that are searched, one after
    the other: every value of the first, at the first values of the rest; then those of the second at the best value of
    the first; and so on. The best has the highest mean mIoU over the seeds at the last step; of means within 0.05 the
    smallest value. A value with a run that failed for good is not chosen. A row that has a table is done. Call it again
    at any time: what is recorded is not run again.

    Args:
        file: tuning file, such as `sweeps/tuning/table1.yaml`.
        options: of each worker.
        rows: search these alone.
        tables: folder of the tables; each row's is written at its end.
        workers: trials side by side on this machine, as for `stpl sweep`.
    """
    from stpl.sweeps.tuning import read_tuning, tune

    tune(read_tuning(file), rows or (), tables, options, workers)


def sweep_check(sweeps: SweepFiles, *, runs: Path = Path("runs")) -> None:
    """Check sweep files and print the commands that they would run.

    Each file is held against W&B's sweep schema. Where its command is `stpl fit`, every value of every parameter, and
    the ends of every range, are parsed by that program as well. Nothing is run and nothing is written.

    Args:
        sweeps: what to check.
        runs: folder of all runs.
    """
    from stpl.sweeps.grid import cells, command_line, examples

    for plan in sweeps.read():
        grid = plan.method == "grid"
        checked = [_check_options(plan, cell, command_line(plan, cell, runs)) for cell in examples(plan)]
        shown = cells(plan) if grid else examples(plan)
        for cell in shown:
            print(shlex.join(command_line(plan, cell, runs)))
        what = f"{len(shown)} cells" if grid else f"{plan.run_cap} trials by {plan.method}, examples above"
        unchecked = "" if all(checked) else "; options not checked, the command is not `stpl fit`"
        print(f"{plan.path}: {what}{unchecked}")


def _check_options(plan: Sweep, cell: Cell, command: Sequence[str]) -> bool:
    """Parse what follows `stpl fit` in the command of a cell; `False` if it is another program's."""
    calls = (place for place, word in enumerate(command[:-1]) if Path(word).name == "stpl")
    begin = next((place + 2 for place in calls if command[place + 1] == "fit"), None)
    if begin is None:
        return False
    from stpl.runs.build import parse

    try:
        parse(list(command[begin:]))
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


def sweep_serve(*, storage: str, host: str = "localhost", port: Natural = 13000) -> None:
    """Share a database through one port.

    One process, Optuna's gRPC proxy, serves it: `stpl sweep --storage=grpc://HOST:PORT`.

    For SQLite over several machines, and for more workers than a database takes connections.

    Args:
        storage: URL of the database.
        host: name or address to listen on; `0.0.0.0` for all. There is no password: use it within one network.
        port: to listen on.
    """
    from stpl.sweeps.storage import serve

    serve(storage, host, port)


def sweep_status(*, bench: str | None = None, runs: Path = Path("runs"), storage: str | None = None) -> None:
    """Show what sweeps are doing: what runs where, what failed and why, and the time left.

    Args:
        bench: show only this benchmark's sweeps.
        runs: folder of all runs.
        storage: URL of the database; the SQLite files beside the runs if not given.
    """
    from rich.console import Console

    from stpl.sweeps.status import read_status, show

    urls = [storage] if storage else [f"sqlite:///{path.absolute()}" for path in sorted(runs.glob("*/sweeps.sqlite3"))]
    found = [item for url in urls for item in read_status(url, runs) if bench in (None, item.study.partition("/")[0])]
    if not found:
        raise ConfigError("no sweep has been started", where=storage or runs, mend="start one: stpl sweep FILE…")
    for item in found:
        show(item, Console(highlight=False))
