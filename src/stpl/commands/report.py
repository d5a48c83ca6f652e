"""`stpl report`: tables and a page of what is recorded."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stpl.errors import ConfigError, unknown
from stpl.option_types import Natural

if TYPE_CHECKING:
    from rich.console import Console

    from stpl.report.rows import TableLines
    from stpl.report.suite import Suite

EXTRA = ("matplotlib", "sklearn")
"""What the page needs and the extra `stpl[report]` brings."""


def report(
    *,
    bench: str = "streets",
    runs: Path = Path("runs"),
    experiments: Path | None = None,
    output: Path | None = None,
    only: list[str] | None = None,
    page: bool = True,
    chosen: str = "stpl",
    figures: Path | None = None,
    live: bool = False,
    port: Natural = 8008,
    guard: bool = False,
) -> None:
    """Write and print every table of the catalogue from the records on disk, and write the page.

    Methods are compared like for like: the last weights of each row with those of the source model, both with
    statistics renewed from original frames, and both with statistics renewed from original and augmented ones. A star
    marks a difference whose paired t test over source models (seeds) has p < 0.05 after Holm's correction for all rows
    of the report, «ns» one that has not; with fewer than five source models nothing is marked.

    Writes `<id>.csv`, `<id>.md` and `<id>.tex` (booktabs) for each table, for `per_class`, and, where there is any
    of it, for `per_class_vpq` (VPQ^s over windows of 1 to 4 labelled frames), `variants` (settings changed on the
    command line), `tests` (every comparison with its intervals and p), `metrics` (feature space and consistency in
    time), `selection` (label-free validators), `statistics` (weights × statistics, of all experiments), `shifts`
    (the cameras of `streets`), `pseudo_labels` (where runs judged theirs) and `costs` (what methods need and take).
    Then `<runs>/<bench>/report/index.html`: one file that needs no server and no network. The same records give the
    same bytes.

    Args:
        bench: benchmark whose runs to read.
        runs: folder of all runs.
        experiments: folder of your own overlays and `tables.yaml`, beside the shipped ones; ./experiments if not given.
        output: folder to write to; `<runs>/<bench>/tables` and `<runs>/<bench>/report` if not given.
        only: ids of the tables to print, such as [table1,costs]; all are written. Those of the catalogue if not given.
        page: write the page; needs the extra stpl[report].
        chosen: the experiment that figures and player hold against the source-only model.
        figures: folder to write every figure to, as SVG, PNG and PDF.
        live: serve the page on this machine alone (127.0.0.1), and follow a running sweep, until interrupted.
        port: of the served page; 0 takes a free one.
        guard: instead of all this, have the guard of `stpl adapt` choose among the networks that runs on streets kept,
            and compare its choices by labels with those of simple rules; record the runs by `stpl sweep guard`. What it
            sees is kept in `<runs>/streets/guard`.
    """
    if guard:
        from stpl.apply.guard_quality import show_choices

        show_choices(runs)
        return
    from rich.console import Console

    from stpl.report.rows import tables
    from stpl.report.suite import Suite
    from stpl.report.tables import FURTHER_IDS
    from stpl.runs.experiments import check_bench, check_runs, experiment_folders, load_catalogue

    only = None if only is None else [name for entry in only for name in entry.split(",")]
    check_bench(bench, experiment_folders(experiments))
    check_runs(runs)
    catalogue = load_catalogue(experiment_folders(experiments))
    known = {*(table.id for table in catalogue.tables), *FURTHER_IDS}
    for name in only or ():
        if name not in known:
            raise unknown("table", name, known, "--only")
    suite, console = Suite(bench, runs, catalogue), Console(highlight=False)
    found = tables(suite)
    folder = output or suite.folder / "tables"
    _write_tables(suite, found, folder, console, [lines.table.id for lines in found] if only is None else only)
    place = (output or suite.folder / "report") if page or live else None
    if figures or live or (page and all(map(importlib.util.find_spec, EXTRA))):
        from stpl.report.gallery import gallery
        from stpl.report.report_page import Contents, write_page
        from stpl.report.theme import export

        pictures = gallery(suite, found, chosen, place or figures or folder, folder)
        if figures:
            for picture in pictures:
                export(picture.figure, figures / picture.name)
            _say(console, f"{len(pictures)} figures: {figures}")
        if place:
            _say(console, f"page: {write_page(Contents(suite, found, pictures, chosen), place)}")
    elif page:
        _say(console, "no page: pip install 'stpl[report]' for it")
    if live:
        from stpl.report.live import serve

        serve(suite, chosen, port)


def _write_tables(
    suite: Suite, found: list[TableLines], folder: Path, console: Console, printed: Sequence[str]
) -> None:
    from stpl.report.sheet import show
    from stpl.report.tables import main_sheet, sheets

    written = [*(main_sheet(lines, suite) for lines in found), *sheets(suite, found)]
    known = {sheet.id for sheet in written}
    for name in printed:
        if name not in known:
            what = f"the table '{name}' has nothing to show of these runs"
            raise ConfigError(what, where="--only", mend=f"choose of {', '.join(sorted(known))}")
    for sheet in written:
        sheet.write(folder)
        if sheet.id in printed:
            show(sheet, console)
    _say(console, f"written to {folder}")


def _say(console: Console, line: str) -> None:
    from rich.text import Text

    console.print(Text(line), soft_wrap=True)
