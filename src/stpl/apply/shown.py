"""What `stpl adapt` shows on its way, and what it leaves to look at."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from stpl.apply.adapt import FLOW, Stage, adapt_to, affordable
from stpl.apply.film import film
from stpl.apply.loaded import LoadedNetwork, open_network
from stpl.apply.origin import NetworkOrigin
from stpl.apply.page import write_page
from stpl.apply.settings import SIDE_BY_SIDE, AdaptationSettings
from stpl.data.flow.flow_cache import FlowCache
from stpl.nn import weights
from stpl.nn.checkpoint_files import located
from stpl.progress import Progress

_FILMED = 200  # frames of each video that are shown side by side


def adapt_and_show(origin: NetworkOrigin, videos: Sequence[Path], folder: Path, settings: AdaptationSettings) -> None:
    """Adapt a network, with progress on stderr, and write the page and the video of the change.

    Args:
        origin: of the network.
        videos: to adapt to.
        folder: to write into.
        settings: how.
    """
    if origin.checkpoint is None:
        _adapt_and_show(open_network(origin), videos, folder, settings)
        return
    with weights.read_once(located(origin.checkpoint).absolute()):
        _adapt_and_show(open_network(origin), videos, folder, settings)


def _adapt_and_show(network: LoadedNetwork, videos: Sequence[Path], folder: Path, settings: AdaptationSettings) -> None:
    estimate = affordable(network, settings, folder)
    print(f"estimate: {estimate}, {estimate.batch_size} clips a step", file=sys.stderr)
    settings = replace(settings, batch_size=estimate.batch_size)
    found = adapt_to(network, videos, folder, settings, _Lines())
    print(f"verdict: {found.verdict.reason}", file=sys.stderr)
    print(f"adapted: {found.checkpoint}", file=sys.stderr)
    if found.weights is not None:
        print(f"weights: {found.weights}", file=sys.stderr)
    networks = {f"before: {network.name}": network, "after": found.network}
    written = found.folder / SIDE_BY_SIDE
    flow = FlowCache(found.folder / FLOW, network.flow_estimator)
    film(networks, videos, written, stride=settings.stride, limit=_FILMED, flow=flow)
    print(f"video:   {written}", file=sys.stderr)
    print(f"page:    {write_page(found, videos, settings, written)}", file=sys.stderr)


class _Lines:
    """How far each stage is, on stderr."""

    def __init__(self) -> None:
        self.progress: Progress | None = None

    def __call__(self, stage: Stage) -> None:
        """Show a step."""
        if self.progress is None or self.progress.title != stage.name:
            self.progress = Progress(stage.name, stage.total, stage.done - 1)
        self.progress.add(stage.done - self.progress.done)
