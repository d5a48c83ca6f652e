"""What `stpl adapt` shows on its way, and what it leaves to look at."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from stpl.apply.adaptation import FLOW, Outcome, Stage, adapt_to, affordable
from stpl.apply.film import film
from stpl.apply.model import Model, open_model
from stpl.apply.origin import NetworkOrigin
from stpl.apply.page import write_page
from stpl.apply.settings import SIDE_BY_SIDE, Settings
from stpl.data.flow.flow_cache import FlowCache
from stpl.progress import Progress

_FILMED = 200  # frames of each video that are shown side by side


def adapt_and_show(origin: NetworkOrigin, videos: Sequence[Path], folder: Path, settings: Settings) -> None:
    """Adapt a network, with progress on stderr, and write the page and the video of the change.

    Args:
        origin: of the network.
        videos: to adapt to.
        folder: to write into.
        settings: how.
    """
    model = open_model(origin)
    estimate = affordable(model, settings, folder)
    print(f"estimate: {estimate}, {estimate.batch_size} clips a step", file=sys.stderr)
    outcome = adapt_to(model, videos, folder, settings, _Lines(), estimate)
    _show(model, outcome, videos, settings)


def _show(model: Model, outcome: Outcome, videos: Sequence[Path], settings: Settings) -> None:
    """Write the page and the video, and say what came of it."""
    print(f"verdict: {outcome.verdict.reason}", file=sys.stderr)
    print(f"adapted: {outcome.checkpoint}", file=sys.stderr)
    if outcome.weights is not None:
        print(f"weights: {outcome.weights}", file=sys.stderr)
    networks = {f"before: {model.name}": model.adapted(outcome.start), "after": model.adapted(outcome.checkpoint)}
    written = outcome.folder / SIDE_BY_SIDE
    flow = FlowCache(outcome.folder / FLOW, model.flow_estimator)
    film(networks, videos, written, stride=settings.stride, limit=_FILMED, flow=flow)
    print(f"video:   {written}", file=sys.stderr)
    print(f"page:    {write_page(model, outcome, videos, settings, written)}", file=sys.stderr)


class _Lines:
    """How far each stage is, on stderr."""

    def __init__(self) -> None:
        self.progress: Progress | None = None

    def __call__(self, stage: Stage) -> None:
        """Show a step."""
        if self.progress is None or self.progress.title != stage.name:
            self.progress = Progress(stage.name, stage.total, stage.done - 1)
        self.progress.add(stage.done - self.progress.done)
