"""Run records: what a run leaves in `runs/<bench>/<experiment>/seed<k>/`, and all that sweeps and reports know of it.

`result.json` is written last and atomically: a killed run leaves checkpoints to resume from, never half a record.
Imports no torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

from stpl.errors import ConfigError, RecordError
from stpl.evaluations import GROUPS as GROUPS
from stpl.evaluations import OF_CLASSES
from stpl.evaluations import flat as flat
from stpl.files import write_atomically

SCHEMA = 1
"""Version of `result.json`. It grows when a field changes its meaning; readers refuse other versions."""

RECORD, CONFIG, METRICS = "result.json", "config.yaml", "metrics.csv"
"""File names inside a run's folder: of its record, its resolved settings, and its `step,name,value` lines."""

NEUTRAL = (
    "run.", "trainer.logger", "trainer.enable_", "trainer.accelerator", "trainer.max_time", "trainer.profiler",
    "trainer.default_root_dir",
    *(f"data.{prefix}{name}" for prefix in ("", "init_args.") for name in (
        "loading.num_workers", "loading.eval_batch_size", "root", "draw_workers", "flow_cache", "class_statistics",
    )),
)  # fmt: skip
"""Prefixes of settings that change where or how fast a run computes, not what: they leave its name alone."""

_MAX_NAME = 120


def runs_root() -> Path:
    """The folder that holds all runs: `$STPL_RUNS`, which a sweep sets for its trials, or `runs`."""
    return Path(os.environ.get("STPL_RUNS", "runs"))


@dataclass(frozen=True, order=True, slots=True)
class RunKey:
    """The identity of one run: a benchmark, an experiment (`stpl,temperature=0.1`), and the seed of all randomness.

    Raises:
        ConfigError: for a name that cannot be one folder, or a negative seed.
    """

    bench: str
    experiment: str
    seed: int

    def __post_init__(self) -> None:
        for kind, name in (("bench", self.bench), ("experiment", self.experiment)):
            if not name or name.startswith(".") or re.search(r"[/\\\x00-\x1f]", name):
                mend = "use letters, digits, '-', '_', and do not begin with a dot"
                raise ConfigError(f"{kind} name {name!r} cannot name a folder", mend=mend)
        if self.seed < 0:
            raise ConfigError(f"seed {self.seed} is negative", mend="choose a seed of 0 or more")

    def __str__(self) -> str:
        return f"{self.bench}/{self.experiment}/seed{self.seed}"

    def directory(self, root: Path = Path("runs")) -> Path:
        """The run's folder below `root`."""
        return root / self.bench / self.experiment / f"seed{self.seed}"

    def read(self, root: Path = Path("runs")) -> RunRecord | None:
        """The record of this very run below `root`, `None` if there is none.

        Raises:
            RecordError: if it is torn, or was copied here from another run.
        """
        record = read_record(self.directory(root))
        if record is not None and key_of(record) != self:
            raise _unusable(self.directory(root), f"the record is of the run {key_of(record)}, not of {self}")
        return record


def key_of(record: RunRecord) -> RunKey:
    """Which run a record is of."""
    return RunKey(record["bench"], record["experiment"], record["seed"])


def experiment_name(base: str, overrides: Mapping[str, str]) -> str:
    """The name of an experiment: its overlay's name plus the overridden settings, sorted, without those of `NEUTRAL`.

    E.g. `stpl,confident_proportion=0.5`: at most 120 characters, safe as a folder's name. Settings whose characters had
    to be replaced, or that are too long to show, differ by a hash at the end.
    """
    counted = [(key, value) for key, value in overrides.items() if not key.startswith(NEUTRAL)]
    settings = sorted(f"{re.sub(r'^model[.](init_args[.])?', '', key)}={value}" for key, value in counted)
    plain = ",".join([base, *settings])
    safe = re.sub(r"[^A-Za-z0-9._=,+-]", "_", plain)
    if safe == plain and len(safe) <= _MAX_NAME:
        return safe
    digest = hashlib.sha256(plain.encode()).hexdigest()[:8]
    return f"{safe[: _MAX_NAME - len(digest) - 1]}-{digest}"


