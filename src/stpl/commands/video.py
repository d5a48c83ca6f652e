"""`stpl video`: predictions side by side as a video that a browser plays, of recorded runs or of any video file.

What options, paths and footage decide is refused here, before torch is imported; `stpl.apply.film` writes the video.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stpl.apply.settings import Codec
from stpl.errors import ConfigError
from stpl.option_types import Amount, Count, Natural, Size


def video(
    rows: list[str] | None = None,
    *,
    bench: str = "streets",
    seed: Natural = 0,
    video: Path | list[Path] | None = None,
    checkpoints: list[Path] | None = None,
    output: Path | None = None,
    fps: Amount | None = None,
    size: Size | None = None,
    stride: Count = 1,
    codec: Codec = "vp9",
    model: str | None = None,
    runs: Path = Path("runs"),
    experiments: Path | None = None,
) -> None:
    """Write input, label and predictions side by side as WebM.

    Of recorded runs (`stpl video source_only stpl`): the clips that each run kept in `samples.npz`. Of any video file
    (`stpl video --video=drive.mp4 --checkpoints=[a.ckpt,b.ckpt]`): what the checkpoints predict on it.

    Args:
        rows: experiments of the benchmark, beside each other; source_only and stpl if none are given.
        bench: benchmark whose runs to show.
        seed: of the runs.
        video: a video file or a folder of images to predict on, or a list of them, instead of runs.
        checkpoints: networks of one label space to predict with.
        output: the .webm to write; runs/<bench>/report/side_by_side.webm, or side_by_side.webm beside the video.
        fps: frames a second; 2 for runs, the video's own otherwise.
        size: height and width the networks see; what the first checkpoint was trained at if not given. With it, images
            of a folder may differ in size.
        stride: take every stride-th frame of the video.
        codec: vp9 is smaller, vp8 is written four times faster.
        model: what builds the network, where the checkpoints are of one of your own: see `stpl adapt`.
        runs: folder of all runs.
        experiments: folder of your own overlays and tables.yaml, beside the shipped ones; ./experiments if not given.

    Raises:
        StplError: for an unknown name, a run without samples, runs on different clips, or a file that cannot be used.
    """
    if (video is None) != (not checkpoints) or (video is not None and rows):
        raise ConfigError(
            "a video file and checkpoints belong together, and exclude rows",
            mend="give --video=FILE --checkpoints=[A,B], or names of experiments",
        )
    if video is not None and checkpoints:
        videos = video if isinstance(video, list) else [video]
        written = _film(videos, checkpoints, output, size, stride, fps, codec, model)
    else:
        from stpl.runs.experiments import check_bench, check_runs, experiment_folders, load_catalogue
        from stpl.runs.record import RunKey

        folders = experiment_folders(experiments)
        check_bench(bench, folders)
        check_runs(runs)
        shown, catalogue = rows or ["source_only", "stpl"], load_catalogue(folders)
        written = output or runs / bench / "report" / "side_by_side.webm"

        from stpl.apply.film import film_runs
        from stpl.runs.samples import SAMPLE_FPS

        film_runs(
            shown,
            RunKey(bench, shown[0], seed),
            catalogue,
            runs,
            written,
            fps=SAMPLE_FPS if fps is None else fps,
            codec=codec,
        )
    print(f"video: {written}")


def _film(
    videos: Sequence[Path],
    checkpoints: Sequence[Path],
    output: Path | None,
    size: tuple[int, int] | None,
    stride: int,
    fps: float | None,
    codec: Codec,
    model: str | None,
) -> Path:
    """Write the video of checkpoints on footage; where it lies."""
    from stpl.data.video_source import check_footage

    check_footage(videos, stride=stride)

    from stpl.apply.film import film
    from stpl.apply.source import builder_of

    written = output or videos[0].parent / "side_by_side.webm"
    build = None if model is None else builder_of(model)
    film(_titled(checkpoints), videos, written, size=size, stride=stride, fps=fps, codec=codec, build=build)
    return written


def _titled(checkpoints: Sequence[Path]) -> dict[str, Path]:
    """A title for each: the experiment's name where a run wrote it, else the file's; its path where these are equal."""
    titles = [
        path.parent.parent.parent.name if path.parent.name == "checkpoints" else path.stem for path in checkpoints
    ]
    unique = [title if titles.count(title) == 1 else str(path) for title, path in zip(titles, checkpoints, strict=True)]
    return dict(zip(unique, checkpoints, strict=True))
