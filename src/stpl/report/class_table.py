"""IoU of every class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stpl.errors import RecordError
from stpl.pictures.colours import class_colour
from stpl.report.averages import mean
from stpl.report.sheet import Column, Sheet, TableCell, number, plain, same
from stpl.report.suite import Suite
from stpl.runs.record import RunRecord

_NOTE = "IoU in percent at the last step, mean over seeds; – where a class or a record is absent."


@dataclass(frozen=True)
class ClassLine:
    """Per-class IoU of one experiment at the last step.

    Attributes:
        title: the first row title that shows this experiment; for a row of the paper, "(paper)" is added.
        experiment: whose runs it averages; `None` for a row of the paper.
        seeds: number of records; 0 for a row of the paper.
        miou: mean mIoU over seeds in percent, `None` without a record.
        iou: class → mean IoU over the seeds where the class occurs, in percent; `None` where it never does.
    """

    title: str
    experiment: str | None
    seeds: int
    miou: float | None
    iou: dict[str, float | None]


def class_lines(suite: Suite) -> tuple[list[str], list[ClassLine]]:
    """Class names in train-id order, and one line per experiment that any table shows, in the tables' order.

    Where the paper states IoU per class on the benchmark, its lines follow.

    Raises:
        RecordError: for a torn record, or records of different label spaces.
    """
    titles = suite.shown()
    classes = _common_classes([record for name in titles for record in suite.records(name)], suite)
    lines = [_line(title, name, suite.records(name), classes) for name, title in titles.items()]
    stated = list(suite.catalogue.paper_classes.get(suite.bench, ()))
    return classes or stated, [*lines, *_paper_lines(suite, stated)]


def _line(title: str, experiment: str, records: Sequence[RunRecord], classes: Sequence[str]) -> ClassLine:
    iou = {name: mean(record["last"]["iou"].get(name) for record in records) for name in classes}
    return ClassLine(title, experiment, len(records), mean(record["last"]["miou"] for record in records), iou)


def _paper_lines(suite: Suite, classes: Sequence[str]) -> list[ClassLine]:
    rows = [row for table in suite.catalogue.tables for row in table.rows if suite.bench in row.paper_iou]
    return [
        ClassLine(
            f"{row.title} (paper)",
            None,
            0,
            row.paper.get(suite.bench),
            dict(zip(classes, row.paper_iou[suite.bench], strict=True)),
        )
        for row in rows
    ]


def _common_classes(records: Sequence[RunRecord], suite: Suite) -> list[str]:
    for record in records:
        if record["classes"] != records[0]["classes"]:
            folder = suite.directory(record)
            raise RecordError(
                f"its classes {record['classes']} differ from {records[0]['classes']} of other runs",
                where=folder,
                mend=f"delete the folder {folder} to run it again",
            )
    return records[0]["classes"] if records else []


def classes_sheet(suite: Suite) -> Sheet:
    """IoU of every class at the last step."""
    classes, lines = class_lines(suite)
    columns = [
        *(Column(name, (name,)) for name in ("row", "seeds", "miou")),
        *(Column(name, (name,), class_colour(name)) for name in classes),
    ]
    cells = [_cells(line, classes) for line in lines]
    names = [line.experiment for line in lines]
    return Sheet("per_class", f"Per-class IoU, {suite.title}", columns, cells, [_NOTE], names)


def _cells(line: ClassLine, classes: Sequence[str]) -> list[TableCell]:
    run = line.experiment if line.experiment and line.seeds else ""
    values = [line.miou, *map(line.iou.get, classes)]
    return [
        same(line.title, run),
        same(str(line.seeds), run),
        *(TableCell(number(value, ".1f"), plain(value), run, number(value), heat=value) for value in values),
    ]
