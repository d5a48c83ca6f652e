"""How far an adaptation is, and how long it will still take."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean


@dataclass(frozen=True)
class Stage:
    """How far an adaptation is.

    Attributes:
        name: what is being done.
        done: steps of it that are done.
        total: number of its steps.
        left: seconds to the end of all stages; `None` until each kind of work that is left has been timed.
    """

    name: str
    done: int
    total: int
    left: float | None = None


OnStage = Callable[[Stage], None]
"""A callback that gets, after every step, how far an adaptation is."""


def ignored(_: object) -> None:
    """The callback where nobody listens."""


class Clock:
    """Calls back after every piece of work, with the time that is left by what such pieces took so far.

    Args:
        work: kind of work → how many pieces there are.
        on_stage: the callback.
    """

    def __init__(self, work: Mapping[str, int], on_stage: OnStage) -> None:
        self.work, self.on_stage = work, on_stage
        self._done, self._took = dict.fromkeys(work, 0), {name: list[float]() for name in work}
        self._last = time.monotonic()

    def add(self, name: str, done: int | None = None) -> None:
        """Count one more piece of a kind, or `done` of them in all; it took the time since the last call."""
        now = time.monotonic()
        self._took[name].append(now - self._last)
        self._last, self._done[name] = now, self._done[name] + 1 if done is None else done
        self.on_stage(Stage(name, self._done[name], self.work[name], self._left()))

    def _left(self) -> float | None:
        left = {kind: total - self._done[kind] for kind, total in self.work.items() if total > self._done[kind]}
        if not all(self._took[kind] for kind in left):
            return None
        # The first piece of a kind begins what all need: decoded frames, flow, loaders.
        return sum(count * fmean(self._took[kind][1:] or self._took[kind]) for kind, count in left.items())
