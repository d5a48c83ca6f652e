"""Tables of runs with changed settings: variants, curves over k and τ, and the cameras of `streets`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from stpl.report.sheet import Column, Sheet, TableCell, average, number, plain, plus_minus, same
from stpl.report.significance import error, mean
from stpl.report.suite import Suite
from stpl.runs.artifacts import KINDS, StatisticsKind
from stpl.runs.experiments import Row, Table
from stpl.runs.record import NEUTRAL, RunRecord

_BASE = "stpl"  # the experiment whose settings are varied
_CAMERA, _DEFAULT = "data.options.shift", "camera"  # names the camera of `streets`: no setting of a method
_LOOKS = {"trainer.val_check_interval"}  # when a run is evaluated changes nothing at its last step


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
        Column(
            "mIoU last",
            ("miou_mean", "miou_std"),
            [average(points[point]) for point in varied],
        ),
    ]
    title = f"Sensitivity of {_BASE} to single settings, {suite.title}"
    note = "mIoU in percent at the last step: mean ± sample standard deviation over seeds."
    return Sheet("sensitivity", title, columns, [note]) if varied else None


def _by_number(point: tuple[str, str]) -> tuple[str, float, str]:
    """Order by setting, then by value as a number; words follow the numbers."""
    name, value = point
    try:
        return name, float(value), value
    except ValueError:
        return name, float("inf"), value


def shifts_sheet(suite: Suite) -> Sheet | None:
    """One line per experiment and one column per camera; `None` if none but the default was run."""
    found: dict[tuple[str, str], list[RunRecord]] = {}  # by experiment and camera, if no other setting is changed
    for record in suite.all_records():
        settings = _changed(record)
        if settings.keys() - _LOOKS <= {_CAMERA}:
            found.setdefault((record["base"], settings.get(_CAMERA, _DEFAULT)), []).append(record)
    others = sorted({camera for _, camera in found} - {_DEFAULT})
    if not others:
        return None
    shown = suite.shown()
    recorded = {name for name, camera in found if camera in others}
    names = [name for name in shown if name in recorded] + sorted(recorded - shown.keys())
    sources = {name for table in suite.catalogue.tables for name in (table.reference, *table.controls)}
    columns = [Column("Method", ("row",), [TableCell(suite.title_of(name), (name,)) for name in names])]
    for camera in (_DEFAULT, *others):
        unadapted = [record for name in sources for record in found.get((name, camera), [])]
        control = _control({record["experiment"] for record in unadapted}, suite)
        cells = [
            _before_camera(found.get((name, camera), []), {} if name in sources else control, suite) for name in names
        ]
        columns.append(Column(camera, (camera, f"{camera}_delta_control", f"{camera}_delta_control_se"), cells))
    note = (
        "mIoU in percent at the last step, mean over seeds. Behind it, the mean paired difference to the weights of "
        "the source model before the same camera with the same kind of statistics ± its standard error."
    )
    return Sheet("shifts", f"Cameras, {suite.title}", columns, [note])


def _control(experiments: Collection[str], suite: Suite) -> dict[tuple[StatisticsKind, int], float]:
    """Kind of statistics and seed → mIoU of the source models' weights, which all `experiments` have."""
    return {
        (kind, seed): miou
        for experiment in sorted(experiments)
        for kind in KINDS
        for seed, miou in suite.mious(experiment, kind).items()
    }


def _before_camera(
    records: Sequence[RunRecord], control: Mapping[tuple[StatisticsKind, int], float], suite: Suite
) -> TableCell:
    """The mIoU, and the paired difference to the control with the kind of statistics that each run has."""
    gains = []
    for record in records:
        kind = suite.kind_of(record)
        if kind is not None and (kind, record["seed"]) in control:
            gains.append(float(record["last"]["miou"]) - control[kind, record["seed"]])
    miou, gain, spread = mean(float(record["last"]["miou"]) for record in records), mean(gains), error(gains)
    beside = f" ({plus_minus(gain, spread, '+.2f')})" if gains else ""
    return TableCell(number(miou) + beside, plain(miou, gain, spread))
