"""`stpl predict --video`: what a network makes of footage, frame by frame, as images of classes and as a video.

What options, paths and footage decide is refused here, before torch is imported.
"""

from __future__ import annotations

import sys
from pathlib import Path

from stpl.apply.out_folder import check_out, filled
from stpl.apply.source import NetworkSource


def label_video(
    video: Path | list[Path],
    out: Path,
    checkpoint: Path | None = None,
    model: str | None = None,
    size: tuple[int, int] | None = None,
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
        checkpoint: the network, as `stpl fit` or `stpl adapt` wrote it; `streets` is one that the package ships.
        model: in place of it: `package.module:callable`, `hf:` with a folder or a name, or a YAML file that says more
            (see docs/own.md). With `checkpoint`: what builds the network, if it is one of your own.
        size: height and width the network sees; what the checkpoint was trained at if not given.
        stride: take every stride-th frame.
        rate: in place of a stride: frames a second to take.
        ids: write images of ids.
        colors: write palette images.
        overlay: write the video, for which frames of several videos must have one size.
    """
    from stpl.data.video.video_source import check_footage, one_size

    source = NetworkSource(checkpoint, model, size=size)
    check_out(out)
    sources = check_footage(video if isinstance(video, list) else [video], stride=stride, rate=rate)
    if overlay:
        one_size(sources, "the overlay", "label them one by one, or leave the overlay out: --overlay=false")

    from stpl.apply.label_files import write_labels
    from stpl.apply.model import open_model
    from stpl.apply.resources import check_prediction

    network = open_model(source)
    check_prediction(network.options.space.num_classes, network.frame_size)
    with filled(out) as folder:
        written = write_labels(network, sources, folder, ids=ids, colors=colors, film=overlay)
    print(f"wrote {written} frames to {out}", file=sys.stderr)
