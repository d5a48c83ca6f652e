"""`stpl adapt guard`: which networks the guard chooses in recorded runs, and how good they are by labels."""

from __future__ import annotations

from pathlib import Path

from stpl.apply.settings import RECOMMENDED
from stpl.option_types import Count


def adapt_guard(
    *, experiment: str = RECOMMENDED, runs: Path = Path("runs"), clips: Count | None = None, json: Path | None = None
) -> None:
    """Have the guard choose among the networks that recorded runs on streets kept, and compare its choices by labels.

    The guard sees frames of the training drives, without labels, as many as in `stpl adapt`; mIoU is that of the
    evaluation drives. Record the runs with `stpl sweep recommended`.

    Args:
        experiment: whose runs, with `run.keep_all`.
        runs: folder of all runs.
        clips: how many the guard sees; as many as in `stpl adapt` if not given.
        json: file for the figures.
    """
    from stpl.apply.guard_quality import show_choices

    show_choices(experiment, runs, clips, json)
