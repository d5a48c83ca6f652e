"""`stpl video`: predictions side by side as a video that a browser plays, of recorded runs or of any video file.

What options, paths and footage decide is refused here, before torch is imported.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from stpl.apply.origin import NetworkOrigin, title_of
from stpl.apply.settings import Codec
from stpl.arguments import Short
from stpl.errors import ConfigError, unknown
from stpl.option_types import Amount, Count, Natural


def video(
    rows: list[str] | None = None,
    *,
    bench: str = "streets",
    seed: Natural = 0,
    video: Path | list[Path] | None = None,
    network: Annotated[list[NetworkOrigin] | None, Short("network", "size")] = None,
    output: Path | None = None,
    fps: Amount | None = None,
    stride: Count = 1,
    codec: Codec = "vp9",
    runs: Path = Path("runs"),
    experiments: Path | None = None,
) -> None:
    """Write input, label and predictions side by side as WebM.

    Of recorded runs (`stpl video source_only stpl`): the clips that each run kept in `samples.npz`. Of any video file
    (`stpl video --video=drive.mp4 --network=[a.ckpt,b.ckpt]`): what the networks predict on it.

    Args:
        rows: experiments of the benchmark, beside each other; source_only and stpl if none are given.
        bench: benchmark whose runs to show.
        seed: of the runs.
        video: a video file or a folder of images to predict on, or a list of them, instead of runs.
        network: networks of one label space to predict with; what is said beside their names is said of all.
        output: the .webm to write; runs/<bench>/report/side_by_side.webm, or side_by_side.webm beside the video.
        fps: frames a second; 2 for runs, the video's own otherwise.
        stride: take every stride-th frame of the video.
        codec: vp9 is smaller, vp8 is written four times faster.
        runs: folder of all runs.
        experiments: folder of your own overlays and tables.yaml, beside the shipped ones; ./experiments if not given.
    """
    if (video is None) != (not network) or (video is not None and rows):
        raise ConfigError(
            "a video file and networks belong together, and exclude rows",
            mend="give --video=FILE --network=[A,B], or names of experiments",
        )
    if video is not None and network:
        from stpl.data.videos.stream import FrameStream, check_footage

        videos = video if isinstance(video, list) else [video]
        sources = check_footage(videos, stride=stride)

        from stpl.apply.labelling import film
        from stpl.apply.loaded import open_network

        written = output or videos[0].parent / "side_by_side.webm"
        opened = dict(zip(_titles(network), map(open_network, network), strict=True))
        if network[0].size is None:  # then frames of several sizes are refused
            sources = [FrameStream(path, stride=stride) for path in videos]
        film(opened, sources, written, fps=fps, codec=codec)
    else:
        from stpl.runs.experiments import check_bench, check_runs, experiment_folders, load_catalogue
        from stpl.runs.record import RECORD, RunKey

        folders = experiment_folders(experiments)
        check_bench(bench, folders)
        check_runs(runs)
        shown, catalogue = rows or ["source_only", "stpl"], load_catalogue(folders)
        recorded = {path.parents[1].name for path in (runs / bench).glob(f"*/seed*/{RECORD}")}
        for row in shown:
            if row not in catalogue.experiments and row not in recorded:
                raise unknown("experiment", row, {*catalogue.experiments, *recorded})
        titles = catalogue.titles(bench)
        written = output or runs / bench / "report" / "side_by_side.webm"

        from stpl.apply.labelling import film_runs

        film_runs({titles.get(row, row): RunKey(bench, row, seed) for row in shown}, runs, written, fps, codec)
    print(f"video: {written}")


def _titles(networks: Sequence[NetworkOrigin]) -> list[str]:
    """A title for each: the experiment's name where a run wrote it, else the file's; its path where these are equal."""
    paths = [Path(str(one.network)) for one in networks]
    titles = [title_of(path) for path in paths]
    return [title if titles.count(title) == 1 else str(path) for title, path in zip(titles, paths, strict=True)]
