"""`stpl sweep`: run every cell of sweep files exactly once, whatever dies in between."""

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from stpl.errors import ConfigError, StplError, Terminated
from stpl.machine import visible_gpus
from stpl.sweeps.grid import cells, command_line, examples
from stpl.sweeps.interrupts import orderly_interrupts
from stpl.sweeps.launcher import Launcher, own_arguments
from stpl.sweeps.schema import Sweep
from stpl.sweeps.supervisor import WorkerOptions, places, supervise

_MOST_WORKERS = 1024  # of one call, on one machine


def run(sweeps: Sequence[Sweep], options: WorkerOptions, workers: int = 1, *, dry_run: bool = False) -> None:
    """Run the cells of sweeps, narrowed alike, that are not recorded yet; see `stpl sweep`.

    Raises:
        StplError: for a sweep file, a record or a trial's options that cannot be used as they are.
        SystemExit: 1 if trials failed for good; 130 after Ctrl-C, and 128 and its number after another signal.
    """
    if not 0 <= workers <= _MOST_WORKERS:
        raise ConfigError(f"{workers} workers are not possible", where="workers", mend=f"choose 0 to {_MOST_WORKERS}")
    if os.name != "posix":
        raise StplError("sweeps need process groups, which this system lacks", mend="run it on Linux, macOS or WSL")
    console = Console(highlight=False)
    for plan in sweeps:  # every mistake is reported before anything runs
        for cell in examples(plan):
            command_line(plan, cell)
        if plan.method != "grid" and options.sampler is not None:
            from stpl.sweeps.queues import check_sampler

            check_sampler(options.sampler)
    if dry_run:
        for plan in sweeps:
            _show(plan, options.runs, console)
    elif all(plan.method == "grid" and all(cell.key.read(options.runs) for cell in cells(plan)) for plan in sweeps):
        for plan in sweeps:
            console.print(f"{plan.path.stem}: all {len(cells(plan))} cells are recorded", markup=False, soft_wrap=True)
    elif len(places(workers)) == 1:
        _work(sweeps, options, console)
    else:
        supervise([plan.path for plan in sweeps], {**sweeps[0].narrowed, **asdict(options)}, workers, console)


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


def _work(sweeps: Sequence[Sweep], options: WorkerOptions, console: Console) -> None:
    try:
        with Launcher(prepared=_may_prepare(sweeps)) as launcher, orderly_interrupts():
            from stpl.sweeps.runner import Worker  # Optuna takes most of a second to import, the launcher more

            for plan in sweeps:
                if not Worker(plan, options, launcher, console).work():
                    raise SystemExit(1)
    except KeyboardInterrupt as interrupt:
        console.print("interrupted; call again to resume")
        raise SystemExit(interrupt.exit_code if isinstance(interrupt, Terminated) else 130) from None


def _may_prepare(sweeps: Sequence[Sweep]) -> bool:
    """Whether trials run this program and survive a fork, with no GPU and none of macOS's frameworks."""
    commands = [command_line(plan, cell) for plan in sweeps for cell in examples(plan)[:1]]
    own = any(own_arguments(command) is not None for command in commands)
    return own and sys.platform == "linux" and not visible_gpus()
