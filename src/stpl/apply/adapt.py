"""Adaptation as a library call: a network and video in; candidates trained and scored, the best of them out.

`adapt_to` is what `stpl.adapt` and `stpl adapt` call. Everything is written into one folder; called again after an
interruption, it goes on from there.
"""

import json
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import LambdaCallback
from torch import nn

from stpl.apply.guard import KINDS, Candidate, Looked, Verdict, choose, judged, look, renewed
from stpl.apply.loaded import LoadedNetwork, load_network
from stpl.apply.out_folder import signals_raise
from stpl.apply.resources import Estimate, estimate, fitting
from stpl.apply.settings import ADAPTED, BENCH, LOOKED, VERDICT, AdaptationSettings, check_outputs, run_name
from stpl.apply.stages import Clock, OnStage, ignored
from stpl.data.clip import BACKWARD, Clip, Wants, collate
from stpl.data.datamodule import ClipDataModule
from stpl.data.videos.video_clips import spread_places
from stpl.errors import CheckpointError, ConfigError
from stpl.files import whole_file, write_atomically
from stpl.nn import weights
from stpl.nn.accel import Accel
from stpl.nn.batchnorm import batchnorm_layers
from stpl.nn.generators import generators_kept
from stpl.runs.build import SuiteCLI, build_request
from stpl.runs.fit import begin, run
from stpl.runs.folder import START, run_folder
from stpl.runs.identity import check_mark, flat_settings, kept_settings
from stpl.runs.request import Request
from stpl.runs.trainer import callbacks_of

STATISTICS = "statistics"
"""Folder of the start with renewed statistics, in that of an adaptation."""

_LOOKS, _RENEWS = "looking", "renewing statistics"  # kinds of work
_RENEWED = 16  # clips from which statistics are renewed, as many of augmented frames
_EVALUATED = 4  # clips that the run itself evaluates: the guard looks at its networks, on frames of its own

FLOW = "flow"
"""Folder of estimated flow and of indices of videos, in that of an adaptation."""

_TURN = threading.Lock()  # generators, determinism and signal handlers are the process's, not a thread's


@dataclass(frozen=True)
class Adaptation:
    """The result of an adaptation.

    Attributes:
        network: the network to use: adapted, or as it was if nothing was better.
        before: the network that it began with.
        videos: what it was adapted to.
        settings: how.
        folder: where everything lies.
        checkpoint: the network to use as a checkpoint, `adapted.ckpt`.
        weights: of a network of your own, the same in the form in which it came; else `None`.
        verdict: what the guard chose, from what, and why.
        estimate: of memory.
        looked: what the guard saw.
    """

    network: LoadedNetwork = field(repr=False, compare=False)
    before: LoadedNetwork = field(repr=False, compare=False)
    videos: Sequence[Path]
    settings: AdaptationSettings
    folder: Path
    checkpoint: Path
    weights: Path | None
    verdict: Verdict
    estimate: Estimate
    looked: Looked = field(repr=False, compare=False)

    @property
    def module(self) -> nn.Module:
        """The network itself, adapted: of a network of your own, what its callable builds."""
        return self.network.module


