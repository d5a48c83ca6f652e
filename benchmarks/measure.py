"""Measuring: seconds of several actions in turn, peak memory in a fresh process, and a table of both.

Times are `torch.utils.benchmark.Measurement`s, by its clock, which waits for a GPU. Its `Timer` measures one action
after the other and warms each up twice a call; here they take turns, so that all meet the same machine.

Memory is the process's peak resident set (`VmHWM` of /proc, reset just before the action) beyond what was resident
then.
"""

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from itertools import product
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Any

from jsonargparse import ArgumentParser
from torch.utils.benchmark import Measurement, TaskSpec, timer

from stpl.errors import StplError, check_range
from stpl.files import write_atomically

Action = Callable[[], object]
Figures = Mapping[str, object]
_STATUS = Path("/proc/self/status")
_ROOT = Path(__file__).parent.parent


def interleaved(actions: Mapping[str, Action], repeats: int, *, warm: int = 1) -> dict[str, Measurement]:
    """Measure the actions in turn, `repeats` rounds after `warm` unmeasured ones; `ConfigError` for no round."""
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for name in _turns(actions, repeats, warm):
        start = timer()
        actions[name]()
        seconds[name].append(timer() - start)
    return {name: _measurement(values[warm:]) for name, values in seconds.items()}


def _turns(names: Iterable[str], repeats: int, warm: int = 0) -> Iterator[str]:
    """All names in each round; a terminal shows where it is, for a round at full size takes a minute."""
    check_range("--repeats", repeats, 1)
    for turn, name in product(range(1, warm + repeats + 1), names):
        if sys.stderr.isatty():
            print(f"\rround {turn}/{warm + repeats}: {name}\033[K", end="", file=sys.stderr, flush=True)
        yield name
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def _measurement(seconds: list[float]) -> Measurement:
    return Measurement(1, seconds, TaskSpec("", ""))


def in_processes(
    target: str, cases: Mapping[str, Mapping[str, Any]], repeats: int = 1, *, trim: bool = False
) -> tuple[dict[str, Measurement], dict[str, float | None]]:
    """Measure actions in turn, each in a fresh process at every round.

    Args:
        target: "module:function"; the function prepares and returns the action. It is run once before it is timed.
        cases: arguments of that function for each action; plain types.
        repeats: rounds.
        trim: have the allocator give large blocks back at once, so that what was freed earlier hides no peak.

    Returns:
        Times, and median peaks of memory in MB (10⁶ bytes): `None` without /proc, where a peak cannot be reset.

    Raises:
        ConfigError: for less than one round.
    """
    limits = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "262144"} if trim else {}
    found: dict[str, list[tuple[float, float | None]]] = {name: [] for name in cases}
    for name in _turns(cases, repeats):
        command = [sys.executable, "-m", "benchmarks.measure", target, json.dumps(cases[name])]
        variables = {**os.environ, **limits}
        done = subprocess.run(command, capture_output=True, text=True, env=variables, check=False, cwd=_ROOT)
        if done.returncode:
            raise RuntimeError(f"measuring {target} failed:\n{done.stderr}")
        found[name].append(json.loads(done.stdout.splitlines()[-1]))
    timings = {name: _measurement([seconds for seconds, _ in values]) for name, values in found.items()}
    peaks = {name: [peak for _, peak in values if peak is not None] for name, values in found.items()}
    return timings, {name: median(values) if values else None for name, values in peaks.items()}


def _measure_here(target: str, arguments: str) -> tuple[float, float | None]:
    """What `in_processes` runs in the fresh process: the action twice; seconds of the second, and the peak of both."""
    module, name = target.split(":")
    action: Action = getattr(import_module(module), name)(**json.loads(arguments))
    known = _STATUS.exists()
    if known:
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = _resident_mb("VmRSS") if known else 0.0
    action()
    start = timer()
    kept = action()
    seconds = timer() - start
    peak = _resident_mb("VmHWM") - before if known else None
    del kept
    return seconds, peak


def _resident_mb(field: str) -> float:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024 / 1e6


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of text: a title, a header, rows; the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        "  ".join(cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(cells)).rstrip()
        for cells in (list(zip(row, widths, strict=True)) for row in (header, *rows))
    ]
    return "\n".join([title, "", lines[0], "-" * (sum(widths) + 2 * len(widths) - 2), *lines[1:]])


def report(
    title: str, timings: Mapping[str, Measurement], base: str, memory: Mapping[str, float | None] = MappingProxyType({})
) -> dict[str, object]:
    """Print median, spread, time as a multiple of `base`'s, and the peak memory where it was measured.

    Returns:
        The same as figures: `seconds`, `spread` (half the distance of the quartiles, as a share of the median) and
        `peak_mb`, each by name.
    """
    seconds = {name: found.median for name, found in timings.items()}
    spread = {name: found.iqr / 2 / found.median for name, found in timings.items()}
    rows = []
    for name, value in seconds.items():
        peak = memory.get(name)
        relative, megabytes = f"{value / seconds[base]:.2f}×", "" if peak is None else f"{peak:.0f} MB"
        rows.append([name, f"{value:.4g} s", f"±{spread[name]:.0%}", relative, megabytes])
    print(table(title, ["", "median", "spread", f"of «{base}»", "peak memory"], rows))
    return {"seconds": seconds, "spread": spread, "peak_mb": dict(memory)}


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
