"""What a sweep shows while it runs: one live line on a terminal, plain lines elsewhere."""

import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from stpl.runs.record import METRICS, read_steps

PLAIN_SECONDS = 30.0  # between two lines of a running cell where no terminal can show a live line


class Display:
    """Shows the cells of the sweep called `name` as they run."""

    def __init__(self, name: str, total: int, console: Console) -> None:
        self._name, self._total, self._console = name, total, console
        self._durations: list[float] = []
        self._left, self._workers, self._printed = 0, 1, float("-inf")
        self._live: Live | None = None

    def update(self, durations: Sequence[float], left: int, workers: int) -> None:
        """How all workers stand: seconds of the recorded cells, cells `left`, and how many `workers` run one."""
        self._durations, self._left, self._workers = list(durations), left, max(1, workers)

    def on_start(self, title: str, index: int, directory: Path) -> None:
        """A cell begins; its `index` counts from 1."""
        self._title, self._metrics = f"[{index}/{self._total}] {title}", directory / METRICS
        self._began = self._printed = time.monotonic()
        self._first_step = self._step = read_steps(self._metrics)[0]
        self._stepped = self._began
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=4, transient=True)
            self._live.start()
        else:
            self.print(f"{self._title}: started")

    def on_tick(self) -> None:
        """Show how far the running cell is."""
        if self._live is not None:
            self._live.update(Text(self._line()))
        elif self._is_due():
            self.print(self._line())

    def on_end(self, result: str) -> None:
        """The running cell ended with `result`."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        mean = self._mean_of_cells()
        eta = "" if mean is None or not self._left else f", sweep ETA {clock(mean * self._left / self._workers)}"
        self.print(f"{self._title}: {result}{eta}")

    def on_wait(self, cells: int) -> None:
        """Other workers run the `cells` that are left; printed now and then."""
        if self._is_due():
            self.print(f"{self._name}: waiting for {cells} cells that other workers run")

    def _is_due(self) -> bool:
        """Whether a plain line is to be printed now, so long after the last one."""
        if time.monotonic() - self._printed < PLAIN_SECONDS:
            return False
        self._printed = time.monotonic()
        return True

    def print(self, line: str) -> None:
        """Print one line that stays."""
        self._console.print(Text(line), soft_wrap=True)

    def _line(self) -> str:
        now = time.monotonic()
        step, steps = read_steps(self._metrics)
        if step > self._step:
            self._step, self._stepped = step, now
        share = f" step {step}/{steps}," if steps else ""
        eta = self._eta(now, steps)
        rest = "" if eta is None else f", sweep ETA {clock(eta)}"
        return f"{self._name} {self._title}:{share} {clock(now - self._began)} elapsed{rest}"

    def _eta(self, now: float, steps: int) -> float | None:
        """Seconds until all cells are done: this cell by its steps, the others by the mean of the finished ones."""
        mean, done = self._mean_of_cells(), self._step - self._first_step
        if done:
            pace = (self._stepped - self._began) / done
            here = pace * (steps - self._step) - (now - self._stepped)
            mean = pace * steps if mean is None else mean
        elif mean is None:
            return None
        else:
            here = self._began + mean - now
        here = max(here, 0.0)
        return max(here, (here + mean * (self._left - 1)) / self._workers)

    def _mean_of_cells(self) -> float | None:
        return sum(self._durations) / len(self._durations) if self._durations else None


def clock(seconds: float) -> str:
    """Seconds as `h:mm:ss`."""
    return str(timedelta(seconds=round(seconds)))
