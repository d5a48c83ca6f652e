"""`stpl adapt`: a trained network and unlabelled video in; an adapted one, a page and a video of the change out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from stpl.apply.origin import NetworkOrigin
from stpl.apply.settings import RECOMMENDED
from stpl.arguments import Short
from stpl.option_types import Amount, Count, Natural


def adapt(
    *,
    video: Path | list[Path],
    network: Annotated[NetworkOrigin, Short("network", "builder", "classes", "size")],
    output: Path | None = None,
    experiment: str = RECOMMENDED,
    steps: Natural = 80,
    lr: Amount | None = None,
    batch_size: Count | None = None,
    stride: Count = 1,
    seed: Natural = 0,
    precision: str | None = None,
) -> None:
    """Adapt a network to unlabelled video, without source data and without labels.

    Networks on the way are scored without labels, and the best is kept: the start itself if nothing is better. Writes
    `adapted.ckpt`, `index.html` (what was done and what came of it) and `side_by_side.webm` (input, before and after of
    the first 200 frames) into the output folder; for a network of your own also `adapted.pt`, its state dict under its
    own names, or for one of Hugging Face the folder `adapted`. Called again after an interruption, it goes on from the
    last checkpoint.

    Args:
        video: a video file or a folder of images, or a list of them.
        network: the network to adapt.
        output: folder to write into; `runs/video/<name of the video>/seed<k>` if not given.
        experiment: which method; a name in experiments/tables.yaml.
        steps: training steps.
        lr: learning rate of the network; the method's own if not given.
        batch_size: clips a step; the most of 4, 2 and 1 that fits into memory if not given.
        stride: take every stride-th frame.
        seed: decides the order of clips and their augmentation.
        precision: of training, 32-true, bf16-mixed or 16-mixed; chosen from the hardware if not given.
    """
    from stpl.apply.memory import check_size
    from stpl.apply.settings import BENCH, AdaptationSettings, check_outputs, run_name
    from stpl.data.videos.video_source import check_footage
    from stpl.runs.folder import is_fresh
    from stpl.runs.record import RunKey, runs_root

    videos = video if isinstance(video, list) else [video]
    settings = AdaptationSettings(experiment, steps, lr, batch_size, stride, seed, precision)
    folder = output or RunKey(BENCH, run_name(videos), seed).directory(runs_root())
    check_size(network.size, settings.batch_size)
    check_footage(videos, stride=stride)
    is_fresh(folder)
    check_outputs(folder)
    from stpl.apply.shown import adapt_and_show  # imports torch, which takes seconds

    adapt_and_show(network, videos, folder, settings)
