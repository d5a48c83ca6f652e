"""Clips a second that loader processes deliver from the memory-mapped cache."""

from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.utils.benchmark import Timer, timer
from torch.utils.data import DataLoader

from benchmarks import cuda
from benchmarks.data import drawn
from benchmarks.measure import Figures, run, table
from stpl.data.augment import CrossFrameAugmentation
from stpl.data.augment_device import augment
from stpl.data.clip import BACKWARD, Wants, collate
from stpl.data.label_space import VIPER_15
from stpl.data.loading import begin_process
from stpl.data.sequence import SequenceClips, open_cache
from stpl.data.sequence_set import open_set
from stpl.data.steps import StepSampler, TrainingClips
from stpl.machine import cores

_SEED = 0
_DRAWN = 4  # clips, where there is no folder of them


def loader(
    root: Path | None = None,
    size: tuple[int, int] | None = None,
    workers: tuple[int, ...] = (1, 2, 4, 8),
    steps: int = 96,
    device: str = "cpu",
) -> Figures:
    """Clips a second by the number of loader processes, with the second view made by them, and made on the device.

    Args:
        root: folder that holds Cityscapes, whose cache is used (and made where it is missing); a drawn one if none.
        size: height and width of the frames; the training size if not given.
        workers: numbers of processes to try; those beyond the cores of this machine are left out.
        steps: batches of one clip that are timed, once all processes have delivered.
        device: cpu or cuda: where batches go, and where the second view is made in the second column.
    """
    place = cuda.check_device(device)
    with TemporaryDirectory() as folder:
        if root is None:
            root = drawn("cityscapes", Path(folder), _DRAWN, (128, 256))  # small: the cache has the size below
        files = open_set(root, "cityscapes", "train", size=size)
        reader = SequenceClips(files, VIPER_15, cache=open_cache(files))
        counts = [number for number in workers if number <= len(cores())]
        views = {"workers": Wants(flows=(BACKWARD,), augmented=True), "device": Wants(flows=(BACKWARD,))}
        paces = {
            on: {str(number): _pace(reader, wants, number, steps, place) for number in counts}
            for on, wants in views.items()
        }
        view = _view_seconds(reader.read(0, Wants()).frames.to(place))
    rows = [[number, *(f"{paces[on][number]:.1f}" for on in paces)] for number in paces["workers"]]
    height, width = files.size
    header = ["processes", "clips/s, second view by them", "clips/s, second view on the device"]
    print(table(f"loading clips of Cityscapes at {height}×{width} from the cache", header, rows))
    print(f"\nthe second view of a clip on {device}: {1000 * view:.2f} ms")
    return {"size": list(files.size), "cores": len(cores()), "clips_per_second": paces, "seconds_second_view": view}


def _pace(reader: SequenceClips, wants: Wants, workers: int, steps: int, place: torch.device) -> float:
    """Clips a second, moved to the device."""
    warm = 4 * workers
    batches = DataLoader(
        TrainingClips(reader, wants, CrossFrameAugmentation(), _SEED),
        batch_sampler=StepSampler(len(reader), seed=_SEED, start=0, steps=warm + steps, batch_size=1),
        collate_fn=collate,
        num_workers=workers,
        worker_init_fn=begin_process,
        pin_memory=place.type == "cuda",
    )
    start = 0.0
    for number, batch in enumerate(batches):
        if number == warm:
            start = timer()
        batch.to(place)
    return (steps - 1) / (timer() - start)


def _view_seconds(frames: torch.Tensor) -> float:
    """Seconds of the second view on the frames' device, on the mean over many draws."""
    names = {"augment": augment, "by": CrossFrameAugmentation(), "frames": frames, "seeds": count()}
    return Timer("augment(by, frames, next(seeds))", globals=names).timeit(24).median


if __name__ == "__main__":
    run(loader)
