"""The tables of a benchmark's runs, ready to be written and shown: the catalogue's, that of all tests, and the rest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from stpl.report.changed_settings import sensitivity_sheet, shifts_sheet
from stpl.report.further_tables import classes_sheet, costs_sheet, metrics_sheet, selection_sheet, statistics_sheet
from stpl.report.rows import Line, TableLines, table_lines
from stpl.report.sheet import NOTHING, Column, Sheet, TableCell, number, numeric, plain, plus_minus, same, show
from stpl.report.significance import DRAWS, SWAPS, Comparison, Interval
from stpl.report.suite import Suite
from stpl.runs.experiments import check_bench, experiment_folders, load_catalogue

FURTHER_IDS = (
    "per_class", "variants", "tests", "metrics", "selection", "costs", "statistics", "shifts", "sensitivity",
)  # fmt: skip
"""Ids of the tables that are not the catalogue's; most exist only where the records have something to say."""

_BETTER, _DIFFERENT, _ALIKE = "†", "*", " ns"
"""Marks: above the best baseline, different from the source-only model, not significantly so."""


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
    makers = (metrics_sheet, selection_sheet, costs_sheet, statistics_sheet, shifts_sheet, sensitivity_sheet)
    found = [classes_sheet(suite), tests_sheet(tables, suite), *(make(suite) for make in makers)]
    return [sheet for sheet in found if sheet is not None]


def main_sheet(lines: TableLines, suite: Suite) -> Sheet:
    """A table of the catalogue: mIoU of every row at three checkpoints, beside the paper's."""
    rows = lines.lines
    control = "Δ control" if lines.table.controls else "Δ best other"
    paper = "paper" if lines.comparable else f"paper ({suite.called(lines.paper_bench)})"
    has_paper = any(line.paper is not None for line in rows)
    to_source, to_baseline = "delta_vs_source", "delta_vs_baseline"
    columns = [
        Column("Method", ("row",), [same(line.title) for line in rows]),
        Column("Seeds", ("seeds",), [same(len(line.seeds)) for line in rows]),
        Column("mIoU last", ("miou_last_mean", "miou_last_std"), [_last(line) for line in rows]),
        Column("95 % interval", (), [TableCell(between(line.interval)) for line in rows], page=True),
        Column("selected", ("miou_selected_mean",), [numeric(line.selected) for line in rows]),
        Column("best", ("miou_best_mean",), [numeric(line.best) for line in rows]),
        Column("Δ source", (to_source, f"{to_source}_low", f"{to_source}_high"), [_to_source(line) for line in rows]),
        Column(
            control if any(line.baseline for line in rows) else "",
            ("baseline", to_baseline, f"{to_baseline}_low", f"{to_baseline}_high", f"{to_baseline}_se"),
            [_to_baseline(line, suite) for line in rows],
        ),
        Column(
            paper if has_paper else "",
            ("paper_miou",),
            [TableCell(number(line.paper, ".1f"), plain(line.paper), kind="paper") for line in rows],
        ),
        Column("ours − paper" if has_paper and lines.comparable else "", (), [_to_paper(line) for line in rows]),
    ]
    names = [line.experiment for line in rows]
    return Sheet(lines.table.id, f"{lines.table.title}, {suite.title}", columns, _notes(lines, suite), names)


def _last(line: Line) -> TableCell:
    above = _BETTER if line.baseline and line.baseline.significant and line.baseline.difference > 0 else ""
    absent = line.experiment and not line.seeds
    text = plus_minus(line.last, line.spread) + above
    return TableCell(text, plain(line.last, line.spread), kind="absent" if absent else "")


def _to_source(line: Line) -> TableCell:
    text, test = number(line.delta, "+.2f"), line.source
    if test is None:
        return TableCell(text, plain(line.delta, None, None))
    values = plain(line.delta, test.interval.low, test.interval.high)
    return TableCell(text + _mark(test), values, evidence(test), _kind(test))


def _to_baseline(line: Line, suite: Suite) -> TableCell:
    test = line.baseline
    if test is None:
        return TableCell(NOTHING, ("",) * 5)
    low, high = test.interval.low, test.interval.high
    text = f"{number(test.difference, '+.2f')} [{number(low, '+.1f')}, {number(high, '+.1f')}]{_mark(test)}"
    values = (test.against, *plain(test.difference, low, high, test.error))
    return TableCell(text, values, f"against {suite.title_of(test.against)}; {evidence(test)}", _kind(test))


def _to_paper(line: Line) -> TableCell:
    gain = None if line.last is None or line.paper is None else line.last - line.paper
    return TableCell(number(gain, "+.2f"), kind="miss" if (gain or 0) < 0 else "")


def _mark(test: Comparison) -> str:
    return _DIFFERENT if test.significant else _ALIKE


