"""The page: everything about a benchmark's runs, a player too, in one HTML file without server or network."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stpl.files import write_atomically
from stpl.pictures.colours import class_colour, class_rgb
from stpl.pictures.pages import render_page
from stpl.report.curves import unfinished
from stpl.report.gallery import Focus, Picture, focus
from stpl.report.rows import RENEWED, TableLines
from stpl.report.sheet import NOTHING, Sheet, number
from stpl.report.significance import FEWEST, Comparison
from stpl.report.suite import Suite
from stpl.report.tables import between, evidence, main_sheet, sheets
from stpl.report.theme import inline_svg
from stpl.runs.artifacts import VideoSample, read_samples
from stpl.runs.folder import LOG
from stpl.runs.record import CONFIG, METRICS, RECORD, RunRecord

PAGE = "index.html"
BUDGET = 9_000_000
"""Bytes of the page that the player may take; rows that do not fit are left out, and the page says so."""

_ASSETS = Path(__file__).parent / "assets"


@dataclass(frozen=True)
class Contents:
    """What a page shows: runs, their tables and figures, and the experiment that it is about."""

    suite: Suite
    tables: Sequence[TableLines]
    pictures: Sequence[Picture]
    chosen: str


def write_page(contents: Contents, place: Path) -> Path:
    """Write `index.html` into the folder `place`, as a whole; links to runs are relative to it.

    Raises:
        StplError: for a torn artifact, a missing package or a full disk.
    """
    path = place / PAGE
    write_atomically(path, render(contents, place))
    return path


def render(contents: Contents, place: Path, live: bool = False) -> str:
    """The page as text; a `live` one gets news from its server."""
    suite, tables, chosen = contents.suite, contents.tables, contents.chosen
    rows = focus(suite, tables, chosen)
    played = player(suite, rows.rows)
    main, shared_notes = _without_shared_notes([main_sheet(lines, suite) for lines in tables])
    further = {sheet.id: sheet for sheet in sheets(suite, tables)}
    classes, titles = further["per_class"], {"row": "Method", "seeds": "Seeds", "miou": "mIoU"}
    sections: dict[str, list[dict[str, str]]] = {}
    for picture in contents.pictures:
        description = f"{picture.figure.axes[0].get_title('left')}. {picture.caption}".replace("\n", ", ")
        svg = inline_svg(picture.figure, picture.name, description)
        sections.setdefault(picture.section, []).append({"svg": svg, "caption": picture.caption, "name": picture.name})
    return render_page(
        _ASSETS,
        suite=suite,
        live=live,
        script=(_ASSETS / "page.js").read_text(encoding="utf-8"),
        anchor=_anchor,
        summary=_summary(suite, tables, rows),
        chosen=chosen,
        tables=main,
        shared_notes=shared_notes,
        further=further,
        recorded=suite.recorded(),
        classes=replace(classes, columns=[replace(c, title=titles.get(c.title, c.title)) for c in classes.columns]),
        pictures=sections,
        player=played,
        # JSON that cannot end the script element it stands in
        player_json=json.dumps(played, separators=(",", ":")).replace("<", "\\u003c"),
        pair=[rows.reference, chosen],
        experiments=[
            {"name": name, "title": suite.title_of(name), "runs": [_run(suite, r, place) for r in suite.records(name)]}
            for name in suite.recorded()
        ],
        unfinished=unfinished(suite),
        place=quote(os.path.relpath(suite.folder, place)),
    )


def _anchor(experiment: str) -> str:
    """The id on the page of an experiment's runs."""
    return "run-" + re.sub(r"[^\w.-]", "_", experiment)


