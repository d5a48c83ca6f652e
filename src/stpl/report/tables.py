"""The tables of a benchmark's runs, ready to be written and shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from stpl.report.cameras import shifts_sheet
from stpl.report.class_table import classes_sheet
from stpl.report.comparisons import (
    ALIKE,
    BETTER,
    DIFFERENT,
    between,
    ends,
    evidence,
    kind,
    mark,
    tests_sheet,
    with_interval,
)
from stpl.report.costs import costs_sheet
from stpl.report.metric_tables import metrics_sheet, selection_sheet
from stpl.report.rows import Line, TableLines, table_lines
from stpl.report.sensitivity import sensitivity_sheet
from stpl.report.sheet import NOTHING, Column, Sheet, TableCell, number, plain, plus_minus, same, show
from stpl.report.statistics_table import statistics_sheet
from stpl.report.suite import Suite
from stpl.runs.experiments import check_bench, experiment_folders, load_catalogue

FURTHER: tuple[Callable[[Suite], Sheet | None], ...] = (costs_sheet, statistics_sheet, shifts_sheet)
"""Sheets that only some suites have: what methods need, weights × statistics, cameras."""

FURTHER_IDS = (
    "per_class", "variants", "tests", "metrics", "selection", "costs", "statistics", "shifts", "sensitivity",
)  # fmt: skip
"""Ids of the tables that are not the catalogue's; most exist only where the records have something to say."""


def print_table(
    table: str, *, bench: str = "streets", runs: Path = Path("runs"), experiments: Path | None = None
) -> None:
    """Print one table of the catalogue and write nothing.

    Args:
        table: its id, e.g. `table3`.
        bench: benchmark whose runs to read.
        runs: folder of all runs.
        experiments: folder of your own overlays and `tables.yaml`, beside the shipped ones; ./experiments if not given.

    Raises:
        StplError: as `report`, and for an unknown table.
    """
    check_bench(bench, experiment_folders(experiments))
    suite = Suite(bench, runs, load_catalogue(experiment_folders(experiments)))
    show(main_sheet(table_lines(suite.catalogue.table(table), suite), suite), Console(highlight=False))


def sheets(suite: Suite, tables: Sequence[TableLines]) -> list[Sheet]:
    """Everything but the main tables: per-class IoU, and what the records give of the rest."""
    makers = (metrics_sheet, selection_sheet, *FURTHER, sensitivity_sheet)
    found = [classes_sheet(suite), tests_sheet(tables, suite), *(make(suite) for make in makers)]
    return [sheet for sheet in found if sheet is not None]


def main_sheet(lines: TableLines, suite: Suite) -> Sheet:
    """A table of the catalogue: mIoU of every row at three checkpoints, beside the paper's."""
    control = "Δ control" if lines.table.controls else "Δ best other"
    ours = lines.bench == lines.paper_bench
    paper = "paper" if ours else f"paper ({suite.called(lines.paper_bench)})"
    columns = [
        Column("Method", ("row",)),
        Column("Seeds", ("seeds",)),
        Column("mIoU last", ("miou_last_mean", "miou_last_std")),
        Column("95 % interval", page=True),
        Column("selected", ("miou_selected_mean",)),
        Column("best", ("miou_best_mean",)),
        Column("Δ source", ("delta_vs_source", "delta_vs_source_low", "delta_vs_source_high")),
        Column(
            control if lines.has_baseline else "",
            (
                "baseline",
                *(f"delta_vs_baseline{end}" for end in ("", "_low", "_high", "_se")),
            ),
        ),
        Column(paper if lines.has_paper else "", ("paper_miou",)),
        Column("ours − paper" if lines.has_paper and ours else ""),
    ]
    cells = [_cells(line, suite) for line in lines.lines]
    names = [line.experiment for line in lines.lines]
    return Sheet(lines.table.id, f"{lines.table.title}, {suite.title}", columns, cells, _notes(lines, suite), names)


def _cells(line: Line, suite: Suite) -> list[TableCell]:
    run = line.experiment if line.experiment and line.seeds else ""
    source, baseline = line.source, line.baseline
    above = BETTER if baseline and baseline.significant and baseline.difference > 0 else ""
    last = plus_minus(line.last, line.spread) + above
    against = f"against {suite.title_of(baseline.against)}; {evidence(baseline)}" if baseline else ""
    beside = (baseline.difference if baseline else None, *ends(baseline), baseline.error if baseline else None)
    to_paper = None if line.last is None or line.paper is None else line.last - line.paper
    return [
        same(line.title, run),
        same(str(len(line.seeds)), run),
        TableCell(last, plain(line.last, line.spread), run, kind="absent" if line.experiment and not run else ""),
        TableCell(between(line.interval) or NOTHING, (), run),
        *(TableCell(number(value), plain(value), run) for value in (line.selected, line.best)),
        TableCell(
            number(line.delta, "+.2f") + mark(source),
            plain(line.delta, *ends(source)),
            run,
            evidence(source),
            kind(source),
        ),
        TableCell(
            with_interval(baseline),
            (baseline.against if baseline else "", *plain(*beside)),
            run,
            against,
            kind(baseline),
        ),
        TableCell(number(line.paper, ".1f"), plain(line.paper), kind="paper"),
        TableCell(number(to_paper, "+.2f"), (), run, kind="miss" if (to_paper or 0) < 0 else ""),
    ]


def _notes(lines: TableLines, suite: Suite) -> list[str]:
    """What a reader of a main table must know."""
    seeds = sorted({seed for line in lines.lines for seed in line.seeds})
    by = f" by {'; '.join(lines.criteria)}" if lines.criteria else ""
    return [
        f"mIoU in percent. Seeds: {', '.join(map(str, seeds)) or 'none recorded'}. "
        "mean ± sample standard deviation over seeds (no ± for one seed).",
        "last: at the last step. "
        f"selected: at the checkpoint chosen without labels{by}. "
        "best: at the checkpoint chosen on target labels, hence optimistic.",
        "Δ source: mean over common seeds of the difference of last to the source-only model.",
        *_baseline_note(lines, suite),
        *_marks_note(lines),
        *_paper_note(lines, suite),
    ]


def _baseline_note(lines: TableLines, suite: Suite) -> list[str]:
    if not lines.has_baseline:
        return []
    controls = " or ".join(suite.title_of(name) for name in lines.table.controls)
    beside = f"Δ control: to the better of the controls ({controls})" if controls else "Δ best other: to the best row"
    return [
        f"{beside} that is not the row itself nor trains with target labels: mean over common seeds of the paired "
        "difference, [95 % interval over clips and seeds]."
    ]


def _marks_note(lines: TableLines) -> list[str]:
    if not any(line.source or line.baseline for line in lines.lines):
        return []
    return [
        f"{DIFFERENT} differs significantly,{ALIKE}: does not. {BETTER} significantly above the control or best other. "
        "Significant: permutation test over clips with Holm's correction within the table, p < 0.05, and the bootstrap "
        "interval over clips and seeds leaves out 0 (tests.csv)."
    ]


def _paper_note(lines: TableLines, suite: Suite) -> list[str]:
    if not lines.has_paper:
        return []
    context = "" if lines.bench == lines.paper_bench else ", another benchmark: context, not a comparison"
    return [f"Paper ({suite.called(lines.paper_bench)}{context}): {lines.table.citation}."]
