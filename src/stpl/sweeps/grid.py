"""From a sweep file to its cells, and from a cell to its command line."""

from __future__ import annotations

import itertools
import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace

from stpl.errors import ConfigError
from stpl.experiments import unknown
from stpl.record import RunKey, experiment_name
from stpl.sweeps.schema import IDENTITY, Sweep, Value


@dataclass(frozen=True)
class Cell:
    """One cell of a grid: one run.

    Attributes:
        key: the run it makes.
        parameters: every parameter of the sweep with the cell's value.
    """

    key: RunKey
    parameters: Mapping[str, Value]

    @property
    def title(self) -> str:
        """How the cell is called on screen."""
        return f"{self.key.experiment} seed {self.key.seed}"


def narrow(sweep: Sweep, bench: str | None, seeds: int | None) -> Sweep:
    """The sweep on another benchmark and with the seeds 0..seeds-1.

    A constant `seed_everything: {value: k}` stays: it marks what is trained once and shared.

    Raises:
        ConfigError: if `seeds` is not positive.
    """
    if seeds is not None and seeds < 1:
        raise ConfigError(f"{seeds} seeds are none", where="seeds", mend="ask for 1 or more")
    constants, choices = dict(sweep.constants), dict(sweep.choices)
    if bench is not None:
        choices.pop("bench", None)
        constants["bench"] = bench
    if seeds is not None and "seed_everything" in choices:
        choices["seed_everything"] = tuple(range(seeds))
    return replace(sweep, constants=constants, choices=choices)


def cells(sweep: Sweep) -> list[Cell]:
    """All cells of the grid, seed by seed, so that a whole table with one seed stands before the next begins.

    Raises:
        ConfigError: if two cells would be the same run, or the sweep spans several benchmarks.
    """
    names = sorted(sweep.choices, key=lambda name: name != "seed_everything")  # stable: the file's order otherwise
    grid = itertools.product(*(sweep.choices[name] for name in names))
    found = [_cell(sweep, {**sweep.constants, **dict(zip(names, values, strict=True))}) for values in grid]
    keys = [cell.key for cell in found]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise ConfigError(f"two cells are the same run {twice}", where=sweep.path, mend="vary what changes the result")
    if len({key.bench for key in keys}) > 1:
        raise ConfigError("spans several benchmarks", where=sweep.path, mend="give one: --bench NAME")
    return found


def _cell(sweep: Sweep, parameters: dict[str, Value]) -> Cell:
    seed = parameters["seed_everything"]
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise ConfigError(f"seed_everything {seed!r} is not a whole number", where=sweep.path, mend="write 0, 1, …")
    overrides = {name: str(value) for name, value in parameters.items() if name not in IDENTITY}
    experiment = experiment_name(str(parameters["experiment"]), overrides)
    return Cell(RunKey(str(parameters["bench"]), experiment, seed), parameters)


def command_line(sweep: Sweep, cell: Cell) -> list[str]:
    """The trial's command with W&B's macros expanded.

    `${args}` gives `--name=value` words, `${args_no_equals}` `--name value`, `${args_no_hyphens}` `name=value`,
    `${args_no_boolean_flags}` leaves false flags out and true ones bare, `${args_json}` one JSON object;
    `${program}`, `${env}` (`/usr/bin/env`) and `${envvar:NAME}` (also inside a word) are W&B's.
    Arguments come in sorted order, as `wandb sweep` stores them, so `a` precedes `a.b`. `${interpreter}` is the Python
    that runs the sweep, where W&B takes whichever `python` comes first on the PATH.

    Raises:
        ConfigError: for a macro that W&B would silently drop, or an environment variable that is not set.
    """
    macros = _macros(sweep, cell)
    words: list[str] = []
    for chunk in sweep.command:
        word = re.sub(r"\$\{envvar:([A-Z0-9_]*)\}", lambda match: _variable(match[1], sweep), chunk)
        if not (word.startswith("${") and word.endswith("}")):
            words.append(word)
        elif word[2:-1] in macros:
            words += macros[word[2:-1]]
        else:
            raise unknown("macro", word[2:-1], (*macros, "envvar:NAME"), f"{sweep.path}: command")
    return words


def _macros(sweep: Sweep, cell: Cell) -> dict[str, list[str]]:
    items = sorted(cell.parameters.items())
    flags = [f"--{name}" if value is True else f"--{name}={value}" for name, value in items if value is not False]
    return {
        "args": [f"--{name}={value}" for name, value in items],
        "args_no_equals": [word for name, value in items for word in (f"--{name}", str(value))],
        "args_no_hyphens": [f"{name}={value}" for name, value in items],
        "args_no_boolean_flags": flags,
        "args_json": [json.dumps(dict(items))],
        "program": [sweep.program],
        "interpreter": [sys.executable],
        "env": ["/usr/bin/env"],
    }


def _variable(name: str, sweep: Sweep) -> str:
    if name not in os.environ:
        raise ConfigError(f"environment variable {name} is not set", where=f"{sweep.path}: command", mend="set it")
    return os.environ[name]
