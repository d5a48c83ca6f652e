"""`stpl data flow`: the flow files of a data set, as the DA-VSN lineage names them, from frames on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stpl.data import flow as optical_flow
from stpl.data.flow_estimator import Estimator, EstimatorName, open_estimator
from stpl.data.parallel import each
from stpl.data.sequence_set import ClipFiles, SequenceSet, open_set
from stpl.errors import DataError

_BATCH = {"dis": 1, "raft": 4, "raft_small": 4}  # its correlation volume takes 1.1 GB a pair at 720×1280


def flow(
    dataset: str,
    root: Path = Path("data"),
    split: str = "train",
    estimator: EstimatorName = "dis",
    format: Literal["npy", "flo", "png"] = "npy",  # noqa: A002 (the option's name)
    size: tuple[int, int] | None = None,
    out: Path | None = None,
    frame_list: Path | None = None,
    workers: int = 0,
) -> None:
    """Write backward flow t → t-1 of every clip of a data set, under the lineage's file names.

    What is there already is kept, unless it is torn, so a run that was stopped goes on where it was.

    Args:
        dataset: name of the data set, or of a module of your own that declares one; a wrong name lists all.
        root: folder that holds the data sets' own folders.
        split: one of the data set's splits, e.g. train or val.
        estimator: dis (OpenCV), or raft or raft_small (torchvision; on the GPU if there is one).
        format: npy (int16 tenths of a pixel, as the lineage's loaders read), flo (Middlebury) or png (KITTI).
        size: height and width of the flow; those of training if not given.
        out: folder to write to; if not given, the lineage's under the root, e.g. Estimated_optical_flow_Viper_train.
        frame_list: text file with the current frames, as the lineage has them.
        workers: threads; 0 for one a core.
    """
    clips = open_set(root, dataset, split, frame_list=frame_list, size=size)
    folder = out or root / clips.flow_folder
    missing = [clip for clip in clips.clips if not _is_whole(flow_path(folder, clip, format), clips.size)]
    batches = [missing[start : start + _BATCH[estimator]] for start in range(0, len(missing), _BATCH[estimator])]
    if batches:
        job = _Job(clips, folder, format, open_estimator(estimator))
        for _ in each(job, batches, workers=workers, title=f"{dataset} {split}: flow by {estimator}"):
            pass
    print(f"{folder}: {len(missing)} flow files written, {len(clips.clips) - len(missing)} were there already")


def flow_path(folder: Path, clip: ClipFiles, suffix: str) -> Path:
    """Where the flow of `clip` lies in a folder of flow files; only the suffix depends on the format."""
    return folder / Path(clip.flow_name).with_suffix(f".{suffix}")


@dataclass(frozen=True)
class _Job:
    """Reads, estimates and writes one batch of clips, in any thread."""

    clips: SequenceSet
    folder: Path
    suffix: str
    estimator: Estimator

    def __call__(self, batch: Sequence[ClipFiles]) -> None:
        pairs = []
        for clip in batch:
            earlier, later = (self.clips.read_frame(path) for path in clip.frames[-2:])
            pairs.append((later, earlier))
        for clip, found in zip(batch, self.estimator(pairs), strict=True):
            optical_flow.write(flow_path(self.folder, clip, self.suffix), found)


def _is_whole(path: Path, size: tuple[int, int]) -> bool:
    """Whether a file of this size is there; false if it is torn. Raises `DataError` if it has another size."""
    if not path.exists():
        return False
    try:
        found = optical_flow.probe(path)
    except DataError:
        return False
    if found != tuple(size):
        raise DataError(
            f"this flow is {found[0]}×{found[1]}, asked for is {size[0]}×{size[1]} (height×width)",
            where=path,
            mend="give another folder with --out, the same --size as before, or delete the old files",
        )
    return True
