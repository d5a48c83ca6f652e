"""Experiments by name: which overlays make one, where these lie, and which rows of which paper tables they are.

`experiments/tables.yaml` is the catalogue; its head explains its layout. Imports no torch.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stpl.errors import ConfigError, did_you_mean, unknown
from stpl.yaml_files import Section, load_yaml

_PACKAGE = Path(__file__).parents[1]
_HOME = next(place for place in (_PACKAGE / "recipes", _PACKAGE.parents[1]) if (place / "experiments").is_dir())

EXPERIMENTS, SWEEPS = _HOME / "experiments", _HOME / "sweeps"
"""What is shipped."""

VARIABLE = "STPL_EXPERIMENTS"
"""Environment variable that names the user's folder of overlays, where no option does."""


def experiment_folders(own: Path | None = None) -> list[Path]:
    """The folders in which overlays are looked for, in this order, the shipped one last.

    The user's is `own`; if not given, `$STPL_EXPERIMENTS`, or `experiments` in the working directory if it is there.

    Raises:
        ConfigError: if the named folder is not there.
    """
    named = own or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    if named is not None and not named.is_dir():
        raise ConfigError("no such folder of experiments", where=named, mend="check --experiments, or leave it out")
    here = named or Path("experiments")
    return [here, EXPERIMENTS] if here.is_dir() and not here.samefile(EXPERIMENTS) else [EXPERIMENTS]


NEEDS = ("source", "video")
"""What a row may need; see `Row`."""


def find_overlay(name: str, folders: Sequence[Path]) -> Path:
    """The overlay `name` (no suffix) in the first of the folders that has it; otherwise where the last should."""
    paths = [folder / f"{name}.yaml" for folder in folders]
    return next((path for path in paths if path.is_file()), paths[-1])


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table.

    Attributes:
        experiment: whose runs it averages; `None` for a row that only the paper has run.
        paper: benchmark → mIoU in percent that the paper states.
        paper_iou: benchmark → IoU in percent of each of the benchmark's `Catalogue.paper_classes`, where stated.
        paper_vpq: likewise VPQ^s, mean over windows.
        needs: what training takes beyond frames of the target: `source` data, `video` (more than single frames).
    """

    title: str
    experiment: str | None
    paper: Mapping[str, float]
    paper_iou: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    paper_vpq: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    needs: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """One table of a paper.

    Attributes:
        id: file name of the table, e.g. `table3`.
        citation: where the paper's numbers stand.
        benchmark: the benchmark that the paper's table is on; a table with rows that only the paper has run is shown
            on no other.
        reference: experiment that is subtracted in differences, with the same kind of BatchNorm statistics.
        bounds: experiments that train on the target's labels: no baseline to anyone.
        controls: experiments that minimise nothing: they have the weights of the reference.
        optional: whether the table is left out as long as nothing is recorded that it alone shows.
        elsewhere: other benchmarks on which the table is shown, and optional; `None` for any.
        notes: benchmark → a sentence below the table there.
    """

    id: str
    title: str
    citation: str
    benchmark: str
    reference: str
    rows: tuple[Row, ...]
    bounds: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()
    optional: bool = False
    elsewhere: tuple[str, ...] | None = None
    notes: Mapping[str, str] = field(default_factory=dict)

    def shown_on(self, bench: str) -> bool:
        """Whether the table has anything to say about `bench`."""
        if bench == self.benchmark:
            return True
        return all(row.experiment for row in self.rows) if self.elsewhere is None else bench in self.elsewhere

    def optional_on(self, bench: str) -> bool:
        """Whether the table is left out of those of `bench` as long as nothing is recorded that it alone shows."""
        return self.optional or (self.elsewhere is not None and bench != self.benchmark)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Everything that `tables.yaml` names.

    Attributes:
        experiments: experiment → overlay names (no suffix, `{bench}` unresolved).
        benchmarks: benchmark → how tables call it, e.g. `viper` → `VIPER→CS`.
        like: benchmark → the one whose overlays it has, too, each followed by its own where there is one.
        paper_classes: benchmark → classes whose IoU the paper states, in its order.
    """

    tables: tuple[Table, ...]
    experiments: Mapping[str, tuple[str, ...]]
    benchmarks: Mapping[str, str]
    paper_classes: Mapping[str, tuple[str, ...]]
    like: Mapping[str, str] = field(default_factory=dict)

    def family(self, bench: str) -> list[str]:
        """The benchmarks that one is like, the farthest first, then itself."""
        found = [bench]
        while found[0] in self.like:
            found.insert(0, self.like[found[0]])
        return found

    def titles(self, bench: str) -> dict[str, str]:
        """Experiment → title, of all rows that a benchmark's tables may show; see `titles_of`."""
        return titles_of([table for table in self.tables if table.shown_on(bench)])

    def table(self, identifier: str) -> Table:
        """The table called `identifier`; raises `ConfigError` naming the known ones."""
        found = {table.id: table for table in self.tables}
        if identifier not in found:
            raise unknown("table", identifier, found)
        return found[identifier]


