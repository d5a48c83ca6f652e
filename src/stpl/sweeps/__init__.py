"""A grid of runs: read the sweep file, schedule, survive crashes, record. Imports no torch.

Begin with `engine` (the verb), `schema` (what a file may say) and `schedule` (who runs what).
"""

from stpl.sweeps.engine import sweep

__all__ = ["sweep"]
