"""`stpl dashboard wandb`: a workspace of W&B for the runs of a benchmark."""

from __future__ import annotations

from pathlib import Path


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
