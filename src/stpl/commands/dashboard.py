"""The verbs of `stpl dashboard`: runs in W&B, sweeps in Optuna's dashboard."""

from pathlib import Path

from stpl.option_types import Natural


def dashboard_wandb(
    *,
    bench: str = "streets",
    project: str = "stpl",
    entity: str | None = None,
    out: Path | None = None,
    experiments: Path | None = None,
) -> None:
    """Save a W&B workspace that shows a benchmark's runs: mIoU, IoU per class, feature space, time, pictures.

    Every call saves a new view; delete those that are no longer wanted in W&B.

    Args:
        bench: benchmark whose runs to show.
        project: W&B project that the runs are in.
        entity: user or team that owns the project; the account's default if not given.
        out: write the definition to this JSON file instead; needs no account and sends nothing.
        experiments: folder of your own overlays, beside the shipped ones; ./experiments if not given.
    """
    import json

    from stpl.files import write_atomically
    from stpl.report.dashboard import definition, save, workspace

    view = workspace(bench, project, entity or "", experiments)
    if out is None:
        save(view)
    else:
        write_atomically(out, json.dumps(definition(view), indent=1) + "\n")
        print(f"definition: {out}")


def dashboard_optuna(*, bench: str = "streets", storage: str | None = None, port: Natural = 8080) -> None:
    """Show the sweeps of a benchmark in Optuna's dashboard, on this machine alone, until interrupted.

    Args:
        bench: benchmark whose sweeps to show.
        storage: URL of the sweeps' database; the SQLite file beside the runs if not given.
        port: of 127.0.0.1 to listen on.
    """
    from stpl.report.dashboard import show_sweeps

    show_sweeps(bench, storage, port)
