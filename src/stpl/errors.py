"""The errors a user can cause, and how they are told.

Every message names what was wrong, where, the value found, and what to do next. The command line prints the message
alone (no traceback) and exits with code 2; anything that is not a `StplError` is a defect of this program.
"""

from __future__ import annotations

from pathlib import Path


class StplError(Exception):
    """Base of all errors that a user can mend.

    Args:
        what: what is wrong, with the value found.
        where: the file, key or option it was found in.
        mend: what to do next, in one imperative sentence.
    """

    def __init__(self, what: str, *, where: str | Path | None = None, mend: str | None = None) -> None:
        self.what, self.where, self.mend = what, None if where is None else str(where), mend
        super().__init__(what)

    def __str__(self) -> str:
        where = "" if self.where is None else f"{self.where}: "
        mend = "" if self.mend is None else f"\n  → {self.mend}"
        return f"{where}{self.what}{mend}"


class DataError(StplError):
    """A data set, frame, label, flow file or video that is missing, torn or inconsistent."""


class ConfigError(StplError):
    """An option, overlay or sweep file that cannot be used as written."""


class CheckpointError(StplError):
    """A checkpoint that is missing, torn or made for another network or label space."""


class RecordError(StplError):
    """A run record that is torn or of another schema."""
