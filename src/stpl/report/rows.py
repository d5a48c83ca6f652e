"""From run records to the numbers of a table's rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from stpl.report.changed_settings import variants
from stpl.report.significance import Comparison, Interval, compare, deviation, holm, interval, mean
from stpl.report.suite import Suite
from stpl.runs.experiments import Row, Table
from stpl.runs.record import RunRecord


@dataclass(frozen=True)
class Line:
    """One row of a table with what was measured; all mIoU in percent, `None` where there is nothing to show.

    Attributes:
        title: the row's title.
        experiment: whose runs it averages; `None` for a row that only the paper has run.
        seeds: the seeds with a record.
        last: mean over seeds of the mIoU at the last step.
        spread: sample standard deviation of the same over seeds; `None` for fewer than two.
        selected: mean at the checkpoint chosen without labels.
        best: mean at the checkpoint chosen on target labels.
        delta: mean over common seeds of the difference to the table's reference experiment.
        paper: the mIoU that the paper states on `TableLines.paper_bench`.
        clips: clips with counts, per seed; 0 where the runs kept none, and then there is none of what follows.
        interval: of `last` over clips and seeds.
        source: the row against the table's reference experiment.
        baseline: the row against the best other control; where the table has no controls, against the best other row
            that neither is the reference nor trains on target labels.
    """

    title: str
    experiment: str | None
    seeds: tuple[int, ...]
    last: float | None
    spread: float | None
    selected: float | None
    best: float | None
    delta: float | None
    paper: float | None
    clips: int = 0
    interval: Interval | None = None
    source: Comparison | None = None
    baseline: Comparison | None = None


@dataclass(frozen=True)
class TableLines:
    """A table with its numbers.

    Attributes:
        table: what the catalogue says about it.
        paper_bench: the benchmark of the paper's numbers.
        comparable: whether that is the one which was measured on; it is if the paper has any numbers on it.
        lines: its rows.
        criteria: names of the label-free criteria that chose `selected`.
    """

    table: Table
    paper_bench: str
    comparable: bool
    lines: tuple[Line, ...]
    criteria: tuple[str, ...]


def tables(suite: Suite) -> list[TableLines]:
    """The catalogue's tables that have something to say about the benchmark, then that of the variants.

    Raises:
        RecordError: for a torn record or artifact.
    """
    return [table_lines(table, suite) for table in (*suite.tables(), *variants(suite))]


def table_lines(table: Table, suite: Suite) -> TableLines:
    """Compute the rows of `table` from the records; raises `RecordError` for a torn record or artifact."""
    stated = {name for row in table.rows for name in row.paper}
    paper_bench = suite.bench if suite.bench in stated else table.benchmark
    lines = [_line(row, table.reference, suite, row.paper.get(paper_bench)) for row in table.rows]
    # Comparisons are corrected for their number in this table.
    sources = holm([_compared(line, table.reference, suite) for line in lines])
    baselines = holm([_compared(line, _baseline(line, lines, table, suite), suite) for line in lines])
    tested = [
        replace(line, source=source, baseline=baseline)
        for line, source, baseline in zip(lines, sources, baselines, strict=True)
    ]
    records = [record for row in table.rows if row.experiment for record in suite.records(row.experiment)]
    criteria = {record["selection"] for record in records if record["selected"] is not None}
    return TableLines(table, paper_bench, paper_bench == suite.bench, tuple(tested), tuple(sorted(criteria)))


def _line(row: Row, reference: str, suite: Suite, paper: float | None) -> Line:
    """The row with its interval, not yet compared."""
    records = suite.records(row.experiment) if row.experiment else []
    counts = suite.counts(row.experiment) if row.experiment else None
    last = _mious(records)
    base = {record["seed"]: float(record["last"]["miou"]) for record in suite.records(reference)}
    seeds = tuple(record["seed"] for record in records)
    return Line(
        title=row.title,
        experiment=row.experiment,
        seeds=seeds,
        last=mean(last),
        spread=deviation(last),
        selected=mean(_mious(records, "selected")),
        best=mean(_mious(records, "best")),
        delta=mean(miou - base[seed] for seed, miou in zip(seeds, last, strict=True) if seed in base),
        paper=paper,
        clips=len(counts.keys) if counts else 0,
        interval=interval(counts) if counts else None,
    )


def _baseline(line: Line, lines: Sequence[Line], table: Table, suite: Suite) -> str | None:
    """The best baseline of a row; a row that is no baseline itself has none to be held against."""
    unfit = {table.reference, *table.bounds}
    if line.experiment is None or line.experiment in unfit:
        return None
    if table.controls:
        same_seeds = {
            name: [record for record in suite.records(name) if record["seed"] in line.seeds] for name in table.controls
        }
        means = {name: mean(_mious(records)) for name, records in same_seeds.items()}
    else:
        means = {other.experiment: other.last for other in lines if other.experiment and other.experiment not in unfit}
    found = [(miou, name) for name, miou in means.items() if miou is not None and name != line.experiment]
    return max(found)[1] if found else None


def _compared(line: Line, against: str | None, suite: Suite) -> Comparison | None:
    if line.experiment is None or against is None or against == line.experiment:
        return None
    ours, theirs = suite.counts(line.experiment), suite.counts(against)
    return None if ours is None or theirs is None else compare(ours, theirs, against)


def _mious(records: Iterable[RunRecord], moment: Literal["last", "selected", "best"] = "last") -> list[float]:
    return [float(found["miou"]) for record in records if (found := record[moment]) is not None]