def _summary(suite: Suite, tables: Sequence[TableLines], rows: Focus) -> dict[str, Any]:
    lines = [line for table in tables for line in table.lines if line.experiment]
    first = {line.experiment: line for line in reversed(lines)}
    line, bound = map(first.get, (rows.chosen, rows.bound))
    tests = [(title, line.renewed[kind].control) for kind, title in RENEWED.items() if line and kind in line.renewed]
    records = list(suite.all_records())
    return {
        "chosen": line,
        "last": number(line.last) if line else NOTHING,
        "spread": number(line.spread) if line and line.spread is not None else "",
        "interval": between(line.interval) if line and line.interval else "",
        "no_interval": "one source model" if line and len(line.seeds) == 1 else "the runs kept no per-clip counts",
        "source": number(line.delta if line else None, "+.2f"),
        "controls": [{"title": title, **_against(test)} for title, test in tests if test],
        "bound": number(bound.last) if bound else "",
        "bound_title": bound.title if bound else "",
        "missing": list(dict.fromkeys(line.title for line in lines if line.last is None)),
        "records": len(records),
        "seeds": sorted({record["seed"] for record in records}),
        "commits": sorted({(record["git"] or "unknown")[:10] for record in records}),
        "hours": sum(record["seconds"] for record in records) / 3600,
    }


def _against(test: Comparison) -> dict[str, str]:
    fewer = f"fewer than {FEWEST} source models"
    said = {None: fewer, True: "significant", False: "not significant"}[test.significant]
    return {"value": number(test.difference, "+.2f"), "said": said, "evidence": evidence(test)}


def _without_shared_notes(main: Sequence[Sheet]) -> tuple[list[Sheet], list[str]]:
    """The tables with only the notes that are their own, and the notes that all of them share."""
    shared = [note for note in main[0].notes if all(note in sheet.notes for sheet in main)] if main else []
    return [replace(sheet, notes=[note for note in sheet.notes if note not in shared]) for sheet in main], shared


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
        "command": shlex.join(["stpl", *record["command"][1:]]) if record["command"] else "",  # makes the run again
    }


def player(suite: Suite, first: Sequence[str]) -> dict[str, Any] | None:
    """What the page's script needs to play the clips; `None` if no run kept any.

    Of each experiment the first recorded seed is shown; those of `first` are embedded before all others.

    Returns:
        `keys`, `size` (height, width), `classes` (name and colour), `frames` and `labels` (images), `rows` (experiment,
        title, seed and images) and `left_out` (titles of rows that did not fit or show other clips).
    """
    base: VideoSample | None = None
    data: dict[str, Any] = {"rows": [], "left_out": []}
    spent = 0
    for name in dict.fromkeys([*first, *suite.shown()]):
        record = next(iter(suite.records(name)), None)
        sample = read_samples(suite.directory(record)) if record else None
        if record is None or sample is None:
            continue
        if base is None:
            base = sample
            data |= {
                "keys": sample.keys,
                "size": sample.labels.shape[1:],
                "classes": [[name, class_colour(name)] for name in record["classes"]],
                "frames": [frame_image(frame) for frame in sample.frames],
                "labels": [ids_png(ids, record["classes"]) for ids in sample.labels],
            }
            spent = sum(map(len, data["frames"] + data["labels"]))
        images = [ids_png(ids, record["classes"]) for ids in sample.predictions]
        size = sum(map(len, images))
        if sample.keys != base.keys or sample.labels.shape != base.labels.shape or spent + size > BUDGET:
            data["left_out"].append(suite.title_of(name))
        else:
            spent += size
            data["rows"].append({"name": name, "title": suite.title_of(name), "seed": record["seed"], "images": images})
    return data if base is not None else None


def frame_image(frame: NDArray[np.uint8]) -> str:
    """A frame uint8 `[H,W,3]` as a data URI (JPEG)."""
    return _uri(Image.fromarray(frame), "jpeg", quality=90, subsampling=0)


def ids_png(ids: NDArray[np.uint8], classes: Sequence[str]) -> str:
    """Train ids uint8 `[H,W]` as a data URI: a PNG in the classes' colours, transparent where there is no class."""
    none = len(classes)
    image = Image.fromarray(np.minimum(ids, none).astype(np.uint8), "P")
    image.putpalette([channel for name in classes for channel in class_rgb(name)] + [0, 0, 0])
    return _uri(image, "png", optimize=True, transparency=none)


def _uri(image: Image.Image, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
