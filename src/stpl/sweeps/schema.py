"""Sweep files in W&B's schema, for `stpl sweep` and `wandb agent` alike, read and checked before anything runs.

W&B's own client checks nothing, so its traps are refused here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from stpl.errors import ConfigError, unknown
from stpl.runs.experiments import SWEEPS
from stpl.sweeps.distributions import LARGEST_GRID, Choice, Distribution, Quantile, Range, Value, read_distribution
from stpl.sweeps.spelling import same_setting, same_value
from stpl.yaml_files import Section, is_number, load_yaml, shown

Goal = Literal["maximize", "minimize"]
Method = Literal["grid", "random", "bayes"]

DEFAULT_COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")
IDENTITY = ("bench", "experiment", "seed_everything")
"""The parameters that every sweep names: together with the other settings they say which run a cell is."""

_USED = ("program", "method", "metric", "parameters", "command", "early_terminate", "run_cap")
_IGNORED = ("name", "description", "project", "entity", "apiVersion", "kind")  # they say how W&B files the sweep
_ELSEWHERE = {
    "controller": "W&B's own scheduler",
    "scheduler": "W&B's own scheduler; choose a sampler with `stpl sweep --sampler`",
    "job": "W&B Launch",
    "image_uri": "W&B Launch",
    "metrics": "several goals at once",
}


@dataclass(frozen=True)
class Hyperband:
    """`early_terminate: {type: hyperband}`: asynchronous successive halving in one bracket.

    At the evaluations `first`, `first`·`eta`, `first`·`eta`², … (0 is the starting point, as W&B counts) a trial goes
    on only if its metric is among the best 1/`eta`, `eta` ≥ 2, of those that came as far (Li et al., «A System for
    Massively Parallel Hyperparameter Tuning», 2020).
    """

    first: int
    eta: int


@dataclass(frozen=True)
class Sweep:
    """A checked sweep file.

    Attributes:
        program: what `${program}` stands for.
        command: the trial's command line with macros unexpanded.
        metric: what is optimised: a name in metrics.csv such as `val/miou`, or a field of the record.
        constants: parameter → its one `value`.
        choices: parameter → its `values`, in the file's order.
        method: "grid" runs every cell; "random" and "bayes" search.
        ranges: parameter → its distribution, where that is not a choice; a grid has none.
        target: a value of the metric at which nothing new is begun.
        early: when trials end early; `None` for never.
        run_cap: number of trials of a search, or of runs of a grid; `None` for all cells of a grid.
        narrowed: what the call asks for beside the file: the arguments of `stpl.sweeps.grid.narrow` by name.
    """

    path: Path
    program: str
    command: tuple[str, ...]
    metric: str
    goal: Goal
    constants: Mapping[str, Value]
    choices: Mapping[str, tuple[Value, ...]]
    method: Method = "grid"
    ranges: Mapping[str, Distribution] = field(default_factory=dict)
    target: float | None = None
    early: Hyperband | None = None
    run_cap: int | None = None
    narrowed: Mapping[str, str | int | None] = field(default_factory=dict)

    @property
    def bench(self) -> str:
        """The benchmark that it runs on."""
        return str(self.constants.get("bench") or self.choices["bench"][0])

    @property
    def space(self) -> dict[str, Distribution]:
        """What a search draws from: every parameter that varies, but the seeds, which each trial runs all of."""
        choices = {name: Choice(values) for name, values in self.choices.items() if name != "seed_everything"}
        return {**choices, **self.ranges}

    def reached(self, value: float) -> bool:
        """Whether `value` meets the target."""
        if self.target is None:
            return False
        return value >= self.target if self.goal == "maximize" else value <= self.target


def sweep_file(path: Path) -> Path:
    """A sweep file, or the shipped one of that name (`sweeps/table3.yaml` or `table3`) where it is not there."""
    if path.exists() or path.parent.name not in ("", SWEEPS.name) or path.name in ("", ".."):
        return path
    shipped = SWEEPS / path.with_suffix(".yaml").name
    return shipped if shipped.is_file() else path


def read_sweep(path: Path) -> Sweep:
    """Read and check the sweep file `path`; one that is not there may be the name of a shipped one (`table3`).

    Raises:
        ConfigError: for anything that this program or W&B would not run as written.
    """
    content = load_yaml(sweep_file(path))
    if "coordinates" in content:
        raise ConfigError("is no sweep file", where=path, mend=f"search by it: stpl sweep tune {path}")
    for key in content:
        if key in _ELSEWHERE:
            raise ConfigError(f"'{key}' is for {_ELSEWHERE[key]}", where=path, mend=f"take {key} out")
    Section(content, str(path)).check_keys(*_USED, *_IGNORED)
    for key, value in content.items():
        _check_finite(value, key, str(path))
    method = content.get("method")
    if method not in ("grid", "random", "bayes"):
        raise unknown("method", str(method), ("grid", "random", "bayes"), path)
    metric = _metric(content.get("metric", {"name": "val/miou", "goal": "maximize"}), f"{path}: metric")
    entries = _parameters(content.get("parameters"), f"{path}: parameters", listed=method == "grid")
    sweep = Sweep(
        path=path,
        program=str(content.get("program", "")),
        command=_command(content.get("command", list(DEFAULT_COMMAND)), path),
        metric=metric["name"],
        goal=metric["goal"],
        constants={name: entry for name, entry in entries.items() if not isinstance(entry, tuple | Range | Quantile)},
        choices={name: entry for name, entry in entries.items() if isinstance(entry, tuple)},
        method=cast(Method, method),
        ranges={name: entry for name, entry in entries.items() if isinstance(entry, Range | Quantile)},
        target=_optional_number(metric, "target", f"{path}: metric"),
        early=_early(content.get("early_terminate"), f"{path}: early_terminate"),
        run_cap=_run_cap(content.get("run_cap"), path),
    )
    _check_search(sweep)
    return sweep


def _check_finite(value: Any, key: str, where: str) -> None:
    """Refuse `.inf` and `.nan` wherever they stand: no number of a sweep may be one."""
    if isinstance(value, float) and not is_number(value):
        raise ConfigError(f"'{key}' is {value}, not a number", where=where, mend=f"write {key}: NUMBER")
    if isinstance(value, dict):
        for name, item in value.items():
            _check_finite(item, str(name), f"{where}: {key}" if where.count(": ") == 0 else f"{where}.{key}")
    elif isinstance(value, list):
        for item in value:
            _check_finite(item, key, where)


def _parameters(content: Any, where: str, *, listed: bool) -> dict[str, Value | tuple[Value, ...] | Range | Quantile]:
    """Each parameter's constant, its values as a tuple, or its distribution; `listed`: no distribution."""
    parameters = _mapping(content, where)
    for name in parameters:
        if not isinstance(name, str) or not name:
            what = f"the name {shown(name)} is not a text"
            raise ConfigError(what, where=where, mend="name an option of the program")
    twice = same_setting(parameters)
    if twice is not None:
        raise ConfigError(f"'{twice[0]}' and '{twice[1]}' are one setting", where=where, mend="keep one of them")
    entries = {name: _parameter(name, entry, f"{where}.{name}", listed) for name, entry in parameters.items()}
    missing = [name for name in IDENTITY if name not in entries]
    if missing:
        raise ConfigError(f"lacks {', '.join(missing)}", where=where, mend="add each with a value")
    return entries


