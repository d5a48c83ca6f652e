"""Adaptation as a library call: a network and video in; candidates trained and scored, the best of them out.

`adapt_to` is what `stpl.adapt` and `stpl adapt` call. Everything is written into one folder; called again after an
interruption, it goes on from there.
"""

import json
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import LambdaCallback
from torch import nn

from stpl.apply.guard import Candidate, Seen, Verdict, choose, judged, see
from stpl.apply.loaded import LoadedNetwork, load_network
from stpl.apply.out_folder import signals_raise
from stpl.apply.resources import Estimate, estimate, fitting
from stpl.apply.settings import ADAPTED, BENCH, LOOKED, VERDICT, AdaptationSettings, check_outputs, run_name
from stpl.data.clip import BACKWARD, Clip, Wants, collate
from stpl.data.datamodule import ClipDataModule
from stpl.errors import CheckpointError, ConfigError
from stpl.files import whole_file, write_atomically
from stpl.nn import weights
from stpl.nn.batchnorm import batchnorm_layers
from stpl.nn.generators import generators_kept
from stpl.runs.build import SuiteCLI, build_request
from stpl.runs.fit import begin, run
from stpl.runs.folder import START, run_folder
from stpl.runs.identity import check_mark, flat_settings, kept_settings
from stpl.runs.request import Request
from stpl.runs.trainer import callbacks_of

STATISTICS = "batchnorm_augmented"
"""The experiment whose result trained networks are compared with: the start with renewed statistics."""

_EVALUATIONS = (4, 5, 3, 6, 2)  # intermediate networks that can be chosen: the first that divides the steps

FLOW = "flow"
"""Folder of estimated flow and of indices of videos, in that of an adaptation."""

_TURN = threading.Lock()  # generators, determinism and signal handlers are the process's, not a thread's


@dataclass(frozen=True)
class Stage:
    """How far an adaptation is.

    Attributes:
        name: what is being done.
        done: steps of it that are done.
        total: number of its steps.
    """

    name: str
    done: int
    total: int


OnStage = Callable[[Stage], None]
"""A callback that gets, after every step, how far an adaptation is."""


def ignored(_: object) -> None:
    """The callback where nobody listens."""


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
        estimate: of memory and time.
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
        needed = fitting(estimate(segmenter, network.frame_size, size, settings.steps) for size in sizes)
        on_estimate(needed)
        settings = replace(settings, batch_size=needed.batch_size)
        start = _start(network, folder, goes_on=begun is not None)
        name = begun["run"]["experiment"] if begun else run_name(videos)  # the video may be called otherwise by now
        runs = _Runs(network, start, videos, folder, settings, name, on_stage)
        with weights.read_once(start):
            candidates, cli = runs.train()
            if batchnorm_layers(network.accel):
                candidates.insert(1, runs.renew(str(cli.config.trainer.precision)))
        seen = list(_seen(network, candidates, spread(cli.datamodule, LOOKED), on_stage))
        verdict = choose(judged(candidates, seen))
        chosen, checkpoint = verdict.chosen.checkpoint, folder / ADAPTED
        with chosen.open("rb") as content, whole_file(checkpoint) as file:
            shutil.copyfileobj(content, file)
        adapted = network.adapted(checkpoint)
        own = adapted.write_weights(folder)
        write_atomically(folder / VERDICT, json.dumps(_summary(verdict, settings.experiment), indent=2) + "\n")
    return Adaptation(adapted, network, videos, settings, folder, checkpoint, own, verdict, needed)


@contextmanager
def _process_state_kept() -> Iterator[None]:
    """Leave generators of random numbers and the switch of determinism as they were: runs set both."""
    enabled, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    with generators_kept():
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(enabled, warn_only=warns)


