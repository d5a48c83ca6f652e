"""The tables of a benchmark's runs, ready to be written and shown: the catalogue's, that of all tests, and the rest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from stpl.report.changed_settings import sensitivity_sheet, shifts_sheet
from stpl.report.further_tables import (
    classes_sheet,
    costs_sheet,
    labels_sheet,
    metrics_sheet,
    selection_sheet,
    statistics_sheet,
    video_quality_sheet,
)
from stpl.report.rows import RENEWED, Line, TableLines, comparisons, table_lines
from stpl.report.sheet import NOTHING, Column, Sheet, TableCell, average, number, numeric, plain, plus_minus, same, show
from stpl.report.significance import (
    DRAWS,
    FEWEST,
    LEVEL,
    Comparison,
    Interval,
    common,
    nested_interval,
    sign_flips,
)
from stpl.report.suite import Suite
from stpl.runs.artifacts import StatisticsKind
from stpl.runs.experiments import check_bench, experiment_folders, load_catalogue

FURTHER_IDS = (
    "per_class", "per_class_vpq", "variants", "tests", "metrics", "selection", "costs", "statistics", "shifts",
    "pseudo_labels", "sensitivity",
)  # fmt: skip
"""Ids of the tables that are not the catalogue's; most exist only where the records have something to say."""

_DIFFERENT, _ALIKE = "*", " ns"
"""Marks of a difference to the control of its column."""


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
    makers = (
        video_quality_sheet,
        metrics_sheet,
        selection_sheet,
        costs_sheet,
        labels_sheet,
        statistics_sheet,
        shifts_sheet,
        sensitivity_sheet,
    )
    found = [classes_sheet(suite), tests_sheet(tables, suite), *(make(suite) for make in makers)]
    return [sheet for sheet in found if sheet is not None]


def main_sheet(lines: TableLines, suite: Suite) -> Sheet:
    """A table of the catalogue: mIoU of every row as it was evaluated, and beside the control of each column."""
    rows = lines.lines
    paper = "paper" if lines.comparable else f"paper ({suite.called(lines.paper_bench)})"
    has_paper = any(line.paper is not None for line in rows)
    columns = [
        Column("Method", ("row",), [same(line.title) for line in rows]),
        Column("Seeds", ("seeds",), [same(len(line.seeds)) for line in rows]),
        Column("mIoU last", ("miou_last_mean", "miou_last_std"), [_last(line) for line in rows]),
        Column("95 % interval", (), [TableCell(between(line.interval)) for line in rows], page=True),
        Column("selected", ("miou_selected_mean",), [numeric(line.selected) for line in rows], page=True),
        Column("best", ("miou_best_mean",), [numeric(line.best) for line in rows], page=True),
        Column("Δ source", ("delta_vs_source",), [numeric(line.delta, "+.2f") for line in rows]),
        *(column for kind, title in RENEWED.items() for column in _renewed_columns(rows, kind, title)),
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
    absent = line.experiment and not line.seeds
    both = line.last, line.spread
    return TableCell(plus_minus(*both), plain(*both), kind="absent" if absent else "")


def _renewed_columns(rows: Sequence[Line], kind: StatisticsKind, title: str) -> list[Column]:
    """The mIoU with one kind of statistics and the difference to the control; hidden where nobody measured it."""
    found = [line.renewed.get(kind) for line in rows]
    mious = [() if one is None else one.mious for one in found]
    shown = any(mious)
    delta = f"{kind}_delta"
    return [
        Column(
            title if shown else "",
            (f"miou_{kind}_mean", f"miou_{kind}_std"),
            [average(values) for values in mious],
        ),
        Column(
            f"Δ {title}" if shown else "",
            (delta, f"{delta}_low", f"{delta}_high", f"{delta}_se"),
            [_to_control(one.control if one else None) for one in found],
        ),
    ]


def _to_control(test: Comparison | None) -> TableCell:
    if test is None:
        return TableCell(NOTHING, ("",) * 4)
    ends, mark = test.interval, {None: "", True: _DIFFERENT, False: _ALIKE}[test.significant]
    text = number(test.difference, "+.2f") + mark
    if ends is None:
        return TableCell(text, plain(test.difference, None, None, None))
    text += f" [{number(ends.low, '+.1f')}, {number(ends.high, '+.1f')}]"
    return TableCell(text, plain(test.difference, ends.low, ends.high, test.error), evidence(test), _kind(test))


def _to_paper(line: Line) -> TableCell:
    gain = None if line.last is None or line.paper is None else line.last - line.paper
    return TableCell(number(gain, "+.2f"), kind="miss" if (gain or 0) < 0 else "")


def _kind(test: Comparison) -> str:
    """The CSS class of a difference."""
    if test.significant is None:
        return ""
    return "ns" if not test.significant else "up" if test.difference > 0 else "down"


def evidence(test: Comparison) -> str:
    """What the page says of a difference under the pointer."""
    count = len(test.differences)
    known = [f"{count} source model{'s' if count > 1 else ''}"]
    if test.interval is not None:
        known.append(f"95 % interval {between(test.interval, '+.2f')}")
    if test.p_holm is not None:
        known.append(f"p Holm {_probability(test.p_holm)}")
    return "; ".join(known)


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
        f"last: at the last step. Page and CSV also have selected: at the checkpoint chosen without labels{by}; and "
        "best: at the checkpoint chosen on target labels, hence optimistic.",
        "Δ source: mean over common seeds of the difference of last to the source-only model.",
    ]
    if any(line.renewed for line in lines.lines):
        notes.append(
            "original, augmented: the last weights with BatchNorm statistics renewed from original frames, and from "
            "original and augmented ones. Δ: mean paired difference to the control of the same column, the weights of "
            f"{suite.title_of(lines.table.reference)} with the same kind of statistics; [95 % t interval over source "
            "models]."
        )
    tests = [test for _, test in comparisons([lines])]
    if any(test.significant is not None for test in tests):
        notes.append(
            f"{_DIFFERENT} differs significantly from the control,{_ALIKE}: does not. Significant: p < {LEVEL} in the "
            "paired t test over source models, with Holm's correction for all rows of the report (tests.csv)."
        )
    if any(len(test.differences) < FEWEST for test in tests):
        notes.append(f"A difference over fewer than {FEWEST} source models has no mark: it says too little.")
    lacking = [line.title for line in lines.lines if any(len(line.seeds) > len(n) for n in _measured(line))]
    if lacking:
        notes.append(
            f"Not measured in all runs with both kinds of statistics: {', '.join(lacking)}. "
            f"`stpl weights statistics --bench={suite.bench}` does it."
        )
    if any(line.paper is not None for line in lines.lines):
        context = "" if lines.comparable else ", another benchmark: context, not a comparison"
        notes.append(f"Paper ({suite.called(lines.paper_bench)}{context}): {lines.table.citation}.")
    if suite.bench in lines.table.notes:
        notes.append(lines.table.notes[suite.bench])
    return notes


