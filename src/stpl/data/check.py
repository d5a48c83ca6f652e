"""`stpl data check`: looks once at every file of a split and reports what is missing, torn or wrong."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from textwrap import fill
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from stpl.data import flow as optical_flow
from stpl.data.data_set import DataSet
from stpl.data.flow.flow_check import FlowVerdict, flow_verdict, warp_errors
from stpl.data.flow.flow_formats import SUFFIXES
from stpl.data.image import read_rgb
from stpl.data.label_check import LabelCounts, find_label_faults
from stpl.data.label_space import LabelSpace
from stpl.data.parallel import each
from stpl.data.sequence import read_scaled
from stpl.data.sequence_set import SequenceSet
from stpl.errors import ConfigError, DataError, check_range
from stpl.files import write_atomically

Size = tuple[int, int]
Value = TypeVar("Value")
_Sized = tuple[Path, tuple[int, ...]]

_SHOWN = 5  # problems that the message lists; the JSON file has all


@dataclass
class Report:
    """What a split holds, and what is wrong with it.

    Attributes:
        dataset: name of the data set.
        split: name of the split.
        space: name of the label space that `classes` are of.
        clips: number of clips.
        published: number of clips of this split in published work.
        frames: number of frames that are part of a clip.
        labels: number of labels.
        flows: number of flow files.
        flow_folder: where they lie; `None` if flow was not looked at.
        sizes: for each kind of file, "height×width" and how many files have it.
        classes: share of each class among the pixels that count, in percent.
        ignored: share of each id that the label space ignores, in percent of all pixels.
        verdict: whether the flow is right, in words; `None` if no pair could be looked at.
        problems: each with the file it is about; empty if all is well.
        warnings: what looks wrong and may be right, with its numbers and the likely cause.
    """

    dataset: str
    split: str
    space: str
    clips: int
    published: int | None
    flow_folder: str | None
    frames: int = 0
    labels: int = 0
    flows: int = 0
    sizes: dict[str, dict[str, int]] = field(default_factory=dict)
    classes: dict[str, float] = field(default_factory=dict)
    ignored: dict[int, float] = field(default_factory=dict)
    verdict: FlowVerdict | None = None
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def text(self) -> str:
        """The report for a terminal."""
        of_all = f" (published work has {self.published})" if self.published not in (None, self.clips) else ""
        lines = [
            f"{self.dataset} {self.split}: {_count(self.clips, 'clip')}{of_all}, {_count(self.frames, 'frame')}, "
            f"{_count(self.labels, 'label')}",
            *(
                f"  {kind}: {', '.join(f'{count} of {size}' for size, count in sizes.items())}"
                for kind, sizes in self.sizes.items()
            ),
            _shares(f"classes of {self.space} in percent", self.classes) if self.labels else "  no labels",
        ]
        if self.ignored:
            lines.append(_shares("ids that it ignores, in percent", self.ignored))
        if self.flow_folder is None:
            lines.append("  no flow files (they are estimated when needed; `stpl data flow` makes them)")
        else:
            lines.append(f"  {self.flows} of {self.clips} flow files in {self.flow_folder}")
        if self.verdict is not None:
            lines.append(f"  {self.verdict.words} ({_count(self.verdict.pairs, 'pair')})")
        lines += [f"  warning: {warning}" for warning in self.warnings]
        kinds = {"problem": self.problems, "warning": self.warnings}
        end = ", ".join(_count(len(found), kind) for kind, found in kinds.items() if found) or "all is well"
        return "\n".join([*lines, f"  {end}"])

    def write(self, path: Path) -> None:
        """Write the report as JSON."""
        write_atomically(path, (json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n").encode())

    def refuse_problems(self) -> None:
        """Raise `DataError` with the first few problems, if there are any."""
        if self.problems:
            count = len(self.problems)
            shown = "\n  ".join(self.problems[:_SHOWN])
            more = f"\n  … and {count - _SHOWN} more" if count > _SHOWN else ""
            raise DataError(
                f"{_count(count, 'problem')}:\n  {shown}{more}",
                where=f"{self.dataset} {self.split}",
                mend="mend these files, then check again" + (" (--json=FILE lists all)" if more else ""),
            )


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' * (number != 1)}"


def _shares(title: str, shares: dict[Any, float]) -> str:
    text = f"{title}: " + ", ".join(f"{name}\0{share:.2f}" for name, share in shares.items())
    return fill(text, 100, initial_indent="  ", subsequent_indent="    ").replace("\0", " ")  # no break inside a pair


def flow_folder(files: SequenceSet, flow: str) -> Path | None:
    """The folder of flow files that `flow` names: auto for the usual one, where there is one, none for none."""
    if flow == "none":
        return None
    if flow == "auto":
        return next((folder for folder in files.flow_folders() if folder.is_dir()), None)
    if not Path(flow).is_dir():
        raise ConfigError(f"there is no folder '{flow}'", where="flow", mend="give the folder of flow files, or auto")
    return Path(flow)


@dataclass
class _Findings:
    """What one clip's files hold; sizes with the file they are of."""

    frames: list[_Sized] = field(default_factory=list)
    label: _Sized | None = None
    flow: _Sized | None = None
    ids: NDArray[np.int64] | None = None
    unknown_flow: int = 0
    errors: dict[str, float] | None = None
    problems: list[str] = field(default_factory=list)

    def attempt(self, function: Callable[[Path], Value], path: Path) -> Value | None:
        """What a function makes of a file; `None`, and its message among the problems, if it raises `DataError`."""
        try:
            return function(path)
        except DataError as error:
            self.problems.append(f"{error.where}: {error.what}")
            return None


