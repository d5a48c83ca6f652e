"""Adaptation as a library call: a network and video in; candidates trained and scored, the best of them out.

`adapt_to` is what `stpl.adapt` and `stpl adapt` call. Everything is written into one folder; called again after an
interruption, it goes on from there.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng

from stpl.apply.guard import LOOKED, Candidate, Seen, Verdict, choose, judged, see
from stpl.apply.model import Model, own_state
from stpl.apply.network import load_network
from stpl.apply.out_folder import signals_raise
from stpl.apply.resources import Estimate, estimate, fitting
from stpl.apply.settings import ADAPTED, VERDICT, Settings, check_outputs, run_name
from stpl.data.clip import BACKWARD, Clip, Wants, collate
from stpl.data.datamodule import ClipDataModule
from stpl.data.videos.video_source import check_footage
from stpl.errors import CheckpointError, ConfigError
from stpl.files import whole_file, write_atomically
from stpl.nn import weights
from stpl.nn.batchnorm import batchnorm_layers
from stpl.runs.build import SuiteCLI, build
from stpl.runs.fit import begin, run
from stpl.runs.folder import START, run_folder
from stpl.runs.identity import check_mark, flat_settings, kept_settings
from stpl.runs.request import as_text

STATISTICS = "batchnorm_augmented"
"""The experiment whose result trained networks are compared with: the start with renewed statistics."""

_EVALUATIONS = (4, 5, 3, 6, 2)  # networks on the way that can be handed back: the first that divides the steps

FLOW = "flow"
"""Folder of estimated flow and of indices of videos, in that of an adaptation."""

_TURN = threading.Lock()  # generators, determinism and signal handlers are the process's, not a thread's


@dataclass(frozen=True)
class Stage:
    """How far an adaptation is.

    Attributes:
        name: what is being done.
        done: steps of it that are done.
        total: of so many.
    """

    name: str
    done: int
    total: int


Tell = Callable[[Stage], None]
"""Is told how far an adaptation is, after every step."""


@dataclass(frozen=True)
class Outcome:
    """What an adaptation found.

    Attributes:
        folder: where everything lies.
        checkpoint: the network to use, `adapted.ckpt`; the start again if nothing was better.
        weights: of a network of your own, the same in the form in which it came; else `None`.
        start: the checkpoint that it began with.
        verdict: what the guard chose, from what, and why.
        estimate: of memory and time.
    """

    folder: Path
    checkpoint: Path
    weights: Path | None
    start: Path
    verdict: Verdict
    estimate: Estimate


def adapt_to(
    model: Model,
    videos: Sequence[Path],
    folder: Path,
    settings: Settings,
    tell: Tell | None = None,
    taken: Estimate | None = None,
) -> Outcome:
    """Adapt a network to videos without labels and write the best candidate as `adapted.ckpt`.

    Two adaptations in two threads run one after the other; two into one folder are refused.

    Args:
        model: what to adapt (`open_model`).
        videos: video files and folders of images.
        folder: to write into.
        settings: how.
        tell: is told after every step.
        taken: what `affordable` found; it is asked if not given.

    Raises:
        StplError: for a network, a video or a setting that cannot be used, or a full disk.
    """
    videos, folder = [video.absolute() for video in videos], folder.absolute()
    with signals_raise(), run_folder(folder), _TURN, _as_before():
        check_footage(videos, stride=settings.stride)
        check_outputs(folder)
        taken = taken or affordable(model, settings, folder)
        start = _start(model, folder)
        begun = kept_settings(folder, folder / "checkpoints" / "last.ckpt")
        name = begun["run"]["experiment"] if begun else run_name(videos)  # the video may be called otherwise by now
        command = _Command(model, start, videos, folder, settings, taken.batch_size, name)
        candidates, cli = _trained(command, tell)
        if batchnorm_layers(model.accel):
            candidates.insert(1, _renewed(command, str(cli.config.trainer.precision), tell))
        seen = list(_seen(candidates, spread(cli.datamodule, LOOKED), model.build, tell))
        verdict = choose(judged(candidates, seen))
        adapted = folder / ADAPTED
        _copy(verdict.chosen.candidate.checkpoint, adapted)
        weights = model.hand_back(own_state(adapted), folder) if model.network is not None else None
        outcome = Outcome(folder, adapted, weights, start, verdict, taken)
        write_atomically(folder / VERDICT, json.dumps(_verdict(outcome, settings), indent=2) + "\n")
    return outcome


@contextmanager
def _as_before() -> Iterator[None]:
    """Leave generators of random numbers and the switch of determinism as they were: runs set both."""
    enabled, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    with isolate_rng():
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(enabled, warn_only=warns)


def affordable(model: Model, settings: Settings, folder: Path) -> Estimate:
    """What it takes with the batch size that was asked for, or that an earlier session had, or that fits.

    Raises:
        ConfigError: it does not fit.
    """
    begun = kept_settings(folder, folder / "checkpoints" / "last.ckpt")
    asked = settings.batch_size or (begun and begun["data"]["init_args"]["loading"]["batch_size"])
    network = model.accel.segmenter
    network.check_trainable()
    sizes = [asked] if asked else [4, 2, 1]
    return fitting(estimate(network, model.frame_size, size, settings.steps) for size in sizes)


def spread(data: ClipDataModule, count: int) -> list[Clip]:
    """At most `count` clips of the target, spread evenly, in batches, without a label."""
    reader = data.reader("train", "target")
    every = max(1, len(reader) // count)
    places = range(every // 2, len(reader), every)[:count]
    size = data.loading.eval_batch_size
    clips = [reader.read(place, Wants(flows=(BACKWARD,))) for place in places]
    return [collate(clips[first : first + size]) for first in range(0, len(clips), size)]


def _seen(
    candidates: Sequence[Candidate], clips: Sequence[Clip], build: str | None, tell: Tell | None
) -> Iterator[Seen]:
    """What each candidate makes of the clips."""
    for place, candidate in enumerate(candidates, 1):
        yield see(load_network(candidate.checkpoint, build), clips)
        if tell is not None:
            tell(Stage("comparing", place, len(candidates)))


@dataclass(frozen=True)
class _Command:
    """What `stpl fit` would be told for a run on these videos."""

    model: Model
    start: Path
    videos: Sequence[Path]
    folder: Path
    settings: Settings
    batch_size: int
    name: str

    def words(self, experiment: str, folder: Path, steps: int, more: Mapping[str, object]) -> list[str]:
        """The command line of a run of `experiment` into `folder`."""
        settings, model = self.settings, self.model
        given: dict[str, object] = {
            "run.experiment": self.name,
            "run.base": experiment,
            "run.keep_all": "true",
            "seed_everything": settings.seed,
            "data.init_args.stride": settings.stride,
            "data.init_args.evaluation_clips": LOOKED,
            "data.init_args.loading.batch_size": self.batch_size,
            "data.init_args.loading.eval_batch_size": self.batch_size,
            "trainer.max_steps": steps,
            **more,
            **as_text("run.directory", folder),
            **as_text("model.init_args.checkpoint", self.start),
            **as_text("data.init_args.flow_cache", self.folder / FLOW),
            "data.init_args.path": json.dumps([str(video) for video in self.videos]),
            "data.init_args.size": list(model.frame_size),
            "data.init_args.flow_estimator": model.flow_estimator,
            **{f"network.{name}": _plain(value) for name, value in model.options.to_dict().items()},
        }
        if settings.precision is not None:
            given["trainer.precision"] = settings.precision
        if model.network is not None:
            given["trainer.deterministic"] = "warn"  # some have operations of which there is no deterministic form
        return ["--bench=video", f"--experiment={experiment}", *(f"--{name}={value}" for name, value in given.items())]


def _trained(command: _Command, tell: Tell | None) -> tuple[list[Candidate], SuiteCLI]:
    """The start, and the network at every evaluation of the training; and the run."""
    settings = command.settings
    count = next((count for count in _EVALUATIONS if settings.steps % count == 0), 1)
    more: dict[str, object] = {"trainer.val_check_interval": max(1, settings.steps // count)}
    if settings.lr is not None:
        more["optimizer.lr"] = settings.lr
    cli = _ran(command.words(settings.experiment, command.folder, settings.steps, more), settings.experiment, tell)
    every = int(more["trainer.val_check_interval"])  # type: ignore[call-overload]
    found = [_candidate(f"step {step}", cli, step) for step in range(every, settings.steps + 1, every)]
    return [Candidate("start", command.start), *found], cli


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


def _renewed(command: _Command, precision: str, tell: Tell | None) -> Candidate:
    """The start with renewed statistics: a run of one step, which is evaluated with those of its clips."""
    words = command.words(
        STATISTICS, command.folder / STATISTICS, 1, {"trainer.val_check_interval": 1, "trainer.precision": precision}
    )
    return replace(_candidate("renewed statistics", _ran(words, "renewing statistics", tell), 1), step=0)


def _ran(words: Sequence[str], name: str, tell: Tell | None) -> SuiteCLI:
    """Run, or go on with, what a command line describes."""
    cli, _ = build(words)
    if tell is not None:
        cli.trainer.callbacks.insert(0, _Told(name, tell))  # type: ignore[attr-defined]
    begin(cli)
    run(cli)
    return cli


class _Told(Callback):
    """Tells of every step."""

    def __init__(self, name: str, tell: Tell) -> None:
        self.name, self.tell = name, tell

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Tell."""
        self.tell(Stage(self.name, trainer.global_step, int(trainer.max_steps)))


