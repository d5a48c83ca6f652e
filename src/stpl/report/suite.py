"""Everything that is recorded of one benchmark, read once for all tables and figures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from stpl.data.label_space import SPACES
from stpl.errors import RecordError
from stpl.report.significance import Counts, count
from stpl.runs.artifacts import EVALUATION, STATISTICS, ClipConfusions, StatisticsKind, read_evaluation, read_statistics
from stpl.runs.experiments import Catalogue, Table, titles_of
from stpl.runs.record import RECORD, RunRecord, key_of, read_records

_TOLERANCE = 0.01  # of mIoU in percent: what the artifact counts must be what the record says


@dataclass(frozen=True)
class Suite:
    """The runs of one benchmark in the folder of all runs, and the catalogue: which rows make which tables."""

    bench: str
    runs: Path
    catalogue: Catalogue
    _records: dict[str, list[RunRecord]] = field(default_factory=dict, repr=False)
    _counts: dict[tuple[str, StatisticsKind | None], Counts | None] = field(default_factory=dict, repr=False)

    @property
    def folder(self) -> Path:
        """The folder of the benchmark's runs."""
        return self.runs / self.bench

    @property
    def title(self) -> str:
        """How tables call the benchmark."""
        return self.called(self.bench)

    def called(self, bench: str) -> str:
        """How tables call any benchmark."""
        return self.catalogue.benchmarks.get(bench, bench)

    def recorded(self) -> list[str]:
        """Experiments with a record: those of the catalogue in its order, then the others by name."""
        found = {path.parents[1].name for path in self.folder.glob(f"*/seed*/{RECORD}")}
        known = [name for name in self.shown() if name in found]
        return known + sorted(found.difference(known))

    def shown(self) -> dict[str, str]:
        """Experiment → title, of all rows that the benchmark's tables show, in their order; the first title stays."""
        return titles_of(self.tables())

    def tables(self) -> list[Table]:
        """The catalogue's tables that are shown; optional ones if something is recorded that they alone show."""
        shown = [table for table in self.catalogue.tables if table.shown_on(self.bench)]
        usual = {row.experiment for table in shown if not table.optional_on(self.bench) for row in table.rows}
        found = []
        for table in shown:
            own = {row.experiment for row in table.rows if row.experiment} - usual
            if not table.optional_on(self.bench) or any(map(self.records, own)):
                found.append(table)
        return found

    def title_of(self, experiment: str) -> str:
        """What to call an experiment: its title in the tables, or its name."""
        return self.shown().get(experiment, experiment)

    def records(self, experiment: str) -> list[RunRecord]:
        """The records of an experiment by rising seed; raises `RecordError` for a torn one."""
        if experiment not in self._records:
            self._records[experiment] = read_records(self.bench, experiment, self.runs)
        return self._records[experiment]

    def all_records(self) -> Iterator[RunRecord]:
        """The records of all experiments, in the order of `recorded`."""
        for experiment in self.recorded():
            yield from self.records(experiment)

    def directory(self, record: RunRecord) -> Path:
        """The folder of a run."""
        return key_of(record).directory(self.runs)

    def counts(self, experiment: str, kind: StatisticsKind | None = None) -> Counts | None:
        """The per-clip counts of the last weights of an experiment's runs; `None` if none kept them.

        They are those with the kind of statistics `kind`; if not given, with that which each run was recorded with.

        Raises:
            RecordError: for a torn file, one that does not belong to its record, or runs on different clips.
        """
        if (experiment, kind) not in self._counts:
            self._counts[experiment, kind] = self._read_counts(self.records(experiment), kind)
        return self._counts[experiment, kind]

    def mious(self, experiment: str, kind: StatisticsKind) -> dict[int, float]:
        """Seed → mIoU of an experiment's last weights with a kind of statistics, of the runs that measured it."""
        counts = self.counts(experiment, kind)
        return {} if counts is None else dict(zip(counts.seeds, counts.mious.tolist(), strict=True))

    def kind_of(self, record: RunRecord) -> StatisticsKind | None:
        """The kind of statistics that a run was recorded with; `None` if it did not measure all kinds."""
        run = self.directory(record)
        found, recorded = read_statistics(run, record["last"]["step"]), read_evaluation(run)
        if found is None or recorded is None:
            return None
        alike = [kind for kind, clips in found.items() if np.array_equal(clips.confusions, recorded.confusions)]
        return alike[0] if alike else None

    def _read_counts(self, records: list[RunRecord], kind: StatisticsKind | None) -> Counts | None:
        found = [(record, clips) for record in records if (clips := self._read(record, kind)) is not None]
        if not found:
            return None
        record, clips = found[0]
        for other, more in found:
            if more.keys != clips.keys or more.confusions.shape != clips.confusions.shape:
                raise self._unusable(other, kind, f"its clips are not those of seed {record['seed']}")
        counts = count(clips.keys, {r["seed"]: c.confusions for r, c in found}, _reported(record))
        for (other, _), miou in zip(found, counts.mious, strict=True):
            if kind is None and abs(other["last"]["miou"] - miou) > _TOLERANCE:
                fault = f"it counts {miou:.2f} mIoU, the record says {other['last']['miou']:.2f}"
                raise self._unusable(other, kind, fault)
        return counts

    def _read(self, record: RunRecord, kind: StatisticsKind | None) -> ClipConfusions | None:
        run = self.directory(record)
        if kind is None:
            return read_evaluation(run)
        found = read_statistics(run, record["last"]["step"])
        return None if found is None else found[kind]

    def _unusable(self, record: RunRecord, kind: StatisticsKind | None, fault: str) -> RecordError:
        folder = self.directory(record)
        file = folder / (EVALUATION if kind is None else STATISTICS)
        return RecordError(fault, where=file, mend=f"delete the folder {folder} to run it again")


def _reported(record: RunRecord) -> list[int]:
    """The train ids that enter a record's mIoU: those that the label space of its classes reports."""
    for space in SPACES.values():
        if list(space.classes) == record["classes"]:
            return list(space.reported)
    return list(range(len(record["classes"])))
