"""From a sweep file to its cells, and from a cell to its command line."""

import itertools
import json
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from stpl.errors import ConfigError, unknown
from stpl.files import write_atomically
from stpl.runs.record import RunKey, experiment_name
from stpl.sweeps.distributions import LARGEST_GRID, Value
from stpl.sweeps.schema import IDENTITY, Sweep
from stpl.sweeps.spelling import setting

_FOLDER = "experiments"  # where overlays lie says nothing of what a run is
_JSON_FILE = "sweep_arguments.json"  # in a run's folder, what `${args_json_file}` stands for


@dataclass(frozen=True)
class Cell:
    """One cell of a grid, or one seed of a trial of a search: one run, and every parameter with the cell's value."""

    key: RunKey
    parameters: Mapping[str, Value]

    @property
    def title(self) -> str:
        """How the cell is called on screen."""
        return f"{self.key.experiment} seed {self.key.seed}"


def narrow(
    sweep: Sweep, bench: str | None, seeds: int | None, data: Path | None = None, experiments: Path | None = None
) -> Sweep:
    """The sweep on another benchmark, with other seeds, on the data sets in `data`, with own `experiments`.

    The seeds are those from the file's smallest one to `seeds` - 1. A constant `seed_everything: {value: k}` stays: it
    marks what is trained once and shared.

    Raises:
        ConfigError: if `seeds` is more than a grid may have cells, or leaves no seed.
    """
    if seeds is not None and seeds > LARGEST_GRID:
        raise ConfigError(f"{seeds:,} seeds are too many", where="seeds", mend=f"ask for at most {LARGEST_GRID:,}")
    root, folder = (None if path is None else str(path.absolute()) for path in (data, experiments))
    given = {"bench": bench, "data.root": root, _FOLDER: folder}
    fixed = {name: value for name, value in given.items() if value is not None}
    constants = {name: value for name, value in sweep.constants.items() if setting(name) not in fixed}
    choices = {name: values for name, values in sweep.choices.items() if setting(name) not in fixed}
    if seeds is not None and "seed_everything" in choices:
        first = min(int(str(seed)) for seed in choices["seed_everything"])
        choices["seed_everything"] = tuple(range(first, seeds))
        if seeds <= first:
            what, mend = f"no seed below {seeds} is left: the file begins with {first}", f"ask for {first + 1} or more"
            raise ConfigError(what, where=sweep.path, mend=mend)
    narrowed = {"bench": bench, "seeds": seeds, "data": root, "experiments": folder}
    return replace(sweep, constants={**constants, **fixed}, choices=choices, narrowed=narrowed)


def cells(sweep: Sweep) -> list[Cell]:
    """The cells of the grid, seed by seed, so that a whole table with one seed stands before the next begins.

    At most `run_cap` of them if the file gives one.

    Raises:
        ConfigError: if there are more than 10,000, if two would be the same run, or the sweep spans several benchmarks.
    """
    count = math.prod(len(values) for values in sweep.choices.values())
    if min(count, sweep.run_cap or count) > LARGEST_GRID:
        what = f"asks for {count:,} cells; a grid has at most {LARGEST_GRID:,}"
        mend = "list fewer values or seeds; run_cap runs the first so many cells, and `method: random` draws some"
        raise ConfigError(what, where=sweep.path, mend=mend)
    names = sorted(sweep.choices, key=lambda name: name != "seed_everything")  # stable: the file's order otherwise
    grid = itertools.product(*(sweep.choices[name] for name in names))
    points = (dict(zip(names, values, strict=True)) for values in itertools.islice(grid, sweep.run_cap))
    found = [_cell(sweep, {**sweep.constants, **point}) for point in points]
    for key, count in Counter(cell.key for cell in found).items():
        if count > 1:
            raise ConfigError(
                f"two cells are the same run {key}", where=sweep.path, mend="vary what changes the result"
            )
    if len(sweep.choices.get("bench", ())) > 1:
        raise ConfigError("spans several benchmarks", where=sweep.path, mend="give one: --bench NAME")
    return found


def trial_cells(sweep: Sweep, drawn: Mapping[str, Value]) -> list[Cell]:
    """The cells of one trial of a search: the `drawn` parameters with each of the seeds."""
    fixed = {**sweep.constants, **drawn}
    seeds = sweep.choices.get("seed_everything") or (fixed["seed_everything"],)
    return [_cell(sweep, {**fixed, "seed_everything": seed}) for seed in seeds]