def adapt_to(
    network: LoadedNetwork,
    videos: Sequence[Path],
    folder: Path,
    settings: AdaptationSettings,
    on_stage: OnStage = ignored,
    on_estimate: Callable[[Estimate], None] = ignored,
) -> Adaptation:
    """Adapt a network to videos without labels and write the best candidate as `adapted.ckpt`.

    Two adaptations in two threads run one after the other; two into one folder are refused. `on_stage` is called after
    every step, `on_estimate` once before the first. Callers have checked the videos (`check_footage`).

    Raises:
        StplError: for a network, a video or a setting that cannot be used, or a full disk.
    """
    videos, folder = [video.absolute() for video in videos], folder.absolute()
    with signals_raise(), run_folder(folder), _TURN, _process_state_kept(), network.buildable():
        check_outputs(folder)
        begun = kept_settings(folder, folder / "checkpoints" / "last.ckpt")
        given = settings.batch_size or (begun and begun["data"]["init_args"]["loading"]["batch_size"])
        segmenter, sizes = network.accel.segmenter, [given] if given else [4, 2, 1]
        segmenter.check_trainable()
        needed = fitting(estimate(segmenter, network.frame_size, size) for size in sizes)
        on_estimate(needed)
        settings = replace(settings, batch_size=needed.batch_size)
        start = _start(network, folder, goes_on=begun is not None)
        name = begun["run"]["experiment"] if begun else run_name(videos)  # the video may be called otherwise by now
        runs = _Runs(network, start, videos, folder, settings, name, begun is not None)
        with weights.read_once(start):
            candidates, looked = runs.run(on_stage)
        verdict = choose(judged(candidates, looked.sights, network.classes), settings.take)
        chosen, checkpoint = verdict.chosen.checkpoint, folder / ADAPTED
        with chosen.open("rb") as content, whole_file(checkpoint) as file:
            shutil.copyfileobj(content, file)
        adapted = network.adapted(checkpoint)
        own = adapted.write_weights(folder)
        write_atomically(folder / VERDICT, json.dumps(_summary(verdict, settings.experiment), indent=2) + "\n")
    return Adaptation(adapted, network, videos, settings, folder, checkpoint, own, verdict, needed, looked)


@contextmanager
def _process_state_kept() -> Iterator[None]:
    """Leave generators of random numbers and the switch of determinism as they were: runs set both."""
    enabled, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    with generators_kept():
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(enabled, warn_only=warns)


def spread(data: ClipDataModule, count: int) -> tuple[list[int], list[Clip]]:
    """At most `count` clips of the target, spread evenly: their places, and they in batches, without a label."""
    reader, size = data.reader("train", "target"), data.loading.eval_batch_size
    places = list(spread_places(len(reader), count))
    clips = [reader.read(place, Wants(flows=(BACKWARD,))) for place in places]
    return places, [collate(clips[first : first + size]) for first in range(0, len(clips), size)]


