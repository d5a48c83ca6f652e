"""Experiments by name: which overlays make one, and which rows of which paper tables they are.

`experiments/tables.yaml` is the catalogue; its head explains its layout. An experiment is nothing but a list of YAML
overlays merged in order, so a row of a table is data and never a branch in code. This module imports no torch.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from stpl.errors import ConfigError
from stpl.runs.recipes import experiment_folders, find

_T = TypeVar("_T")
NEEDS = ("source", "video")
"""What a row may need; see `Row`."""


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice (plain YAML silently keeps the last one)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping node as a dict; raises `ConstructorError` at the second of two equal keys."""
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge" and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key.value}' is given twice", key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping in the YAML file `path`.

    Raises:
        ConfigError: if the file is missing, has a syntax error or a key twice (with the line), or is no mapping.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", where=path, mend="check the path") from error
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f":{error.problem_mark.line + 1}"
        raise ConfigError(f"{error.problem}", where=f"{path}{line}", mend="mend the YAML at this line") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"is not YAML: {error}", where=path, mend="mend the file") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError("must be a mapping of names to values", where=path, mend="begin with 'name: value' lines")
    return content


def unknown(kind: str, name: str, known: Iterable[str], where: str | Path | None = None) -> ConfigError:
    """The error for a `name` that is none of the `known` ones, with «did you mean»."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return ConfigError(f"unknown {kind} '{name}'", where=where, mend=f"{hint}known: {', '.join(names) or 'none'}")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table.

    Attributes:
        title: the row's title as in the paper.
        experiment: name of the experiment whose runs it averages; `None` for a row that only the paper has run.
        paper: benchmark → mIoU in percent that the paper states; empty where it states none.
        paper_iou: benchmark → IoU in percent of each of the benchmark's `Catalogue.paper_classes`, where stated.
        needs: what training takes beyond frames of the target: `source` data, `video` (more than single frames).
    """

    title: str
    experiment: str | None
    paper: Mapping[str, float]
    paper_iou: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    needs: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """One table of a paper.

    Attributes:
        id: file name of the table, e.g. `table3`.
        title: its caption.
        citation: where the paper's numbers stand.
        benchmark: the benchmark that the paper's table is on; a table with rows that only the paper has run is shown
            on no other.
        reference: experiment that differences are taken to.
        rows: in the paper's order.
        bounds: experiments that train on the target's labels: no baseline to anyone.
        controls: experiments that minimise nothing: what a row gains beyond the best of them is its own.
        optional: whether the table is left out as long as nothing is recorded that it alone shows.
        elsewhere: other benchmarks on which the table is shown, and optional; `None` for any.
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
        tables: in the file's order.
        experiments: experiment → overlay names (below the catalogue's folder, no suffix, `{bench}` unresolved).
        benchmarks: benchmark → how tables call it, e.g. `viper` → `VIPER→CS`.
        paper_classes: benchmark → classes whose IoU the paper states, in its order.
    """

    tables: tuple[Table, ...]
    experiments: Mapping[str, tuple[str, ...]]
    benchmarks: Mapping[str, str]
    paper_classes: Mapping[str, tuple[str, ...]]

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
    """Read `tables.yaml` in each of the folders and join them.

    The last folder is the base (see `experiment_folders`). An earlier one adds experiments and tables to it. Its table
    of an id that is there already stands in its place, or, where it gives only `id` and `rows`, adds its rows to it.

    Args:
        folders: of overlays; `experiment_folders()` if not given.

    Raises:
        ConfigError: for a missing or unknown key, a wrong type, or an experiment with two different overlay lists.
    """
    places = experiment_folders() if folders is None else list(folders)
    paths = [folder / "tables.yaml" for folder in places]
    joined = Catalogue((), {}, {}, {})
    for path in (paths[-1], *(path for path in reversed(paths[:-1]) if path.is_file())):
        joined = _joined(joined, load_yaml(path), path)
    return joined


