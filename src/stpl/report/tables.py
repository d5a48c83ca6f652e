"""`stpl report`: tables of a benchmark's runs as CSV, Markdown and in the terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from stpl.experiments import Catalogue, check_bench, load_catalogue
from stpl.record import write_atomically
from stpl.report.rows import ClassLine, Line, TableLines, class_lines, table_lines, variants

COLUMNS = (
    "row", "seeds", "miou_last_mean", "miou_last_std", "miou_selected_mean", "miou_best_mean", "delta_vs_source",
    "paper_miou",
)  # fmt: skip
"""Columns of a table's CSV; an empty cell means that there is nothing to show."""

_NOTHING = "–"


def report(
    *,
    bench: str = "streets",
    runs: Path = Path("runs"),
    experiments: Path = Path("experiments"),
    output: Path | None = None,
) -> None:
    """Write and print every table of the catalogue from the records on disk.

    Writes `<id>.csv` and `<id>.md` for each table, `per_class.csv` and `per_class.md`, and, where runs with settings
    changed on the command line are recorded, `variants.csv` and `variants.md`. The same records give the same bytes.

    Args:
        bench: benchmark whose runs to read.
        runs: folder of all runs.
        experiments: folder that holds `tables.yaml`.
        output: folder to write to; `<runs>/<bench>/tables` if not given.

    Raises:
        StplError: for an unknown benchmark, a broken catalogue, a torn record (named), or a full disk.
    """
    check_bench(bench, experiments)
    catalogue = load_catalogue(experiments)
    folder = runs / bench / "tables" if output is None else output
    console = Console(highlight=False)
    for table in (*catalogue.tables, *variants(catalogue, bench, runs)):
        lines = table_lines(table, bench, runs)
        write_atomically(folder / f"{table.id}.csv", _csv(COLUMNS, [_csv_row(line) for line in lines.lines]))
        write_atomically(folder / f"{table.id}.md", _markdown(lines, catalogue))
        _show(lines, catalogue, console)
    classes, rows = class_lines(catalogue, bench, runs)
    write_atomically(folder / "per_class.csv", _csv(*_per_class(classes, rows, "", ".2f")))
    write_atomically(folder / "per_class.md", _per_class_markdown(classes, rows, bench))
    console.print(Text(f"written to {folder}"), soft_wrap=True)


def print_table(
    table: str, *, bench: str = "streets", runs: Path = Path("runs"), experiments: Path = Path("experiments")
) -> None:
    """Print one table of the catalogue and write nothing.

    Args:
        table: its id, e.g. `table3`.
        bench: benchmark whose runs to read.
        runs: folder of all runs.
        experiments: folder that holds `tables.yaml`.

    Raises:
        StplError: as `report`, and for an unknown table.
    """
    check_bench(bench, experiments)
    catalogue = load_catalogue(experiments)
    _show(table_lines(catalogue.table(table), bench, runs), catalogue, Console(highlight=False))


