"""`stpl predict`: label images of footage, or of a benchmark's frames as the official Cityscapes evaluator reads them.

What options, paths and footage decide is refused here, before torch is imported.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from stpl.apply.origin import NetworkOrigin
from stpl.arguments import Command, Short, unknown_option
from stpl.errors import ConfigError
from stpl.option_types import Amount, Count


def predict(
    *settings: str,
    out: Path,
    network: Annotated[NetworkOrigin, Short("network", "builder", "classes", "size")],
    video: Path | list[Path] | None = None,
    bench: str | None = None,
    stride: Count = 1,
    rate: Amount | None = None,
    ids: bool = True,
    colors: bool | None = None,
    overlay: bool = True,
) -> None:
    """Label the frames of a video, or of a benchmark.

    Of a video: writes `ids/000123.png` (8 bit, train ids), `colors/000123.png` (palette PNG: its values are the ids),
    `overlay.webm` and `classes.json` into `out`. Frames stream: memory does not grow with the video.

    Of a benchmark (`--bench`, and settings as for `stpl fit`): writes the prediction for each evaluation frame, at the
    size of its label, as a PNG of Cityscapes label ids: `{city}_{sequence}_{frame}_pred_labelIds.png`, which
    `CITYSCAPES_RESULTS=DIR csEvalPixelLevelSemanticLabeling` finds. With `--colors=true` also `colors/color_*.png`,
    which it does not find.

    Args:
        settings: of a benchmark's run.
        out: folder to write into, empty or absent; it appears when all is written.
        network: the network to predict with.
        video: a video file or a folder of images, or a list of them, one after the other.
        bench: benchmark whose evaluation frames to label instead.
        stride: take every stride-th frame of a video.
        rate: in place of a stride: frames a second to take.
        ids: write images of ids.
        colors: write palette images; those of a video if not given.
        overlay: write the video, for which frames of several videos must have one size.
    """
    if video is None:
        size = network.size if network.kind == "checkpoint" else None
        of_video = {"size": size, "stride": stride != 1, "rate": rate, "ids": not ids, "overlay": not overlay}
        for name in (name for name, given in of_video.items() if given):
            raise ConfigError("does nothing without --video", where=f"--{name}", mend="leave it out, or give --video")
        _label_benchmark(settings, bench, network, out, colors=colors is True)
        return
    for stray in (*settings, *(["--bench"] if bench else [])):
        raise unknown_option(stray, Command(predict, "").options, "stpl predict")
    from stpl.apply.out_folder import check_out, filled
    from stpl.data.videos.stream import check_footage, one_size

    check_out(out)
    sources = check_footage(video if isinstance(video, list) else [video], stride=stride, rate=rate)
    if overlay:
        one_size(sources, "the overlay", "label them one by one, or leave the overlay out: --overlay=false")

    from stpl.apply.labelling import write_labels
    from stpl.apply.loaded import open_network
    from stpl.apply.resources import check_prediction

    model = open_network(network)
    check_prediction(model.options.space.num_classes, model.frame_size)
    asked = {"ids": ids, "colors": colors is not False, "overlay": overlay}
    with filled(out) as folder:
        written = write_labels(model, sources, folder, {name for name, wanted in asked.items() if wanted})
    print(f"wrote {written} frames to {out}", file=sys.stderr)


def _label_benchmark(
    settings: Sequence[str], bench: str | None, network: NetworkOrigin, out: Path, *, colors: bool
) -> None:
    if bench is None:
        mend = "give it; with --video=FILE footage is labelled, see `stpl predict --help`"
        raise ConfigError("is missing", where="--bench", mend=mend)
    from stpl.apply.out_folder import check_out

    check_out(out)
    from stpl.apply.benchmark_labels import label_benchmark
    from stpl.apply.loaded import as_checkpoint
    from stpl.runs.request import Request

    with as_checkpoint(network) as named:
        label_benchmark(Request.parse([f"--bench={bench}", *settings, *named]), out, colors)