def titles_of(tables: Sequence[Table]) -> dict[str, str]:
    """Experiment → title, of all rows of tables in their order; the first title stays."""
    found: dict[str, str] = {}
    for row in (row for table in tables for row in table.rows):
        if row.experiment:
            found.setdefault(row.experiment, row.title)
    return found


def load_catalogue(folders: Sequence[Path] | None = None) -> Catalogue:
    """Read `tables.yaml` in each of the folders (`experiment_folders()` if not given) and join them.

    The last folder is the base. An earlier one adds experiments and tables to it. Its table of an id that is there
    already stands in its place, or, where it gives only `id` and `rows`, adds its rows to it.

    Raises:
        ConfigError: for a missing or unknown key, a wrong type, or an experiment with two different overlay lists.
    """
    paths = [folder / "tables.yaml" for folder in folders or experiment_folders()]
    joined = Catalogue((), {}, {}, {})
    for path in (paths[-1], *(path for path in reversed(paths[:-1]) if path.is_file())):
        joined = _joined(joined, path)
    return joined


def _joined(base: Catalogue, path: Path) -> Catalogue:
    """The catalogue `base` with what a `tables.yaml` adds to it."""
    file = Section(load_yaml(path), str(path))
    file.check_keys("benchmarks", "paper_classes", "tables", "experiments")
    experiments = dict(base.experiments)
    for name, entry in file.sections("experiments").items():
        entry.check_keys("overlays")
        _define(experiments, name, entry)
    tables = {table.id: table for table in base.tables}
    for item in file.items("tables") if "tables" in file or not base.tables else []:
        table = _table(item, tables, experiments, path)
        tables[table.id] = table
    benchmarks, classes = _benchmarks(file), file.section("paper_classes")
    found = Catalogue(
        tuple(tables.values()),
        experiments,
        {**base.benchmarks, **{bench: entry.text("title") for bench, entry in benchmarks.items()}},
        {**base.paper_classes, **{bench: classes.texts(bench) for bench in classes.content}},
        {**base.like, **{bench: entry.text("like") for bench, entry in benchmarks.items() if "like" in entry}},
    )
    for bench in benchmarks:
        _check_like(bench, found.like, file.where)
    for table in found.tables:
        _check_table(table, found, f"{path}: table {table.id}")
    return found


def _benchmarks(file: Section) -> dict[str, Section]:
    """The entries of benchmarks: a title, or a mapping that has one."""
    group, found = file.section("benchmarks"), {}
    for bench, value in group.content.items():
        entry = {"title": group.text(bench)} if not isinstance(value, dict) else value
        found[bench] = Section.of(entry, f"{file.where}: benchmark {bench}")
        found[bench].check_keys("title", "like")
    return found


def _check_like(bench: str, like: Mapping[str, str], where: str) -> None:
    """Raise `ConfigError` for benchmarks that are like each other in a circle."""
    seen = [bench]
    while seen[-1] in like:
        if like[seen[-1]] in seen:
            what = f"benchmark {bench} is like {', which is like '.join([*seen[1:], like[seen[-1]]])}"
            raise ConfigError(what, where=where, mend="let one of them be like none")
        seen.append(like[seen[-1]])


def benches(folders: Sequence[Path] | None = None) -> list[str]:
    """Names of the benchmarks that have an overlay `bench/<name>.yaml` (`<name>.training.yaml` is a part of one)."""
    places = folders or experiment_folders()
    return sorted({path.stem for root in places for path in (root / "bench").glob("*.yaml") if "." not in path.stem})


def check_bench(bench: str, folders: Sequence[Path] | None = None) -> None:
    """Raise `ConfigError` with «did you mean» unless `bench` is one of `benches(folders)`."""
    places = folders or experiment_folders()
    if bench not in benches(places):
        raise unknown("benchmark", bench, benches(places), places[-1] / "bench")


def check_runs(runs: Path) -> None:
    """Raise `ConfigError` with «did you mean» unless the folder of runs is there to be read."""
    if not runs.is_dir():
        hint = did_you_mean(runs.name, (path.name for path in runs.parent.glob("*/")), f"'{runs.parent / '{}'}'")
        mend = f"{hint}check --runs; `make ablation` fills 'runs'"
        raise ConfigError("no such folder of runs", where=runs, mend=mend)


