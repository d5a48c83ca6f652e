"""`stpl sweep tune`: the same search for every row of a table, one setting after the other."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from stpl.errors import ConfigError, unknown
from stpl.files import write_atomically
from stpl.sweeps.distributions import Value
from stpl.sweeps.engine import run
from stpl.sweeps.grid import cells
from stpl.sweeps.schema import read_sweep
from stpl.sweeps.supervisor import WorkerOptions
from stpl.yaml_files import Section, is_number, load_yaml, shown

_EQUAL = 0.05  # of mIoU in percent: means as near as this are equal, and the smallest value is chosen
_DIGITS = 2  # of a value that extends a list
_COMMAND = ("${env}", "${interpreter}", "-m", "stpl", "fit", "${args}")


@dataclass(frozen=True)
class Coordinate:
    """One setting that is searched: its `values`, the first of which holds until its turn comes.

    Where `extend` is set, the next value in the same ratio is added as long as the best one lies at an end.
    """

    name: str
    values: tuple[Value, ...]
    extend: bool = False

    def beyond(self, best: Value, tried: Sequence[Value]) -> float | None:
        """The value next to `best` outside all that were `tried`; `None` unless `best` lies at an end of them."""
        numbers = sorted(value for value in tried if isinstance(value, int | float))
        if not self.extend or best not in (numbers[0], numbers[-1]):
            return None
        ratio = numbers[0] / numbers[1] if best == numbers[0] else numbers[-1] / numbers[-2]
        return float(f"{float(best) * ratio:.{_DIGITS}g}")


@dataclass(frozen=True)
class Tuning:
    """A checked tuning file.

    Attributes:
        path: the file.
        bench: benchmark to run on.
        seeds: those of every setting; its value is the mean over them of mIoU at the last step.
        settings: what all runs have in common.
        extensions: how many values a row may add.
        rows: experiment → its coordinates in the order of the search.
    """

    path: Path
    bench: str
    seeds: tuple[int, ...]
    settings: Mapping[str, Value]
    extensions: int
    rows: Mapping[str, tuple[Coordinate, ...]]


def read_tuning(path: Path) -> Tuning:
    """Read and check a tuning file.

    Raises:
        ConfigError: for what is missing, unknown or of another type in it.
    """
    content = Section.of(load_yaml(path), str(path))
    content.check_keys("bench", "seeds", "settings", "extensions", "coordinates", "rows")
    shared = _coordinates(content.section("coordinates"))
    named = content.section("rows")
    rows = {name: (*shared, *_coordinates(named.section(name))) for name in named.content}
    if not rows or not all(rows.values()):
        raise ConfigError("nothing is searched", where=path, mend="name 'rows:', and 'coordinates:' for all of them")
    seeds, extensions = content.numbers("seeds"), content.number("extensions")
    for name, numbers in (("seeds", seeds), ("extensions", (extensions,))):
        if any(number < 0 or number != int(number) for number in numbers):
            raise ConfigError(
                f"'{name}' is {shown(content.content[name])}", where=path, mend="write whole numbers from 0"
            )
    return Tuning(
        path=path,
        bench=content.text("bench"),
        seeds=tuple(map(int, seeds)),
        settings=dict(content.section("settings").content),
        extensions=int(extensions),
        rows=rows,
    )


def _coordinates(section: Section) -> list[Coordinate]:
    found = []
    for name in section.content:
        entry = Section.of(section.content[name], f"{section.where}: {section.prefix}{name}")
        entry.check_keys("values", "extend")
        values, extend = entry.items("values"), entry.flag("extend", False)
        words = all(isinstance(value, str | int | float) for value in values)
        numbers = all(is_number(value) and value > 0 for value in values)
        if len(set(map(str, values))) < 2 or not (numbers if extend else words):
            mend = "list two or more numbers or words; to extend them, numbers above 0"
            raise ConfigError(f"its values are {shown(values)}", where=entry.where, mend=mend)
        found.append(Coordinate(name, tuple(values), extend))
    return found


@dataclass
class _Search:
    """The search of one row: what it chose so far, and the mIoU of each seed for every setting that it tried."""

    tuning: Tuning
    row: str
    options: WorkerOptions
    workers: int
    chosen: dict[str, Value] = field(default_factory=dict)
    tried: dict[tuple[Value, ...], list[float]] = field(default_factory=dict)

    def search(self) -> None:
        """Search one coordinate after the other; what is recorded already is read from its record."""
        left = self.tuning.extensions
        self.chosen = {coordinate.name: coordinate.values[0] for coordinate in self.tuning.rows[self.row]}
        for number, coordinate in enumerate(self.tuning.rows[self.row], 1):
            values = list(coordinate.values)
            self._try(coordinate, values, f"{self.row}-{number}")
            while left and (more := coordinate.beyond(self.chosen[coordinate.name], values)) is not None:
                left -= 1
                values.append(more)
                self._try(coordinate, values, f"{self.row}-{number}")

    def _try(self, coordinate: Coordinate, values: Sequence[Value], name: str) -> None:
        """Run the settings that differ in one coordinate, and choose the best of its values."""
        path = self.options.runs / self.tuning.bench / "tuning" / f"{name}.yaml"
        write_atomically(path, yaml.safe_dump(self._grid(coordinate, values), sort_keys=False))
        plan = read_sweep(path)
        try:
            run([plan], self.options, self.workers)
        except SystemExit as ended:
            if ended.code != 1:  # 1: a trial failed for good; its setting has no value then
                raise
        mious: dict[Value, list[float]] = {}
        for cell in cells(plan):
            record = cell.key.read(self.options.runs)
            found = mious.setdefault(cell.parameters[coordinate.name], [])
            found += [] if record is None else [float(record["last"]["miou"])]
        for value in values:
            self.tried[tuple({**self.chosen, coordinate.name: value}.values())] = mious[value]
        means = {value: self._mean(mious[value]) for value in values}
        best = max(means.values())
        if best == -math.inf:
            raise ConfigError(f"no setting of '{self.row}' could be run", where=path, mend="see the logs above")
        self.chosen[coordinate.name] = next(v for v in sorted(values, key=_order) if means[v] >= best - _EQUAL)

    def _mean(self, mious: Sequence[float]) -> float:
        return statistics.fmean(mious) if len(mious) == len(self.tuning.seeds) else -math.inf

    def _grid(self, coordinate: Coordinate, values: Sequence[Value]) -> dict[str, object]:
        """A sweep file in W&B's schema."""
        fixed = {"bench": self.tuning.bench, "experiment": self.row, **self.tuning.settings, **self.chosen}
        varied = {coordinate.name: list(values), "seed_everything": list(self.tuning.seeds)}
        return {
            "program": "stpl",
            "method": "grid",
            "metric": {"name": "val/miou", "goal": "maximize"},
            "parameters": {name: {"value": value} for name, value in fixed.items() if name not in varied}
            | {name: {"values": listed} for name, listed in varied.items()},
            "command": list(_COMMAND),
        }

    def lines(self) -> Iterator[str]:
        """The search as Markdown: every setting with its mIoU, the chosen one in bold."""
        runs = sum(map(len, self.tried.values()))
        yield f"# {self.row}: {runs} runs\n"
        seeds = [f"seed {seed}" for seed in self.tuning.seeds]
        header = [*self.chosen, *seeds, "mean"]
        yield f"| {' | '.join(header)} |"
        yield f"|{'---|' * len(header)}"
        for setting, mious in self.tried.items():
            mean = self._mean(mious)
            names = [f"{value:g}" if isinstance(value, float) else str(value) for value in setting]
            numbers = [*(f"{miou:.2f}" for miou in mious), "failed" if mean == -math.inf else f"{mean:.2f}"]
            texts = [*names, *[""] * (len(header) - len(names) - len(numbers)), *numbers]
            bold = "**" if setting == tuple(self.chosen.values()) else ""
            yield f"| {' | '.join(f'{bold}{text}{bold}' if text else '' for text in texts)} |"


def _order(value: Value) -> tuple[int, float, str]:
    """Numbers by size, and words as they are written."""
    return (0, float(value), "") if isinstance(value, int | float) else (1, 0.0, str(value))


def tune(tuning: Tuning, rows: Sequence[str], tables: Path, options: WorkerOptions, workers: int) -> None:
    """Search the rows that have no table in the folder `tables` yet, and write the table of each at its end.

    Raises:
        ConfigError: for a row that the file does not name, or one of which no setting could be run.
        SystemExit: 130 after Ctrl-C, and 128 and its number after another signal.
    """
    for row in rows:
        if row not in tuning.rows:
            raise unknown("row", row, tuple(tuning.rows), "--rows")
    for row in rows or tuple(tuning.rows):
        table = tables / f"{row}.md"
        if table.exists():
            print(f"{row}: {table} is there already; delete it to search again")
            continue
        search = _Search(tuning, row, options, workers)
        search.search()
        text = "\n".join(search.lines())
        write_atomically(table, text + "\n")
        print(text)
