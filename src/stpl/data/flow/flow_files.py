"""`stpl data flow`: the flow files of a data set, as the DA-VSN lineage names them, from frames on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from stpl.data.flow.estimators import estimator_class, open_estimator
from stpl.data.flow.flow_formats import probe, write
from stpl.data.parallel import each
from stpl.data.sequence_set import open_set
from stpl.errors import DataError


def flow(
    dataset: str,
    root: Path = Path("data"),
    split: str = "train",
    estimator: str = "dis",
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
        estimator: dis (OpenCV), raft or raft_small (torchvision; on the GPU if there is one), or package.module.Class
            of your own, as `data.flow_estimator` of a run.
        format: npy (int16 tenths of a pixel, as the lineage's loaders read), flo (Middlebury) or png (KITTI).
        size: height and width of the flow; those of training if not given.
        out: folder to write to; if not given, the lineage's under the root, e.g. Estimated_optical_flow_Viper_train.
        frame_list: text file with the current frames, as the lineage has them.
        workers: threads; 0 for one a core.
    """
    files, at_once = open_set(root, dataset, split, frame_list=frame_list, size=size), estimator_class(estimator).batch
    folder = out or root / files.flow_folder
    names = (Path(files.flow_name(index)) for index in range(len(files)))
    paths = [folder / name.with_suffix(f".{format}") for name in names]
    missing = [place for place, path in enumerate(paths) if not _is_whole(path, files.size)]
    batches = [missing[start : start + at_once] for start in range(0, len(missing), at_once)]
    if batches:
        estimate = open_estimator(estimator)

        def write_batch(places: Sequence[int]) -> None:
            """Read, estimate and write some clips, in any thread."""
            frames = [[files.read_frame(path) for path in files.frame_pair(place)] for place in places]
            found = estimate([(later, earlier) for earlier, later in frames])
            for place, flow in zip(places, found, strict=True):
                write(paths[place], flow)

        for _ in each(write_batch, batches, workers=workers, title=f"{dataset} {split}: flow by {estimator}"):
            pass
    print(f"{folder}: {len(missing)} flow files written, {len(paths) - len(missing)} were there already")


def _is_whole(path: Path, size: tuple[int, int]) -> bool:
    """Whether a file of this size is there; false if it is torn. Raises `DataError` if it has another size."""
    if not path.exists():
        return False
    try:
        found = probe(path)
    except DataError:
        return False
    if found != tuple(size):
        raise DataError(
            f"this flow is {found[0]}×{found[1]}, asked for is {size[0]}×{size[1]} (height×width)",
            where=path,
            mend="give another folder with --out, the same --size as before, or delete the old files",
        )
    return True
