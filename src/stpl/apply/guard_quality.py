"""`stpl adapt guard`: which networks the guard chooses in recorded runs, and how good they are by labels."""

from collections.abc import Iterator
from json import dumps
from pathlib import Path
from typing import NamedTuple, cast

from rich.console import Console
from rich.table import Table

from stpl.apply.adapt import STATISTICS, spread
from stpl.apply.guard import Candidate, choose, judged, see
from stpl.apply.loaded import load_network
from stpl.apply.settings import LOOKED
from stpl.data.datamodule import StreetsData
from stpl.data.streets import StreetsOptions
from stpl.data.streets.domain import ShiftName
from stpl.errors import RecordError
from stpl.files import write_atomically
from stpl.runs.record import METRICS, RECORD, RunRecord, read_metrics, read_record
from stpl.runs.shipped import source_model

_ELSEWHERE = {"data.options.seed", "model.checkpoint"}  # with these it is not of a shipped source model


class Case(NamedTuple):
    """A camera and a source model, and what mIoU in percent the guard could have chosen there."""

    shift: str  # the camera
    seed: int  # of the source model
    start: float  # mIoU of the source model
    statistics: float  # of the same with renewed statistics
    best: float  # of the best candidate
    chosen: float  # of the guard's choice
    title: str  # which that is


def show_choices(experiment: str, runs: Path, clips: int | None = None, json: Path | None = None) -> None:
    """Have the guard choose among networks of recorded runs, and print its choices; see `stpl adapt guard`."""
    cases = list(_cases(experiment, runs / "streets", clips or LOOKED))
    if not cases:
        mend = "record them: stpl sweep recommended"
        raise RecordError(f"no run of {experiment} kept its checkpoints", where=runs / "streets", mend=mend)
    columns = ("camera", "start", "statistics", "best", "chosen", "which")
    table = Table(*columns, title="Choices of the guard, mIoU in percent")
    for case in cases:
        numbers = (case.start, case.statistics, case.best, case.chosen)
        table.add_row(f"{case.shift}, seed {case.seed}", *(f"{miou:.1f}" for miou in numbers), case.title)
    Console().print(table)
    near = sum(case.best - case.chosen <= 1 for case in cases)
    worse = sum(case.chosen < case.start for case in cases)
    below = sum(case.chosen < case.statistics for case in cases)
    within = f"within 1 mIoU of the best: {near} of {len(cases)}"
    print(f"{within}; worse than the start: {worse}; than renewed statistics: {below}")
    if json is not None:
        figures = {"cases": [case._asdict() for case in cases], "near": near, "worse": worse, "below": below}
        write_atomically(json, dumps(figures, indent=1) + "\n")


def _cases(experiment: str, folder: Path, clips: int) -> Iterator[Case]:
    """Each run of the experiment that kept its checkpoints, beside that of renewed statistics it is compared with."""
    controls: dict[tuple[str, int], tuple[Path, RunRecord]] = {}
    trained = []
    for path in sorted(folder.glob(f"*/seed*/{RECORD}")):
        run, record = path.parent, read_record(path.parent)
        if not record or _ELSEWHERE & record["overrides"].keys():
            continue
        conditions = (record["overrides"].get("data.options.shift", "camera"), record["seed"])
        if record["base"] == STATISTICS:
            controls.setdefault(conditions, (run, record))
        if record["base"] == experiment and (run / "checkpoints" / f"step{record['steps']}.ckpt").is_file():
            trained.append((run, conditions))
    for run, conditions in trained:
        if conditions in controls:
            yield _case(run, conditions, *controls[conditions], clips)


def _case(path: Path, conditions: tuple[str, int], control: Path, renewed: RunRecord, clips: int) -> Case:
    shift, seed = conditions  # the camera and the source model
    miou = {step: value for step, name, value in read_metrics(path / METRICS) if name == "val/miou"}
    candidates = [
        Candidate("start", source_model(seed)),
        Candidate("renewed statistics", control / "checkpoints" / "last.ckpt"),
        *(Candidate(f"step {step}", path / "checkpoints" / f"step{step}.ckpt", step) for step in sorted(miou) if step),
    ]
    values = [miou[0], float(renewed["last"]["miou"]), *(miou[one.step] for one in candidates[2:])]
    looked = spread(StreetsData(options=StreetsOptions(shift=cast("ShiftName", shift))), clips)
    verdict = choose(judged(candidates, [see(load_network(one.checkpoint), looked) for one in candidates]))
    chosen = values[verdict.scored.index(verdict.chosen)]
    return Case(shift, seed, values[0], values[1], max(values), chosen, verdict.chosen.title)