def _check_search(sweep: Sweep) -> None:
    """What only a search needs: an end, one benchmark, and something to search."""
    if sweep.method == "grid":
        return
    if sweep.run_cap is None:
        what = f"a sweep by '{sweep.method}' without run_cap never ends"
        raise ConfigError(what, where=sweep.path, mend="add run_cap: 30")
    if not sweep.space:
        raise ConfigError("nothing varies", where=f"{sweep.path}: parameters", mend="give a parameter a range")
    mends = {
        "bench": "give it one value",
        "seed_everything": "list the seeds that every trial runs: values: [0, 1]",
    }
    for name, mend in mends.items():
        if name in sweep.ranges or (name == "bench" and name in sweep.choices):
            raise ConfigError(f"{name} cannot be searched", where=f"{sweep.path}: parameters.{name}", mend=mend)


def _metric(content: Any, where: str) -> dict[str, Any]:
    metric = _mapping(content, where)
    Section.of(metric, where).check_keys("name", "goal", "target", "impute", "impute_while_running")
    if not isinstance(metric.get("name"), str):
        raise ConfigError("needs a name", where=where, mend="name: val/miou")
    # W&B would minimise where nothing is said; a forgotten goal must not search for the worst mIoU.
    if metric.get("goal") not in ("maximize", "minimize"):
        raise ConfigError("needs a goal", where=where, mend="goal: maximize or minimize")
    return metric


