"""The distributions of W&B's sweep schema («Sweep configuration options», `schema.json`), drawn by Optuna's samplers.

`log_uniform` has bounds in exponents, `log_uniform_values` in values; `inv_log_uniform` means that log(1/X) is uniform,
which makes X log-uniform too; `q_…` rounds to multiples of q. What Optuna has no distribution for (normal, beta,
categories with probabilities) is drawn as a quantile, on which samplers learn, and mapped by the inverse of its
cumulative distribution.
"""

import itertools
import json
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Protocol

from stpl.errors import ConfigError, unknown

Value = str | int | float | bool | list[Any]
"""What a parameter may be set to."""

QUANTILE = " (quantile)"
"""What follows the name of a parameter in the study where the study holds its quantile."""

_DIGITS = 6
"""Significant digits of a drawn number: it becomes part of a folder's name, and no run depends on the seventh."""

LARGEST_GRID = 10_000
"""The most cells that a grid may have, all its parameters and seeds together."""

_MOST_STEPS = 10**12  # a multiple of q is kept to twelve digits


class _Trial(Protocol):
    """The part of `optuna.Trial` that distributions draw from."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...
    def suggest_int(self, name: str, low: int, high: int) -> int: ...
    def suggest_categorical(self, name: str, choices: list[Any]) -> Any: ...


@dataclass(frozen=True)
class Choice:
    """One of some values, each as likely as the others (`categorical`)."""

    values: tuple[Value, ...]

    def draw(self, trial: _Trial, name: str) -> Value:
        """A value of the parameter `name` in `trial`."""
        words = [json.dumps(value) if isinstance(value, list) else value for value in self.values]
        drawn = trial.suggest_categorical(name, words)
        # True == 1, but they are different settings.
        found = (type(word) is type(drawn) and bool(word == drawn) for word in words)
        return next(itertools.compress(self.values, found))

    def examples(self) -> tuple[Value, ...]:
        """All of them."""
        return self.values


@dataclass(frozen=True)
class Range:
    """Numbers between two ends: uniform or log-uniform, any, whole, or multiples of `q`.

    Attributes:
        log: whether the logarithm is uniform; both ends are above 0 then.
        q: values are rounded to multiples of it; `None` for no rounding.
        whole: whether it is `int_uniform`.
    """

    low: float
    high: float
    log: bool = False
    q: float | None = None
    whole: bool = False

    def draw(self, trial: _Trial, name: str) -> Value:
        """A value of the parameter `name` in `trial`."""
        if self.whole:
            return trial.suggest_int(name, int(self.low), int(self.high))
        if self.q is not None and not self.log:
            low, high = (_multiple(end, self.q) for end in (self.low, self.high))
            return _multiple(trial.suggest_float(name, low, high, step=self.q), self.q)
        drawn = trial.suggest_float(name, self.low, self.high, log=self.log)
        return _rounded(drawn) if self.q is None else _multiple(drawn, self.q)

    def values(self) -> tuple[Value, ...] | None:
        """All values if they can be listed (W&B's grid takes `int_uniform` and `q_uniform`), else `None`."""
        q = 1 if self.whole else self.q
        if q is None or self.log or (self.high - self.low) / q > LARGEST_GRID:
            return None
        first, last = round(self.low / q), round(self.high / q)
        return tuple(_multiple(index * q, q) for index in range(first, last + 1))

    def check(self, where: str) -> None:
        """Raise `ConfigError` for more steps than a number can hold, `ArithmeticError` for ends that cannot be used."""
        self.examples()
        if self.q is not None and not self.log and (self.high - self.low) / self.q > _MOST_STEPS:
            what = f"q is {self.q:g}, which makes more than {_MOST_STEPS:,} steps from {self.low:g} to {self.high:g}"
            raise ConfigError(what, where=where, mend="choose a larger q, or a distribution without q")

    def examples(self) -> tuple[Value, ...]:
        """Its ends and its middle."""
        middle = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
        q = 1 if self.whole else self.q
        return tuple(_rounded(x) if q is None else _multiple(x, q) for x in (self.low, middle, self.high))


@dataclass(frozen=True)
class Quantile:
    """What is drawn as a quantile in (0, 1), and its `inverse`: the value there."""

    inverse: Callable[[float], Value]

    def draw(self, trial: _Trial, name: str) -> Value:
        """A value of the parameter `name` in `trial`."""
        return self.inverse(_inside(trial.suggest_float(name + QUANTILE, 0.0, 1.0)))

    def check(self, where: str) -> None:
        """Raise `ArithmeticError` if its ends are too large for a computer."""
        for quantile in (0.0, 1.0):
            self.inverse(_inside(quantile))

    def examples(self) -> tuple[Value, ...]:
        """Its 1 %, 50 % and 99 % quantiles."""
        return tuple(self.inverse(quantile) for quantile in (0.01, 0.5, 0.99))


Distribution = Choice | Range | Quantile
"""How one parameter varies in a search."""

# The keys that each distribution takes, with W&B's defaults; `None`: must be given.
_ENDS: dict[str, float | None] = {"min": None, "max": None}
_NORMAL: dict[str, float | None] = {"mu": 0.0, "sigma": 1.0}
_ROUNDED: dict[str, dict[str, float | None]] = {
    "uniform": _ENDS,
    "log_uniform": _ENDS,
    "log_uniform_values": _ENDS,
    "normal": _NORMAL,
    "log_normal": _NORMAL,
    "beta": {"a": 1.0, "b": 1.0},
}
_KEYS = {
    **dict.fromkeys(("int_uniform", "inv_log_uniform", "inv_log_uniform_values"), _ENDS),
    **_ROUNDED,
    **{f"q_{name}": {**keys, "q": 1.0} for name, keys in _ROUNDED.items()},
}
NAMES = ("constant", "categorical", "categorical_w_probabilities", *_KEYS)
"""Every distribution of the schema."""


def read_distribution(entry: Mapping[str, Any], where: str) -> Range | Quantile:
    """The distribution that a parameter's `entry` describes; constants and plain `values` are read elsewhere.

    Raises:
        ConfigError: for an unknown distribution or key, a missing number, or ends in the wrong order.
    """
    name = str(entry["distribution"]) if "distribution" in entry else _implied(entry, where)
    if name == "categorical_w_probabilities":
        return _weighted(entry, where)
    if name not in _KEYS:
        raise unknown("distribution", name, NAMES, where)
    for key in entry:
        if key not in (*_KEYS[name], "distribution"):
            raise unknown(f"key of {name}", str(key), _KEYS[name], where)
    numbers = {key: _number(entry.get(key, default), key, where) for key, default in _KEYS[name].items()}
    if numbers.get("q", 1.0) <= 0:
        raise ConfigError(f"q is {numbers['q']}", where=where, mend="choose a step above 0")
    try:
        found = _range(name, numbers, where) if "min" in numbers else _quantile(name, numbers, where)
        found.check(where)
    except ArithmeticError as error:
        exponents = name.endswith("log_uniform")
        raise ConfigError(
            f"{name} makes numbers too large for a computer of {', '.join(f'{k}={v:g}' for k, v in numbers.items())}",
            where=where,
            mend=f"its ends are exponents of e: for values, write {name}_values" if exponents else "choose others",
        ) from error
    return found


def _implied(entry: Mapping[str, Any], where: str) -> str:
    """The distribution that W&B takes where none is named."""
    if "probabilities" in entry:
        return "categorical_w_probabilities"
    if {"min", "max"} <= set(entry):
        return "int_uniform" if all(isinstance(entry[key], int) for key in ("min", "max")) else "uniform"
    what = f"found {', '.join(sorted(map(str, entry)))}, which names no distribution"
    mend = "write {value: x}, {values: [x, y]}, {min: x, max: y}, or a distribution with its keys"
    raise ConfigError(what, where=where, mend=mend)


def _range(name: str, numbers: Mapping[str, float], where: str) -> Range:
    low, high = numbers["min"], numbers["max"]
    if name.endswith("log_uniform"):  # ends are exponents; those of 1/X for the inverse
        low, high = (math.exp(-high), math.exp(-low)) if name.startswith("inv") else (math.exp(low), math.exp(high))
    log = "log" in name
    if not low < high or (log and low <= 0):
        what = f"the range {numbers['min']} to {numbers['max']} is empty" if low >= high else f"min is {low}"
        mend = "choose min below max" if low >= high else "choose a min above 0, or a distribution without log"
        raise ConfigError(what, where=where, mend=mend)
    whole = name == "int_uniform"
    if whole and not (low == int(low) and high == int(high)):
        raise ConfigError("int_uniform has ends that are not whole", where=where, mend="use uniform")
    return Range(low, high, log, numbers.get("q"), whole)


def _quantile(name: str, numbers: Mapping[str, float], where: str) -> Quantile:
    spread = ("a", "b") if name.endswith("beta") else ("sigma",)
    if any(numbers[key] <= 0 for key in spread):
        raise ConfigError(f"{' and '.join(spread)} must be above 0", where=where, mend="choose larger numbers")
    inverse = _inverse(name, numbers, where)
    q = numbers.get("q")
    return Quantile(lambda u: _rounded(inverse(u)) if q is None else _multiple(inverse(u), q))


def _inverse(name: str, numbers: Mapping[str, float], where: str) -> Callable[[float], float]:
    if not name.endswith("beta"):
        normal = NormalDist(numbers["mu"], numbers["sigma"])
        return (lambda u: math.exp(normal.inv_cdf(u))) if "log" in name else normal.inv_cdf
    try:
        from scipy.stats import beta
    except ImportError as error:
        what = "a beta distribution needs SciPy, which is not installed"
        raise ConfigError(what, where=where, mend="pip install scipy, or choose another distribution") from error
    return lambda u: float(beta.ppf(u, numbers["a"], numbers["b"]))


def _weighted(entry: Mapping[str, Any], where: str) -> Quantile:
    values, weights = entry.get("values"), entry.get("probabilities")
    if not isinstance(values, list) or not isinstance(weights, list) or len(values) != len(weights) or not values:
        raise ConfigError("values and probabilities must be lists of one length", where=where, mend="give one each")
    shares = [_number(weight, "probabilities", where) for weight in weights]
    if min(shares) < 0 or not math.isclose(sum(shares), 1.0, abs_tol=1e-6):
        raise ConfigError(f"probabilities sum to {sum(shares):g}", where=where, mend="make them sum to 1, none below 0")
    steps = list(itertools.accumulate(shares))
    return Quantile(lambda u: values[next((i for i, step in enumerate(steps) if u < step), len(steps) - 1)])


def _number(value: Any, key: str, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        what = "is missing" if value is None else f"is {value!r}, not a number"
        raise ConfigError(f"'{key}' {what}", where=where, mend=f"write {key}: {_as_yaml(value)}")
    return float(value)


def _as_yaml(value: Any) -> str:
    """How YAML takes a number that it read as text: 1e-6 lacks a point, which its version 1.1 asks for."""
    if isinstance(value, str) and "e" in value.lower():
        with suppress(ValueError):
            mantissa, _, exponent = value.lower().partition("e")
            return f"{float(mantissa)}e{int(exponent):+d}"
    return "NUMBER"


def _inside(quantile: float) -> float:
    return min(max(quantile, 1e-9), 1 - 1e-9)  # the inverse of a normal distribution is infinite at 0 and 1


def _rounded(number: float) -> float:
    return float(f"{number:.{_DIGITS}g}")


def _multiple(number: float, q: float) -> int | float:
    """The multiple of `q` nearest to `number`; a whole number if q is one, as W&B gives it."""
    multiple = round(number / q) * q
    return round(multiple) if q == int(q) else float(f"{multiple:.12g}")
