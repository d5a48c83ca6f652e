"""A grid of runs: read the sweep file, schedule, survive crashes, record."""
