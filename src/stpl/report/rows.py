"""From run records to the numbers of a table's rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from stpl.report.averages import deviation, mean
from stpl.report.cameras import before_another_camera
from stpl.report.significance import Comparison, Interval, compare, holm, interval
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

    @property
    def has_baseline(self) -> bool:
        """Whether any row was held against a control or, without controls, the best other row."""
        return any(line.baseline for line in self.lines)


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
    reference = suite.records(table.reference)
    lines, criteria = [], set()
    for row in table.rows:
        records = suite.records(row.experiment) if row.experiment else []
        criteria |= {record["selection"] for record in records if record["selected"] is not None}
        lines.append(_line(row, records, reference, row.paper.get(paper_bench)))
    return TableLines(table, suite.bench, paper_bench, tuple(_tested(lines, table, suite)), tuple(sorted(criteria)))


def _line(row: Row, records: Sequence[RunRecord], reference: Sequence[RunRecord], paper: float | None) -> Line:
    last = _mious(records)
    base = dict(zip((record["seed"] for record in reference), _mious(reference), strict=True))
    seeds = tuple(record["seed"] for record in records)
    return Line(
        title=row.title,
        experiment=row.experiment,
        seeds=seeds,
        last=mean(last),
        spread=deviation(last),
        selected=mean(_mious(records, "selected")),
        best=mean(_mious(records, "best")),
        delta=mean([miou - base[seed] for seed, miou in zip(seeds, last, strict=True) if seed in base]),
        paper=paper,
    )


def _tested(lines: Sequence[Line], table: Table, suite: Suite) -> list[Line]:
    """The lines with intervals and comparisons, corrected for their number in this table."""
    sources = holm([_compared(line, table.reference, suite) for line in lines])
    baselines = holm([_compared(line, _baseline(line, lines, table, suite), suite) for line in lines])
    return [
        replace(_with_interval(line, suite), source=source, baseline=baseline)
        for line, source, baseline in zip(lines, sources, baselines, strict=True)
    ]


def _with_interval(line: Line, suite: Suite) -> Line:
    counts = suite.counts(line.experiment) if line.experiment else None
    return line if counts is None else replace(line, clips=len(counts.keys), interval=interval(counts))


def _baseline(line: Line, lines: Sequence[Line], table: Table, suite: Suite) -> str | None:
    """The best baseline of a row; a row that is no baseline itself has none to be held against."""
    unfit = {table.reference, *table.bounds}
    if line.experiment is None or line.experiment in unfit:
        return None
    if table.controls:
        means = {name: _mean_over(line.seeds, suite.records(name)) for name in table.controls}
    else:
        means = {other.experiment: other.last for other in lines if other.experiment and other.experiment not in unfit}
    found = [(mean, name) for name, mean in means.items() if mean is not None and name != line.experiment]
    return max(found)[1] if found else None


def _mean_over(seeds: Sequence[int], records: Sequence[RunRecord]) -> float | None:
    """The mean mIoU at the last step of the runs with one of these seeds."""
    return mean(_mious([record for record in records if record["seed"] in seeds]))


def _compared(line: Line, against: str | None, suite: Suite) -> Comparison | None:
    if line.experiment is None or against is None or against == line.experiment:
        return None
    ours, theirs = suite.counts(line.experiment), suite.counts(against)
    return None if ours is None or theirs is None else compare(ours, theirs, against)


def _mious(records: Sequence[RunRecord], moment: Literal["last", "selected", "best"] = "last") -> list[float]:
    return [float(found["miou"]) for record in records if (found := record[moment]) is not None]


def variants(suite: Suite) -> list[Table]:
    """The table of recorded experiments that the catalogue does not name: settings changed on the command line.

    Empty if there are none. The k and τ sweeps are read from it. Runs before another camera have a table of their own:
    here they would be held against a source model before the default one.
    """
    known = suite.catalogue.experiments
    names = sorted(name for name in suite.recorded() if name not in known and not before_another_camera(suite, name))
    if not names:
        return []
    rows = tuple(Row(name, name, {}) for name in names)
    reference = suite.catalogue.tables[0].reference if suite.catalogue.tables else ""
    return [Table("variants", "Variants by changed settings", "", suite.bench, reference, rows)]
