"""How tables and page say that a difference was tested, and the table of all tests."""

from __future__ import annotations

from collections.abc import Sequence

from stpl.report.rows import Line, TableLines
from stpl.report.sheet import NOTHING, Column, Sheet, TableCell, number, plain, same
from stpl.report.significance import DRAWS, SWAPS, Comparison, Interval
from stpl.report.suite import Suite

BETTER, DIFFERENT, ALIKE = "†", "*", " ns"
"""Marks: above the best baseline, different from the source-only model, not significantly so."""

_COLUMNS = (
    Column("", ("table",)),
    Column("Row", ("row",)),
    Column("against", ("against",)),
    Column("Δ mIoU", ("difference",)),
    Column("95 % interval", ("ci_low", "ci_high")),
    Column("SE", ("se",)),
    Column("p clips", ("p_clips",)),
    Column("p Holm", ("p_clips_holm",)),
    Column("p seeds", ("p_seeds",)),
    Column("", ("seeds", "clips")),
    Column("significant", ("significant",)),
)
_NOTES = (
    f"Interval: percentile bootstrap over clips and seeds, {DRAWS} draws, paired. Clips that follow one another are "
    "drawn together. SE: standard error over seeds of the mean difference.",
    "p clips: permutation test, the two models' counts of a clip swapped; exact with few clips, else "
    f"{SWAPS} random swaps. p Holm: the same, corrected for the comparisons of its table.",
    "p seeds: exact sign-flip test over seeds; it cannot fall below 2/2^n for n seeds (0.25 for three).",
    "significant: p Holm < 0.05 and the interval leaves out 0.",
)


def tests_sheet(tables: Sequence[TableLines], suite: Suite) -> Sheet | None:
    """Every comparison that was tested, with its interval and its p values; `None` if there is none."""
    cells = [
        _cells(lines.table.id, line, comparison, suite)
        for lines in tables
        for line in lines.lines
        for comparison in (line.source, line.baseline)
        if comparison is not None
    ]
    return Sheet("tests", f"Paired tests, {suite.title}", _COLUMNS, cells, _NOTES) if cells else None


def _cells(table: str, line: Line, comparison: Comparison, suite: Suite) -> list[TableCell]:
    ps = (comparison.p_clips, comparison.p_holm, comparison.p_seeds)
    return [
        TableCell("", (table,)),
        same(line.title),
        TableCell(suite.title_of(comparison.against), (comparison.against,)),
        TableCell(number(comparison.difference, "+.2f"), plain(comparison.difference)),
        TableCell(between(comparison.interval, "+.2f"), plain(*ends(comparison))),
        TableCell(number(comparison.error), plain(comparison.error)),
        *(TableCell(_probability(p), ("" if p is None else f"{p:.4f}",)) for p in ps),
        TableCell("", (str(comparison.seeds), str(line.clips))),
        same("yes" if comparison.significant else "no"),
    ]


def _probability(p: float | None) -> str:
    return NOTHING if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def ends(comparison: Comparison | None) -> tuple[float | None, float | None]:
    """The ends of the interval of a difference."""
    return (None, None) if comparison is None else (comparison.interval.low, comparison.interval.high)


def between(interval: Interval | None, form: str = ".2f") -> str:
    """An interval as people read it; nothing for `None`."""
    return f"{number(interval.low, form)} … {number(interval.high, form)}" if interval else ""


def with_interval(comparison: Comparison | None) -> str:
    """A difference, its interval in tenths, and its mark."""
    if comparison is None:
        return NOTHING
    low, high = (number(end, "+.1f") for end in ends(comparison))
    return f"{number(comparison.difference, '+.2f')} [{low}, {high}]{mark(comparison)}"


def mark(comparison: Comparison | None) -> str:
    """`*` or ` ns` behind a difference; nothing where none was tested."""
    if comparison is None:
        return ""
    return DIFFERENT if comparison.significant else ALIKE


def kind(comparison: Comparison | None) -> str:
    """The CSS class of a difference."""
    if comparison is None:
        return ""
    return ("up" if comparison.difference > 0 else "down") if comparison.significant else "ns"


def evidence(comparison: Comparison | None) -> str:
    """What the page says of a difference under the pointer."""
    if comparison is None:
        return ""
    interval, p = between(comparison.interval, "+.2f"), _probability(comparison.p_holm)
    return f"95 % interval {interval}; p Holm {p}; {comparison.seeds} common seeds"
