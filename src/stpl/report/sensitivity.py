"""How mIoU depends on one setting: the curves over k and τ, or over whatever else was varied alone."""

from __future__ import annotations

from collections.abc import Mapping

from stpl.report.averages import deviation, mean
from stpl.report.sheet import Column, Sheet, TableCell, plain, plus_minus, same
from stpl.report.suite import Suite
from stpl.runs.record import NEUTRAL

BASE = "stpl"
"""The experiment whose settings are varied."""

CAMERA = "data.options.shift"
"""Names the camera of `streets`: no setting of a method."""

_COLUMNS = (
    Column("Setting", ("parameter",)),
    Column("value", ("value",)),
    Column("seeds", ("seeds",)),
    Column("mIoU last", ("miou_mean", "miou_std")),
)


def sensitivity_sheet(suite: Suite) -> Sheet | None:
    """One line per value of every setting that runs of `BASE` changed alone; `None` if no setting has two values.

    The mIoU is that at the last step: mean and sample standard deviation over seeds.
    """
    points = _points(suite)
    names = [name for name, _ in points]
    varied = sorted((point for point in points.items() if names.count(point[0][0]) > 1), key=_by)
    if not varied:
        return None
    cells = [[*map(same, (*key, str(len(mious)))), _average(mious)] for key, mious in varied]
    notes = ["mIoU in percent at the last step: mean ± sample standard deviation over seeds."]
    return Sheet("sensitivity", f"Sensitivity of {BASE} to single settings, {suite.title}", _COLUMNS, cells, notes)


def _average(mious: list[float]) -> TableCell:
    values = mean(mious), deviation(mious)
    return TableCell(plus_minus(*values), plain(*values))


def _points(suite: Suite) -> dict[tuple[str, str], list[float]]:
    """(setting, value) → mIoU of every seed."""
    points: dict[tuple[str, str], list[float]] = {}
    for record in suite.all_records():
        settings = changed(record["overrides"])
        if record["base"] == BASE and len(settings) == 1 and CAMERA not in settings:
            points.setdefault(settings.popitem(), []).append(float(record["last"]["miou"]))
    return points


def changed(overrides: Mapping[str, str]) -> dict[str, str]:
    """The overridden settings that make a difference, by the names that sweeps give them."""
    found = {name: value for name, value in overrides.items() if not name.startswith((*NEUTRAL, "seed_everything"))}
    return {name.replace(".init_args.", "."): str(value) for name, value in found.items()}


def _by(point: tuple[tuple[str, str], list[float]]) -> tuple[str, float, str]:
    """Order by setting, then by value as a number; words follow the numbers."""
    name, value = point[0]
    try:
        return name, float(value), value
    except ValueError:
        return name, float("inf"), value
