"""What one call of `stpl sweep` asks for, apart from its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """How the files of one call are worked through.

    Attributes:
        runs: folder of all runs.
        storage: URL of the shared database, `None` for the SQLite file beside the runs.
        attempts: how often a trial that fails is tried.
        sampler: of searches; `None` for the method's own.
    """

    runs: Path
    storage: str | None
    attempts: int
    sampler: str | None
