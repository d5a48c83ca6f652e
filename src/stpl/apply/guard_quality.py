"""`stpl adapt guard`: which networks the guard chooses in recorded runs, and how good they are by labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from json import dumps
from pathlib import Path

from rich.console import Console
from rich.table import Table

from stpl.apply.adapt import STATISTICS, spread
from stpl.apply.guard import LOOKED, Candidate, choose, judged, see
from stpl.apply.network import load_network
from stpl.data.datamodule import StreetsData
from stpl.data.streets import StreetsOptions
from stpl.errors import RecordError
from stpl.files import write_atomically
from stpl.runs.record import METRICS, RECORD, RunRecord, read_metrics, read_record
from stpl.runs.shipped import source_model

_CAMERA = "data.options.shift"
_ELSEWHERE = {"data.options.seed", "model.checkpoint"}  # with these it is not of a shipped source model


@dataclass(frozen=True)
class Case:
    """One camera and source model.

    Attributes:
        shift: the camera.
        seed: of the source model.
        start: mIoU of the source model, in percent.
        statistics: with renewed statistics.
        best: of all candidates.
        chosen: of the guard's choice.
        title: what that is.
    """

    shift: str
    seed: int
    start: float
    statistics: float
    best: float
    chosen: float
    title: str


def show_choices(experiment: str, runs: Path, clips: int | None = None, json: Path | None = None) -> None:
    """Have the guard choose among networks of recorded runs, and print its choices; see `stpl adapt guard`."""
    cases = list(_cases(experiment, runs / "streets", clips or LOOKED))
    if not cases:
        mend = "record them: stpl sweep recommended"
        raise RecordError(f"no run of {experiment} kept its checkpoints", where=runs / "streets", mend=mend)
    table = Table(
        "camera", "start", "statistics", "best", "chosen", "which", title="Choices of the guard, mIoU in percent"
    )
    for case in cases:
        numbers = (case.start, case.statistics, case.best, case.chosen)
        table.add_row(f"{case.shift}, seed {case.seed}", *(f"{miou:.1f}" for miou in numbers), case.title)
    Console().print(table)
    near = sum(case.best - case.chosen <= 1 for case in cases)
    worse = sum(case.chosen < case.start for case in cases)
    below = sum(case.chosen < case.statistics for case in cases)
    print(
        f"within 1 mIoU of the best: {near} of {len(cases)};"
        f" worse than the start: {worse}; than renewed statistics: {below}"
    )
    if json is not None:
        figures = {"cases": [asdict(case) for case in cases], "near": near, "worse": worse, "below": below}
        write_atomically(json, dumps(figures, indent=1) + "\n")


def _cases(experiment: str, folder: Path, clips: int) -> Iterator[Case]:
    read = [(path.parent, read_record(path.parent)) for path in sorted(folder.glob(f"*/seed*/{RECORD}"))]
    records = [(path, record) for path, record in read if record and not _ELSEWHERE & record["overrides"].keys()]
    for path, record in records:
        if record["base"] != experiment or not (path / "checkpoints" / f"step{record['steps']}.ckpt").is_file():
            continue
        shift, seed = record["overrides"].get(_CAMERA, "camera"), record["seed"]
        control = _control(records, shift, seed)
        if control is not None:
            yield _case(path, shift, seed, control, clips)


def _control(records: Sequence[tuple[Path, RunRecord]], shift: str, seed: int) -> Path | None:
    """The run of renewed statistics before the same camera and from the same source model."""
    for path, record in records:
        same = (record["base"], record["overrides"].get(_CAMERA, "camera"), record["seed"])
        if same == (STATISTICS, shift, seed):
            return path
    return None


def _case(path: Path, shift: str, seed: int, control: Path, clips: int) -> Case:
    miou = {step: value for step, name, value in read_metrics(path / METRICS) if name == "val/miou"}
    renewed = read_record(control)
    assert renewed is not None
    candidates = [
        Candidate("start", source_model(seed)),
        Candidate("renewed statistics", control / "checkpoints" / "last.ckpt"),
        *(Candidate(f"step {step}", path / "checkpoints" / f"step{step}.ckpt", step) for step in sorted(miou) if step),
    ]
    values = [miou[0], float(renewed["last"]["miou"]), *(miou[one.step] for one in candidates[2:])]
    looked = spread(StreetsData(options=StreetsOptions(shift=shift)), clips)  # type: ignore[arg-type]
    verdict = choose(judged(candidates, [see(load_network(one.checkpoint), looked) for one in candidates]))
    chosen = values[candidates.index(verdict.chosen.candidate)]
    return Case(shift, seed, values[0], values[1], max(values), chosen, verdict.chosen.candidate.title)
