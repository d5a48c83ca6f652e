"""A table in all its forms: CSV for programs, Markdown and LaTeX for papers, a grid in the terminal."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from stpl.files import write_atomically
from stpl.report.significance import deviation, mean

_BESIDE, _WITHIN = re.compile(r" (?=[±\[])|(?<=…) "), re.compile(r"(?<=,) ")
_WORD = 13  # letters of a word in the first column that are never cut on a screen

NOTHING = "–"
"""What people see where there is nothing to show; a program sees an empty cell."""


@dataclass(frozen=True)
class TableCell:
    """A cell of a table.

    Attributes:
        text: what people read.
        values: what programs read, one for each key of the column.
        title: what the page says under the pointer.
        kind: CSS classes on the page; a cell of the kind `paper` is computed from no run.
        heat: 0..100, how strong its ground is on the page.
    """

    text: str
    values: tuple[str, ...] = ()
    title: str = ""
    kind: str = ""
    heat: float | None = None


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: what people read above it; empty for one that only programs read.
        keys: the columns of the CSV that hold the same; none for one that only people read.
        cells: one a row.
        colour: of a square beside the title, on the page.
        page: whether only the page shows it.
    """

    title: str
    keys: tuple[str, ...]
    cells: Sequence[TableCell]
    colour: str = ""
    page: bool = False


@dataclass(frozen=True)
class Sheet:
    """A table as people and as programs read it.

    Attributes:
        id: file name without suffix.
        title: caption.
        columns: the first is text, the rest are numbers.
        notes: sentences below the table.
        experiments: of each row, whose runs it was computed from, for the page to link to; may be left out.
    """

    id: str
    title: str
    columns: Sequence[Column]
    notes: Sequence[str]
    experiments: Sequence[str | None] = ()

    @property
    def shown(self) -> list[tuple[TableCell, ...]]:
        """The rows that the page shows."""
        return _rows([column for column in self.columns if column.title])

    @property
    def texts(self) -> list[list[str]]:
        """Titles of the columns, then the cells of each row, for people."""
        columns = [column for column in self.columns if column.title and not column.page]
        return [[column.title for column in columns], *([cell.text for cell in row] for row in _rows(columns))]

    @property
    def csv_rows(self) -> list[list[str]]:
        """Cells for programs."""
        return [[value for cell in row for value in cell.values] for row in _rows(self.columns)]

    def write(self, folder: Path) -> None:
        """Write `<id>.csv`, `<id>.md` and `<id>.tex` into `folder`, each as a whole; raises `StplError`."""
        keys = [key for column in self.columns for key in column.keys]
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([keys, *self.csv_rows])
        write_atomically(folder / f"{self.id}.csv", text.getvalue())
        write_atomically(folder / f"{self.id}.md", markdown(self))
        write_atomically(folder / f"{self.id}.tex", latex(self))


def _rows(columns: Sequence[Column]) -> list[tuple[TableCell, ...]]:
    return list(zip(*(column.cells for column in columns), strict=True))


def number(value: float | None, form: str = ".2f", nothing: str = NOTHING) -> str:
    """A number as text, in hundredths at the finest; `nothing` for `None`, and never a negative zero."""
    return nothing if value is None else format(round(value, 2) + 0.0, form)


def plain(*values: float | None) -> tuple[str, ...]:
    """Numbers as programs read them."""
    return tuple(number(value, nothing="") for value in values)


def plus_minus(value: float | None, spread: float | None, form: str = ".2f") -> str:
    """A number and its spread, if it has one."""
    return number(value, form) + ("" if spread is None else f" ± {number(spread)}")


def average(values: Sequence[float]) -> TableCell:
    """A cell of a mean and the sample standard deviation, where there are several values."""
    both = mean(values), deviation(values)
    return TableCell(plus_minus(*both), plain(*both))


def same(text: object) -> TableCell:
    """A cell that people and programs read alike."""
    return TableCell(str(text), (str(text),))


def numeric(value: float | None, form: str = ".2f") -> TableCell:
    """A cell of one number, which programs read in hundredths."""
    return TableCell(number(value, form), plain(value))


def markdown(sheet: Sheet) -> str:
    """A table as Markdown, with its caption as a heading and its notes as a list.

    Its columns also line up in a text editor: the first is flush left, numbers are flush right.
    """
    header, *rows = sheet.texts
    widths = [max(3, *map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    grid = ""
    for first, *numbers in (header, rule, *rows):
        padded = [text.rjust(width) for text, width in zip(numbers, widths[1:], strict=True)]
        grid += f"| {' | '.join([first.ljust(widths[0]), *padded])} |\n"
    notes = "\n".join(f"- {note}" for note in sheet.notes)
    return f"## {sheet.title}\n\n{grid}\n{notes}\n"


_TEX = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "Δ": r"$\Delta$", "σ": r"$\sigma$",
    "τ": r"$\tau$", "→": r"$\rightarrow$", "−": r"$-$", "†": r"$^{\dagger}$", "*": r"$^{*}$", "–": "--",
    "×": r"$\times$", "↔": r"$\leftrightarrow$",
})  # fmt: skip
_NEGATIVE = re.compile(r"-(\d)")


def tex(text: str) -> str:
    r"""Text for LaTeX: its special characters escaped, the symbols of our tables as mathematics, -1 as $-$1."""
    escaped = text.translate(_TEX)
    return _NEGATIVE.sub(r"$-$\1", escaped) if _NEGATIVE.match(text) else escaped


def latex(sheet: Sheet) -> str:
    r"""A table for LaTeX, in the rules of the package booktabs; compiles wherever that is loaded, in any engine."""
    header, *rows = [f"    {' & '.join(map(tex, row))} \\\\" for row in sheet.texts]
    lines = [
        f"% {sheet.title}. Needs \\usepackage{{booktabs}}.",
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{tex(sheet.title)}. {' '.join(map(tex, sheet.notes))}}}",
        rf"  \label{{tab:{sheet.id}}}",
        rf"  \begin{{tabular}}{{l{'r' * (len(sheet.texts[0]) - 1)}}}",
        r"    \toprule",
        header,
        r"    \midrule",
        *rows,
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def show(sheet: Sheet, console: Console) -> None:
    """Print a table and its notes; on a narrow screen spreads and intervals stand below their number."""
    header, *rows = sheet.texts
    wide, narrow = console.width > 110, console.width <= 90
    if not wide:
        rows = [[first, *(_BESIDE.sub("\n", cell) for cell in cells)] for first, *cells in rows]
    if narrow:
        header = [text.replace("→", " →") for text in header]
        rows = [[first, *(_WITHIN.sub("\n", cell) for cell in cells)] for first, *cells in rows]
    title = Text(sheet.title, style="bold")
    gap = 0 if narrow else 1
    table = RichTable(title=title, box=box.SIMPLE_HEAD, title_justify="left", padding=(0, gap, 0, 0), pad_edge=False)
    longest = max((len(word) for row in rows for word in row[0].split()), default=0)
    name, *others = [Text(text.replace(" ", "\n")) for text in header]  # in several lines: a row fits 80 columns
    table.add_column(name, justify="left", min_width=min(longest, _WORD))
    for other in others:
        table.add_column(other, justify="right", no_wrap=True)  # no number is cut
    for first, *cells in rows:
        table.add_row(Text(first), *map(Text, cells))
    console.print(table)
    for note in sheet.notes:
        console.print(Text(note, style="dim"), soft_wrap=True)
    console.print()
