"""Waiting for what other processes do. A loaded machine is many times slower, so patience costs nothing but is long."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 300.0
"""Seconds after which something has gone wrong."""


def wait_until(condition: Callable[[], object], never: str) -> None:
    """Return once `condition` holds; fail with `never` if it does not come true."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, never
        time.sleep(0.02)
