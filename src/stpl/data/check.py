"""`stpl data check`: looks once at every file of a split and reports what is missing, torn or wrong."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from textwrap import fill
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from stpl.data import flow as optical_flow
from stpl.data.data_set import DataSet
from stpl.data.flow.flow_check import FlowVerdict, flow_verdict, warp_errors
from stpl.data.flow.flow_formats import SUFFIXES, sides
from stpl.data.image import read_rgb
from stpl.data.label_space import IGNORE, LabelSpace
from stpl.data.parallel import each
from stpl.data.sequence import read_scaled
from stpl.data.sequence_set import SequenceSet
from stpl.errors import ConfigError, DataError
from stpl.files import write_atomically

Value = TypeVar("Value")
_FileSize = tuple[Path, tuple[int, ...]]
_Pixels = Mapping[Path, NDArray[np.int64]]
"""How many pixels of each label file have each id, `[256]`."""

_PROBLEMS_SHOWN = 5  # by the message; the JSON file has all
_KINDS = ("frames", "labels", "flow files")
_EVERYWHERE = ("vegetation", "sky", "road")  # classes that nearly every picture of a street shows
_MOST, _NEARLY_ALL = 60.0, 95.0  # percent
_NAMES_SHOWN, _LEAST_BEYOND = 4, 3


@dataclass
class Report:
    """What a split holds, and what is wrong with it.

    Attributes:
        space: the label space that `classes` are of.
        published: number of clips of this split in published work.
        frames: number of frames that are part of a clip.
        flow_folder: where flow files lie; `None` if flow was not looked at.
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
        counts = f"{_count(self.clips, 'clip')}{of_all}, {_count(self.frames, 'frame')}, {_count(self.labels, 'label')}"
        lines = [f"{self.dataset} {self.split}: {counts}"]
        for kind, sizes in self.sizes.items():
            lines.append(f"  {kind}: {', '.join(f'{count} of {size}' for size, count in sizes.items())}")
        lines.append(_shares(f"classes of {self.space} in percent", self.classes) if self.labels else "  no labels")
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
        write_atomically(path, json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")

    def refuse_problems(self) -> None:
        """Raise `DataError` with the first few problems, if there are any."""
        if self.problems:
            count = len(self.problems)
            shown = "\n  ".join(self.problems[:_PROBLEMS_SHOWN])
            more = f"\n  … and {count - _PROBLEMS_SHOWN} more" if count > _PROBLEMS_SHOWN else ""
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
    """What one clip's files hold; sizes with the file they are of, by kind."""

    sizes: dict[str, list[_FileSize]] = field(default_factory=lambda: {kind: [] for kind in _KINDS})
    pixels: dict[Path, NDArray[np.int64]] = field(default_factory=dict)
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
    """Looks at the files of one clip, in any thread; judges the flow of a sample of the clips."""

    def __init__(self, files: SequenceSet, flow_folder: Path | None, sample: int) -> None:
        self.files, self.flow_folder = files, flow_folder
        self.sampled = set(np.linspace(0, len(files) - 1, min(sample, len(files)), dtype=int).tolist())
        self.first: dict[Path, int] = {}  # each frame is looked at with the first clip that has it
        for index in range(len(files)):
            for path in files.frame_pair(index):
                self.first.setdefault(path, index)

    def __call__(self, index: int) -> _Findings:
        found = _Findings()
        for path in self.files.frame_pair(index):
            frame = found.attempt(read_rgb, path) if self.first[path] == index else None
            if frame is not None:
                found.sizes["frames"].append((path, frame.shape[:2]))
        label = self.files.label_path(index)
        if label is not None:
            self._label(label, dict(found.sizes["frames"]).get(self.files.frame_path(index)), found)
        if self.flow_folder is not None:
            self._flow(self.flow_folder / self.files.flow_name(index), index, found)
        return found

    def _label(self, path: Path, frame: tuple[int, ...] | None, found: _Findings) -> None:
        ids = found.attempt(self.files.read_ids, path)
        if ids is None:
            return
        found.sizes["labels"].append((path, ids.shape))
        found.pixels[path] = np.bincount(ids.ravel(), minlength=256)
        if frame is not None and ids.shape != (round(frame[0] * self.files.data_set.height_kept), frame[1]):
            found.problems.append(f"{path}: the label is {sides(ids.shape)} (after the crop), its frame {sides(frame)}")

    def _flow(self, name: Path, index: int, found: _Findings) -> None:
        path = next((file for suffix in SUFFIXES if (file := name.with_suffix(suffix)).exists()), None)
        if path is None:
            found.problems.append(f"{name}: there is no such flow file")
            return
        size = found.attempt(optical_flow.probe, path)
        if size is not None:
            found.sizes["flow files"].append((path, size))
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
    published = files.data_set.published.get(files.split)
    folder = None if flow_folder is None else str(flow_folder)
    report = Report(files.name, files.split, space.name, len(files), published, folder)
    job, title = _Job(files, flow_folder, sample), f"{files.name} {files.split}: checking"
    findings = each(job, range(len(files)), workers=workers, title=title)
    report.problems = sorted(problem for found in findings for problem in found.problems)
    report.frames, report.labels, report.flows = (
        _report_sizes(report, kind, [file for found in findings for file in found.sizes[kind]]) for kind in _KINDS
    )
    pixels = {path: counts for found in findings for path, counts in found.pixels.items()}
    if pixels:
        _report_labels(report, dict(sorted(pixels.items())), files.data_set, space)
    _report_flow(report, findings)
    return report


def _report_sizes(report: Report, kind: str, files: list[_FileSize]) -> int:
    """Note the sizes of the files of a kind, and each that is not that of most; how many files there are."""
    counts = Counter(sides(size) for _, size in sorted(files)).most_common()
    for path, size in sorted(files):
        if sides(size) != counts[0][0]:
            report.problems.append(f"{path}: {sides(size)}, most others are {counts[0][0]}")
    if counts:
        report.sizes[kind] = dict(counts)
    return len(files)


def _report_labels(report: Report, labels: _Pixels, known: DataSet, space: LabelSpace) -> None:
    """The shares of classes, and the faults that no single file shows: ids of another scheme may be in range."""
    _report_train_ids(report, labels, known, space)
    pixels = np.sum(list(labels.values()), axis=0)
    train_ids = known.table(space)[: len(pixels)]
    counts = np.array([pixels[train_ids == train_id].sum() for train_id in range(space.num_classes)])
    counted, total = counts.sum(), pixels.sum()
    report.classes = dict(zip(space.classes, (100 * counts / max(counted, 1)).tolist(), strict=True))
    ignored = {int(value): pixels[value] for value in np.flatnonzero((train_ids == IGNORE) & (pixels > 0))}
    report.ignored = {value: float(100 * count / total) for value, count in ignored.items()}

    largest, absent = int(counts.argmax()), int((counts == 0).sum())
    share, ignored_share = 100 * counts[largest] / max(counted, 1), 100 * (1 - counted / max(total, 1))
    if share > _MOST:
        report.warnings.append(
            f"{space.classes[largest]} covers {share:.1f} % of the labelled pixels, and {absent} of "
            f"{space.num_classes} classes are absent: are the ids of another scheme (train ids, another data set's)?"
        )
    if ignored_share > _MOST:
        most = sorted(report.ignored.items(), key=lambda item: item[1], reverse=True)[:_NAMES_SHOWN]
        shares = ", ".join(f"{value}: {part:.1f} %" for value, part in most)
        report.warnings.append(
            f"{ignored_share:.1f} % of the pixels are ignored (by id, {shares}): are the ids of another scheme?"
        )
    shares_of_one = {path: 100 * one.max() / max(one.sum(), 1) for path, one in labels.items()}
    flat = [path for path, share in shares_of_one.items() if share > _NEARLY_ALL]
    if flat:
        report.warnings.append(
            f"{flat[0]}: {len(flat)} of {len(labels)} labels hold one id nearly everywhere (this one "
            f"{shares_of_one[flat[0]]:.1f} % of id {labels[flat[0]].argmax()}): were they converted rightly?"
        )


def _report_train_ids(report: Report, labels: _Pixels, known: DataSet, space: LabelSpace) -> None:
    """Label ids go higher than train ids do: where no id is above the highest train id, the labels hold these."""
    highest = space.num_classes - 1 if known.labels.train_ids is None else known.labels.train_ids
    table, ids = known.table(space), known.labels.classes
    beyond = {value: space.classes[table[value]] for value in ids if value > highest and table[value] != IGNORE}
    low = [path for path, pixels in labels.items() if not pixels[highest + 1 : IGNORE].any()]
    if len(beyond) < _LEAST_BEYOND or not low:
        return
    names = ", ".join(f"{name} {value}" for value, name in list(beyond.items())[:_NAMES_SHOWN])
    message = (
        f"{low[0]}: {len(low)} of {len(labels)} labels hold no id above {highest} but {IGNORE}; {known.name}'s "
        f"label ids go on ({names}, …), so these look like train ids: give the original label ids"
    )
    certain = any(name in _EVERYWHERE for name in beyond.values())  # else there may just be no cars and persons
    if certain and len(low) == len(labels):
        report.problems.append(message)
    elif certain or len(low) == len(labels):
        report.warnings.append(message)


def _report_flow(report: Report, findings: Sequence[_Findings]) -> None:
    with_unknown = sum(found.unknown_flow > 0 for found in findings)
    if with_unknown:
        unknown = sum(found.unknown_flow for found in findings)
        pixels = sum(height * width for found in findings for _, (height, width) in found.sizes["flow files"])
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
