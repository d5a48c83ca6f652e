"""`stpl sweep`: run every cell of sweep files exactly once, whatever dies in between."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

from rich.console import Console

from stpl.errors import AtLeast, ConfigError, StplError, Terminated
from stpl.machine import visible_gpus
from stpl.sweeps.grid import cells, command_line, examples, narrow
from stpl.sweeps.interrupts import orderly_interrupts
from stpl.sweeps.launcher import Launcher, own_arguments
from stpl.sweeps.schema import Sweep, read_sweep
from stpl.sweeps.supervisor import WorkerOptions, places, supervise

_MOST_WORKERS = 1024  # of one call, on one machine


def sweep(
    files: list[Path],
    *,
    bench: str | None = None,
    seeds: int | None = None,
    data: Path | None = None,
    experiments: Path | None = None,
    runs: Path = Path("runs"),
    storage: str | None = None,
    workers: Annotated[int, AtLeast(0)] = 1,
    attempts: int = 3,
    sampler: str | None = None,
    dry_run: bool = False,
) -> None:
    """Run the cells of sweep files, one subprocess each, skipping what is recorded.

    The files run in the given order; one begins only when every cell of those before it is done. Call it again at
    any time: what is recorded is skipped, what was killed resumes from its checkpoint. Call it on several machines with
    one `storage` and one shared folder of runs, and they share the work.

    Args:
        files: sweep files in W&B's schema; `table3` is the shipped one of that name.
        bench: benchmark to run on instead of the one in the files.
        seeds: run the seeds 0 to this number minus one instead of those in the files (a constant seed stays).
        data: folder of the data sets, handed to every trial as `data.root`.
        experiments: folder of your own overlays and tables.yaml, beside the shipped ones; ./experiments if not given.
        runs: folder of all runs.
        storage: URL of the database that several workers share (SQLite, PostgreSQL, MySQL, or `grpc://host:port` of
            `stpl sweep serve`); an SQLite file beside the runs if not given.
        workers: trials side by side on this machine, each with its own GPU, or its share of the CPU cores where there
            is none; 0 for one per GPU, or without any one per core, at most four.
        attempts: how often a trial that fails is tried before it is recorded as failed and the sweep goes on.
        sampler: of searches: tpe (the default of `bayes`), random, gp, qmc or cmaes.
        dry_run: list the cells and whether they are recorded, and run nothing.

    Raises:
        StplError: for a sweep file, a record or a trial's options that cannot be used as they are.
        SystemExit: 1 if trials failed for good; 130 after Ctrl-C, and 128 and its number after another signal; all
            stays resumable.
    """
    if attempts < 1:
        raise ConfigError(f"{attempts} attempts are none", where="attempts", mend="choose 1 or more")
    if not 0 <= workers <= _MOST_WORKERS:
        raise ConfigError(f"{workers} workers are not possible", where="workers", mend=f"choose 0 to {_MOST_WORKERS}")
    if os.name != "posix":
        raise StplError("sweeps need process groups, which this system lacks", mend="run it on Linux, macOS or WSL")
    console = Console(highlight=False)
    sweeps = [narrow(read_sweep(path), bench, seeds, data, experiments) for path in files]
    _check(sweeps, sampler)
    if dry_run:
        for plan in sweeps:
            _show(plan, runs, console)
    elif all(_is_recorded(plan, runs) for plan in sweeps):
        for plan in sweeps:
            console.print(f"{plan.path.stem}: all {len(cells(plan))} cells are recorded", markup=False, soft_wrap=True)
    else:
        if len(places(workers)) == 1:
            _work(sweeps, WorkerOptions(runs, storage, attempts, sampler), console)
            return
        narrowed = {"bench": bench, "seeds": seeds, "data": data, "experiments": experiments}
        shared = {"runs": runs, "storage": storage, "attempts": attempts, "sampler": sampler}
        supervise(files, narrowed | shared, workers, console)


def _check(sweeps: list[Sweep], sampler: str | None) -> None:
    """Tell every mistake before anything runs."""
    for plan in sweeps:
        for cell in examples(plan):
            command_line(plan, cell)
        if plan.method != "grid" and sampler is not None:
            from stpl.sweeps.queues import check_sampler

            check_sampler(plan, sampler)


def _show(plan: Sweep, runs: Path, console: Console) -> None:
    """List the cells without running any."""
    if plan.method != "grid":
        line = f"{plan.path.stem}: a search of {plan.run_cap} trials; `stpl sweep check` shows examples"
        console.print(line, markup=False, soft_wrap=True)
        return
    found = cells(plan)
    for index, cell in enumerate(found, 1):
        state = "to run" if cell.key.read(runs) is None else "recorded"
        console.print(f"[{index}/{len(found)}] {cell.title}: {state}", markup=False, soft_wrap=True)


def _is_recorded(plan: Sweep, runs: Path) -> bool:
    return plan.method == "grid" and all(cell.key.read(runs) is not None for cell in cells(plan))


def _work(sweeps: list[Sweep], options: WorkerOptions, console: Console) -> None:
    try:
        with Launcher(prepared=_may_prepare(sweeps)) as launcher, orderly_interrupts():
            from stpl.sweeps.runner import Worker  # Optuna takes most of a second to import, the launcher more

            for plan in sweeps:
                if not Worker(plan, options, launcher, console).work():
                    raise SystemExit(1)
    except KeyboardInterrupt as interrupt:
        console.print("interrupted; call again to resume")
        raise SystemExit(interrupt.exit_code if isinstance(interrupt, Terminated) else 130) from None


def _may_prepare(sweeps: list[Sweep]) -> bool:
    """Whether trials run this program and survive a fork, with no GPU and none of macOS's frameworks."""
    commands = [command_line(plan, cell) for plan in sweeps for cell in examples(plan)[:1]]
    own = any(own_arguments(command) is not None for command in commands)
    return own and sys.platform == "linux" and not visible_gpus()