class _Job:
    """Looks at the files of one clip, in any thread.

    Args:
        files: the split.
        flow_folder: folder of its flow files; `None` to leave flow out.
        sample: pairs by which the flow is judged.
    """

    def __init__(self, files: SequenceSet, flow_folder: Path | None, sample: int) -> None:
        self.files, self.flow_folder = files, flow_folder
        self.sampled = set(np.linspace(0, len(files) - 1, min(sample, len(files)), dtype=int).tolist())
        first: dict[Path, int] = {}  # each frame is looked at with the first clip that has it
        for index in range(len(files)):
            for path in files.frame_pair(index):
                first.setdefault(path, index)
        self._first = first

    def __call__(self, index: int) -> _Findings:
        found = _Findings()
        for path in self.files.frame_pair(index):
            frame = found.attempt(read_rgb, path) if self._first[path] == index else None
            if frame is not None:
                found.frames.append((path, frame.shape[:2]))
        label = self.files.label_path(index)
        if label is not None:
            self._label(label, dict(found.frames).get(self.files.frame_path(index)), found)
        if self.flow_folder is not None:
            self._flow(self.flow_folder / self.files.flow_name(index), index, found)
        return found

    def _label(self, path: Path, frame: tuple[int, ...] | None, found: _Findings) -> None:
        ids = found.attempt(self.files.read_ids, path)
        if ids is None:
            return
        found.label = path, ids.shape
        found.ids = np.bincount(ids.ravel(), minlength=256)
        if frame is not None and ids.shape != (round(frame[0] * self.files.data_set.height_kept), frame[1]):
            found.problems.append(f"{path}: the label is {_by(ids.shape)} (after the crop), its frame {_by(frame)}")

    def _flow(self, name: Path, index: int, found: _Findings) -> None:
        path = next((file for suffix in SUFFIXES if (file := name.with_suffix(suffix)).exists()), None)
        if path is None:
            found.problems.append(f"{name}: there is no such flow file")
            return
        size = found.attempt(optical_flow.probe, path)
        if size is not None:
            found.flow = path, size
            found.unknown_flow = found.attempt(optical_flow.unknown_pixels, path) or 0
        if size is not None and index in self.sampled:
            found.errors = found.attempt(lambda path: self._errors(index, path), path)

    def _errors(self, index: int, path: Path) -> dict[str, float]:
        earlier, later = (self.files.read_frame(frame) for frame in self.files.frame_pair(index))
        return warp_errors(later, earlier, read_scaled(path, self.files.size))


