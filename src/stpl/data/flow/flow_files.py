"""`stpl data flow`: the flow files of a data set, as the DA-VSN lineage names them, from frames on disk."""

from collections.abc import Sequence
from pathlib import Path

from stpl.data.flow.estimators import estimator_class, open_estimator
from stpl.data.flow.flow_formats import probe, write
from stpl.data.parallel import each
from stpl.data.sequence_set import SequenceSet
from stpl.errors import DataError


def write_flow(files: SequenceSet, folder: Path, estimator: str, suffix: str, workers: int = 0) -> int:
    """Write backward flow of the clips whose file is missing or torn; how many were written.

    Args:
        files: of a data set.
        folder: to write to.
        estimator: see `estimator_class`.
        suffix: of the files: npy, flo or png.
        workers: threads; 0 for one a core.
    """
    names = (Path(files.flow_name(index)) for index in range(len(files)))
    paths, at_once = [folder / name.with_suffix(f".{suffix}") for name in names], estimator_class(estimator).batch
    missing = [place for place, path in enumerate(paths) if not _is_whole(path, files.size)]
    batches = [missing[start : start + at_once] for start in range(0, len(missing), at_once)]
    if batches:
        estimate = open_estimator(estimator)

        def write_batch(places: Sequence[int]) -> None:
            frames = [[files.read_frame(path) for path in files.frame_pair(place)] for place in places]
            found = estimate([(later, earlier) for earlier, later in frames])
            for place, flow in zip(places, found, strict=True):
                write(paths[place], flow)

        each(write_batch, batches, workers=workers, title=f"{files.name} {files.split}: flow by {estimator}")
    return len(missing)


def _is_whole(path: Path, size: tuple[int, int]) -> bool:
    """Whether a file of this size is there; false if it is torn. Raises `DataError` if it has another size."""
    if not path.exists():
        return False
    try:
        found = probe(path)
    except DataError:
        return False
    if found != tuple(size):
        what = f"this flow is {found[0]}×{found[1]}, asked for is {size[0]}×{size[1]} (height×width)"
        mend = "give another folder with --out, the same --size as before, or delete the old files"
        raise DataError(what, where=path, mend=mend)
    return True