Evaluation = dict[str, Any]
"""One evaluation on the target's labelled split: `step` (int), `miou` (percent), `iou` (class → percent, `None` where
the class is absent), `vpq` (likewise, where windows of labelled frames exist), `score` (the label-free criterion,
`None` if not computed), any further metrics, and the groups of `GROUPS`, which older records lack. A group maps names
to numbers, or to numbers by k (`purity`, `vpq`)."""


class RunRecord(TypedDict):
    """What `result.json` holds.

    Keys: `schema` (1); `bench`, `experiment`, `seed` (the run's key); `base` and `overrides` (what the experiment's
    name was made from); `classes` (names in train-id order); `steps` (optimiser steps); `seconds` (wall time of all
    sessions together); `peak_memory_mb` (`None` if unknown); `selection` (name of the label-free criterion); `last`,
    `selected` and `best` (evaluations at the last step, where the criterion is best, where mIoU on labels is best;
    the latter two `None` where nothing was to choose from); `selections` (label-free score → the evaluation where it is
    best; older records lack it); `versions` (package → version); `git` (commit or `None`); `command` (argv).
    """

    schema: int
    bench: str
    experiment: str
    base: str
    overrides: dict[str, str]
    seed: int
    classes: list[str]
    steps: int
    seconds: float
    peak_memory_mb: float | None
    selection: str
    last: Evaluation
    selected: Evaluation | None
    best: Evaluation | None
    selections: NotRequired[dict[str, Evaluation]]
    versions: dict[str, str]
    git: str | None
    command: list[str]


_NUMBER = (int, float)
_FIELDS: dict[str, tuple[type, ...]] = {
    "bench": (str,), "experiment": (str,), "base": (str,), "overrides": (dict,), "seed": (int,), "classes": (list,),
    "steps": (int,), "seconds": _NUMBER, "peak_memory_mb": (*_NUMBER, type(None)), "selection": (str,),
    "last": (dict,), "selected": (dict, type(None)), "best": (dict, type(None)), "versions": (dict,),
    "git": (str, type(None)), "command": (list,), "selections": (dict,),
}  # fmt: skip
_EVALUATION: dict[str, tuple[type, ...]] = {
    "step": (int,), "miou": _NUMBER, "iou": (dict,), "score": (*_NUMBER, type(None)),
}  # fmt: skip


