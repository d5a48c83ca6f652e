"""The page: everything about a benchmark's runs in one HTML file that needs neither server nor network."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from stpl.errors import StplError
from stpl.files import write_atomically
from stpl.pictures.colours import class_colour
from stpl.report.curves import unfinished
from stpl.report.gallery import Focus, Picture, focus
from stpl.report.player import player
from stpl.report.rows import Line, TableLines, class_lines
from stpl.report.sensitivity import sensitivity_sheet
from stpl.report.sheet import NOTHING, Sheet, number
from stpl.report.significance import Comparison
from stpl.report.suite import Suite
from stpl.report.tables import (
    FURTHER,
    METRIC_TABLES,
    line_to_paper,
    main_sheet,
    metric_name,
    metric_texts,
    probability,
    tests_sheet,
)
from stpl.report.theme import DARK, LIGHT, inline_svg
from stpl.runs.folder import LOG
from stpl.runs.record import CONFIG, METRICS, RECORD, RunRecord

if TYPE_CHECKING:
    from jinja2 import Environment, Template

PAGE = "index.html"
_ASSETS = Path(__file__).parent / "assets"


@dataclass(frozen=True)
class Cell:
    """A cell of a table on the page.

    Attributes:
        text: what is shown.
        run: experiment whose runs it was computed from, to link to; empty for none.
        title: what the pointer tells.
        kind: CSS classes.
        heat: 0..100, how strong the ground is.
    """

    text: str
    run: str = ""
    title: str = ""
    kind: str = ""
    heat: float | None = None


@dataclass(frozen=True)
class Grid:
    """A table on the page.

    Attributes:
        id: as of its CSV.
        title: caption.
        header: names of the columns, with a colour's square where there is one.
        rows: cells.
        notes: sentences below.
        stressed: numbers of the rows to stress.
    """

    id: str
    title: str
    header: Sequence[tuple[str, str]]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str]
    stressed: Sequence[int] = ()


def write_page(
    suite: Suite,
    tables: Sequence[TableLines],
    pictures: Sequence[Picture],
    chosen: str,
    place: Path,
    live: bool = False,
) -> Path:
    """Write `index.html` into `place`, as a whole.

    Args:
        suite: the runs.
        tables: their tables.
        pictures: the figures.
        chosen: the experiment that the page is about.
        place: folder to write to; links to runs are relative to it.
        live: the page asks its server for news.

    Returns:
        The file.

    Raises:
        StplError: for a torn artifact, a missing package or a full disk.
    """
    path = place / PAGE
    write_atomically(path, render(suite, tables, pictures, chosen, place, live))
    return path


def render(
    suite: Suite,
    tables: Sequence[TableLines],
    pictures: Sequence[Picture],
    chosen: str,
    place: Path,
    live: bool = False,
) -> str:
    """The page as text; arguments as of `write_page`."""
    rows = focus(suite, tables, chosen)
    played = player(suite, rows.rows)
    main, shared_notes = _without_shared_notes([_main_grid(lines, suite, rows) for lines in tables])
    sections: dict[str, list[dict[str, str]]] = {}
    for picture in pictures:
        description = f"{picture.figure.axes[0].get_title('left')}. {picture.caption}".replace("\n", ", ")
        svg = inline_svg(picture.figure, picture.name, description)
        sections.setdefault(picture.section, []).append({"svg": svg, "caption": picture.caption, "name": picture.name})
    return _template().render(
        suite=suite,
        live=live,
        css=_asset("page.css"),
        script=_asset("page.js"),
        light=LIGHT,
        dark=DARK,
        summary=_summary(suite, tables, rows),
        tables=main,
        shared_notes=shared_notes,
        tests=_sheet_grid(tests_sheet(tables, suite) if any(lines.has_tests for lines in tables) else None),
        classes=_class_grid(suite, rows),
        metrics=_metric_grid("metrics", suite, rows),
        selection=_metric_grid("selection", suite, rows),
        sensitivity=_sheet_grid(sensitivity_sheet(suite)),
        further=[_sheet_grid(sheet) for make in FURTHER if (sheet := make(suite)) is not None],
        pictures=sections,
        player=played,
        player_json=_script_json(played),
        pair=[rows.reference, chosen],
        experiments=[_experiment(suite, name, place) for name in suite.recorded()],
        unfinished=unfinished(suite),
        place=quote(os.path.relpath(suite.folder, place)),
    )


@cache
def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


@cache
def _template() -> Template:
    try:
        from jinja2 import Environment, FileSystemLoader
    except ImportError as error:
        raise StplError("the page needs jinja2", mend="pip install 'stpl[report]'") from error
    environment: Environment = Environment(
        loader=FileSystemLoader(_ASSETS), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["anchor"] = anchor
    return environment.get_template("page.html.j2")


def anchor(experiment: str) -> str:
    """The id on the page of an experiment's runs."""
    return "run-" + re.sub(r"[^\w.-]", "_", experiment)


