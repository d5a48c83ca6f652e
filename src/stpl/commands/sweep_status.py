"""`stpl sweep status`: what runs where, what failed and why, and how long it will take."""

from __future__ import annotations

from pathlib import Path


def sweep_status(*, bench: str | None = None, runs: Path = Path("runs"), storage: str | None = None) -> None:
    """Show what sweeps are doing: what runs where, what failed and why, and the time left.

    Args:
        bench: show only this benchmark's sweeps.
        runs: folder of all runs.
        storage: URL of the database; the SQLite files beside the runs if not given.
    """
    from rich.console import Console

    from stpl.errors import ConfigError
    from stpl.sweeps.status import read_status, show

    urls = [storage] if storage else [f"sqlite:///{path.absolute()}" for path in sorted(runs.glob("*/sweeps.sqlite3"))]
    found = [item for url in urls for item in read_status(url, runs) if bench in (None, item.study.partition("/")[0])]
    if not found:
        raise ConfigError("no sweep has been started", where=storage or runs, mend="start one: stpl sweep FILE…")
    for item in found:
        show(item, Console(highlight=False))
