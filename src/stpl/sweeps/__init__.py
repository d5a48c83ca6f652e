"""A grid of runs: read the sweep file, schedule, survive crashes, record. Imports no torch."""

from stpl.sweeps.engine import sweep

__all__ = ["sweep"]