def write_record(directory: Path, record: RunRecord) -> None:
    """Write `record` into `directory` (made if absent) as a whole; numbers that are not finite become `null`.

    Raises:
        RecordError: if the record itself breaks the schema (a defect of the caller).
        StplError: if the disk refuses it; nothing is left half-written.
    """
    content = cast(dict[str, Any], _finite(record))
    fault = next(_faults(content), None)
    if fault is not None:
        raise RecordError(f"refusing to write a record: {fault}", where=directory / RECORD)
    write_atomically(directory / RECORD, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_record(directory: Path) -> RunRecord | None:
    """The record in `directory`, `None` if there is none.

    Raises:
        RecordError: if it is torn, of another schema, or lacks a field; the message says what to delete.
    """
    path = directory / RECORD
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise _unusable(directory, f"the record cannot be read ({error})") from error
    fault = next(_faults(content), None)
    if fault is not None:
        raise _unusable(directory, fault)
    return cast(RunRecord, content)


def read_records(bench: str, experiment: str, root: Path = Path("runs")) -> list[RunRecord]:
    """All records of one experiment below `root`, by rising seed; raises `RecordError` for a torn one."""
    folders = (root / bench / experiment).glob("seed*")
    seeds = sorted(int(folder.name[4:]) for folder in folders if re.fullmatch(r"seed(0|[1-9][0-9]*)", folder.name))
    records = (RunKey(bench, experiment, seed).read(root) for seed in seeds)
    return [record for record in records if record is not None]


def _unusable(directory: Path, fault: str) -> RecordError:
    return RecordError(fault, where=directory / RECORD, mend=f"delete the folder {directory} to run it again")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _faults(content: Any) -> Iterator[str]:
    """What breaks schema version 1 in parsed JSON; the first fault counts, as what follows it relies on its absence."""
    if not isinstance(content, dict):
        yield "the record is not a JSON object"
    if content.get("schema") != SCHEMA:
        yield f"the record has schema {content.get('schema')!r}, this version of stpl reads {SCHEMA}"
    content = {"selections": {}, **content}
    yield from _field_faults(content, _FIELDS, "")
    evaluations = {name: content[name] for name in ("last", "selected", "best") if content[name] is not None}
    evaluations |= {f"selections.{name}": evaluation for name, evaluation in content["selections"].items()}
    for name, evaluation in evaluations.items():
        yield from _evaluation_faults(evaluation, name, content["classes"])


def _evaluation_faults(evaluation: Any, name: str, classes: list[str]) -> Iterator[str]:
    if not isinstance(evaluation, dict):
        yield f"'{name}' is {evaluation!r}, expected dict"
    yield from _field_faults(evaluation, _EVALUATION, f"{name}.")
    for group in GROUPS:
        yield from _group_faults(evaluation.get(group, {}), f"{name}.{group}")
    if not 0 <= evaluation["miou"] <= 100:
        yield f"'{name}.miou' is {evaluation['miou']}, outside 0..100 percent"
    for kind in OF_CLASSES:
        numbers = evaluation.get(kind, {})
        yield from _group_faults(numbers, f"{name}.{kind}", nested=False)
        if strangers := sorted(set(numbers) - set(classes)):
            yield f"'{name}.{kind}' names classes that 'classes' does not: {', '.join(strangers)}"


def _group_faults(members: Any, name: str, nested: bool = True) -> Iterator[str]:
    """Where a group is no mapping of numbers, or of mappings of numbers if it may be nested."""
    if not isinstance(members, dict):
        yield f"'{name}' is {members!r}, expected dict"
    for key, value in members.items():
        values = value.values() if nested and isinstance(value, dict) else [value]
        if not all(_is(number, (*_NUMBER, type(None))) for number in values):
            yield f"'{name}.{key}' is not a number"


def _field_faults(content: dict[str, Any], fields: dict[str, tuple[type, ...]], prefix: str) -> Iterator[str]:
    for name, types in fields.items():
        if name not in content:
            yield f"the record lacks '{prefix}{name}'"
        if not _is(content[name], types):
            expected = " or ".join("null" if kind is type(None) else kind.__name__ for kind in types)
            yield f"'{prefix}{name}' is {content[name]!r}, expected {expected}"


def _is(value: object, types: tuple[type, ...]) -> bool:
    return isinstance(value, types) and not isinstance(value, bool)  # a bool is an int to Python, not to a record


def read_metrics(path: Path) -> Iterator[tuple[int, str, float]]:
    """Step, name and value of every line of a `metrics.csv`, in the order of writing; none if there is no such file.

    Left out are a last line that is still being written, and lines that are damaged.
    """
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except (FileNotFoundError, NotADirectoryError):
        return
    for line in lines:
        with contextlib.suppress(ValueError):  # of text that is not UTF-8, too
            step, rest = line.decode().rstrip("\r").split(",", 1)
            name, value = rest.rsplit(",", 1)
            if step.isdecimal() and name.isprintable():
                yield int(step), name.strip('"'), float(value)


def read_steps(path: Path) -> tuple[int, int]:
    """The last step in a run's `metrics.csv` and its number of steps; 0 for what is not written yet."""
    try:
        with path.open("rb") as file:
            head = file.read(4096).splitlines()
            file.seek(max(0, path.stat().st_size - 4096))
            tail = file.read().split(b"\n")[:-1]  # a line without its end is still being written
    except OSError:
        return 0, 0
    total = 0
    with contextlib.suppress(ValueError, OverflowError):  # of a damaged line
        total = next((int(float(line.split(b",")[2])) for line in head if line.startswith(b"0,progress/steps,")), 0)
    steps = [int(line.split(b",")[0]) for line in tail[-50:] if line.split(b",")[0].isdigit()]
    return max(steps, default=0), total
