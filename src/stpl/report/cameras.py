"""The main rows before every camera of `streets` that they were run before."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from stpl.report.sensitivity import CAMERA, changed
from stpl.report.sheet import NOTHING, Sheet, number
from stpl.report.suite import Suite
from stpl.runs.record import RunRecord

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
    rows, csv_rows = [], []
    for name in names:
        row, cells = [suite.title_of(name)], [name]
        for shift in shifts:
            runs = found.get((name, shift), {})
            gains = _gains(runs, {c: found.get((c, shift), {}) for c in controls if c != name})
            row.append(_text(runs, gains))
            cells += [number(value, nothing="") for value in (_mean(runs.values()), _mean(gains), _error(gains))]
        rows.append(row)
        csv_rows.append(cells)
    header = ["row", *(f"{shift}{part}" for shift in shifts for part in ("", "_delta_control", "_delta_control_se"))]
    return Sheet("shifts", f"Cameras, {suite.title}", ["Method", *shifts], rows, _NOTES, header, csv_rows)


def before_another_camera(suite: Suite, experiment: str) -> bool:
    """Whether an experiment was run with another camera than the default."""
    return any(CAMERA in changed(record["overrides"]) for record in suite.records(experiment))


def _found(suite: Suite) -> dict[tuple[str, str], Runs]:
    """(experiment, camera) → its runs, of those with no other setting changed."""
    found: dict[tuple[str, str], Runs] = {}
    for experiment in suite.recorded():
        for record in suite.records(experiment):
            settings = changed(record["overrides"])
            if set(settings) - _LOOKS <= {CAMERA}:
                found.setdefault((record["base"], settings.get(CAMERA, DEFAULT)), {})[record["seed"]] = _miou(record)
    return found


def _miou(record: RunRecord) -> float:
    return float(record["last"]["miou"])


def _gains(runs: Runs, controls: Mapping[str, Runs]) -> list[float]:
    """Paired differences to the control with the highest mean over common seeds; none without one."""
    common = {control: [seed for seed in runs if seed in other] for control, other in controls.items()}
    means = [(statistics.fmean(controls[c][s] for s in seeds), c) for c, seeds in common.items() if seeds]
    if not means:
        return []
    best = max(means)[1]
    return [runs[seed] - controls[best][seed] for seed in common[best]]


def _text(runs: Runs, gains: Sequence[float]) -> str:
    if not runs:
        return NOTHING
    error = _error(gains)
    beside = f" ({number(_mean(gains), '+.2f')}{'' if error is None else f' ± {number(error)}'})" if gains else ""
    return number(_mean(runs.values())) + beside


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return statistics.fmean(found) if found else None


def _error(values: Sequence[float]) -> float | None:
    """Standard error of the mean."""
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
