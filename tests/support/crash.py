"""A run that is killed at a step: for tests of what the next call makes of it."""

from __future__ import annotations

from collections.abc import Sequence

from stpl.testing.runs import fit_until


def crash_at(step: int, args: Sequence[str]) -> None:
    """Run `stpl fit` until a step, counted from 1, begins, and no further; fails if it does not come to that step."""
    assert fit_until(step, args)
