"""The tables of a benchmark's runs, ready to be written and shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from stpl.report.cameras import shifts_sheet
from stpl.report.costs import costs_sheet
from stpl.report.rows import Line, MetricLine, TableLines, class_lines, metric_lines, selection_lines, table_lines
from stpl.report.sensitivity import sensitivity_sheet
from stpl.report.sheet import NOTHING, Sheet, number, show
from stpl.report.significance import DRAWS, SWAPS, Comparison
from stpl.report.suite import Suite
from stpl.report.weights_statistics import statistics_sheet
from stpl.runs.experiments import check_bench, experiment_folders, load_catalogue

COLUMNS = (
    "row", "seeds", "miou_last_mean", "miou_last_std", "miou_selected_mean", "miou_best_mean", "delta_vs_source",
    "delta_vs_source_low", "delta_vs_source_high", "baseline", "delta_vs_baseline", "delta_vs_baseline_low",
    "delta_vs_baseline_high", "delta_vs_baseline_se", "paper_miou",
)  # fmt: skip
"""Columns of a table's CSV; an empty cell means that there is nothing to show."""

BETTER, DIFFERENT, ALIKE = "†", "*", " ns"
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
    return [
        per_class_sheet(suite),
        *([tests_sheet(tables, suite)] if any(lines.has_tests for lines in tables) else []),
        *_metric_sheets(suite),
        *(sheet for make in (*FURTHER, sensitivity_sheet) if (sheet := make(suite)) is not None),
    ]


FURTHER: tuple[Callable[[Suite], Sheet | None], ...] = (costs_sheet, statistics_sheet, shifts_sheet)
"""Sheets that only some suites have: what methods need, weights × statistics, cameras."""


def main_sheet(lines: TableLines, suite: Suite) -> Sheet:
    """A table of the catalogue: mIoU of every row at three checkpoints, beside the paper's."""
    header, rows = _cells(lines, suite)
    title = f"{lines.table.title}, {suite.title}"
    csv_rows = [_csv_row(line) for line in lines.lines]
    return Sheet(lines.table.id, title, header, rows, notes(lines, suite), COLUMNS, csv_rows)


def _csv_row(line: Line) -> list[str]:
    source, baseline = line.source, line.baseline
    numbers = (line.last, line.spread, line.selected, line.best, line.delta, *_ends(source))
    beside = (baseline.difference if baseline else None, *_ends(baseline), baseline.error if baseline else None)
    return [
        line.title,
        str(len(line.seeds)),
        *(number(value, nothing="") for value in numbers),
        baseline.against if baseline else "",
        *(number(value, nothing="") for value in (*beside, line.paper)),
    ]


def _ends(comparison: Comparison | None) -> tuple[float | None, float | None]:
    return (None, None) if comparison is None else (comparison.interval.low, comparison.interval.high)


def _cells(lines: TableLines, suite: Suite) -> tuple[list[str], list[list[str]]]:
    """Header and rows as people read them."""
    header = ["Method", "Seeds", "mIoU last", "selected", "best", "Δ source"]
    rows = [_measured(line) for line in lines.lines]
    if lines.has_baseline:
        header.append("Δ control" if lines.table.controls else "Δ best other")
        rows = [[*row, _with_interval(line.baseline)] for row, line in zip(rows, lines.lines, strict=True)]
    if not lines.has_paper:
        return header, rows
    ours = lines.bench == lines.paper_bench
    header += ["paper", "ours − paper"] if ours else [f"paper ({suite.called(lines.paper_bench)})"]
    return header, [[*row, *_stated(line, ours)] for row, line in zip(rows, lines.lines, strict=True)]


def _measured(line: Line) -> list[str]:
    spread = "" if line.spread is None else f" ± {number(line.spread)}"
    above = BETTER if line.baseline and line.baseline.significant and line.baseline.difference > 0 else ""
    delta = number(line.delta, "+.2f") + mark(line.source)
    return [
        line.title,
        str(len(line.seeds)),
        number(line.last) + spread + above,
        number(line.selected),
        number(line.best),
        delta,
    ]


