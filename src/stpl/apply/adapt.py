"""`stpl adapt`: a trained network and an unlabelled video in; an adapted network and a video of the difference out."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stpl.apply.film import film
from stpl.apply.model import Model, open_model, own_state
from stpl.errors import ConfigError, StplError
from stpl.runs.build import build
from stpl.runs.fit import begin, run
from stpl.runs.record import RunKey, RunLock, runs_root
from stpl.runs.request import as_text

_MOST_LETTERS = 100


def adapt(
    video: Path,
    checkpoint: Path | None = None,
    output: Path | None = None,
    experiment: str = "stpl",
    steps: int = 80,
    lr: float = 6e-5,
    batch_size: int = 4,
    size: tuple[int, int] | None = None,
    stride: int = 1,
    seed: int = 0,
    model: str | None = None,
    weights: Path | None = None,
    key: str | None = None,
    arguments: dict[str, Any] | None = None,
    features: str | None = None,
    logits: str | None = None,
    classes: str | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    channels: str = "rgb",
) -> None:
    """Adapt a network to an unlabelled video, without source data and without labels.

    Writes `adapted.ckpt` (the last step) and `side_by_side.webm` (input, before, after) into the output folder; for a
    network of your own also `adapted.pt`, its state dict under its own names, or for one of Hugging Face the folder
    `adapted`. Called again after an interruption, it goes on from the last checkpoint.

    Args:
        video: a video file or a folder of images.
        checkpoint: the network to adapt, as `stpl fit` wrote it; `streets` or `streets:3` are source models of the
            embedded benchmark that the package ships.
        output: folder to write into; `runs/video/<name of the video>/seed<k>` if not given.
        experiment: which method; a name in experiments/tables.yaml.
        steps: training steps.
        lr: learning rate of the network; new modules learn ten times faster.
        batch_size: clips a step.
        size: height and width the network sees, and to which images of any size are resized; the size the checkpoint
            was trained at if not given.
        stride: take every stride-th frame.
        seed: decides the order of clips and their augmentation.
        model: in place of `checkpoint`: one, or `package.module:callable`, which builds a network of your own, or `hf:`
            with a folder or a name on the hub of Hugging Face.
        weights: file with its state dict; the weights that the callable gives it if not given.
        key: which state dict, where the file holds several.
        arguments: of the callable, as JSON: '{"num_classes": 19}'.
        features: layer whose output the features are; proposed if not given.
        logits: where the logits stand in what it returns, such as `out` or `0`.
        classes: a label space by name, or a YAML file with `classes` and, if you like, `palette`; those of the network
            if it comes from Hugging Face, else Cityscapes' 19, if not given.
        mean: what is subtracted from frames in 0..255; ImageNet's if not given.
        std: what they are divided by; ImageNet's if not given.
        channels: rgb or bgr, the order of its input, and of mean and std.
    """
    if (checkpoint is None) == (model is None):
        raise ConfigError("give one network", where="--model", mend="give either --checkpoint or --model")
    start = open_model(
        str(checkpoint or model),
        size,
        state=weights,
        key=key,
        arguments=arguments,
        features=features,
        logits=logits,
        classes=classes,
        mean=mean,
        std=std,
        channels=channels,
    )
    directory = output or RunKey("video", _run_name(video), seed).directory(runs_root())
    with RunLock(directory):
        before = _start(start, directory)
        settings = {
            "seed_everything": seed,
            "data.init_args.stride": stride,
            "data.init_args.loading.batch_size": batch_size,
            "optimizer.lr": lr,
            "trainer.max_steps": steps,
            "trainer.val_check_interval": steps,
        }
        cli, _ = build(_command_line(start, before, video, directory, experiment, settings))
        begin(cli)
        run(cli)
        _copy(cli.recorder.last_checkpoint, directory / "adapted.ckpt")
        print(f"adapted: {directory / 'adapted.ckpt'}", file=sys.stderr)
        if start.network is not None:
            own = start.hand_back(own_state(directory / "adapted.ckpt"), directory)
            print(f"weights: {own}", file=sys.stderr)
    name = start.build or before.parent.parent.parent.name or before.name
    titles = {f"before: {name}": before, "after": directory / "adapted.ckpt"}
    written = directory / "side_by_side.webm"
    film(titles, video, written, size=start.frame_size, stride=stride, build=start.build)
    print(f"video:   {written}", file=sys.stderr)


def _command_line(
    model: Model, start: Path, video: Path, directory: Path, experiment: str, settings: Mapping[str, object]
) -> list[str]:
    """What `stpl fit` would be told."""
    told: dict[str, object] = {
        "run.experiment": _run_name(video),
        "run.base": experiment,
        **settings,
        **as_text("run.directory", directory),
        **as_text("model.init_args.checkpoint", start),
        **as_text("data.init_args.path", video),
        "data.init_args.size": list(model.frame_size),
        **{f"network.{name}": _plain(value) for name, value in model.options.to_dict().items()},
    }
    if model.network is not None:
        told["trainer.deterministic"] = "warn"  # some have operations of which there is no deterministic form
    return ["--bench=video", f"--experiment={experiment}", *(f"--{name}={value}" for name, value in told.items())]


def _start(model: Model, directory: Path) -> Path:
    """The checkpoint to start from; a network of your own is written as one.

    Raises:
        ConfigError: a run that is to go on began with another network.
    """
    if model.checkpoint is not None:
        return model.checkpoint
    own, place = model.options.own, directory / "start.ckpt"
    assert own is not None
    print(f"features: the layer {own.features} of {own.build}", file=sys.stderr)
    begun = (directory / "checkpoints" / "last.ckpt").is_file()
    if begun and not model.is_in(place):
        mend = "give the same weights again, or another --output"
        raise ConfigError("the run here began with other weights", where=directory, mend=mend)
    if not begun:
        model.save(place)
    return place


def _plain(value: object) -> object:
    """A group of settings in JSON."""
    return json.dumps(value) if isinstance(value, dict) else value


def _run_name(video: Path) -> str:
    """The video's name, without what cannot be in the name of a run."""
    name = re.sub(r"^\.+|[^\w .=,+()-]", "_", video.resolve().stem)[:_MOST_LETTERS].strip()
    return name or "video"


def _copy(source: Path, target: Path) -> None:
    partial = target.with_suffix(".partial")
    try:
        shutil.copy(source, partial)
        partial.replace(target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StplError(f"cannot be written: {error.strerror}", where=target, mend="free some space") from error
