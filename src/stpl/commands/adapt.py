"""`stpl adapt`: a network and unlabelled video in, an adapted one out; how well its guard chooses."""

from pathlib import Path
from typing import Annotated

from stpl.apply.origin import NetworkOrigin
from stpl.apply.settings import RECOMMENDED, AdaptationSettings
from stpl.arguments import Short
from stpl.option_types import Count


def adapt(
    *,
    video: Path | list[Path],
    network: Annotated[NetworkOrigin, Short("network", "builder", "classes", "size")],
    output: Path | None = None,
    settings: AdaptationSettings,
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
        settings: how to adapt it.
    """
    from stpl.apply.option_values import check_size
    from stpl.apply.settings import BENCH, check_outputs, run_name
    from stpl.data.videos.stream import check_footage
    from stpl.runs.folder import is_fresh
    from stpl.runs.record import RunKey, runs_root

    videos = video if isinstance(video, list) else [video]
    check_size(network.size, settings.batch_size)
    check_footage(videos, stride=settings.stride)
    folder = output or RunKey(BENCH, run_name(videos), settings.seed).directory(runs_root())
    is_fresh(folder)
    check_outputs(folder)
    from stpl.apply.library import adapt_and_show  # imports torch, which takes seconds

    adapt_and_show(network, videos, folder, settings)


def adapt_guard(
    *, experiment: str = RECOMMENDED, runs: Path = Path("runs"), clips: Count | None = None, json: Path | None = None
) -> None:
    """Have the guard choose among the networks that recorded runs on streets kept, and compare its choices by labels.

    The guard sees frames of the training drives, without labels, as many as in `stpl adapt`; mIoU is that of the
    evaluation drives. Record the runs with `stpl sweep recommended`.

    Args:
        experiment: whose runs, with `run.keep_all`.
        runs: folder of all runs.
        clips: how many the guard sees; as many as in `stpl adapt` if not given.
        json: file for the figures.
    """
    from stpl.apply.guard_quality import show_choices

    show_choices(experiment, runs, clips, json)
