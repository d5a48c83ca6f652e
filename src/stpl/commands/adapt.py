"""`stpl adapt`: a network and unlabelled video in, an adapted one out."""

from pathlib import Path
from typing import Annotated

from stpl.apply.origin import NetworkOrigin
from stpl.apply.settings import AdaptationSettings
from stpl.arguments import Short


def adapt(
    *,
    video: Path | list[Path],
    network: Annotated[NetworkOrigin, Short("network", "builder", "classes", "size")],
    output: Path | None = None,
    settings: AdaptationSettings,
    film: bool = False,
) -> None:
    """Adapt a network to unlabelled video, without source data and without labels.

    The start, the start with renewed statistics and the networks on the way are compared without labels, and the last
    that can be trusted is kept: the start itself if nothing is better. Writes `adapted.ckpt` and `index.html` (what was
    done and what came of it) into the output folder; for a network of your own also `adapted.pt`, its state dict under
    its own names, or for one of Hugging Face the folder `adapted`. Called again after an interruption, it goes on from
    the last checkpoint; called again with another `--take`, it trains nothing again.

    Args:
        video: a video file or a folder of images, or a list of them.
        network: the network to adapt.
        output: folder to write into; `runs/video/<name of the video>/seed<k>` if not given.
        settings: how to adapt it.
        film: also write `side_by_side.webm`: input, before and after of the first 200 frames.
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

    adapt_and_show(network, videos, folder, settings, film)
