"""`stpl.load` and `stpl.adapt`: the suite from Python, with the defaults of the command line; and `stpl adapt`."""

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from torch import nn

from stpl.apply import option_values as values
from stpl.apply.loaded import LoadedNetwork, open_network
from stpl.apply.origin import NetworkOrigin
from stpl.apply.settings import BENCH, RECOMMENDED, SIDE_BY_SIDE, AdaptationSettings, run_name
from stpl.apply.stages import OnStage, Stage, ignored
from stpl.data.flow.flow_cache import FlowCache
from stpl.data.videos.stream import FrameStream, check_footage
from stpl.errors import ConfigError, shown
from stpl.nn import weights
from stpl.nn.checkpoint_files import located
from stpl.progress import Progress
from stpl.runs.record import RunKey, runs_root

if TYPE_CHECKING:  # what trains imports Lightning, which takes longer than torch: `load` needs none of it
    from stpl.apply.adapt import Adaptation
    from stpl.apply.resources import Estimate

File = str | os.PathLike[str]

__all__ = ["adapt", "load"]

_FILMED = 200  # frames of each video that are shown side by side


class OriginFields(TypedDict, total=False):
    """The fields of `NetworkOrigin` beside the network."""

    builder: str
    weights: File
    key: str
    arguments: Mapping[str, Any]
    features: str
    logits: str
    classes: File
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channels: str
    size: tuple[int, int]
    flow_estimator: str


def load(network: File | nn.Module, **fields: Unpack[OriginFields]) -> LoadedNetwork:
    """A network to predict with or to adapt.

    Args:
        network: a checkpoint, `streets` (a source model that the package ships), `package.module:callable`, which
            builds a network of your own, `hf:` with a folder or a name on the hub of Hugging Face, a YAML file that
            says all of this, or the network itself, which is copied and left as it is.
        **fields: `size`, `weights`, `classes`, `mean`, `std` and the others of `stpl.apply.origin.NetworkOrigin`.

    Raises:
        StplError: the network cannot be used; the message says what would mend it.
    """
    return open_network(_origin(network, **fields))


def _origin(network: File | nn.Module, **fields: Unpack[OriginFields]) -> NetworkOrigin:
    given: dict[str, Any] = {"network": network, **fields}
    return NetworkOrigin(**given)


def adapt(
    network: LoadedNetwork | File,
    video: File | Sequence[File],
    output: File | None = None,
    *,
    experiment: str = RECOMMENDED,
    steps: int = 80,
    lr: float | None = None,
    batch_size: int | None = None,
    stride: int = 1,
    seed: int = 0,
    precision: str | None = None,
    take: str | None = None,
    progress: OnStage | None = None,
) -> "Adaptation":
    """Adapt a network to unlabelled video, without source data and without labels.

    Args:
        network: as `load` gives it, or what `load` takes.
        video: a video file or a folder of images, or several.
        output: folder to write into; `runs/video/<name of the video>/seed<k>` if not given. Where an earlier call was
            interrupted, this one goes on.
        experiment: which method; a name in experiments/tables.yaml.
        steps: training steps.
        lr: learning rate; the method's own if not given.
        batch_size: clips a step; the most of 4, 2 and 1 that fits into memory if not given.
        stride: take every stride-th frame.
        seed: decides the order of clips and their augmentation.
        precision: of training, 32-true, bf16-mixed or 16-mixed; chosen from the hardware if not given.
        take: return start, original, augmented, statistics or step40, say, whatever the guard says.
        progress: called after every step with a `Stage`.

    Returns:
        The network to use, and what was found on the way.

    Raises:
        StplError: for a network, a video or a setting that cannot be used.
    """
    videos = _paths(video)
    on_stage: Any = progress
    if on_stage is not None and not callable(on_stage):
        mend = "give a function, or leave it out"
        raise ConfigError(f"{shown(on_stage)} cannot be called", where="progress", mend=mend)
    settings = AdaptationSettings(experiment, steps, lr, batch_size, stride, seed, precision, take)
    written = RunKey(BENCH, run_name(videos), seed).directory(runs_root()) if output is None else output
    folder = values.path(written, "output", "a folder to write into").absolute()
    videos = [one.absolute() for one in videos]  # the program may change its working directory meanwhile
    opened = network if isinstance(network, LoadedNetwork) else _origin(network)
    check_footage(videos, stride=stride)
    loaded = opened if isinstance(opened, LoadedNetwork) else open_network(opened)
    from stpl.apply.adapt import adapt_to
    from stpl.apply.page import write_page

    found = adapt_to(loaded, videos, folder, settings, on_stage or ignored)
    write_page(found)
    return found


def _paths(video: File | Sequence[File]) -> list[Path]:
    """The videos; raises `ConfigError` for frames, and for none at all."""
    what = "a video file or a folder of images"
    if isinstance(video, str | os.PathLike):
        return [values.path(video, "video", what)]
    several = isinstance(video, Sequence) and not isinstance(video, bytes)
    if not several or not video:
        found = "no video is given" if several else f"{shown(video)} is no path"
        raise ConfigError(found, where="video", mend=f"give the path of {what}, or a list of them")
    for one in video:
        if hasattr(one, "shape"):
            mend = "write the frames as images into a folder, and give its path"
            raise ConfigError("frames are given, not a path", where="video", mend=mend)
    return [values.path(one, "video", what) for one in video]


def adapt_and_show(
    origin: NetworkOrigin, videos: Sequence[Path], folder: Path, settings: AdaptationSettings, filmed: bool
) -> None:
    """Adapt a network, with progress on stderr, and write the page and, if asked for, the video of the change."""
    from stpl.apply.adapt import FLOW, adapt_to
    from stpl.apply.labelling import film
    from stpl.apply.page import write_page

    say, lines, checkpoint = partial(print, file=sys.stderr), dict[str, Progress](), origin.checkpoint

    def on_estimate(estimate: "Estimate") -> None:
        say(f"estimate: {estimate}, {estimate.batch_size} clips a step")

    def on_stage(stage: Stage) -> None:
        line = lines.setdefault(stage.name, Progress(stage.name, stage.total, stage.done - 1))
        line.add(stage.done - line.done, "" if stage.left is None else f", about {stage.left:.0f} s left of all")

    with nullcontext() if checkpoint is None else weights.read_once(located(checkpoint).absolute()):
        network = open_network(origin)
        if network.proposal:
            say(f"features: {network.proposal}")
        found = adapt_to(network, videos, folder, settings, on_stage, on_estimate)
        say(f"verdict: {found.verdict.reason}")
        say(f"adapted: {found.checkpoint}")
        if found.weights is not None:
            say(f"weights: {found.weights}")
        written = found.folder / SIDE_BY_SIDE if filmed else None
        if written is not None:
            networks = {f"before: {network.name}": network, "after": found.network}
            sources = [FrameStream(path, stride=settings.stride, limit=_FILMED, as_first=True) for path in found.videos]
            film(networks, sources, written, flow=FlowCache(found.folder / FLOW))
            say(f"video:   {written}")
        say(f"page:    {write_page(found, written)}")
