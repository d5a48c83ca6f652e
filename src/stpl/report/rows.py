"""From run records to the numbers of a table's rows."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from stpl.errors import RecordError
from stpl.report.cameras import before_another_camera
from stpl.report.significance import Comparison, Interval, compare, holm, interval
from stpl.report.suite import Suite
from stpl.runs.experiments import Row, Table
from stpl.runs.record import Evaluation, RunRecord, flat


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

    @property
    def has_tests(self) -> bool:
        """Whether any difference was tested."""
        return any(line.source or line.baseline for line in self.lines)


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
    last = _mious(records, "last")
    base = dict(zip((record["seed"] for record in reference), _mious(reference, "last"), strict=True))
    seeds = tuple(record["seed"] for record in records)
    return Line(
        title=row.title,
        experiment=row.experiment,
        seeds=seeds,
        last=_mean(last),
        spread=statistics.stdev(last) if len(last) > 1 else None,
        selected=_mean(_mious(records, "selected")),
        best=_mean(_mious(records, "best")),
        delta=_mean([miou - base[seed] for seed, miou in zip(seeds, last, strict=True) if seed in base]),
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
    return _mean(_mious([record for record in records if record["seed"] in seeds], "last"))


def _compared(line: Line, against: str | None, suite: Suite) -> Comparison | None:
    if line.experiment is None or against is None or against == line.experiment:
        return None
    ours, theirs = suite.counts(line.experiment), suite.counts(against)
    return None if ours is None or theirs is None else compare(ours, theirs, against)


def _mious(records: Iterable[RunRecord], moment: str) -> list[float]:
    evaluations = [
        {"last": record["last"], "selected": record["selected"], "best": record["best"]}[moment] for record in records
    ]
    return [float(evaluation["miou"]) for evaluation in evaluations if evaluation is not None]


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


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
    lines = [_class_line(title, name, suite.records(name), classes) for name, title in titles.items()]
    stated = list(suite.catalogue.paper_classes.get(suite.bench, ()))
    return classes or stated, [*lines, *_paper_class_lines(suite)]


def _paper_class_lines(suite: Suite) -> list[ClassLine]:
    bench = suite.bench
    rows = [row for table in suite.catalogue.tables for row in table.rows if bench in row.paper_iou]
    names = suite.catalogue.paper_classes.get(bench, ())
    ious = [dict(zip(names, row.paper_iou[bench], strict=True)) for row in rows]
    return [
        ClassLine(f"{row.title} (paper)", None, 0, row.paper.get(bench), dict(iou))
        for row, iou in zip(rows, ious, strict=True)
    ]


def _class_line(title: str, experiment: str, records: Sequence[RunRecord], classes: Sequence[str]) -> ClassLine:
    iou = {name: _mean(_present(record["last"]["iou"].get(name) for record in records)) for name in classes}
    return ClassLine(title, experiment, len(records), _mean(_mious(records, "last")), iou)


def _present(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


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


@dataclass(frozen=True)
class MetricLine:
    """Means over seeds of further numbers of one experiment.

    Attributes:
        title: the first row title that shows the experiment.
        experiment: its name.
        seeds: number of records.
        values: metric → mean over the seeds that have it.
    """

    title: str
    experiment: str
    seeds: int
    values: dict[str, float]


def metric_lines(suite: Suite) -> list[MetricLine]:
    """Feature space and temporal consistency at the last step, for every experiment that recorded any of it."""
    return _metric_lines(suite, _further)


def selection_lines(suite: Suite) -> list[MetricLine]:
    """The mIoU at the checkpoint that each label-free validator chooses, between `last` and `best` on labels."""
    return [line for line in _metric_lines(suite, _selections) if len(line.values) > 2]


def _metric_lines(suite: Suite, numbers: Callable[[RunRecord], dict[str, float]]) -> list[MetricLine]:
    lines = []
    for name, title in suite.shown().items():
        found = [numbers(record) for record in suite.records(name)]
        keys = dict.fromkeys(key for values in found for key in values)
        means = {key: statistics.fmean(values[key] for values in found if key in values) for key in keys}
        if means:
            lines.append(MetricLine(title, name, len(found), means))
    return lines


def _further(record: RunRecord) -> dict[str, float]:
    """`sigma_intra`, `purity@10`, `mtc`, `vpq@1`, `moved`, …: what the last evaluation holds of them."""
    return flat(
        {group: record["last"][group] for group in ("feature_space", "temporal", "weights") if group in record["last"]}
    )


def _selections(record: RunRecord) -> dict[str, float]:
    chosen: dict[str, Evaluation | None] = {
        "last": record["last"],
        **record.get("selections", {}),
        "best": record["best"],
    }
    return {name: float(found["miou"]) for name, found in chosen.items() if found is not None}
