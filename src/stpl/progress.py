"""How far a long piece of work is, on stderr.

Not by `rich`: its live display hides the cursor until it is stopped, which every caller would have to see to, whatever
ends it; and where stderr is no terminal it prints nothing before the end.
"""

import sys
import time


class Progress:
    """One line that updates; a line every five seconds where stderr is not a terminal.

    Args:
        title: what is being done.
        total: how many there are to do.
        done: how many an earlier call did.
    """

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        self.title, self.total, self.done, self.before = title, total, done, done
        self.start = self.shown = time.monotonic()

    def add(self, count: int = 1, left: str | None = None) -> None:
        """Count more as done; prints if the last line is old enough, and always at the end.

        `left` is said in the place of the time that is left by the mean of all so far.
        """
        if not count:
            return
        self.done += count
        now = time.monotonic()
        if self.done == self.total or now - self.shown >= (0.3 if sys.stderr.isatty() else 5.0):
            self.shown = now
            self._print(now - self.start, left)

    def _print(self, spent: float, left: str | None) -> None:
        rest = self.total - self.done
        if left is None:
            left = f", {spent / (self.done - self.before) * rest:.0f} s left" if rest else ""
        line = f"{self.title}: {100 * self.done / self.total:.0f} %, {spent:.0f} s{left}"
        if sys.stderr.isatty():
            print(f"\r{line}\033[K", end="" if rest else "\n", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)
