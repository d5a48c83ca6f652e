"""`stpl predict --video`: what a network makes of footage, frame by frame, as images of classes and as a video.

What options, paths and footage decide is refused here, before torch is imported.
"""

from __future__ import annotations

import sys
from pathlib import Path

from stpl.apply.origin import NetworkOrigin
from stpl.apply.out_folder import check_out, filled


def label_video(
    video: Path | list[Path],
    out: Path,
    network: NetworkOrigin,
    stride: int = 1,
    rate: float | None = None,
    ids: bool = True,
    colors: bool = True,
    overlay: bool = True,
) -> None:
    """Label every frame of a video: images of class ids, the same in the classes' colours, and a video of both.

    Writes `ids/000123.png` (8 bit, train ids), `colors/000123.png` (palette PNG: its values are the ids),
    `overlay.webm` and `classes.json` into `out`. Frames stream: memory does not grow with the video.

    Args:
        video: a video file or a folder of images, or a list of them, one after the other.
        out: folder to write into, empty or absent; it is filled when all is written.
        network: the network to predict with.
        stride: take every stride-th frame.
        rate: in place of a stride: frames a second to take.
        ids: write images of ids.
        colors: write palette images.
        overlay: write the video, for which frames of several videos must have one size.
    """
    from stpl.data.videos.video_source import check_footage, one_size

    check_out(out)
    sources = check_footage(video if isinstance(video, list) else [video], stride=stride, rate=rate)
    if overlay:
        one_size(sources, "the overlay", "label them one by one, or leave the overlay out: --overlay=false")

    from stpl.apply.label_files import write_labels
    from stpl.apply.model import open_model
    from stpl.apply.resources import check_prediction

    model = open_model(network)
    check_prediction(model.options.space.num_classes, model.frame_size)
    with filled(out) as folder:
        written = write_labels(model, sources, folder, ids=ids, colors=colors, film=overlay)
    print(f"wrote {written} frames to {out}", file=sys.stderr)
