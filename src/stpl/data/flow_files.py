"""`stpl data flow`: the flow files of a data set, as the DA-VSN lineage names them, from frames on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stpl.data import flow as optical_flow
from stpl.data.flow_estimator import Estimator, EstimatorName, open_estimator
from stpl.data.parallel import each
from stpl.data.sequence_set import ClipFiles, SequenceSet
from stpl.errors import DataError

_BATCH = {"dis": 1, "raft": 4, "raft_small": 4}  # its correlation volume takes 1.1 GB a pair at 720×1280


def write_flow(clips: SequenceSet, folder: Path, estimator: EstimatorName, suffix: str, workers: int = 0) -> int:
    """Write backward flow of the clips whose file is missing or torn; how many were written.

    Args:
        clips: of a data set.
        folder: to write to.
        estimator: name of the estimator.
        suffix: of the files: npy, flo or png.
        workers: threads; 0 for one a core.
    """
    missing = [clip for clip in clips.clips if not _is_whole(flow_path(folder, clip, suffix), clips.size)]
    batches = [missing[start : start + _BATCH[estimator]] for start in range(0, len(missing), _BATCH[estimator])]
    if batches:
        job = _Job(clips, folder, suffix, open_estimator(estimator))
        for _ in each(job, batches, workers=workers, title=f"{clips.name} {clips.split}: flow by {estimator}"):
            pass
    return len(missing)


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
