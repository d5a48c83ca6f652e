"""A grid of runs: read the sweep file, schedule, survive crashes, record. Imports no torch.

Begin with `engine`, `schema` (what a file may say) and `schedule` (who runs what).
"""
