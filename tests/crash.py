"""A run that is killed at a step: for tests of what the next call makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import pytest

from stpl.data.clip import Clip
from stpl.methods import Method
from stpl.runs.fit import fit


class CrashError(Exception):
    """Stands for a kill."""


def crash_at(step: int, args: Sequence[str]) -> None:
    """Run `stpl fit` until a step, counted from 1, begins, and no further; fails if it does not come to that step."""
    original, reached = Method.training_step, []

    def crash(self: Method, clip: Clip, batch_idx: int) -> object:
        if self.global_step == step - 1:
            reached.append(step)
            raise CrashError
        return original(self, clip, batch_idx)

    with pytest.MonkeyPatch.context() as patch, suppress(CrashError):
        patch.setattr(Method, "training_step", crash)
        fit(args)
    assert reached == [step]