def examples(sweep: Sweep) -> list[Cell]:
    """Cells that show every value of every choice, and the ends of every range, at least once."""
    if sweep.method != "grid":
        spaces = {name: distribution.examples() for name, distribution in sweep.space.items()}
        longest = max(map(len, spaces.values()))
        points = ({name: values[i % len(values)] for name, values in spaces.items()} for i in range(longest))
        return [cell for point in points for cell in trial_cells(sweep, point)[:1]]
    seen: set[tuple[str, str]] = set()
    kept = []
    for cell in cells(sweep):
        values = {(name, str(value)) for name, value in cell.parameters.items()}
        if not values <= seen:
            kept.append(cell)
            seen |= values
    return kept


def _cell(sweep: Sweep, parameters: dict[str, Value]) -> Cell:
    seed = parameters["seed_everything"]
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise ConfigError(f"seed_everything {seed!r} is not a whole number", where=sweep.path, mend="write 0, 1, …")
    overrides = {name: str(value) for name, value in parameters.items() if name not in (*IDENTITY, _FOLDER)}
    experiment = experiment_name(str(parameters["experiment"]), overrides)
    return Cell(RunKey(str(parameters["bench"]), experiment, seed), parameters)


def command_line(sweep: Sweep, cell: Cell, runs: Path = Path("runs")) -> list[str]:
    """The trial's command with W&B's macros expanded.

    `${args}` gives `--name=value` words, `${args_no_equals}` `--name value`, `${args_no_hyphens}` `name=value`,
    `${args_append_hydra}` `+name=value`, `${args_override_hydra}` `++name=value`, `${args_no_boolean_flags}` leaves
    false flags out and true ones bare, `${args_json}` one JSON object, `${args_json_file}` the path of a file with it;
    `${program}`, `${env}` (`/usr/bin/env`) and `${envvar:NAME}` (also inside a word) are W&B's.
    Arguments come in sorted order, as `wandb sweep` stores them, so `a` precedes `a.b`. `${interpreter}` is the Python
    that runs the sweep, where W&B takes whichever `python` comes first on the PATH.

    Raises:
        ConfigError: for a macro that W&B would silently drop, or an environment variable that is not set.
    """

    def variable(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            what = f"environment variable {match[1]} is not set"
            raise ConfigError(what, where=f"{sweep.path}: command", mend="set it")
        return os.environ[match[1]]

    macros = _macros(sweep, cell, runs)
    words: list[str] = []
    for chunk in sweep.command:
        word = re.sub(r"\$\{envvar:([A-Z0-9_]*)\}", variable, chunk)
        if not (word.startswith("${") and word.endswith("}")):
            words.append(word)
        elif word[2:-1] in macros:
            words += macros[word[2:-1]]
        else:
            raise unknown("macro", word[2:-1], (*macros, "envvar:NAME"), f"{sweep.path}: command")
    return words


def write_arguments(sweep: Sweep, cell: Cell, runs: Path) -> None:
    """Write the file that `${args_json_file}` stands for, if the command asks for it."""
    if "${args_json_file}" in sweep.command:
        write_atomically(cell.key.directory(runs) / _JSON_FILE, _macros(sweep, cell, runs)["args_json"][0] + "\n")


def _macros(sweep: Sweep, cell: Cell, runs: Path) -> dict[str, list[str]]:
    items = sorted(cell.parameters.items())
    flags = [f"--{name}" if value is True else f"--{name}={value}" for name, value in items if value is not False]
    return {
        "args": [f"--{name}={value}" for name, value in items],
        "args_no_equals": [word for name, value in items for word in (f"--{name}", str(value))],
        "args_no_hyphens": [f"{name}={value}" for name, value in items],
        "args_append_hydra": [f"+{name}={value}" for name, value in items],
        "args_override_hydra": [f"++{name}={value}" for name, value in items],
        "args_no_boolean_flags": flags,
        "args_json": [json.dumps(dict(items))],
        "args_json_file": [str(cell.key.directory(runs) / _JSON_FILE)],
        "program": [sweep.program],
        "interpreter": [sys.executable],
        "env": ["/usr/bin/env"],
    }
