"""Tables of runs with changed settings: variants, curves over k and τ, and the cameras of `streets`."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from stpl.report.sheet import Column, Sheet, TableCell, number, plain, plus_minus, same
from stpl.report.significance import deviation, error, mean
from stpl.report.suite import Suite
from stpl.runs.experiments import Row, Table
from stpl.runs.record import NEUTRAL, RunRecord

_BASE = "stpl"  # the experiment whose settings are varied
_CAMERA, _DEFAULT = "data.options.shift", "camera"  # names the camera of `streets`: no setting of a method
_LOOKS = {"trainer.val_check_interval"}  # when a run is evaluated changes nothing at its last step

Runs = dict[int, float]
"""Seed → mIoU."""


def _changed(record: RunRecord) -> dict[str, str]:
    """The overridden settings that make a difference, by the names that sweeps give them."""
    neutral = (*NEUTRAL, "seed_everything")
    found = {name: value for name, value in record["overrides"].items() if not name.startswith(neutral)}
    return {name.replace(".init_args.", "."): str(value) for name, value in found.items()}


def variants(suite: Suite) -> list[Table]:
    """The table of recorded experiments that the catalogue does not name: settings changed on the command line.

    Empty if there are none. Runs before another camera have a table of their own: here they would be held against a
    source model before the default one.
    """
    names = sorted(
        name
        for name in set(suite.recorded()).difference(suite.catalogue.experiments)
        if not any(_CAMERA in _changed(record) for record in suite.records(name))
    )
    if not names:
        return []
    rows = tuple(Row(name, name, {}) for name in names)
    reference = suite.catalogue.tables[0].reference if suite.catalogue.tables else ""
    return [Table("variants", "Variants by changed settings", "", suite.bench, reference, rows)]


def sensitivity_sheet(suite: Suite) -> Sheet | None:
    """One line per value of every setting that runs of STPL changed alone; `None` if no setting has two values.

    The mIoU is that at the last step: mean and sample standard deviation over seeds.
    """
    points: dict[tuple[str, str], list[float]] = {}
    for record in suite.all_records():
        settings = _changed(record)
        if record["base"] == _BASE and len(settings) == 1 and _CAMERA not in settings:
            points.setdefault(settings.popitem(), []).append(float(record["last"]["miou"]))
    names = [name for name, _ in points]
    varied = [point for point in sorted(points, key=_by_number) if names.count(point[0]) > 1]
    columns = [
        Column("Setting", ("parameter",), [same(name) for name, _ in varied]),
        Column("value", ("value",), [same(value) for _, value in varied]),
        Column("seeds", ("seeds",), [same(len(points[point])) for point in varied]),
        Column("mIoU last", ("miou_mean", "miou_std"), [average(points[point]) for point in varied]),
    ]
    title = f"Sensitivity of {_BASE} to single settings, {suite.title}"
    note = "mIoU in percent at the last step: mean ± sample standard deviation over seeds."
    return Sheet("sensitivity", title, columns, [note]) if varied else None


def average(mious: Sequence[float]) -> TableCell:
    """Mean and sample standard deviation of mIoU over seeds."""
    values = mean(mious), deviation(mious)
    return TableCell(plus_minus(*values), plain(*values))


def _by_number(point: tuple[str, str]) -> tuple[str, float, str]:
    """Order by setting, then by value as a number; words follow the numbers."""
    name, value = point
    try:
        return name, float(value), value
    except ValueError:
        return name, float("inf"), value


def shifts_sheet(suite: Suite) -> Sheet | None:
    """One line per experiment and one column per camera; `None` if none but the default was run."""
    found: dict[tuple[str, str], Runs] = {}  # by experiment and camera, of those with no other setting changed
    for record in suite.all_records():
        settings = _changed(record)
        if settings.keys() - _LOOKS <= {_CAMERA}:
            runs = found.setdefault((record["base"], settings.get(_CAMERA, _DEFAULT)), {})
            runs[record["seed"]] = float(record["last"]["miou"])
    others = sorted({camera for _, camera in found} - {_DEFAULT})
    if not others:
        return None
    shown = suite.shown()
    recorded = {name for name, camera in found if camera in others}
    names = [name for name in shown if name in recorded] + sorted(recorded - shown.keys())
    controls = [name for table in suite.catalogue.tables for name in table.controls]
    columns = [Column("Method", ("row",), [TableCell(suite.title_of(name), (name,)) for name in names])]
    for camera in (_DEFAULT, *others):
        before = {name: runs for (name, shift), runs in found.items() if shift == camera}
        cells = [_before_camera(name, before, controls) for name in names]
        columns.append(Column(camera, (camera, f"{camera}_delta_control", f"{camera}_delta_control_se"), cells))
    note = (
        "mIoU in percent at the last step, mean over seeds. Behind it, the mean paired difference to the better of the "
        "controls before the same camera ± its standard error."
    )
    return Sheet("shifts", f"Cameras, {suite.title}", columns, [note])


def _before_camera(name: str, found: Mapping[str, Runs], controls: Sequence[str]) -> TableCell:
    """The mIoU, and the paired difference to the control with the highest mean over common seeds, if there is one."""
    runs = found.get(name, {})
    means = []
    for control in controls:
        common = [miou for seed, miou in found.get(control, {}).items() if seed in runs]
        if common and control != name:
            means.append((statistics.fmean(common), control))
    best = found[max(means)[1]] if means else {}
    gains = [runs[seed] - miou for seed, miou in best.items() if seed in runs]
    miou, gain, spread = mean(runs.values()), mean(gains), error(gains)
    beside = f" ({plus_minus(gain, spread, '+.2f')})" if gains else ""
    return TableCell(number(miou) + beside, plain(miou, gain, spread))