def _with_interval(comparison: Comparison | None) -> str:
    """A difference, its interval in tenths, and its mark."""
    if comparison is None:
        return NOTHING
    low, high = (number(end, "+.1f") for end in _ends(comparison))
    return f"{number(comparison.difference, '+.2f')} [{low}, {high}]{mark(comparison)}"


def mark(comparison: Comparison | None) -> str:
    """`*` or ` ns` behind a difference; nothing where none was tested."""
    if comparison is None:
        return ""
    return DIFFERENT if comparison.significant else ALIKE


def _stated(line: Line, ours: bool) -> list[str]:
    paper = number(line.paper, ".1f")
    return [paper, number(line_to_paper(line), "+.2f")] if ours else [paper]


def line_to_paper(line: Line) -> float | None:
    """Ours minus the paper's."""
    return None if line.last is None or line.paper is None else line.last - line.paper


def notes(lines: TableLines, suite: Suite) -> list[str]:
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
    if not lines.has_tests:
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


def per_class_sheet(suite: Suite) -> Sheet:
    """IoU of every class at the last step."""
    classes, lines = class_lines(suite)

    def body(form: str, nothing: str) -> list[list[str]]:
        """The rows as text: numbers in `form`, `nothing` where one is absent."""
        values = [[line.miou, *map(line.iou.get, classes)] for line in lines]
        return [
            [line.title, str(line.seeds), *(number(value, form, nothing) for value in row)]
            for line, row in zip(lines, values, strict=True)
        ]

    note = "IoU in percent at the last step, mean over seeds; – where a class or a record is absent."
    header = ["row", "seeds", "miou", *classes]
    title = f"Per-class IoU, {suite.title}"
    return Sheet("per_class", title, header, body(".1f", NOTHING), [note], header, body(".2f", ""))


_TESTS = (
    "table", "row", "against", "difference", "ci_low", "ci_high", "se", "p_clips", "p_clips_holm", "p_seeds", "seeds",
    "clips", "significant",
)  # fmt: skip


def tests_sheet(tables: Sequence[TableLines], suite: Suite) -> Sheet:
    """Every comparison that was tested, with its interval and its p values."""
    found = [
        (lines.table.id, line, comparison)
        for lines in tables
        for line in lines.lines
        for comparison in (line.source, line.baseline)
        if comparison is not None
    ]
    header = ["Row", "against", "Δ mIoU", "95 % interval", "SE", "p clips", "p Holm", "p seeds", "significant"]
    rows = [_test_cells(line.title, suite.title_of(c.against), c) for _, line, c in found]
    csv_rows = [_test_csv(table, line, c) for table, line, c in found]
    title = f"Paired tests, {suite.title}"
    return Sheet("tests", title, header, rows, list(_TEST_NOTES), _TESTS, csv_rows)


_TEST_NOTES = (
    f"Interval: percentile bootstrap over clips and seeds, {DRAWS} draws, paired. Clips that follow one another are "
    "drawn together. SE: standard error over seeds of the mean difference.",
    "p clips: permutation test, the two models' counts of a clip swapped; exact with few clips, else "
    f"{SWAPS} random swaps. p Holm: the same, corrected for the comparisons of its table.",
    "p seeds: exact sign-flip test over seeds; it cannot fall below 2/2^n for n seeds (0.25 for three).",
    "significant: p Holm < 0.05 and the interval leaves out 0.",
)


def _test_cells(row: str, against: str, comparison: Comparison) -> list[str]:
    low, high = comparison.interval.low, comparison.interval.high
    return [
        row,
        against,
        number(comparison.difference, "+.2f"),
        f"{number(low, '+.2f')} … {number(high, '+.2f')}",
        number(comparison.error),
        *(probability(p) for p in (comparison.p_clips, comparison.p_holm, comparison.p_seeds)),
        "yes" if comparison.significant else "no",
    ]


def _test_csv(table: str, line: Line, comparison: Comparison) -> list[str]:
    values = (comparison.difference, *_ends(comparison), comparison.error)
    ps = (comparison.p_clips, comparison.p_holm, comparison.p_seeds)
    return [
        table,
        line.title,
        comparison.against,
        *(number(value, nothing="") for value in values),
        *("" if p is None else f"{p:.4f}" for p in ps),
        str(comparison.seeds),
        str(line.clips),
        "yes" if comparison.significant else "no",
    ]


