"""A grid of runs: read the sweep file, schedule, survive crashes, record. Imports no torch.

Begin with `engine`, `schema` (what a file may say) and `queues` (what is left to run).
"""