def _script_json(value: object) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def _summary(suite: Suite, tables: Sequence[TableLines], rows: Focus) -> dict[str, Any]:
    lines = [line for table in tables for line in table.lines]
    line = next((line for line in lines if line.experiment == rows.chosen), None)
    best = next((line for line in lines if line.experiment == rows.baseline), None)
    bound = next((line for line in lines if line.experiment == rows.bound), None)
    missing = [line.title for line in lines if line.experiment and line.last is None]
    records = [record for name in suite.recorded() for record in suite.records(name)]
    return {
        "chosen": line,
        "last": number(line.last) if line else NOTHING,
        "spread": number(line.spread) if line and line.spread is not None else "",
        "interval": _interval(line.interval) if line else "",
        "source": _against(line.delta if line else None, line.source if line else None),
        "baseline": _against(_minus(line, best), line.baseline if line else None),
        "baseline_title": best.title if best else "",
        "bound": number(bound.last) if bound else "",
        "bound_title": bound.title if bound else "",
        "missing": list(dict.fromkeys(missing)),
        "records": len(records),
        "seeds": sorted({record["seed"] for record in records}),
        "commits": sorted({(record["git"] or "unknown")[:10] for record in records}),
        "hours": sum(record["seconds"] for record in records) / 3600,
    }


def _minus(line: Line | None, other: Line | None) -> float | None:
    return None if not line or not other or line.last is None or other.last is None else line.last - other.last


def _against(difference: float | None, test: Comparison | None) -> dict[str, str]:
    said = "" if test is None else "significant" if test.significant else "not significant"
    return {"value": number(difference, "+.2f"), "said": said, "title": _tested(test)}


def _interval(found: Any) -> str:
    return f"{number(found.low)} … {number(found.high)}" if found else ""


def _tested(test: Comparison | None) -> str:
    if test is None:
        return ""
    low, high = number(test.interval.low, "+.2f"), number(test.interval.high, "+.2f")
    return f"95 % interval {low} … {high}; p Holm {probability(test.p_holm)}; {test.seeds} common seeds"


def _main_grid(lines: TableLines, suite: Suite, rows: Focus) -> Grid:
    """The sheet with a column more: the interval of the mean."""
    sheet = main_sheet(lines, suite)
    header, paper = [*sheet.header[:3], "95 % interval", *sheet.header[3:]], 7 if lines.has_baseline else 6
    body = []
    for line, texts in zip(lines.lines, sheet.rows, strict=True):
        against = f"against {suite.title_of(line.baseline.against)}; {_tested(line.baseline)}" if line.baseline else ""
        run = line.experiment if line.experiment and line.seeds else ""
        cells = [
            *(Cell(text, run) for text in texts[:3]),
            Cell(_interval(line.interval) or NOTHING, run),
            *(Cell(text, run) for text in texts[3:5]),
            Cell(texts[5], run, _tested(line.source), _verdict(line.source)),
            *(Cell(text, run, against, _verdict(line.baseline)) for text in texts[6:paper]),
            *(Cell(text, kind="paper") for text in texts[paper : paper + 1]),
            *(Cell(text, run, kind="miss" if (line_to_paper(line) or 0) < 0 else "") for text in texts[paper + 1 :]),
        ]
        if line.experiment and not line.seeds:
            cells[2] = Cell("not run", kind="absent")
        body.append(cells)
    stressed = [index for index, line in enumerate(lines.lines) if line.experiment == rows.chosen]
    return Grid(sheet.id, sheet.title, [(name, "") for name in header], body, sheet.notes, stressed)


