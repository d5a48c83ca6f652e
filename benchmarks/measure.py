"""Measuring: seconds of several actions in turn, peak memory in a fresh process, and how both are told.

Memory is the process's peak resident set (`VmHWM` of /proc, reset just before the action) beyond what was resident
then.
"""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from jsonargparse import ArgumentParser

from stpl.errors import ConfigError, StplError
from stpl.files import write_atomically

_STATUS = Path("/proc/self/status")
_HERE = Path(__file__).parent.parent
Action = Callable[[], object]
Figures = Mapping[str, object]


@dataclass(frozen=True)
class Timing:
    """Seconds of one action, measured several times.

    Attributes:
        seconds: every measurement.
    """

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return median(self.seconds)

    @property
    def spread(self) -> float:
        """Distance between the quartiles, as a share of the median."""
        if len(self.seconds) < 2:
            return 0.0
        low, _, high = quantiles(self.seconds, n=4, method="inclusive")
        return (high - low) / self.median


def on_the_host(action: Action) -> float:
    """Seconds of an action by the host's clock."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def interleaved(
    actions: Mapping[str, Action], repeats: int, *, warm: int = 1, clock: Callable[[Action], float] = on_the_host
) -> dict[str, Timing]:
    """Measure the actions in turn, `repeats` rounds after `warm` unmeasured ones, so that all meet the same machine.

    Args:
        actions: by name.
        repeats: measured rounds.
        warm: rounds before them.
        clock: runs an action and tells its seconds; `benchmarks.cuda.seconds` for a GPU.

    Raises:
        ConfigError: for less than one round.
    """
    _check(repeats)
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(warm + repeats):
        for name, action in actions.items():
            _tell(f"round {turn + 1}/{warm + repeats}: {name}")
            taken = clock(action)
            if turn >= warm:
                seconds[name].append(taken)
    _tell("")
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def _check(repeats: int) -> None:
    if repeats < 1:
        raise ConfigError(f"{repeats} rounds measure nothing", where="--repeats", mend="choose 1 or more")


def _tell(line: str) -> None:
    """Say on a terminal what is being measured; a round at full size takes a minute."""
    if sys.stderr.isatty():
        print(f"\r{line}\033[K", end="", file=sys.stderr, flush=True)


def in_processes(
    target: str, cases: Mapping[str, Mapping[str, Any]], repeats: int
) -> tuple[dict[str, Timing], dict[str, float | None]]:
    """Measure actions in turn, each in a fresh process at every round, under the allocator that it chooses itself.

    Args:
        target: "module:function"; the function prepares and returns the action. It is run once before it is timed.
        cases: arguments of that function for each action; plain types.
        repeats: rounds.

    Returns:
        Times, and median peaks of memory as `peak_mb` defines them.

    Raises:
        ConfigError: for less than one round.
    """
    _check(repeats)
    found: dict[str, list[dict[str, float | None]]] = {name: [] for name in cases}
    for turn in range(repeats):
        for name, arguments in cases.items():
            _tell(f"round {turn + 1}/{repeats}: {name}")
            found[name].append(_in_process(target, arguments))
    _tell("")
    timings, peaks = {}, {}
    for name, measured in found.items():
        timings[name] = Timing(tuple(value["seconds"] or 0.0 for value in measured))
        known = [peak for value in measured if (peak := value["peak_mb"]) is not None]
        peaks[name] = median(known) if known else None
    return timings, peaks


def peak_mb(target: str, **arguments: Any) -> float | None:
    """Peak memory of an action beyond what is resident before it, in MB (10⁶ bytes), in a fresh process.

    The allocator is told to give large blocks back at once, so that what was freed earlier hides nothing.

    Args:
        target: "module:function"; the function prepares and returns the action to measure.
        arguments: of that function; plain types.

    Returns:
        The peak; `None` on a system without /proc, where it cannot be reset.
    """
    if not _STATUS.exists():
        return None
    _tell(f"memory of {arguments.get('form', target)}")
    measured = _in_process(target, arguments, MALLOC_MMAP_THRESHOLD_="262144", MALLOC_TRIM_THRESHOLD_="262144")
    _tell("")
    return measured["peak_mb"]


def _in_process(target: str, arguments: Mapping[str, Any], **environment: str) -> dict[str, float | None]:
    command = [sys.executable, "-m", "benchmarks.measure", target, json.dumps(arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}, check=False, cwd=_HERE
    )
    if done.returncode:
        raise RuntimeError(f"measuring {target} failed:\n{done.stderr}")
    measured: dict[str, float | None] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _measure_here(target: str, arguments: str) -> dict[str, float | None]:
    """What `_in_process` runs in the fresh process: the action twice, the second time against the clock."""
    module, name = target.split(":")
    action: Action = getattr(import_module(module), name)(**json.loads(arguments))
    known = _STATUS.exists()
    if known:
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = _resident_mb("VmRSS") if known else 0.0
    action()
    start = time.perf_counter()
    kept = action()
    seconds = time.perf_counter() - start
    peak = _resident_mb("VmHWM") - before if known else None
    del kept
    return {"seconds": seconds, "peak_mb": peak}


def _resident_mb(field: str) -> float:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024 / 1e6


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of text: a title, a header, rows; the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        "  ".join(f"{cell:<{width}}" if i == 0 else f"{cell:>{width}}" for i, (cell, width) in enumerate(cells))
        for cells in (list(zip(row, widths, strict=True)) for row in (header, *rows))
    ]
    return "\n".join([title, "", lines[0].rstrip(), "-" * len(lines[0]), *(line.rstrip() for line in lines[1:])])


def times_table(title: str, timings: Mapping[str, Timing], base: str, memory: Mapping[str, float | None]) -> str:
    """Median, spread, time as a multiple of `base`'s, and the peak memory where it was measured."""
    rows = [
        [
            name,
            f"{timing.median:.4g} s",
            f"±{timing.spread / 2:.0%}",
            f"{timing.median / timings[base].median:.2f}×",
            "" if memory.get(name) is None else f"{memory[name]:.0f} MB",
        ]
        for name, timing in timings.items()
    ]
    return table(title, ["", "median", "spread", f"of «{base}»", "peak memory"], rows)


def parser(part: Callable[..., Figures]) -> ArgumentParser:
    """The options of a part, read from its signature and docstring, and `--json=FILE`."""
    found = ArgumentParser(prog=f"python -m benchmarks.{part.__name__}", description=inspect.getdoc(part))
    found.add_argument("--json", type=Path | None, help="file for the figures")
    found.add_function_arguments(part)
    return found


def run(part: Callable[..., Figures], args: Sequence[str] | None = None) -> None:
    """Call a part with the options of the command line, and write its figures to `--json=FILE`."""
    options = parser(part)
    values = options.instantiate(options.parse_args(args)).as_dict()
    path = values.pop("json")
    try:
        figures = part(**values)
    except StplError as error:
        options.error(str(error))
    if path is not None:
        write_atomically(path, json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    print(json.dumps(_measure_here(*sys.argv[1:])))