def _joined(base: Catalogue, content: dict[str, Any], path: Path) -> Catalogue:
    """The catalogue `base` with what a `tables.yaml` adds to it."""
    _check_keys(content, ("benchmarks", "paper_classes", "tables", "experiments"), str(path))
    experiments = dict(base.experiments)
    for name, entry in _get(content, "experiments", dict, str(path), {}).items():
        where = f"{path}: experiments.{name}"
        _check_keys(_typed(entry, dict, where), ("overlays",), where)
        _define(experiments, name, entry, where)
    tables = {table.id: table for table in base.tables}
    for entry in _get(content, "tables", list, str(path), [] if base.tables else None):
        table = _table(entry, tables, experiments, path)
        tables[table.id] = table
    _check_references(list(tables.values()), experiments, path)
    titles = {name: str(title) for name, title in _get(content, "benchmarks", dict, str(path), {}).items()}
    classes = {k: tuple(v) for k, v in _get(content, "paper_classes", dict, str(path), {}).items()}
    found = Catalogue(
        tuple(tables.values()), experiments, {**base.benchmarks, **titles}, {**base.paper_classes, **classes}
    )
    _check_class_counts(found.tables, found.paper_classes, path)
    return found


def benches(folders: Sequence[Path] | None = None) -> list[str]:
    """Names of the benchmarks that have an overlay `bench/<name>.yaml` (`<name>.training.yaml` is a part of one)."""
    places = experiment_folders() if folders is None else folders
    return sorted({path.stem for root in places for path in (root / "bench").glob("*.yaml") if "." not in path.stem})


def check_bench(bench: str, folders: Sequence[Path] | None = None) -> None:
    """Raise `ConfigError` with «did you mean» unless `bench` is one of `benches(folders)`."""
    places = experiment_folders() if folders is None else folders
    if bench not in benches(places):
        raise unknown("benchmark", bench, benches(places), places[-1] / "bench")


def check_runs(runs: Path) -> None:
    """Raise `ConfigError` with «did you mean» unless the folder of runs is there to be read."""
    if runs.is_dir():
        return
    beside = [path.name for path in runs.parent.glob("*/")] if runs.parent.is_dir() else []
    close = difflib.get_close_matches(runs.name, beside, n=1)
    hint = f"did you mean '{runs.with_name(close[0])}'? " if close else ""
    raise ConfigError("no such folder of runs", where=runs, mend=f"{hint}check --runs; `make ablation` fills 'runs'")


def overlays(experiment: str, bench: str, folders: Sequence[Path] | None = None) -> list[Path]:
    """The configuration files of one experiment on one benchmark, to be merged in this order.

    Args:
        experiment: a name in `tables.yaml`, e.g. `stpl`.
        bench: a file name in `bench/`, e.g. `streets`.
        folders: of overlays, the first that has one wins; `experiment_folders()` if not given.

    Returns:
        `base.yaml`, `bench/<bench>.yaml`, then the experiment's own overlays, then `bench/<bench>.<experiment>.yaml`
        where there is one.

    Raises:
        ConfigError: for an unknown name (with «did you mean») or a missing file.
    """
    places = experiment_folders() if folders is None else folders
    known = load_catalogue(places).experiments
    if experiment not in known:
        raise unknown("experiment", experiment, known, places[-1] / "tables.yaml")
    check_bench(bench, places)
    names = ["base", f"bench/{bench}", *(name.replace("{bench}", bench) for name in known[experiment])]
    own = f"bench/{bench}.{experiment}"
    if own not in names and find(own, places).is_file():
        names.append(own)
    paths = [find(name, places) for name in names]
    for path in paths:
        if not path.is_file():
            raise ConfigError(
                f"the overlay is missing (experiment '{experiment}', benchmark '{bench}')",
                where=path,
                mend="write it, or mend the experiment's overlays in tables.yaml",
            )
    return paths