def _kind(test: Comparison) -> str:
    """The CSS class of a difference."""
    if not test.significant:
        return "ns"
    return "up" if test.difference > 0 else "down"


def evidence(test: Comparison) -> str:
    """What the page says of a difference under the pointer."""
    interval, p = between(test.interval, "+.2f"), _probability(test.p_holm)
    return f"95 % interval {interval}; p Holm {p}; {test.seeds} common seeds"


def between(interval: Interval | None, form: str = ".2f") -> str:
    """An interval as people read it."""
    return f"{number(interval.low, form)} … {number(interval.high, form)}" if interval else NOTHING


def _probability(p: float | None) -> str:
    return NOTHING if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def _notes(lines: TableLines, suite: Suite) -> list[str]:
    """What a reader of a main table must know."""
    seeds = sorted({seed for line in lines.lines for seed in line.seeds})
    by = f" by {'; '.join(lines.criteria)}" if lines.criteria else ""
    notes = [
        f"mIoU in percent. Seeds: {', '.join(map(str, seeds)) or 'none recorded'}. "
        "mean ± sample standard deviation over seeds (no ± for one seed).",
        f"last: at the last step. selected: at the checkpoint chosen without labels{by}. "
        "best: at the checkpoint chosen on target labels, hence optimistic.",
        "Δ source: mean over common seeds of the difference of last to the source-only model.",
    ]
    if any(line.baseline for line in lines.lines):
        controls = " or ".join(suite.title_of(name) for name in lines.table.controls)
        to = f"Δ control: to the better of the controls ({controls})" if controls else "Δ best other: to the best row"
        notes.append(
            f"{to} that is not the row itself nor trains with target labels: mean over common seeds of the paired "
            "difference, [95 % interval over clips and seeds]."
        )
    if any(line.source or line.baseline for line in lines.lines):
        notes.append(
            f"{_DIFFERENT} differs significantly,{_ALIKE}: does not. {_BETTER} significantly above the control or best "
            "other. Significant: permutation test over clips with Holm's correction within the table, p < 0.05, and "
            "the bootstrap interval over clips and seeds leaves out 0 (tests.csv)."
        )
    if any(line.paper is not None for line in lines.lines):
        context = "" if lines.comparable else ", another benchmark: context, not a comparison"
        notes.append(f"Paper ({suite.called(lines.paper_bench)}{context}): {lines.table.citation}.")
    return notes


_TEST_NOTES = (
    f"Interval: percentile bootstrap over clips and seeds, {DRAWS} draws, paired. Clips that follow one another are "
    "drawn together. SE: standard error over seeds of the mean difference.",
    "p clips: permutation test, the two models' counts of a clip swapped; exact with few clips, else "
    f"{SWAPS} random swaps. p Holm: the same, corrected for the comparisons of its table.",
    "p seeds: exact sign-flip test over seeds; it cannot fall below 2/2^n for n seeds (0.25 for three).",
    "significant: p Holm < 0.05 and the interval leaves out 0.",
)


def tests_sheet(tables: Sequence[TableLines], suite: Suite) -> Sheet | None:
    """Every comparison that was tested, with its interval and its p values; `None` if there is none."""
    rows = [(table, line) for table in tables for line in table.lines]
    tested = [(table, line, test) for table, line in rows for test in (line.source, line.baseline) if test]
    tests = [test for _, _, test in tested]
    columns = [
        Column("", ("table",), [TableCell("", (table.table.id,)) for table, _, _ in tested]),
        Column("Row", ("row",), [same(line.title) for _, line, _ in tested]),
        Column("against", ("against",), [TableCell(suite.title_of(test.against), (test.against,)) for test in tests]),
        Column("Δ mIoU", ("difference",), [numeric(test.difference, "+.2f") for test in tests]),
        Column("95 % interval", ("ci_low", "ci_high"), [_interval(test) for test in tests]),
        Column("SE", ("se",), [numeric(test.error) for test in tests]),
        Column("p clips", ("p_clips",), [_p(test.p_clips) for test in tests]),
        Column("p Holm", ("p_clips_holm",), [_p(test.p_holm) for test in tests]),
        Column("p seeds", ("p_seeds",), [_p(test.p_seeds) for test in tests]),
        Column("", ("seeds", "clips"), [TableCell("", (str(test.seeds), str(line.clips))) for _, line, test in tested]),
        Column("significant", ("significant",), [same("yes" if test.significant else "no") for test in tests]),
    ]
    return Sheet("tests", f"Paired tests, {suite.title}", columns, _TEST_NOTES) if tests else None


def _interval(test: Comparison) -> TableCell:
    return TableCell(between(test.interval, "+.2f"), plain(test.interval.low, test.interval.high))


def _p(p: float | None) -> TableCell:
    return TableCell(_probability(p), ("" if p is None else f"{p:.4f}",))
