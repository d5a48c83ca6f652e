"""`stpl dashboard optuna`: Optuna's dashboard of the sweeps."""

from __future__ import annotations

from stpl.option_types import Natural


def dashboard_optuna(*, bench: str = "streets", storage: str | None = None, port: Natural = 8080) -> None:
    """Show the sweeps of a benchmark in Optuna's dashboard, on this machine alone, until interrupted.

    Args:
        bench: benchmark whose sweeps to show.
        storage: URL of the sweeps' database; the SQLite file beside the runs if not given.
        port: of 127.0.0.1 to listen on.
    """
    from stpl.report.dashboard import show_sweeps

    show_sweeps(bench, storage, port)
