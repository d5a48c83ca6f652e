"""Whether numbers can be the mean and the standard deviation of frames in 0..255. This module imports no torch."""

import math
from numbers import Real
from typing import Any

from stpl.errors import ConfigError, shown

Triple = tuple[float, float, float]

AS_THEY_ARE: tuple[Triple, Triple] = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
"""Mean and standard deviation that leave frames in 0..255 as they are."""

_MOST_OF_ONE = 1.5  # a standard deviation above it is of no frames in 0..1
_BRIGHTEST, _WIDEST = 255.0, 1000.0
_EXAMPLE = "give a number for each channel, such as 123.7,116.3,103.5"


def three_numbers(value: Any, where: str) -> Triple:
    """A number for each channel, from a tuple, a list or an array.

    Raises:
        ConfigError: it is anything else, or a number is not finite; it names the option `where`.
    """
    found = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(found, tuple | list) or len(found) != 3:
        what = "one number, not three" if is_number(found) else "not three numbers"
        raise ConfigError(f"{shown(found)} is {what}", where=where, mend=_EXAMPLE)
    for number in found:
        if not is_number(number) or not math.isfinite(number):
            raise ConfigError(f"{shown(number)} is no finite number", where=where, mend=_EXAMPLE)
    return float(found[0]), float(found[1]), float(found[2])


def divisors(value: Any, where: str) -> Triple:
    """Standard deviations: three numbers above 0; raises `ConfigError` for anything else."""
    found = three_numbers(value, where)
    if min(found) <= 0:
        raise ConfigError(f"{_listed(found)}: nothing is divided by these", where=where, mend="give std above 0")
    return found


def check_scale(mean: Triple, std: Triple, where_mean: str, where_std: str) -> None:
    """Raise `ConfigError` for a mean and a standard deviation that are not those of frames in 0..255.

    Programs that bring frames to 0..1 first state both for that: 0.485 and 0.229 where 123.7 and 58.4 belong here.
    `where_mean` and `where_std` are the names of the options that they come from.
    """
    if (mean, std) == AS_THEY_ARE:
        return
    dark, narrow = max(map(abs, mean)) <= 1, max(std) <= _MOST_OF_ONE
    if dark and narrow:
        raise ConfigError(
            f"mean {_listed(mean)} and std {_listed(std)} are of frames in 0…1, frames here are in 0…255",
            where=where_mean,
            mend=f"give them times 255: mean={_times_255(mean)} and std={_times_255(std)}",
        )
    times = "if it is of frames in 0…1, give it times 255:"
    if dark and any(mean):
        raise _no_frames(f"{_listed(mean)} is the mean", where_mean, f"{times} mean={_times_255(mean)}")
    if min(std) < 1:
        raise _no_frames(f"{_listed(std)} is the deviation", where_std, f"{times} std={_times_255(std)}")
    if min(mean) < 0 or max(mean) > _BRIGHTEST:
        raise _no_frames(f"{_listed(mean)} is the mean", where_mean, "give numbers between 0 and 255")
    if max(std) > _WIDEST:
        mend = "give numbers such as 58.4,57.1,57.4, or 255,255,255 for a network that takes frames in 0…1"
        raise _no_frames(f"{_listed(std)} is the deviation", where_std, mend)


def _no_frames(what: str, where: str, mend: str) -> ConfigError:
    return ConfigError(f"{what} of no frames in 0…255", where=where, mend=mend)


def is_number(value: Any) -> bool:
    """Whether it is of a type of real numbers; true and false are none."""
    return not isinstance(value, bool) and isinstance(value, Real)


def channels(value: Any, where: str) -> str:
    """An order of channels; raises `ConfigError` for anything but rgb and bgr."""
    found = value if isinstance(value, str) else shown(value)  # an array is compared number by number
    if found not in ("rgb", "bgr"):
        raise ConfigError(f"'{found}' is no order", where=where, mend="choose rgb or bgr")
    return found


def _listed(numbers: Triple) -> str:
    return ",".join(f"{number:g}" for number in numbers)


def _times_255(numbers: Triple) -> str:
    return ",".join(f"{255 * number:.6g}" for number in numbers)