def _measured(line: Line) -> list[tuple[float, ...]]:
    """The mIoU of a row's runs with each of the kinds of statistics."""
    return [line.renewed[kind].mious if kind in line.renewed else () for kind in RENEWED]


_TEST_NOTES = (
    "Δ mIoU: of the last weights, to those of the source model with the same kind of statistics: mean over source "
    "models. 95 % interval, p: paired t test over source models. SE: standard error of the mean. p Holm: corrected for "
    "all comparisons here.",
    f"verdict, whether it is significant: p Holm < {LEVEL}; with fewer than {FEWEST} source models nothing is said.",
    "p signs: sign-flip test over source models; it cannot fall below 2/2^n for n of them. nested: percentile "
    f"bootstrap, {DRAWS} draws of source models and, within each, of clips; clips that follow one another are drawn "
    "together. Neither decides anything.",
)


def tests_sheet(tables: Sequence[TableLines], suite: Suite) -> Sheet | None:
    """Every comparison of the tables, once, with all that is printed beside it; `None` if there is none."""
    rows = {test: line.title for line, test in reversed(list(comparisons(tables)))}
    tests = list(reversed(rows))
    nested = [_nested(test, suite) for test in tests]
    said = {True: same("yes"), False: same("no"), None: TableCell(NOTHING, ("",))}
    columns = [
        Column("Row", ("row",), [same(rows[test]) for test in tests]),
        Column("", ("experiment", "against"), [TableCell("", (test.experiment, test.against)) for test in tests]),
        Column("frames", ("statistics",), [TableCell(RENEWED[test.kind], (test.kind,)) for test in tests]),
        Column("Δ mIoU", ("difference",), [numeric(test.difference, "+.2f") for test in tests]),
        Column("95 % interval", ("ci_low", "ci_high"), [_interval(test.interval) for test in tests]),
        Column("SE", ("se",), [numeric(test.error) for test in tests], page=True),
        Column("p", ("p",), [_p(test.p) for test in tests]),
        Column("p Holm", ("p_holm",), [_p(test.p_holm) for test in tests]),
        Column("p signs", ("p_signs",), [_p(sign_flips(test.differences)) for test in tests]),
        Column("nested", ("nested_low", "nested_high"), [_interval(ends) for ends in nested]),
        Column("models", ("source_models",), [same(len(test.differences)) for test in tests]),
        Column("verdict", ("significant",), [said[test.significant] for test in tests]),
    ]
    return Sheet("tests", f"Paired tests, {suite.title}", columns, _TEST_NOTES) if tests else None


def _nested(test: Comparison, suite: Suite) -> Interval | None:
    ours, theirs = suite.counts(test.experiment, test.kind), suite.counts(test.against, test.kind)
    both = common(ours, theirs) if ours and theirs else None
    return nested_interval(*both) if both else None


def _interval(ends: Interval | None) -> TableCell:
    return TableCell(between(ends, "+.2f"), plain(*(ends.low, ends.high) if ends else (None, None)))


def _p(p: float | None) -> TableCell:
    return TableCell(_probability(p), ("" if p is None else f"{p:.4f}",))
