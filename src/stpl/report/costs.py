"""What the rows of a table need to be trained, and what that took."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from stpl.report.sheet import Column, Sheet, TableCell, number, same
from stpl.report.suite import Suite
from stpl.runs.experiments import NEEDS, Row
from stpl.runs.record import RunRecord

_NOTES = (
    "Source data, video: whether training takes labelled clips of the source, and more than single frames of the "
    "target. Steps: of the row's own run, without those of the run it starts from.",
    "Seconds a step: wall time of a run, evaluations and stages of labels included, over its steps; memory: its peak. "
    "Both are medians over seeds, on the machines that ran them; runs side by side slow each other down.",
)
_COLUMNS = (
    Column("Method", ("row",)),
    Column("Source data", ("source",)),
    Column("Video", ("video",)),
    Column("Seeds", ("seeds",)),
    Column("Steps", ("steps",)),
    Column("Seconds a step", ("seconds_per_step",)),
    Column("Memory, MB", ("peak_memory_mb",)),
)


def costs_sheet(suite: Suite) -> Sheet | None:
    """One line for each recorded row of which the catalogue says what it needs; `None` if there is none."""
    rows = {
        row.experiment: row
        for table in suite.tables()
        for row in table.rows
        if row.experiment and row.needs is not None
    }
    cells = [_cells(row, records) for name, row in rows.items() if (records := suite.records(name))]
    return Sheet("costs", f"What methods need and take, {suite.title}", _COLUMNS, cells, _NOTES) if cells else None


def _cells(row: Row, records: Sequence[RunRecord]) -> list[TableCell]:
    timed = [record["seconds"] / record["steps"] for record in records if record["steps"]]
    peaks = [record["peak_memory_mb"] for record in records if record["peak_memory_mb"] is not None]
    return [
        same(row.title),
        *(same("yes" if need in (row.needs or ()) else "no") for need in NEEDS),
        same(str(len(records))),
        same(str(max(record["steps"] for record in records))),
        _median(timed, ".2f"),
        _median(peaks, ".0f"),
    ]


def _median(values: Sequence[float], form: str) -> TableCell:
    median = statistics.median(values) if values else None
    return TableCell(number(median, form), (number(median, form, nothing=""),))
