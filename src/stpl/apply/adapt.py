"""`stpl adapt`: a trained network and an unlabelled video in; an adapted network and a video of the difference out."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from stpl.apply.film import film
from stpl.errors import StplError
from stpl.nn import weights
from stpl.runs.build import build
from stpl.runs.fit import begin, run
from stpl.runs.record import RunLock
from stpl.runs.request import as_text

_MOST_LETTERS = 100


def adapt(
    checkpoint: Path,
    video: Path,
    output: Path | None = None,
    experiment: str = "stpl",
    steps: int = 80,
    lr: float = 6e-5,
    batch_size: int = 4,
    size: tuple[int, int] | None = None,
    stride: int = 1,
    seed: int = 0,
) -> None:
    """Adapt a checkpoint to an unlabelled video, without source data and without labels.

    Writes `adapted.ckpt` (the last step) and `side_by_side.webm` (input, before, after) into the output folder. Called
    again after an interruption, it goes on from the last checkpoint.

    Args:
        checkpoint: the network to adapt, as `stpl fit` wrote it; `streets` or `streets:3` are source models of the
            embedded benchmark that the package ships.
        video: a video file or a folder of images.
        output: folder to write into; `runs/video/<name of the video>/seed<k>` if not given.
        experiment: which method; a name in experiments/tables.yaml.
        steps: training steps.
        lr: learning rate of the network; new modules learn ten times faster.
        batch_size: clips a step.
        size: height and width the network sees, and to which images of any size are resized; the size the checkpoint
            was trained at if not given.
        stride: take every stride-th frame.
        seed: decides the order of clips and their augmentation.
    """
    options = weights.describe(checkpoint)
    size = size or weights.frame_size(checkpoint)
    settings: dict[str, object] = {
        "run.experiment": _run_name(video),
        "run.base": experiment,
        "seed_everything": seed,
        **as_text("model.init_args.checkpoint", checkpoint),
        **as_text("data.init_args.path", video),
        "data.init_args.size": list(size),
        "data.init_args.stride": stride,
        "data.init_args.loading.batch_size": batch_size,
        "optimizer.lr": lr,
        "trainer.max_steps": steps,
        "trainer.val_check_interval": steps,
        **{f"network.{name}": value for name, value in options.to_dict().items()},
    }
    if output is not None:
        settings |= as_text("run.directory", output)
    arguments = [f"--{name}={value}" for name, value in settings.items()]
    cli, _ = build(["--bench=video", f"--experiment={experiment}", *arguments])
    directory = cli.recorder.directory
    with RunLock(directory):
        begin(cli)
        run(cli)
        _copy(cli.recorder.last_checkpoint, directory / "adapted.ckpt")
    print(f"adapted: {directory / 'adapted.ckpt'}", file=sys.stderr)
    titles = {f"before: {checkpoint.parent.parent.parent.name or checkpoint.name}": checkpoint}
    film(
        titles | {"after": directory / "adapted.ckpt"}, video, directory / "side_by_side.webm", size=size, stride=stride
    )
    print(f"video:   {directory / 'side_by_side.webm'}", file=sys.stderr)


def _run_name(video: Path) -> str:
    """The video's name, without what cannot be in the name of a run."""
    name = re.sub(r"^\.+|[^\w .=,+()-]", "_", video.resolve().stem)[:_MOST_LETTERS].strip()
    return name or "video"


def _copy(source: Path, target: Path) -> None:
    partial = target.with_suffix(".partial")
    try:
        shutil.copy(source, partial)
        partial.replace(target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StplError(f"cannot be written: {error.strerror}", where=target, mend="free some space") from error
