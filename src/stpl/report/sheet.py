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

_BESIDE = re.compile(r" (?=[±\[])")
_WORD = 13  # letters of a word in the first column that are never cut on a screen

NOTHING = "–"
"""What people see where there is nothing to show; a program sees an empty cell."""


@dataclass(frozen=True)
class Sheet:
    """A table as people and as programs read it.

    Attributes:
        id: file name without suffix.
        title: caption.
        header: names of the columns for people; the first column is text, the rest are numbers.
        rows: cells for people.
        notes: sentences below the table.
        csv_header: names of the columns for programs.
        csv_rows: cells for programs, as many rows.
    """

    id: str
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]
    csv_header: Sequence[str]
    csv_rows: Sequence[Sequence[str]]

    def write(self, folder: Path) -> None:
        """Write `<id>.csv`, `<id>.md` and `<id>.tex` into `folder`, each as a whole; raises `StplError`."""
        write_atomically(folder / f"{self.id}.csv", csv_text(self.csv_header, self.csv_rows))
        write_atomically(folder / f"{self.id}.md", markdown(self))
        write_atomically(folder / f"{self.id}.tex", latex(self))


def number(value: float | None, form: str = ".2f", nothing: str = NOTHING) -> str:
    """A number as text, in hundredths at the finest; `nothing` for `None`, and never a negative zero."""
    return nothing if value is None else format(round(value, 2) + 0.0, form)


def csv_text(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as CSV with a header line."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


def markdown(sheet: Sheet) -> str:
    """A table as Markdown, with its caption as a heading and its notes as a list."""
    notes = "\n".join(f"- {note}" for note in sheet.notes)
    return f"## {sheet.title}\n\n{_grid(sheet.header, sheet.rows)}\n{notes}\n"


def _grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns also line up in a text editor; the first is flush left, numbers flush right."""
    columns = list(zip(header, *rows, strict=True))
    widths = [max(3, *(len(cell) for cell in column)) for column in columns]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "".join(f"| {' | '.join(_pad(line, widths))} |\n" for line in [header, rule, *rows])


def _pad(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]


_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "Δ": r"$\Delta$", "σ": r"$\sigma$",
    "τ": r"$\tau$", "→": r"$\rightarrow$", "−": r"$-$", "†": r"$^{\dagger}$", "*": r"$^{*}$", "–": "--",
    "×": r"$\times$", "↔": r"$\leftrightarrow$",
}  # fmt: skip
_TEX_PATTERN = re.compile("|".join(map(re.escape, _TEX)))
_NEGATIVE = re.compile(r"-\d")


def tex(text: str) -> str:
    r"""Text for LaTeX: its special characters escaped, the symbols of our tables as mathematics, -1 as $-$1."""
    escaped = _TEX_PATTERN.sub(lambda match: _TEX[match[0]], text)
    return _NEGATIVE.sub(lambda match: f"$-${match[0][1:]}", escaped) if _NEGATIVE.match(text) else escaped


def latex(sheet: Sheet) -> str:
    r"""A table for LaTeX, in the rules of the package booktabs; compiles wherever that is loaded, in any engine."""
    lines = [
        f"% {sheet.title}. Needs \\usepackage{{booktabs}}.",
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{tex(sheet.title)}. {' '.join(tex(note) for note in sheet.notes)}}}",
        rf"  \label{{tab:{sheet.id}}}",
        rf"  \begin{{tabular}}{{l{'r' * (len(sheet.header) - 1)}}}",
        r"    \toprule",
        _tex_row(sheet.header),
        r"    \midrule",
        *map(_tex_row, sheet.rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _tex_row(cells: Sequence[str]) -> str:
    return f"    {' & '.join(map(tex, cells))} \\\\"


def show(sheet: Sheet, console: Console) -> None:
    """Print a table and its notes; on a narrow screen spreads and intervals stand below their number."""
    wide = console.width > 110
    title = Text(sheet.title, style="bold")
    gap = 1 if console.width > 90 else 0
    table = RichTable(title=title, box=box.SIMPLE_HEAD, title_justify="left", padding=(0, gap, 0, 0), pad_edge=False)
    longest = max((len(word) for row in sheet.rows for word in row[0].split()), default=0)
    for index, name in enumerate(sheet.header):  # headers in several lines: a row fits 80 columns, no number is cut
        first = index == 0
        least = min(longest, _WORD) if first else None
        text = Text(name.replace(" ", "\n"))
        table.add_column(text, justify="left" if first else "right", no_wrap=not first, min_width=least)
    for first_cell, *cells in sheet.rows:
        table.add_row(Text(first_cell), *(Text(cell if wide else _BESIDE.sub("\n", cell)) for cell in cells))
    console.print(table)
    for note in sheet.notes:
        console.print(Text(note, style="dim"), soft_wrap=True)
    console.print()