def probability(p: float | None) -> str:
    """A p value as people read it."""
    return NOTHING if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


NAMES = {
    "sigma_intra": "σ intra", "sigma_inter": "σ inter", "sigma_intra_normalized": "σ intra, unit",
    "sigma_inter_normalized": "σ inter, unit", "silhouette": "silhouette", "mtc": "mTC",
    "pl_predconsis": "PL-PredConsis", "pl_warped": "PL-Warped", "pl_consistency": "PL-Consistency",
    "linear_probe": "linear probe", "nearest_mean": "nearest mean", "moved": "moved, %",
    "information_maximization": "information maximisation", "soft_neighborhood_density": "neighbourhood density",
}  # fmt: skip
"""How people read the names of metrics and validators."""


def metric_name(key: str) -> str:
    """`vpq@1` as people read it."""
    name, _, k = key.partition("@")
    shown = NAMES.get(name, name.upper() if name == "vpq" else name.replace("_", " "))
    return f"{shown}@{k}" if k else shown


def metric_texts(lines: Sequence[MetricLine], keys: Sequence[str], nothing: str = NOTHING) -> list[list[str]]:
    """The metrics `keys` of each line, the columns of small numbers with more decimals: about four digits each."""
    columns = [[line.values.get(key) for line in lines] for key in keys]
    largest = [max((abs(value) for value in column if value is not None), default=0.0) for column in columns]
    decimals = [2 if most >= 10 else 3 if most >= 1 else 4 for most in largest]
    texts = [
        [nothing if value is None else f"{value:.{places}f}" for value in column]
        for column, places in zip(columns, decimals, strict=True)
    ]
    return [list(row) for row in zip(*texts, strict=True)]


METRIC_TABLES: dict[str, tuple[str, str, Callable[[Suite], list[MetricLine]]]] = {
    "metrics": (
        "Feature space and consistency in time",
        "Mean over seeds at the last step. σ: variance within and between classes of balanced pixel features; unit: of "
        "features scaled to length 1. purity@k: share in percent of the k nearest neighbours that are of the same "
        "class. linear probe, nearest mean: mean class accuracy in percent of a linear classifier and of the nearest "
        "class mean, refitted on one half of the clips and asked about the other. mTC: agreement in percent of a "
        "prediction with the warped one of the frame before. VPQ@s: video panoptic quality over windows of s frames. "
        "moved: change of the encoder's weights in percent of their norm.",
        metric_lines,
    ),
    "selection": (
        "Checkpoints chosen without labels",
        "mIoU in percent, mean over seeds: at the last step, at the checkpoint that each validator chooses without "
        "labels, and at the best one on target labels (optimistic).",
        selection_lines,
    ),
}
"""Tables of metrics: title, note and lines by id."""


def _metric_sheets(suite: Suite) -> list[Sheet]:
    found = [(name, title, note, numbers(suite)) for name, (title, note, numbers) in METRIC_TABLES.items()]
    return [_metric_sheet(name, title, note, lines, suite) for name, title, note, lines in found if lines]


def _metric_sheet(name: str, title: str, note: str, lines: Sequence[MetricLine], suite: Suite) -> Sheet:
    keys = list(dict.fromkeys(key for line in lines for key in line.values))

    def body(nothing: str) -> list[list[str]]:
        """The rows as text, `nothing` where a number is absent."""
        texts = metric_texts(lines, keys, nothing)
        return [[line.title, str(line.seeds), *row] for line, row in zip(lines, texts, strict=True)]

    header = ["Method", "Seeds", *map(metric_name, keys)]
    return Sheet(name, f"{title}, {suite.title}", header, body(NOTHING), [note], ["row", "seeds", *keys], body(""))


FURTHER_IDS = ("per_class", "variants", "tests", *METRIC_TABLES, "costs", "statistics", "shifts", "sensitivity")
"""Ids of the tables that are not the catalogue's; most exist only where the records have something to say."""
