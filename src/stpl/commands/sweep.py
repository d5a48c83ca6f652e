"""`stpl sweep`: run every cell of sweep files exactly once, whatever dies in between."""

from __future__ import annotations

from pathlib import Path

from stpl.option_types import Count, Natural


def sweep(
    files: list[Path],
    *,
    bench: str | None = None,
    seeds: Count | None = None,
    data: Path | None = None,
    experiments: Path | None = None,
    runs: Path = Path("runs"),
    storage: str | None = None,
    workers: Natural = 1,
    attempts: Count = 3,
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
    """
    from stpl.sweeps.engine import run
    from stpl.sweeps.grid import narrow
    from stpl.sweeps.schema import read_sweep
    from stpl.sweeps.supervisor import WorkerOptions

    sweeps = [narrow(read_sweep(path), bench, seeds, data, experiments) for path in files]
    run(sweeps, WorkerOptions(runs, storage, attempts, sampler), workers, dry_run=dry_run)