def inspect(
    files: SequenceSet, space: LabelSpace, flow_folder: Path | None, sample: int = 20, workers: int = 0
) -> Report:
    """Look at every file of a split once.

    Args:
        files: the split, from `open_set`.
        space: what classes its labels are counted in.
        flow_folder: folder of its flow files; `None` to leave flow out.
        sample: pairs by which the flow is judged, spread evenly over the split.
        workers: threads; 0 for one a core.
    """
    check_range("sample", sample)
    published = files.data_set.published.get(files.split)
    folder = None if flow_folder is None else str(flow_folder)
    report = Report(files.name, files.split, space.name, len(files), published, folder)
    job, title = _Job(files, flow_folder, sample), f"{files.name} {files.split}: checking"
    findings = list(each(job, range(len(files)), workers=workers, title=title))
    report.problems = sorted(problem for found in findings for problem in found.problems)
    report.frames = _sizes(report, "frames", [frame for found in findings for frame in found.frames])
    report.labels = _sizes(report, "labels", [found.label for found in findings if found.label])
    report.flows = _sizes(report, "flow files", [found.flow for found in findings if found.flow])
    _report_labels(report, findings, files.data_set, space)
    _report_flow(report, findings)
    return report


def _sizes(report: Report, kind: str, files: list[_Sized]) -> int:
    """Note the sizes of the files of a kind, and each that is not that of most; how many files there are."""
    counts = Counter(_by(size) for _, size in sorted(files)).most_common()
    for path, size in sorted(files):
        if _by(size) != counts[0][0]:
            report.problems.append(f"{path}: {_by(size)}, most others are {counts[0][0]}")
    if counts:
        report.sizes[kind] = dict(counts)
    return len(files)


def _report_labels(report: Report, findings: Sequence[_Findings], known: DataSet, space: LabelSpace) -> None:
    found = [(one.label[0], one.ids) for one in findings if one.label is not None and one.ids is not None]
    if not found:
        return
    labels = [LabelCounts(path, ids) for path, ids in sorted(found, key=lambda label: label[0])]
    pixels = np.sum([label.pixels for label in labels], axis=0)
    train_ids = known.table(space)[: len(pixels)]
    counted = pixels[train_ids < space.num_classes].sum()
    for train_id, name in enumerate(space.classes):
        report.classes[name] = float(100 * pixels[train_ids == train_id].sum() / max(counted, 1))
    for value in np.flatnonzero((train_ids >= space.num_classes) & (pixels > 0)):
        report.ignored[int(value)] = float(100 * pixels[value] / pixels.sum())
    faults = find_label_faults(labels, known, space)
    report.problems += faults.problems
    report.warnings += faults.warnings


def _report_flow(report: Report, findings: Sequence[_Findings]) -> None:
    with_unknown = sum(found.unknown_flow > 0 for found in findings)
    if with_unknown:
        unknown = sum(found.unknown_flow for found in findings)
        pixels = sum(found.flow[1][0] * found.flow[1][1] for found in findings if found.flow is not None)
        report.warnings.append(
            f"the flow of {_count(unknown, 'pixel')} is unknown ({100 * unknown / pixels:.2g} % of all, in "
            f"{with_unknown} of {report.flows} files; not valid, beyond 1e9 or not finite): they get zero flow, as if "
            "nothing moved"
        )
    errors = [found.errors for found in findings if found.errors is not None]
    if errors:
        report.verdict = flow_verdict(errors)
        if not report.verdict.right:
            report.problems.append(f"{report.flow_folder}: {report.verdict.words}")


def _by(size: Sequence[int]) -> str:
    return "×".join(str(side) for side in size)
