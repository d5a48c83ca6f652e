"""What the rows of a table need to be trained, and what that took."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from stpl.report.sheet import NOTHING, Sheet, number
from stpl.report.suite import Suite
from stpl.runs.experiments import NEEDS, Row
from stpl.runs.record import RunRecord

_NOTES = (
    "Source data, video: whether training takes labelled clips of the source, and more than single frames of the "
    "target. Steps: of the row's own run, without those of the run it starts from.",
    "Seconds a step: wall time of a run, evaluations and stages of labels included, over its steps; memory: its peak. "
    "Both are medians over seeds, on the machines that ran them; runs side by side slow each other down.",
)
_HEADER = ("row", *NEEDS, "seeds", "steps", "seconds_per_step", "peak_memory_mb")


def costs_sheet(suite: Suite) -> Sheet | None:
    """One line for each recorded row of which the catalogue says what it needs; `None` if there is none."""
    rows = {
        row.experiment: row
        for table in suite.tables()
        for row in table.rows
        if row.experiment and row.needs is not None
    }
    found = [(row, records) for name, row in rows.items() if (records := suite.records(name))]
    if not found:
        return None
    header = ["Method", "Source data", "Video", "Seeds", "Steps", "Seconds a step", "Memory, MB"]
    return Sheet(
        "costs",
        f"What methods need and take, {suite.title}",
        header,
        [_cells(row, records, NOTHING) for row, records in found],
        _NOTES,
        _HEADER,
        [_cells(row, records, "") for row, records in found],
    )


def _cells(row: Row, records: Sequence[RunRecord], nothing: str) -> list[str]:
    timed = [record["seconds"] / record["steps"] for record in records if record["steps"]]
    peaks = [record["peak_memory_mb"] for record in records if record["peak_memory_mb"] is not None]
    return [
        row.title,
        *("yes" if need in (row.needs or ()) else "no" for need in NEEDS),
        str(len(records)),
        str(max(record["steps"] for record in records)),
        number(statistics.median(timed) if timed else None, nothing=nothing),
        number(statistics.median(peaks) if peaks else None, ".0f", nothing=nothing),
    ]
