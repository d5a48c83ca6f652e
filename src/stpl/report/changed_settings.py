"""Tables of runs with changed settings: variants, curves over k and τ, and the cameras of `streets`."""

from __future__ import annotations

from collections.abc import Mapping

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


_SENSITIVITY_COLUMNS = (
    Column("Setting", ("parameter",)),
    Column("value", ("value",)),
    Column("seeds", ("seeds",)),
    Column("mIoU last", ("miou_mean", "miou_std")),
)


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
    cells = []
    for name, value in sorted(points, key=_by_number):
        if names.count(name) > 1:
            mious = points[name, value]
            average = mean(mious), deviation(mious)
            texts = name, value, str(len(mious))
            cells.append([*map(same, texts), TableCell(plus_minus(*average), plain(*average))])
    title = f"Sensitivity of {_BASE} to single settings, {suite.title}"
    notes = ["mIoU in percent at the last step: mean ± sample standard deviation over seeds."]
    return Sheet("sensitivity", title, _SENSITIVITY_COLUMNS, cells, notes) if cells else None


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
    columns, cells = [Column("Method", ("row",))], [[TableCell(suite.title_of(name), (name,))] for name in names]
    for camera in (_DEFAULT, *others):
        columns.append(Column(camera, (camera, f"{camera}_delta_control", f"{camera}_delta_control_se")))
        for row, name in zip(cells, names, strict=True):
            against = {control: found.get((control, camera), {}) for control in controls if control != name}
            row.append(_before_camera(found.get((name, camera), {}), against))
    note = (
        "mIoU in percent at the last step, mean over seeds. Behind it, the mean paired difference to the better of the "
        "controls before the same camera ± its standard error."
    )
    return Sheet("shifts", f"Cameras, {suite.title}", columns, cells, [note])


def _before_camera(runs: Runs, controls: Mapping[str, Runs]) -> TableCell:
    """The mIoU, and the paired difference to the control with the highest mean over common seeds, if there is one."""
    common = {control: [seed for seed in runs if seed in other] for control, other in controls.items()}
    mious = {name: mean(controls[name][seed] for seed in seeds) for name, seeds in common.items()}
    best = max(((miou, name) for name, miou in mious.items() if miou is not None), default=(0.0, ""))[1]
    gains = [runs[seed] - controls[best][seed] for seed in common.get(best, ())]
    miou, gain, spread = mean(runs.values()), mean(gains), error(gains)
    beside = f" ({plus_minus(gain, spread, '+.2f')})" if gains else ""
    return TableCell(number(miou) + beside, plain(miou, gain, spread))