@dataclass(frozen=True)
class _Runs:
    """The work of one adaptation: the statistics of the start, the training, and what the guard sees of both."""

    network: LoadedNetwork
    start: Path
    videos: Sequence[Path]
    folder: Path
    settings: AdaptationSettings
    name: str
    goes_on: bool

    def run(self, on_stage: OnStage) -> tuple[list[Candidate], Looked]:
        """All candidates, and what the guard sees of each.

        Each is loaded anew: a network of your own may keep more than weights from one pass to the next.
        """
        cli, steps = self._build(), self.settings.evaluated
        begin(cli)
        places, clips = spread(cli.datamodule, LOOKED)
        renews, experiment = bool(batchnorm_layers(self.network.accel)), self.settings.experiment
        work = {_LOOKS: 1 + 2 * renews + len(steps), _RENEWS: renews + len(steps), experiment: self.settings.steps}
        clock = Clock(work, on_stage)
        found = [Candidate("start", self.start)]
        if renews:
            found += self._renewed(cli)
            clock.add(_RENEWS)
        sights = []

        def see(candidate: Candidate) -> None:
            start = candidate is found[0]
            sights.append(look(self.network.accel if start else self._loaded(candidate.checkpoint), clips))
            clock.add(_LOOKS)

        for candidate in found:
            see(candidate)
        counting = LambdaCallback(
            on_train_batch_end=lambda trainer, *_: clock.add(experiment, trainer.global_step),
            on_validation_end=lambda trainer, *_: clock.add(_RENEWS) if trainer.global_step else None,
        )
        callbacks_of(cli.trainer).insert(0, counting)
        run(cli)
        for step in steps:
            found.append(_candidate(f"step {step}", cli, step))
            see(found[-1])
        return found, Looked(places, clips, sights)

    def _renewed(self, cli: SuiteCLI) -> list[Candidate]:
        """The start with renewed statistics of both kinds, kept as checkpoints."""
        found = [Candidate(f"{kind} statistics", self.folder / STATISTICS / f"{kind}.ckpt") for kind in KINDS]
        if self.goes_on and all(one.checkpoint.is_file() for one in found):
            return found
        clips = cli.datamodule.renewal_clips(cli.model.batchnorm.renewal_batches, augmented=True)
        network = self._loaded(self.start)
        with cli.trainer.precision_plugin.val_step_context():
            for candidate, _ in zip(found, renewed(network, clips), strict=True):
                replace(self.network, network=network).save(candidate.checkpoint)
        return found

    def _loaded(self, checkpoint: Path) -> Accel:
        return load_network(checkpoint, self.network.builder)

    def _build(self) -> SuiteCLI:
        """The run of the method, which evaluates next to nothing itself: the guard looks at all networks alike."""
        settings, size = self.settings, self.settings.batch_size or 1
        trainer: dict[str, Any] = {"max_steps": settings.steps, "val_check_interval": settings.interval}
        if settings.precision is not None:
            trainer["precision"] = settings.precision
        if self.network.builder is not None:  # some networks have operations of which there is no deterministic form
            trainer["deterministic"] = "warn"
        more = {} if settings.lr is None else {"optimizer": {"lr": settings.lr}}
        shared = {
            "seed_everything": settings.seed,
            "run": {
                "experiment": self.name,
                "base": settings.experiment,
                "keep_all": True,
                "directory": str(self.folder),
            },
            "network": self.network.options.to_dict(),
            "model": {"init_args": {"checkpoint": str(self.start)}},
            "batchnorm": {"renewal_batches": -(-_RENEWED // size)},
            "data": {
                "init_args": {
                    "path": [str(video) for video in self.videos],
                    "size": list(self.network.frame_size),
                    "stride": settings.stride,
                    "flow_cache": str(self.folder / FLOW),
                    "flow_estimator": self.network.flow_estimator,
                    "evaluation_clips": _EVALUATED,
                    "loading": {"batch_size": size, "eval_batch_size": size},
                }
            },
        }
        all_settings = {**shared, "trainer": trainer, **more}
        return build_request(Request(bench=BENCH, experiment=settings.experiment, settings=all_settings))


def _candidate(title: str, cli: SuiteCLI, step: int) -> Candidate:
    """The network that a finished run kept at a step.

    Raises:
        CheckpointError: it is gone, or another run wrote it.
    """
    path = cli.recorder.checkpoint_of(step)
    if not path.is_file():
        mend = f"delete {cli.recorder.directory}, or give another --output, to adapt anew"
        raise CheckpointError("a network of this finished run is gone", where=path, mend=mend)
    check_mark(weights.read(path), cli.recorder.mark, path)
    return Candidate(title, path, step)


def _start(network: LoadedNetwork, folder: Path, *, goes_on: bool) -> Path:
    """The checkpoint to start from; a network of your own is written as one.

    Raises:
        ConfigError: a run that is to go on began with another network.
    """
    if network.checkpoint is not None:
        network.check_unchanged()
        return network.checkpoint
    place = folder / START
    if not goes_on:
        network.save(place)
        return place
    with weights.read_once(place):
        before, now = (flat_settings(one) for one in (weights.entry(place)["network"], network.options.to_dict()))
        differing = [name for name in sorted(before | now) if before.get(name) != now.get(name)]
        mend = "give the same network again, or another --output"
        if differing:
            what = f"the run here began with other settings of the network: {', '.join(differing)}"
            raise ConfigError(what, where=folder, mend=mend)
        if not network.is_in(place):
            raise ConfigError("the run here began with other weights", where=folder, mend=mend)
    return place


def _summary(verdict: Verdict, experiment: str) -> dict[str, Any]:
    """What `adaptation.json` says."""
    seen = ("title", "step", "score", "agreement", "consistency", "shares", "refusals")
    return {
        "chosen": verdict.chosen.title,
        "preferred": verdict.preferred.title,
        "adapted": verdict.adapted,
        "reason": verdict.reason,
        "experiment": experiment,
        "candidates": [{name: getattr(one, name) for name in seen} for one in verdict.scored],
    }
