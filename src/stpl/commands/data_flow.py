"""`stpl data flow`: optical flow of a data set, estimated to files."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from stpl.option_types import Natural, Size


def data_flow(
    dataset: str,
    *,
    root: Path = Path("data"),
    split: str = "train",
    estimator: str = "dis",
    format: Literal["npy", "flo", "png"] = "npy",  # noqa: A002 -- the name of the option
    size: Size | None = None,
    out: Path | None = None,
    frame_list: Path | None = None,
    workers: Natural = 0,
) -> None:
    """Write backward flow t → t-1 of every clip of a data set, under the lineage's file names.

    What is there already is kept, unless it is torn, so a run that was stopped goes on where it was.

    Args:
        dataset: name of the data set, or of a module of your own that declares one; a wrong name lists all.
        root: folder that holds the data sets' own folders.
        split: one of the data set's splits, e.g. train or val.
        estimator: dis (OpenCV), raft or raft_small (torchvision; on the GPU if there is one), or package.module.Class
            of your own, as `data.flow_estimator` of a run.
        format: npy (int16 tenths of a pixel, as the lineage's loaders read), flo (Middlebury) or png (KITTI).
        size: height and width of the flow; those of training if not given.
        out: folder to write to; if not given, the lineage's under the root, e.g. Estimated_optical_flow_Viper_train.
        frame_list: text file with the current frames, as the lineage has them.
        workers: threads; 0 for one a core.
    """
    from stpl.data.flow.flow_files import write_flow
    from stpl.data.sequence_set import open_set

    clips = open_set(root, dataset, split, frame_list=frame_list, size=size)
    folder = out or root / clips.flow_folder
    written = write_flow(clips, folder, estimator, format, workers)
    print(f"{folder}: {written} flow files written, {len(clips) - written} were there already")