def overlays(experiment: str, bench: str, folders: Sequence[Path] | None = None) -> list[Path]:
    """The configuration files of one experiment on one benchmark, to be merged in this order.

    These are `base.yaml`, `bench/<bench>.yaml`, the experiment's own overlays, and `bench/<bench>.<experiment>.yaml`
    where there is one; so too that of another experiment, which an ablation names among its own overlays. Of several
    `folders`, the first that has a file wins. A benchmark that is like another one has all files of that one, each
    followed by its own where there is one.

    Raises:
        ConfigError: for an unknown name (with «did you mean») or a missing file.
    """
    places = folders or experiment_folders()
    catalogue = load_catalogue(places)
    known, family = catalogue.experiments, catalogue.family(bench)
    if experiment not in known:
        raise unknown("experiment", experiment, known, places[-1] / "tables.yaml")
    for one in family:
        check_bench(one, places)
    found: dict[str, Path] = {}
    of_one = [f"bench/{{bench}}.{name}" for name in known]  # settings of one row on one benchmark, if it has any
    for template in ("base", "bench/{bench}", *known[experiment], f"bench/{{bench}}.{experiment}"):
        names = dict.fromkeys(template.replace("{bench}", one) for one in family)
        paths = {name: find_overlay(name, places) for name in names}
        there = {name: path for name, path in paths.items() if path.is_file()}
        if not there and template not in of_one:
            what = f"the overlay is missing (experiment '{experiment}', benchmark '{bench}')"
            mend = "write it, or mend the experiment's overlays in tables.yaml"
            raise ConfigError(what, where=next(iter(paths.values())), mend=mend)
        found |= {name: path for name, path in there.items() if name not in found}
    return list(found.values())


def _table(item: Any, known: Mapping[str, Table], experiments: dict[str, tuple[str, ...]], path: Path) -> Table:
    entry = Section.of(item, f"{path}: table {item.get('id', '?') if isinstance(item, dict) else '?'}")
    keys = ("id", "title", "citation", "benchmark", "reference")
    entry.check_keys(*keys, "bounds", "controls", "optional", "elsewhere", "notes", "rows")
    name = entry.text("id")
    if not re.fullmatch(r"[\w.-]+", name):
        raise ConfigError(f"'{name}' cannot name a file", where=entry.where, mend="use letters, digits, '-', '_', '.'")
    rows = tuple(_row(row, experiments, entry.where) for row in entry.items("rows"))
    notes = entry.section("notes")
    if name in known and entry.content.keys() == {"id", "rows"}:
        return replace(known[name], rows=(*known[name].rows, *rows))
    return Table(
        **{key: entry.text(key) for key in keys},
        rows=rows,
        bounds=entry.texts("bounds", ()),
        controls=entry.texts("controls", ()),
        optional=entry.flag("optional", False),
        elsewhere=entry.texts("elsewhere") if "elsewhere" in entry else None,
        notes={bench: notes.text(bench) for bench in notes.content},
    )


def _row(item: Any, experiments: dict[str, tuple[str, ...]], where: str) -> Row:
    entry = Section.of(item, f"{where}, row '{item.get('row', '?') if isinstance(item, dict) else '?'}'")
    entry.check_keys("row", "experiment", "overlays", "needs", "paper", "paper_iou", "paper_vpq")
    experiment = entry.text("experiment") if "experiment" in entry or "overlays" in entry else None
    if experiment is not None and "overlays" in entry:
        _define(experiments, experiment, entry)
    needs = entry.texts("needs") if "needs" in entry else None
    for word in needs or ():
        if word not in NEEDS:
            raise unknown("need", word, NEEDS, entry.where)
    paper, iou, vpq = (entry.section(name) for name in ("paper", "paper_iou", "paper_vpq"))
    return Row(
        title=entry.text("row"),
        experiment=experiment,
        paper={bench: paper.number(bench) for bench in paper.content},
        paper_iou={bench: iou.numbers(bench) for bench in iou.content},
        paper_vpq={bench: vpq.numbers(bench) for bench in vpq.content},
        needs=needs,
    )


def _define(experiments: dict[str, tuple[str, ...]], name: str, entry: Section) -> None:
    names = entry.texts("overlays")
    if experiments.setdefault(name, names) != names:
        what = f"experiment '{name}' has the overlays {list(names)} here and {list(experiments[name])} before"
        mend = "give the two experiments different names, or state the overlays once"
        raise ConfigError(what, where=entry.where, mend=mend)


def _check_table(table: Table, catalogue: Catalogue, where: str) -> None:
    """Refuse experiments that nothing defines, and numbers that are not one for each class."""
    for experiment in (table.reference, *table.bounds, *table.controls, *(row.experiment for row in table.rows)):
        if experiment is not None and experiment not in catalogue.experiments:
            raise unknown("experiment", experiment, catalogue.experiments, where)
    for row in table.rows:
        for bench, values in [*row.paper_iou.items(), *row.paper_vpq.items()]:
            classes = len(catalogue.paper_classes.get(bench, ()))
            if len(values) != classes:
                what = f"{len(values)} numbers for the {classes} paper_classes of {bench}"
                mend = "give one for each class, in that order"
                raise ConfigError(what, where=f"{where}, row '{row.title}'", mend=mend)
