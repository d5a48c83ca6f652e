"""From run records to the numbers of a table's rows."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stpl.errors import RecordError
from stpl.experiments import Catalogue, Row, Table
from stpl.record import RECORD, RunKey, RunRecord, read_records


@dataclass(frozen=True)
class Line:
    """One row of a table with what was measured; all mIoU in percent, `None` where there is nothing to show.

    Attributes:
        title: the row's title.
        seeds: the seeds with a record.
        last: mean over seeds of the mIoU at the last step.
        spread: sample standard deviation of the same over seeds; `None` for fewer than two.
        selected: mean at the checkpoint chosen without labels.
        best: mean at the checkpoint chosen on target labels.
        delta: `last` minus that of the table's reference experiment.
        paper: the mIoU that the paper states on `TableLines.paper_bench`.
    """

    title: str
    seeds: tuple[int, ...]
    last: float | None
    spread: float | None
    selected: float | None
    best: float | None
    delta: float | None
    paper: float | None


@dataclass(frozen=True)
class TableLines:
    """A table with its numbers.

    Attributes:
        table: what the catalogue says about it.
        bench: the benchmark that was measured on.
        paper_bench: the benchmark of the paper's numbers; the same as `bench` if the paper has any on it.
        lines: its rows.
        criteria: names of the label-free criteria that chose `selected`.
    """

    table: Table
    bench: str
    paper_bench: str
    lines: tuple[Line, ...]
    criteria: tuple[str, ...]

    @property
    def has_paper(self) -> bool:
        """Whether the paper states any number for this table."""
        return any(line.paper is not None for line in self.lines)


def table_lines(table: Table, bench: str, runs: Path) -> TableLines:
    """Compute the rows of `table` from the records below `runs/<bench>`; raises `RecordError` for a torn record."""
    stated = {name for row in table.rows for name in row.paper}
    paper_bench = bench if bench in stated else table.benchmark
    reference = _mean(_mious(read_records(bench, table.reference, runs), "last"))
    lines, criteria = [], set()
    for row in table.rows:
        records = read_records(bench, row.experiment, runs)
        criteria |= {record["selection"] for record in records if record["selected"] is not None}
        lines.append(_line(row.title, records, reference, row.paper.get(paper_bench)))
    return TableLines(table, bench, paper_bench, tuple(lines), tuple(sorted(criteria)))


def _line(title: str, records: Sequence[RunRecord], reference: float | None, paper: float | None) -> Line:
    last = _mious(records, "last")
    mean = _mean(last)
    return Line(
        title=title,
        seeds=tuple(record["seed"] for record in records),
        last=mean,
        spread=statistics.stdev(last) if len(last) > 1 else None,
        selected=_mean(_mious(records, "selected")),
        best=_mean(_mious(records, "best")),
        delta=None if mean is None or reference is None else mean - reference,
        paper=paper,
    )


def _mious(records: Iterable[RunRecord], moment: str) -> list[float]:
    evaluations = [
        {"last": record["last"], "selected": record["selected"], "best": record["best"]}[moment] for record in records
    ]
    return [float(evaluation["miou"]) for evaluation in evaluations if evaluation is not None]


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def variants(catalogue: Catalogue, bench: str, runs: Path) -> list[Table]:
    """The table of recorded experiments that the catalogue does not name: settings changed on the command line.

    Empty if there are none. The k and τ sweeps are read from it.
    """
    folders = sorted({path.parents[1].name for path in (runs / bench).glob(f"*/seed*/{RECORD}")})
    names = [name for name in folders if name not in catalogue.experiments]
    if not names:
        return []
    rows = tuple(Row(name, name, {}) for name in names)
    reference = catalogue.tables[0].reference if catalogue.tables else ""
    return [Table("variants", "Variants by changed settings", "", bench, reference, rows)]


@dataclass(frozen=True)
class ClassLine:
    """Per-class IoU of one experiment at the last step.

    Attributes:
        title: the first row title that shows this experiment.
        seeds: number of records.
        miou: mean mIoU over seeds in percent, `None` without a record.
        iou: class → mean IoU over the seeds where the class occurs, in percent; `None` where it never does.
    """

    title: str
    seeds: int
    miou: float | None
    iou: dict[str, float | None]


def class_lines(catalogue: Catalogue, bench: str, runs: Path) -> tuple[list[str], list[ClassLine]]:
    """Class names in train-id order, and one line per experiment that any table shows, in the tables' order.

    Raises:
        RecordError: for a torn record, or records of different label spaces.
    """
    titles: dict[str, str] = {}
    for table in catalogue.tables:
        for row in table.rows:
            titles.setdefault(row.experiment, row.title)
    records = {experiment: read_records(bench, experiment, runs) for experiment in titles}
    classes = _common_classes([record for found in records.values() for record in found], runs)
    return classes, [_class_line(title, records[experiment], classes) for experiment, title in titles.items()]


def _class_line(title: str, records: Sequence[RunRecord], classes: Sequence[str]) -> ClassLine:
    iou = {name: _mean(_present(record["last"]["iou"].get(name) for record in records)) for name in classes}
    return ClassLine(title, len(records), _mean(_mious(records, "last")), iou)


def _present(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _common_classes(records: Sequence[RunRecord], runs: Path) -> list[str]:
    for record in records:
        if record["classes"] != records[0]["classes"]:
            key = RunKey(record["bench"], record["experiment"], record["seed"])
            raise RecordError(
                f"its classes {record['classes']} differ from {records[0]['classes']} of other runs",
                where=key.directory(runs),
                mend=f"delete the folder {key.directory(runs)} to run it again",
            )
    return records[0]["classes"] if records else []
