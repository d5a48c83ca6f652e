"""The main rows before every camera of `streets` that they were run before."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from stpl.report.averages import error, mean
from stpl.report.sensitivity import CAMERA, changed
from stpl.report.sheet import NOTHING, Column, Sheet, TableCell, number, plain, plus_minus
from stpl.report.suite import Suite

DEFAULT = "camera"
_LOOKS = {"trainer.val_check_interval"}  # when a run is evaluated changes nothing at its last step

_NOTES = (
    "mIoU in percent at the last step, mean over seeds. Behind it, the mean paired difference to the better of the "
    "controls before the same camera ± its standard error.",
)

Runs = dict[int, float]
"""Seed → mIoU."""


def shifts_sheet(suite: Suite) -> Sheet | None:
    """One line per experiment and one column per camera; `None` if none but the default was run."""
    found = _found(suite)
    shifts = list(dict.fromkeys([DEFAULT, *sorted({shift for _, shift in found})]))
    if len(shifts) < 2:
        return None
    controls = [name for table in suite.catalogue.tables for name in table.controls]
    before_others = {name for name, shift in found if shift != DEFAULT}
    names = [name for name in suite.shown() if name in before_others] + sorted(before_others - suite.shown().keys())
    cells = []
    for name in names:
        row = [TableCell(suite.title_of(name), (name,))]
        for shift in shifts:
            runs = found.get((name, shift), {})
            row.append(_cell(runs, _gains(runs, {c: found.get((c, shift), {}) for c in controls if c != name})))
        cells.append(row)
    columns = [Column(shift, (shift, f"{shift}_delta_control", f"{shift}_delta_control_se")) for shift in shifts]
    return Sheet("shifts", f"Cameras, {suite.title}", [Column("Method", ("row",)), *columns], cells, _NOTES)


def before_another_camera(suite: Suite, experiment: str) -> bool:
    """Whether an experiment was run with another camera than the default."""
    return any(CAMERA in changed(record["overrides"]) for record in suite.records(experiment))


def _found(suite: Suite) -> dict[tuple[str, str], Runs]:
    """(experiment, camera) → its runs, of those with no other setting changed."""
    found: dict[tuple[str, str], Runs] = {}
    for record in suite.all_records():
        settings = changed(record["overrides"])
        if set(settings) - _LOOKS <= {CAMERA}:
            runs = found.setdefault((record["base"], settings.get(CAMERA, DEFAULT)), {})
            runs[record["seed"]] = float(record["last"]["miou"])
    return found


def _gains(runs: Runs, controls: Mapping[str, Runs]) -> list[float]:
    """Paired differences to the control with the highest mean over common seeds; none without one."""
    common = {control: [seed for seed in runs if seed in other] for control, other in controls.items()}
    means = [(statistics.fmean(controls[c][s] for s in seeds), c) for c, seeds in common.items() if seeds]
    if not means:
        return []
    best = max(means)[1]
    return [runs[seed] - controls[best][seed] for seed in common[best]]


def _cell(runs: Runs, gains: Sequence[float]) -> TableCell:
    miou, gain, spread = mean(runs.values()), mean(gains), error(gains)
    beside = f" ({plus_minus(gain, spread, '+.2f')})" if gains else ""
    return TableCell(number(miou) + beside if runs else NOTHING, plain(miou, gain, spread))