def _optional_number(entry: Mapping[str, Any], key: str, where: str) -> float | None:
    value = entry.get(key)
    if value is None:
        return None
    if not is_number(value):
        raise ConfigError(f"{key} is {shown(value)}, not a number", where=where, mend=f"write {key}: NUMBER")
    return float(value)


def _run_cap(value: Any, path: Path) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return value
    raise ConfigError(f"run_cap is {value!r}", where=path, mend="write a whole number above 0")


def _early(entry: Any, where: str) -> Hyperband | None:
    if entry is None:
        return None
    entry = _mapping(entry, where)
    Section.of(entry, where).check_keys("type", "min_iter", "max_iter", "s", "eta", "strict")
    if entry.get("type") != "hyperband":
        raise unknown("type", str(entry.get("type")), ("hyperband",), where)
    numbers = {key: _optional_number(entry, key, where) for key in ("min_iter", "max_iter", "s", "eta")}
    eta = 3.0 if numbers["eta"] is None else numbers["eta"]
    if eta < 2 or eta != int(eta):
        raise ConfigError(f"eta is {eta:g}", where=where, mend="choose a whole number from 2 on")
    return Hyperband(_first_rung(numbers, eta, where), int(eta))


def _first_rung(numbers: Mapping[str, float | None], eta: float, where: str) -> int:
    """`min_iter`; or W&B's other way to say it: the last band `max_iter`/eta and, going down, `s` of them."""
    if numbers["min_iter"] is not None:
        first = int(numbers["min_iter"])
    elif numbers["max_iter"] is not None and numbers["s"] is not None:
        first, bands = 0, 0
        band = numbers["max_iter"] / eta
        while band >= 1 and bands < numbers["s"]:
            first, bands, band = int(band), bands + 1, band / eta
    else:
        raise ConfigError("needs min_iter, or max_iter and s", where=where, mend="write min_iter: 1")
    if first < 1:
        raise ConfigError("its first band lies before evaluation 1", where=where, mend="choose larger numbers")
    return first


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        what = f"must be a mapping, not {shown(value)}"
        raise ConfigError(what, where=where, mend="write 'name: value' lines below it")
    return value


def _command(value: Any, path: Path) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(item, str | int | float) for item in value):
        raise ConfigError("must be a list of words", where=f"{path}: command", mend='e.g. ["${program}", "${args}"]')
    return tuple(str(item) for item in value)


def _parameter(name: str, entry: Any, where: str, listed: bool) -> Value | tuple[Value, ...] | Range | Quantile:
    entry = _mapping(entry, where)
    if "parameters" in entry:
        what = "nested parameters reset the other options of their group without a word"
        raise ConfigError(what, where=where, mend=f"write flat dotted names: '{name}.option: {{values: [...]}}'")
    named = entry.get("distribution")
    keys = set(entry) - {"distribution"}
    if keys == {"value"} and named in (None, "constant"):
        return _value(entry["value"], where)
    values = _values(name, entry["values"], where) if "values" in entry else None
    if values is not None and keys == {"values"} and named in (None, "categorical"):
        return values
    distribution = read_distribution(entry, where)
    if not listed:
        return distribution
    values = distribution.values() if isinstance(distribution, Range) else None
    if values is None:
        what = f"a grid cannot list all values of this, or they are more than {LARGEST_GRID:,}"
        raise ConfigError(what, where=where, mend="write {values: [x, y]}, or choose a larger q")
    return values


def _values(name: str, values: Any, where: str) -> tuple[Value, ...]:
    if not isinstance(values, list) or not values:
        what = f"'values' must be a non-empty list, not {shown(values)}"
        raise ConfigError(what, where=where, mend="list the values")
    found = tuple(_value(value, where) for value in values)
    twice = same_value(name, found)
    if twice is not None:
        spelled = "" if str(twice[0]) == str(twice[1]) else f": {shown(twice[0])} and {shown(twice[1])} are the same"
        raise ConfigError(f"a value is listed twice{spelled}", where=where, mend="list each value once")
    return found


def _value(value: Any, where: str) -> Value:
    if value is None:
        what = "null would reach the trial as the text 'None'"
        raise ConfigError(what, where=where, mend="leave the option out, or put it in an overlay")
    if not isinstance(value, str | int | float | bool | list):
        raise ConfigError(f"{shown(value)} is not a number, word or list", where=where, mend="write one flat value")
    for item in value if isinstance(value, list) else ():
        if not isinstance(item, dict):  # an option that takes a list of classes
            _value(item, where)
    return value
