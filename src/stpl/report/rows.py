"""From run records to the numbers of a table's rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from stpl.report.changed_settings import variants
from stpl.report.significance import Comparison, Interval, compare, deviation, judged, mean, nested_interval
from stpl.report.suite import Suite
from stpl.runs.artifacts import StatisticsKind
from stpl.runs.experiments import Row, Table
from stpl.runs.record import RunRecord

RENEWED: Mapping[StatisticsKind, str] = {"original": "original", "all": "augmented"}
"""The kinds of statistics in which methods are compared, and how columns call them."""


@dataclass(frozen=True)
class Measured:
    """What a row's last weights are worth with one kind of statistics.

    Attributes:
        mious: of the runs that measured it.
        control: the same weights against those of the table's reference experiment with the same kind of statistics.
    """

    mious: tuple[float, ...]
    control: Comparison | None


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
        interval: of `last`, by the nested bootstrap; `None` where the runs kept no counts, or there is one seed.
        renewed: by kind of statistics, for those of `RENEWED` that runs have measured.
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
    interval: Interval | None = None
    renewed: Mapping[StatisticsKind, Measured] = field(default_factory=dict)


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
    return _judged([_lines(table, suite) for table in (*suite.tables(), *variants(suite))])


def table_lines(table: Table, suite: Suite) -> TableLines:
    """One table of the catalogue as `tables` has it; raises `RecordError` for a torn record or artifact."""
    others = [other for other in (*suite.tables(), *variants(suite)) if other.id != table.id]
    return _judged([_lines(each, suite) for each in (table, *others)])[0]


def comparisons(found: Sequence[TableLines]) -> Iterator[tuple[Line, Comparison]]:
    """Every row of tables against the control of a column.

    The controls of a table have the weights of its reference experiment: there is nothing to compare.
    """
    for lines in found:
        for line in lines.lines:
            if line.experiment not in lines.table.controls:
                yield from ((line, one.control) for one in line.renewed.values() if one.control is not None)


def _judged(found: list[TableLines]) -> list[TableLines]:
    """The tables with all their comparisons corrected as one family, so that a run has one verdict in all of them."""
    verdicts = judged(comparison for _, comparison in comparisons(found))

    def marked(one: Measured) -> Measured:
        return one if one.control is None else replace(one, control=verdicts.get(one.control, one.control))

    def of(line: Line) -> Line:
        return replace(line, renewed={kind: marked(one) for kind, one in line.renewed.items()})

    return [replace(lines, lines=tuple(map(of, lines.lines))) for lines in found]


def _lines(table: Table, suite: Suite) -> TableLines:
    """The rows of `table` from the records, not yet judged."""
    stated = {name for row in table.rows for name in row.paper}
    paper_bench = suite.bench if suite.bench in stated else table.benchmark
    lines = tuple(_line(row, table.reference, suite, row.paper.get(paper_bench)) for row in table.rows)
    records = [record for row in table.rows if row.experiment for record in suite.records(row.experiment)]
    criteria = {record["selection"] for record in records if record["selected"] is not None}
    return TableLines(table, paper_bench, paper_bench == suite.bench, lines, tuple(sorted(criteria)))


def _line(row: Row, reference: str, suite: Suite, paper: float | None) -> Line:
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
        interval=nested_interval(counts.counts) if counts else None,
        renewed=_renewed(row.experiment, reference, suite) if row.experiment else {},
    )


def _renewed(experiment: str, reference: str, suite: Suite) -> dict[StatisticsKind, Measured]:
    found: dict[StatisticsKind, Measured] = {}
    for kind in RENEWED:
        ours, theirs = suite.counts(experiment, kind), suite.counts(reference, kind)
        if ours is not None:
            # With `start_seed`, seeds do not name source models: neither pairs nor source models can be counted.
            apart = experiment == reference or any("start_seed" in r["overrides"] for r in suite.records(experiment))
            control = None if theirs is None or apart else compare(ours, theirs, (experiment, reference), kind)
            found[kind] = Measured(tuple(ours.mious.tolist()), control)
    return found


def _mious(records: Iterable[RunRecord], moment: Literal["last", "selected", "best"] = "last") -> list[float]:
    return [float(found["miou"]) for record in records if (found := record[moment]) is not None]
