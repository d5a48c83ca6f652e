"""`stpl data check`: looks once at every file of a split and tells what is missing, torn or wrong."""

from __future__ import annotations

import json as json_format
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from textwrap import fill
from typing import Annotated, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from stpl.data import flow as optical_flow
from stpl.data import label_space as spaces
from stpl.data.data_set import DataSet
from stpl.data.flow_check import Verdict, judge, warp_errors
from stpl.data.image import read_rgb
from stpl.data.label_check import LabelCounts, judge_labels
from stpl.data.label_space import LabelSpace
from stpl.data.parallel import each
from stpl.data.sequence import FLOW_SUFFIXES, read_scaled
from stpl.data.sequence_set import ClipFiles, SequenceSet, open_set
from stpl.errors import AtLeast, ConfigError, DataError, check_range
from stpl.files import write_atomically

Size = tuple[int, int]
Value = TypeVar("Value")

_SHOWN = 5  # problems that the message lists; the JSON file has all


def check(
    dataset: str,
    root: Path = Path("data"),
    split: str = "train",
    flow: str = "auto",
    sample: Annotated[int, AtLeast(0)] = 20,
    size: Size | None = None,
    label_space: str | None = None,
    frame_list: Path | None = None,
    json: Path | None = None,
    workers: int = 0,
) -> None:
    """Check every frame, label and flow file of one split, and print a report.

    Whether the flow has the right direction, sign, scale and order of axes is seen from the frames themselves: it must
    take the earlier one of a pair onto the later one, better than the flow reversed, swapped or scaled does. What is
    wrong for certain is a problem (exit code 2); what only looks wrong is a warning.

    Args:
        dataset: name of the data set, or of a module of your own that declares one; a wrong name lists all.
        root: folder that holds the data sets' own folders.
        split: one of the data set's splits, e.g. train or val.
        flow: folder of flow files; auto for the lineage's, where there is one; none to leave flow out.
        sample: pairs of frames by which the flow is judged.
        size: height and width of training, at which the flow is judged; the data set's usual one if not given.
        label_space: classes that labels are counted in; the data set's usual ones if not given.
        frame_list: text file with the current frames, as the lineage has them.
        json: file to write the report to, too.
        workers: threads; 0 for one a core.

    Raises:
        DataError: something is missing or wrong; the message lists the first few problems.
    """
    files = open_set(root, dataset, split, frame_list=frame_list, size=size)
    space = spaces.label_space(label_space or files.data_set.space)
    report = inspect(files, space, _flow_folder(files, flow), sample, workers)
    print(report.text())
    if json is not None:
        text = json_format.dumps(asdict(report), indent=1, ensure_ascii=False)
        write_atomically(json, text + "\n", kind=DataError)
    if report.problems:
        count = len(report.problems)
        shown = "\n  ".join(report.problems[:_SHOWN])
        more = f"\n  … and {count - _SHOWN} more" if count > _SHOWN else ""
        raise DataError(
            f"{_count(count, 'problem')}:\n  {shown}{more}",
            where=f"{files.name} {split}",
            mend="mend these files, then check again" + (" (--json=FILE lists all)" if more else ""),
        )


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
    verdict: Verdict | None = None
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def text(self) -> str:
        """The report for a terminal."""
        of_all = f" (published work has {self.published})" if self.published not in (None, self.clips) else ""
        lines = [
            f"{self.dataset} {self.split}: {_count(self.clips, 'clip')}{of_all}, {_count(self.frames, 'frame')}, "
            f"{_count(self.labels, 'label')}",
            *(f"  {kind}: {_counts(sizes)}" for kind, sizes in self.sizes.items()),
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


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' * (number != 1)}"


def _counts(sizes: dict[str, int]) -> str:
    return ", ".join(f"{count} of {size}" for size, count in sizes.items())


def _shares(title: str, shares: dict[Any, float]) -> str:
    text = f"{title}: " + ", ".join(f"{name}\0{share:.2f}" for name, share in shares.items())
    return fill(text, 100, initial_indent="  ", subsequent_indent="    ").replace("\0", " ")  # no break inside a pair


def _flow_folder(files: SequenceSet, flow: str) -> Path | None:
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

    frames: list[tuple[Path, Size]] = field(default_factory=list)
    label: tuple[Path, Size] | None = None
    flow: tuple[Path, Size] | None = None
    ids: NDArray[np.int64] | None = None
    unknown_flow: int = 0
    errors: dict[str, float] | None = None
    problems: list[str] = field(default_factory=list)

    def attempt(self, function: Callable[[], Value]) -> Value | None:
        """The function's value; `None`, and its message among the problems, if it raises `DataError`."""
        try:
            return function()
        except DataError as error:
            self.problems.append(f"{error.where}: {error.what}")
            return None


@dataclass(frozen=True)
class _Task:
    """One clip, which of its frames no other clip looks at, and whether its flow is compared with the frames."""

    clip: ClipFiles
    frames: tuple[Path, ...]
    sampled: bool


@dataclass(frozen=True)
class _Job:
    """Looks at the files of one clip, in any thread."""

    files: SequenceSet
    flow_folder: Path | None

    def __call__(self, task: _Task) -> _Findings:
        found = _Findings()
        for path in task.frames:
            frame = found.attempt(lambda path=path: read_rgb(path))  # type: ignore[misc]
            if frame is not None:
                found.frames.append((path, frame.shape[:2]))
        if task.clip.label is not None:
            self._label(task.clip, task.clip.label, found)
        if self.flow_folder is not None:
            self._flow(self.flow_folder, task, found)
        return found

    def _label(self, clip: ClipFiles, path: Path, found: _Findings) -> None:
        ids = found.attempt(lambda: self.files.read_ids(path))
        if ids is None:
            return
        found.label = path, ids.shape
        found.ids = np.bincount(ids.ravel(), minlength=256)
        frame = dict(found.frames).get(clip.frames[-1])
        if frame is not None and ids.shape != (round(frame[0] * self.files.data_set.height_kept), frame[1]):
            found.problems.append(f"{path}: the label is {_by(ids.shape)} (after the crop), its frame {_by(frame)}")

    def _flow(self, folder: Path, task: _Task, found: _Findings) -> None:
        stem = folder / task.clip.flow_name
        path = next((file for suffix in FLOW_SUFFIXES if (file := stem.with_suffix(suffix)).exists()), None)
        if path is None:
            found.problems.append(f"{stem}: there is no such flow file")
            return
        size = found.attempt(lambda: optical_flow.probe(path))
        if size is not None:
            found.flow = path, size
            found.unknown_flow = found.attempt(lambda: optical_flow.unknown_pixels(path)) or 0
        if size is not None and task.sampled:
            found.errors = found.attempt(lambda: self._errors(task.clip, path))

    def _errors(self, clip: ClipFiles, path: Path) -> dict[str, float]:
        earlier, later = (self.files.read_frame(frame) for frame in clip.frames[-2:])
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
    check_range("sample", sample)
    job, tasks = _Job(files, flow_folder), _tasks(files.clips, sample)
    findings = list(each(job, tasks, workers=workers, title=f"{files.name} {files.split}: checking"))
    _summarize(report, findings, files.data_set, space)
    return report


def _tasks(clips: Sequence[ClipFiles], sample: int) -> list[_Task]:
    seen: set[Path] = set()
    sampled = set(np.linspace(0, len(clips) - 1, min(sample, len(clips)), dtype=int).tolist())
    tasks = []
    for index, clip in enumerate(clips):
        tasks.append(_Task(clip, tuple(path for path in clip.frames if path not in seen), index in sampled))
        seen.update(clip.frames)
    return tasks


def _summarize(report: Report, findings: Sequence[_Findings], known: DataSet, space: LabelSpace) -> None:
    kinds = {
        "frames": [frame for found in findings for frame in found.frames],
        "labels": [found.label for found in findings if found.label is not None],
        "flow files": [found.flow for found in findings if found.flow is not None],
    }
    report.frames, report.labels, report.flows = (len(files) for files in kinds.values())
    report.problems = sorted(problem for found in findings for problem in found.problems)
    for kind, sized in kinds.items():
        report.problems += _odd_sizes(sized)
        if sized:
            counts = Counter(_by(size) for _, size in sorted(sized))
            report.sizes[kind] = dict(counts.most_common())
    _judge_labels(report, findings, known, space)
    _count_unknown(report, findings)
    errors = [found.errors for found in findings if found.errors is not None]
    if errors:
        report.verdict = judge(errors)
        if not report.verdict.right:
            report.problems.append(f"{report.flow_folder}: {report.verdict.words}")


def _odd_sizes(files: Sequence[tuple[Path, Size]]) -> list[str]:
    """A problem for each file whose size is not that of most files."""
    if not files:
        return []
    usual = Counter(size for _, size in sorted(files)).most_common(1)[0][0]
    return [f"{path}: {_by(size)}, most others are {_by(usual)}" for path, size in sorted(files) if size != usual]


def _judge_labels(report: Report, findings: Sequence[_Findings], known: DataSet, space: LabelSpace) -> None:
    labels = [
        LabelCounts(found.label[0], found.ids)
        for found in findings
        if found.label is not None and found.ids is not None
    ]
    labels.sort(key=lambda label: label.path)
    _count_classes(report, [label.pixels for label in labels], known, space)
    judgement = judge_labels(labels, known, space)
    report.problems += judgement.problems
    report.warnings += judgement.warnings


def _count_unknown(report: Report, findings: Sequence[_Findings]) -> None:
    with_unknown = sum(found.unknown_flow > 0 for found in findings)
    if with_unknown:
        unknown = sum(found.unknown_flow for found in findings)
        pixels = sum(found.flow[1][0] * found.flow[1][1] for found in findings if found.flow is not None)
        report.warnings.append(
            f"the flow of {_count(unknown, 'pixel')} is unknown ({100 * unknown / pixels:.2g} % of all, in "
            f"{with_unknown} of {report.flows} files; not valid, beyond 1e9 or not finite): they get zero flow, as if "
            "nothing moved"
        )


def _count_classes(report: Report, counts: Sequence[NDArray[np.int64]], known: DataSet, space: LabelSpace) -> None:
    if not counts:
        return
    pixels = np.sum(counts, axis=0)
    train_ids = known.table(space)[: len(pixels)]
    counted = pixels[train_ids < space.num_classes].sum()
    for train_id, name in enumerate(space.classes):
        report.classes[name] = float(100 * pixels[train_ids == train_id].sum() / max(counted, 1))
    for value in np.flatnonzero((train_ids >= space.num_classes) & (pixels > 0)):
        report.ignored[int(value)] = float(100 * pixels[value] / pixels.sum())


def _by(size: Sequence[int]) -> str:
    return "×".join(str(side) for side in size)