def _start(model: Model, folder: Path) -> Path:
    """The checkpoint to start from; a network of your own is written as one.

    Raises:
        ConfigError: a run that is to go on began with another network.
    """
    if model.checkpoint is not None:
        model.check_unchanged()
        return model.checkpoint
    place = folder / START
    begun = (folder / "checkpoints" / "last.ckpt").is_file()
    if begun:
        before, now = (flat_settings(one) for one in (weights.entry(place)["network"], model.options.to_dict()))
        differing = [name for name in sorted(before | now) if before.get(name) != now.get(name)]
        mend = "give the same network again, or another --output"
        if differing:
            what = f"the run here began with other settings of the network: {', '.join(differing)}"
            raise ConfigError(what, where=folder, mend=mend)
        if not model.is_in(place):
            raise ConfigError("the run here began with other weights", where=folder, mend=mend)
    if not begun:
        model.save(place)
    return place


def _verdict(outcome: Outcome, settings: Settings) -> dict[str, Any]:
    """What `adaptation.json` says."""
    verdict = outcome.verdict
    return {
        "chosen": verdict.chosen.candidate.title,
        "adapted": verdict.adapted,
        "reason": verdict.reason,
        "experiment": settings.experiment,
        "candidates": [
            {"title": one.candidate.title, "step": one.candidate.step, "score": one.score, "agreement": one.agreement}
            for one in verdict.scored
        ],
    }


def _plain(value: object) -> object:
    """A group of settings in JSON."""
    return json.dumps(value) if isinstance(value, dict) else value


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as content, whole_file(target) as file:
        shutil.copyfileobj(content, file)
