"""Sweep files: W&B's schema, read and checked before anything runs.

The same file serves `stpl sweep FILE` and `wandb sweep FILE` with `wandb agent`. W&B's own client checks nothing, so
the traps are refused here: nested `parameters:` reset whole option groups without a word, and `null` arrives at the
trial as the text "None".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from stpl.errors import ConfigError
from stpl.experiments import load_yaml, unknown

Value = str | int | float | bool | list[Any]

DEFAULT_COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")
IDENTITY = ("bench", "experiment", "seed_everything")
"""The parameters that every sweep names: together with the other settings they say which run a cell is."""

_USED = ("program", "method", "metric", "parameters", "command")
_IGNORED = ("name", "description", "project", "entity")  # they say how W&B files the sweep


@dataclass(frozen=True)
class Sweep:
    """A checked sweep file.

    Attributes:
        path: the file.
        program: what `${program}` stands for.
        command: the trial's command line with macros unexpanded.
        goal: of the metric that W&B shows.
        constants: parameter → its one `value`.
        choices: parameter → its `values`, in the file's order.
    """

    path: Path
    program: str
    command: tuple[str, ...]
    goal: Literal["maximize", "minimize"]
    constants: Mapping[str, Value]
    choices: Mapping[str, tuple[Value, ...]]


def read_sweep(path: Path) -> Sweep:
    """Read and check the sweep file `path`.

    Raises:
        ConfigError: for anything that this program or W&B would not run as written.
    """
    content = load_yaml(path)
    for key in content:
        if key not in (*_USED, *_IGNORED):
            raise unknown("key", key, (*_USED, *_IGNORED), path)
    _check_method(content.get("method"), path)
    metric = _mapping(content.get("metric", {"name": "val/miou", "goal": "maximize"}), f"{path}: metric")
    parameters = _mapping(content.get("parameters"), f"{path}: parameters")
    entries = {str(name): _parameter(name, entry, path) for name, entry in parameters.items()}
    missing = [name for name in IDENTITY if name not in entries]
    if missing:
        raise ConfigError(f"lacks {', '.join(missing)}", where=f"{path}: parameters", mend="add each with a value")
    return Sweep(
        path=path,
        program=str(content.get("program", "")),
        command=_command(content.get("command", list(DEFAULT_COMMAND)), path),
        goal=_goal(metric, path),
        constants={name: entry for name, entry in entries.items() if not isinstance(entry, tuple)},
        choices={name: entry for name, entry in entries.items() if isinstance(entry, tuple)},
    )


def _check_method(method: Any, path: Path) -> None:
    if method == "grid":
        return
    if method in ("random", "bayes"):
        raise ConfigError(f"method '{method}' is not supported", where=path, mend="list the values and use 'grid'")
    raise unknown("method", str(method), ("grid",), path)


def _goal(metric: dict[str, Any], path: Path) -> Literal["maximize", "minimize"]:
    goal = metric.get("goal")
    if isinstance(metric.get("name"), str) and goal in ("maximize", "minimize"):
        return cast(Literal["maximize", "minimize"], goal)
    raise ConfigError("needs a name and a goal", where=f"{path}: metric", mend="goal: maximize or minimize")


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        raise ConfigError(f"must be a mapping, not {value!r}", where=where, mend="write 'name: value' lines below it")
    return value


def _command(value: Any, path: Path) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(item, str | int | float) for item in value):
        raise ConfigError("must be a list of words", where=f"{path}: command", mend='e.g. ["${program}", "${args}"]')
    return tuple(str(item) for item in value)


def _parameter(name: Any, entry: Any, path: Path) -> Value | tuple[Value, ...]:
    """The constant of a parameter, or its values as a tuple."""
    where = f"{path}: parameters.{name}"
    entry = _mapping(entry, where)
    if "parameters" in entry:
        raise ConfigError(
            "nested parameters reset the other options of their group without a word",
            where=where,
            mend=f"write flat dotted names: '{name}.option: {{values: [...]}}'",
        )
    if set(entry) not in ({"value"}, {"values"}):
        raise ConfigError(
            f"a grid takes either 'value' or 'values', found {', '.join(sorted(map(str, entry)))}",
            where=where,
            mend="write {value: x} or {values: [x, y]}",
        )
    if "value" in entry:
        return _value(entry["value"], where)
    values = entry["values"]
    if not isinstance(values, list) or not values:
        raise ConfigError(f"'values' must be a non-empty list, not {values!r}", where=where, mend="list the values")
    if len({str(value) for value in values}) != len(values):
        raise ConfigError("a value is listed twice", where=where, mend="list each value once")
    return tuple(_value(value, where) for value in values)


def _value(value: Any, where: str) -> Value:
    if value is None:
        raise ConfigError(
            "null would reach the trial as the text 'None'",
            where=where,
            mend="leave the option out, or put it in an overlay",
        )
    if not isinstance(value, str | int | float | bool | list):
        raise ConfigError(f"{value!r} is not a number, word or list", where=where, mend="write one flat value")
    return value
