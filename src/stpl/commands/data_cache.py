"""`stpl data cache`: frames and flow at training size, ready to be read."""

from __future__ import annotations

from pathlib import Path

from stpl.option_types import Natural, Size


def data_cache(
    dataset: str,
    *,
    root: Path = Path("data"),
    split: str = "train",
    size: Size | None = None,
    frame_list: Path | None = None,
    flow: bool = True,
    estimator: str = "dis",
    workers: Natural = 0,
) -> None:
    """Keep frames and estimated flow of one split at training size.

    A run with `data.init_args.cache: true` reads them (and makes what is missing). Call again to go on after a stop.

    Args:
        dataset: name of the data set, or of a module of your own that declares one; a wrong name lists all.
        root: folder that holds the data sets' own folders.
        split: one of the data set's splits, e.g. train or val.
        size: height and width; the data set's training size if not given.
        frame_list: text file that names the current frames, for a run that uses one.
        flow: keep estimated flow, too.
        estimator: of the flow, as `data.flow_estimator` of a run: dis, raft, raft_small, or package.module.Class.
        workers: threads; 0 for one a core.
    """
    from stpl.data.sequence_cache import cache_folder, open_cache
    from stpl.data.sequence_set import open_set

    files = open_set(root, dataset, split, frame_list=frame_list, size=size)
    open_cache(files, estimator if flow else None, workers)
    print(f"{len(files)} clips are kept in {cache_folder(files)}")