def _csv(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


def _csv_row(line: Line) -> list[str]:
    numbers = (line.last, line.spread, line.selected, line.best, line.delta, line.paper)
    return [line.title, str(len(line.seeds)), *(_number(value, ".2f", "") for value in numbers)]


def _number(value: float | None, form: str = ".2f", nothing: str = _NOTHING) -> str:
    # Adding 0.0 after rounding turns -0.00 into 0.00.
    return nothing if value is None else format(round(value, 2) + 0.0, form)


def _cells(lines: TableLines, catalogue: Catalogue) -> tuple[list[str], list[list[str]]]:
    """Header and rows as people read them."""
    header = ["Method", "Seeds", "mIoU last", "selected", "best", "Δ source"]
    rows = [_measured(line) for line in lines.lines]
    if not lines.has_paper:
        return header, rows
    ours = lines.bench == lines.paper_bench
    header += ["paper", "ours − paper"] if ours else [f"paper ({_called(lines.paper_bench, catalogue)})"]
    return header, [[*row, *_stated(line, ours)] for row, line in zip(rows, lines.lines, strict=True)]


def _called(bench: str, catalogue: Catalogue) -> str:
    return catalogue.benchmarks.get(bench, bench)


def _measured(line: Line) -> list[str]:
    spread = "" if line.spread is None else f" ± {_number(line.spread)}"
    numbers = [_number(line.selected), _number(line.best), _number(line.delta, "+.2f")]
    return [line.title, str(len(line.seeds)), _number(line.last) + spread, *numbers]


def _stated(line: Line, ours: bool) -> list[str]:
    paper = _number(line.paper, ".1f")
    if not ours:
        return [paper]
    difference = None if line.last is None or line.paper is None else line.last - line.paper
    return [paper, _number(difference, "+.2f")]


def _notes(lines: TableLines, catalogue: Catalogue) -> list[str]:
    seeds = sorted({seed for line in lines.lines for seed in line.seeds})
    by = f" by {'; '.join(lines.criteria)}" if lines.criteria else ""
    return [
        f"mIoU in percent. Seeds: {', '.join(map(str, seeds)) or 'none recorded'}. "
        "mean ± sample standard deviation over seeds (no ± for one seed).",
        "last: at the last step. "
        f"selected: at the checkpoint chosen without labels{by}. "
        "best: at the checkpoint chosen on target labels, hence optimistic.",
        "Δ source: last minus last of the source-only model.",
        *_paper_note(lines, catalogue),
    ]


def _paper_note(lines: TableLines, catalogue: Catalogue) -> list[str]:
    if not lines.has_paper:
        return []
    context = "" if lines.bench == lines.paper_bench else ", another benchmark: context, not a comparison"
    return [f"Paper ({_called(lines.paper_bench, catalogue)}{context}): {lines.table.citation}."]


def _title(lines: TableLines, catalogue: Catalogue) -> str:
    return f"{lines.table.title}, {_called(lines.bench, catalogue)}"


def _markdown(lines: TableLines, catalogue: Catalogue) -> str:
    notes = "\n".join(f"- {note}" for note in _notes(lines, catalogue))
    return f"## {_title(lines, catalogue)}\n\n{_grid(*_cells(lines, catalogue))}\n{notes}\n"


def _grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns also line up in a text editor; the first is flush left, numbers flush right."""
    columns = list(zip(header, *rows, strict=True))
    widths = [max(3, *(len(cell) for cell in column)) for column in columns]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [header, rule, *rows]
    return "".join(f"| {' | '.join(_pad(line, widths))} |\n" for line in lines)


def _pad(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]


def _per_class(
    classes: Sequence[str], rows: Sequence[ClassLine], nothing: str, form: str
) -> tuple[list[str], list[list[str]]]:
    body = [
        [row.title, str(row.seeds), *(_number(value, form, nothing) for value in (row.miou, *row.iou.values()))]
        for row in rows
    ]
    return ["row", "seeds", "miou", *classes], body


def _per_class_markdown(classes: Sequence[str], rows: Sequence[ClassLine], bench: str) -> str:
    grid = _grid(*_per_class(classes, rows, _NOTHING, ".1f"))
    note = "IoU in percent at the last step, mean over seeds; – where a class or a record is absent."
    return f"## Per-class IoU, {bench}\n\n{grid}\n{note}\n"


def _show(lines: TableLines, catalogue: Catalogue, console: Console) -> None:
    header, rows = _cells(lines, catalogue)
    title = Text(_title(lines, catalogue), style="bold")
    gap = 1 if console.width > 90 else 0
    table = RichTable(title=title, box=box.SIMPLE_HEAD, title_justify="left", padding=(0, gap, 0, 0), pad_edge=False)
    for index, name in enumerate(header):  # headers in several lines: a row fits 80 columns, numbers are never cut
        table.add_column(Text(name.replace(" ", "\n")), justify="left" if index == 0 else "right", no_wrap=index > 0)
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)
    for note in _notes(lines, catalogue):
        console.print(Text(note, style="dim"), soft_wrap=True)
    console.print()