def spread(data: ClipDataModule, count: int) -> list[Clip]:
    """At most `count` clips of the target, spread evenly, in batches, without a label."""
    reader = data.reader("train", "target")
    every = max(1, len(reader) // count)
    places = range(every // 2, len(reader), every)[:count]
    size = data.loading.eval_batch_size
    clips = [reader.read(place, Wants(flows=(BACKWARD,))) for place in places]
    return [collate(clips[first : first + size]) for first in range(0, len(clips), size)]


def _seen(
    start: LoadedNetwork, candidates: Sequence[Candidate], clips: Sequence[Clip], on_stage: OnStage
) -> Iterator[Seen]:
    """What each candidate, of which the first is the start, predicts for the clips.

    Each is loaded anew: a network of your own may keep more than weights from one pass to the next.
    """
    for place, candidate in enumerate(candidates, 1):
        yield see(start.accel if place == 1 else load_network(candidate.checkpoint, start.builder), clips)
        on_stage(Stage("comparing", place, len(candidates)))


@dataclass(frozen=True)
class _Runs:
    """The runs of one adaptation: what they share."""

    network: LoadedNetwork
    start: Path
    videos: Sequence[Path]
    folder: Path
    settings: AdaptationSettings
    name: str
    on_stage: OnStage

    def train(self) -> tuple[list[Candidate], SuiteCLI]:
        """Run the method: the start, and the network at every evaluation; and the run."""
        settings = self.settings
        count = next((count for count in _EVALUATIONS if settings.steps % count == 0), 1)
        every = max(1, settings.steps // count)
        trainer: dict[str, Any] = {"max_steps": settings.steps, "val_check_interval": every}
        if settings.precision is not None:
            trainer["precision"] = settings.precision
        more = {} if settings.lr is None else {"optimizer": {"lr": settings.lr}}
        cli = self._run(settings.experiment, settings.experiment, self.folder, trainer=trainer, **more)
        found = [_candidate(f"step {step}", cli, step) for step in range(every, settings.steps + 1, every)]
        return [Candidate("start", self.start), *found], cli

    def renew(self, precision: str) -> Candidate:
        """The start with renewed statistics: a run of one step, which is evaluated with those of its clips."""
        trainer = {"max_steps": 1, "val_check_interval": 1, "precision": precision}
        cli = self._run("renewing statistics", STATISTICS, self.folder / STATISTICS, trainer=trainer)
        return replace(_candidate("renewed statistics", cli, 1), step=0)

    def _run(self, title: str, experiment: str, folder: Path, **settings: Mapping[str, Any]) -> SuiteCLI:
        """Run an experiment with these settings and those of all into a folder, or go on with it."""
        size = self.settings.batch_size
        shared = {
            "seed_everything": self.settings.seed,
            "run": {"experiment": self.name, "base": experiment, "keep_all": True, "directory": str(folder)},
            "network": self.network.options.to_dict(),
            "model": {"init_args": {"checkpoint": str(self.start)}},
            "data": {
                "init_args": {
                    "path": [str(video) for video in self.videos],
                    "size": list(self.network.frame_size),
                    "stride": self.settings.stride,
                    "flow_cache": str(self.folder / FLOW),
                    "flow_estimator": self.network.flow_estimator,
                    "evaluation_clips": LOOKED,
                    "loading": {"batch_size": size, "eval_batch_size": size},
                }
            },
        }
        if self.network.builder is not None:  # some networks have operations of which there is no deterministic form
            settings["trainer"] = {"deterministic": "warn", **settings["trainer"]}
        cli = build_request(Request(bench=BENCH, experiment=experiment, settings={**shared, **settings}))

        def tell(trainer: Trainer, *_: Any) -> None:
            """Call back after a step."""
            self.on_stage(Stage(title, trainer.global_step, int(trainer.max_steps)))

        callbacks_of(cli.trainer).insert(0, LambdaCallback(on_train_batch_end=tell))
        begin(cli)
        run(cli)
        return cli


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
    return {
        "chosen": verdict.chosen.title,
        "adapted": verdict.adapted,
        "reason": verdict.reason,
        "experiment": experiment,
        "candidates": [
            {"title": one.title, "step": one.step, "score": one.score, "agreement": one.agreement}
            for one in verdict.scored
        ],
    }
