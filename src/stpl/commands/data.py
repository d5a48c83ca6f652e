"""The verbs of `stpl data`: data sets on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stpl.option_types import Count, Natural, Size

if TYPE_CHECKING:
    from stpl.data.sequence_set import SequenceSet


@dataclass(frozen=True)
class SplitOptions:
    """Which clips of which data set, at what size.

    Attributes:
        dataset: name of the data set, or of a module of your own that declares one; a wrong name lists all.
        root: folder that holds the data sets' own folders.
        split: one of the data set's splits, e.g. train or val.
        size: height and width of frames and flow; the data set's training size if not given.
        frame_list: text file with the current frames, as the lineage has them.
        workers: threads; 0 for one a core.
    """

    dataset: str
    root: Path = Path("data")
    split: str = "train"
    size: Size | None = None
    frame_list: Path | None = None
    workers: Natural = 0

    def open(self) -> SequenceSet:
        """The clips; raises `StplError` if there are none."""
        from stpl.data.sequence_set import open_set

        return open_set(self.root, self.dataset, self.split, frame_list=self.frame_list, size=self.size)


def data_fake(
    dataset: str,
    *,
    root: Path = Path("data"),
    size: Size = (128, 256),
    clips: Count | None = None,
    seed: Natural = 0,
    layout: str | None = None,
) -> None:
    """Write a tiny data set in its true layout, drawn by the street renderer, with labels in its own ids.

    Its own car is shown where the data set shows one. There are no riders (the renderer counts them as people), and
    classes that the data set does not know are void.

    Args:
        dataset: name of the data set, or of a module of your own that declares one; a wrong name lists all.
        root: folder that holds the data sets' own folders; this one's must not exist yet, or be empty.
        size: height and width of the frames.
        clips: labelled frames a split, rounded up to the same number in all its videos; a few if not given.
        seed: another seed draws other drives.
        layout: of the data set's layouts, e.g. renamed or archive (of SYNTHIA); the first one if not given.
    """
    from stpl.data.fake import fake

    fake(dataset, root, size, clips, seed, layout)


def data_check(
    clips: SplitOptions,
    *,
    flow: str = "auto",
    sample: Natural = 20,
    label_space: str | None = None,
    json: Path | None = None,
) -> None:
    """Check every frame, label and flow file of one split, and print a report.

    Whether the flow has the right direction, sign, scale and order of axes shows in the frames themselves: it must
    take the earlier one of a pair onto the later one, better than the flow reversed, swapped or scaled does. It is
    judged at the size of training. What is wrong for certain is a problem (exit code 2); what only looks wrong is a
    warning.

    Args:
        clips: what to check.
        flow: folder of flow files; auto for the lineage's, where there is one; none to leave flow out.
        sample: pairs of frames by which the flow is judged.
        label_space: classes that labels are counted in; the data set's usual ones if not given.
        json: file to write the report to, too.
    """
    from stpl.data import label_space as spaces
    from stpl.data.check import flow_folder, inspect

    files = clips.open()
    space = spaces.label_space(label_space or files.data_set.space)
    report = inspect(files, space, flow_folder(files, flow), sample, clips.workers)
    print(report.text())
    if json is not None:
        report.write(json)
    report.refuse_problems()


def data_flow(
    clips: SplitOptions,
    *,
    estimator: str = "dis",
    format: Literal["npy", "flo", "png"] = "npy",  # noqa: A002 -- the name of the option
    out: Path | None = None,
) -> None:
    """Write backward flow t → t-1 of every clip of a data set, under the lineage's file names.

    What is there already is kept, unless it is torn, so a run that was stopped goes on where it was.

    Args:
        clips: whose flow.
        estimator: dis (OpenCV), raft or raft_small (torchvision; on the GPU if there is one), or package.module.Class
            of your own, as `data.flow_estimator` of a run.
        format: npy (int16 tenths of a pixel, as the lineage's loaders read), flo (Middlebury) or png (KITTI).
        out: folder to write to; if not given, the lineage's under the root, e.g. Estimated_optical_flow_Viper_train.
    """
    from stpl.data.flow.flow_files import write_flow

    files = clips.open()
    folder = out or clips.root / files.flow_folder
    written = write_flow(files, folder, estimator, format, clips.workers)
    print(f"{folder}: {written} flow files written, {len(files) - written} were there already")


def data_list(
    clips: SplitOptions,
    *,
    out: Path,
    videos: Path | None = None,
    frames: Literal["current", "all"] = "current",
) -> None:
    """Write a frame list: the current frames of a split, or of some of its videos.

    Runs read it with `data.source_list`, `data.target_train_list` or `data.target_val_list`, the other verbs of
    `stpl data` with `--frame_list`.

    Args:
        clips: the split to choose from.
        out: file to write, one frame a line.
        videos: text file with the names of the videos to keep, one a line, such as VIPER's sequences that are day; all
            are kept if not given. VIPER's archives do not say which of its conditions a sequence shows.
        frames: current (those that clips have) or all (every frame of these videos that has a predecessor; labels are
            not needed for source-free training).
    """
    from stpl.data.frame_list import chosen_frames, write_list

    files = clips.open()
    chosen = chosen_frames(files, videos, every=frames == "all")
    write_list(files, chosen, out)
    print(f"{out}: frames {len(chosen)}, videos {len({frame.sequence for frame in chosen})}")


def data_cache(clips: SplitOptions, *, flow: bool = True, estimator: str = "dis") -> None:
    """Keep frames and estimated flow of one split at training size.

    A run with `data.init_args.cache: true` reads them (and makes what is missing). Call again to go on after a stop.

    Args:
        clips: what to keep.
        flow: keep estimated flow, too.
        estimator: of the flow, as `data.flow_estimator` of a run: dis, raft, raft_small, or package.module.Class.
    """
    from stpl.data.sequence import cache_folder, open_cache

    files = clips.open()
    open_cache(files, estimator if flow else None, clips.workers)
    print(f"{len(files)} clips are kept in {cache_folder(files)}")