def _table(entry: Any, known: Mapping[str, Table], experiments: dict[str, tuple[str, ...]], path: Path) -> Table:
    name = entry.get("id", "?") if isinstance(entry, dict) else "?"
    where = f"{path}: table {name}"
    keys = ("id", "title", "citation", "benchmark", "reference")
    _check_keys(_typed(entry, dict, where), (*keys, "bounds", "controls", "optional", "elsewhere", "rows"), where)
    rows = tuple(_row(row, experiments, where) for row in _get(entry, "rows", list, where))
    if name in known and entry.keys() == {"id", "rows"}:
        return replace(known[name], rows=(*known[name].rows, *rows))
    texts = {key: _get(entry, key, str, where) for key in keys}
    bounds, controls = (tuple(_get(entry, key, list, where, [])) for key in ("bounds", "controls"))
    optional = _get(entry, "optional", bool, where, False)
    elsewhere = tuple(_get(entry, "elsewhere", list, where)) if "elsewhere" in entry else None
    return Table(**texts, rows=rows, bounds=bounds, controls=controls, optional=optional, elsewhere=elsewhere)


def _row(entry: Any, experiments: dict[str, tuple[str, ...]], where: str) -> Row:
    name = entry.get("row", "?") if isinstance(entry, dict) else "?"
    where = f"{where}, row '{name}'"
    _check_keys(_typed(entry, dict, where), ("row", "experiment", "overlays", "needs", "paper", "paper_iou"), where)
    title, experiment = _get(entry, "row", str, where), entry.get("experiment")
    if "overlays" in entry:
        _define(experiments, _get(entry, "experiment", str, where), entry, where)
    paper = {bench: _percent(miou, where) for bench, miou in _get(entry, "paper", dict, where, {}).items()}
    iou = _get(entry, "paper_iou", dict, where, {})
    needs = tuple(_get(entry, "needs", list, where)) if "needs" in entry else None
    for word in needs or ():
        if word not in NEEDS:
            raise unknown("need", str(word), NEEDS, where)
    stated = {bench: tuple(_percent(v, where) for v in iou[bench]) for bench in iou}
    return Row(title, experiment, paper, stated, needs)


def _percent(value: Any, where: str) -> float:
    return float(_typed(value, (int, float), where))


def _define(experiments: dict[str, tuple[str, ...]], name: str, entry: dict[str, Any], where: str) -> None:
    names = tuple(str(_typed(item, str, where)) for item in _get(entry, "overlays", list, where))
    if experiments.setdefault(name, names) != names:
        raise ConfigError(
            f"experiment '{name}' has the overlays {list(names)} here and {list(experiments[name])} before",
            where=where,
            mend="give the two experiments different names, or state the overlays once",
        )


def _check_references(tables: Sequence[Table], experiments: Mapping[str, Any], path: Path) -> None:
    for table in tables:
        for experiment in (table.reference, *table.bounds, *table.controls, *(row.experiment for row in table.rows)):
            if experiment is not None and experiment not in experiments:
                raise unknown("experiment", experiment, experiments, f"{path}: table {table.id}")


def _check_class_counts(tables: Sequence[Table], classes: Mapping[str, tuple[str, ...]], path: Path) -> None:
    for name, row in ((table.id, row) for table in tables for row in table.rows):
        for bench, values in row.paper_iou.items():
            if len(values) != len(classes.get(bench, ())):
                raise ConfigError(
                    f"{len(values)} IoU for the {len(classes.get(bench, ()))} paper_classes of {bench}",
                    where=f"{path}: table {name}, row '{row.title}'",
                    mend="give one for each class, in that order",
                )


def _check_keys(entry: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in entry:
        if key not in known:
            raise unknown("key", str(key), known, where)


def _get(entry: Mapping[str, Any], key: str, kind: type[_T], where: str, default: _T | None = None) -> _T:
    value = entry.get(key, default)
    if value is None:
        raise ConfigError(f"lacks '{key}'", where=where, mend=f"add '{key}:'")
    return _typed(value, kind, f"{where}, '{key}'")


def _typed(value: Any, kind: type[_T] | tuple[type[_T], ...], where: str) -> _T:
    if isinstance(value, kind):
        return value
    kinds = " or ".join(item.__name__ for item in (kind if isinstance(kind, tuple) else (kind,)))
    raise ConfigError(f"{value!r} is not a {kinds}", where=where, mend=f"write a {kinds} here")