def _without_shared_notes(grids: Sequence[Grid]) -> tuple[list[Grid], list[str]]:
    """The tables with only the notes that are their own, and the notes that all of them share."""
    shared = [note for note in grids[0].notes if all(note in grid.notes for grid in grids)] if grids else []
    own = [replace(grid, notes=[note for note in grid.notes if note not in shared]) for grid in grids]
    return own, shared


def _verdict(test: Comparison | None) -> str:
    if test is None:
        return ""
    return ("up" if test.difference > 0 else "down") if test.significant else "ns"


def _sheet_grid(sheet: Sheet | None) -> Grid | None:
    """A sheet as it is."""
    if sheet is None:
        return None
    body = [[Cell(text) for text in row] for row in sheet.rows]
    return Grid(sheet.id, sheet.title, [(name, "") for name in sheet.header], body, sheet.notes)


def _class_grid(suite: Suite, rows: Focus) -> Grid:
    classes, lines = class_lines(suite)
    body = []
    for line in lines:
        run = line.experiment if line.experiment and line.seeds else ""
        values = [line.miou, *map(line.iou.get, classes)]
        cells = [Cell(number(v, ".1f"), run, number(v), heat=v) for v in values]
        body.append([Cell(line.title, run), Cell(str(line.seeds), run), *cells])
    stressed = [index for index, line in enumerate(lines) if line.experiment == rows.chosen]
    header = [("Method", ""), ("Seeds", ""), ("mIoU", ""), *((name, class_colour(name)) for name in classes)]
    note = "IoU in percent at the last step, mean over seeds; – where a class or a record is absent."
    return Grid("per_class", f"Per-class IoU, {suite.title}", header, body, [note], stressed)


def _metric_grid(name: str, suite: Suite, rows: Focus) -> Grid | None:
    title, note, numbers = METRIC_TABLES[name]
    lines = numbers(suite)
    if not lines:
        return None
    keys = list(dict.fromkeys(key for line in lines for key in line.values))
    body = [
        [Cell(line.title, line.experiment), Cell(str(line.seeds), line.experiment)]
        + [Cell(text, line.experiment) for text in texts]
        for line, texts in zip(lines, metric_texts(lines, keys), strict=True)
    ]
    stressed = [index for index, line in enumerate(lines) if line.experiment == rows.chosen]
    header = [("Method", ""), ("Seeds", ""), *((metric_name(key), "") for key in keys)]
    return Grid(name, f"{title}, {suite.title}", header, body, [note], stressed)


def _experiment(suite: Suite, name: str, place: Path) -> dict[str, Any]:
    return {
        "name": name,
        "title": suite.title_of(name),
        "runs": [_run(suite, record, place) for record in suite.records(name)],
    }


def _run(suite: Suite, record: RunRecord, place: Path) -> dict[str, Any]:
    folder = suite.directory(record)
    base = quote(os.path.relpath(folder, place))
    moments = {"last": record["last"], "selected": record["selected"], "best": record["best"]}
    return {
        "seed": record["seed"],
        "mious": {name: number(found["miou"]) if found else NOTHING for name, found in moments.items()},
        "steps": record["steps"],
        "seconds": f"{record['seconds']:.0f}",
        "memory": NOTHING if record["peak_memory_mb"] is None else f"{record['peak_memory_mb']:.0f}",
        "git": (record["git"] or NOTHING)[:10],
        "folder": f"{base}/",
        "files": {name: f"{base}/{name}" for name in (CONFIG, METRICS, RECORD, LOG) if (folder / name).exists()},
        "command": command_of(record),
    }


def command_of(record: RunRecord) -> str:
    """What to type to make the run again."""
    return shlex.join(["stpl", *record["command"][1:]]) if record["command"] else ""
