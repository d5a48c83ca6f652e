"""`stpl weights ship`: recorded source models become those that the package ships."""

from __future__ import annotations

from pathlib import Path

from stpl.option_types import Count


def weights_ship(*, runs: Path = Path("runs"), seeds: Count = 5) -> None:
    """Make the shipped source models of `streets` from recorded runs.

    Weights are kept in half precision, statistics in single. What such a model reaches on the studio's evaluation
    drives is measured and kept in its file.

    Args:
        runs: folder of all runs; `source` of the seeds 0 to `seeds` - 1 must be recorded there.
        seeds: how many.
    """
    from stpl.runs.ship import ship

    ship(runs, seeds)
