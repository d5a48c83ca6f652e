"""`stpl adapt`: a trained network and unlabelled video in; an adapted one, a page and a video of the change out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stpl.apply.settings import RECOMMENDED
from stpl.option_types import Amount, Count, Natural, Size


def adapt(
    *,
    video: Path | list[Path],
    checkpoint: Path | None = None,
    output: Path | None = None,
    experiment: str = RECOMMENDED,
    steps: Natural = 80,
    lr: Amount | None = None,
    batch_size: Count | None = None,
    size: Size | None = None,
    stride: Count = 1,
    seed: Natural = 0,
    precision: str | None = None,
    model: str | None = None,
    weights: Path | None = None,
    key: str | None = None,
    arguments: dict[str, Any] | None = None,
    features: str | None = None,
    logits: str | None = None,
    classes: str | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    channels: str | None = None,
) -> None:
    """Adapt a network to unlabelled video, without source data and without labels.

    Networks on the way are scored without labels, and the best is kept: the start itself if nothing is better. Writes
    `adapted.ckpt`, `index.html` (what was done and what came of it) and `side_by_side.webm` (input, before and after of
    the first 200 frames) into the output folder; for a network of your own also `adapted.pt`, its state dict under its
    own names, or for one of Hugging Face the folder `adapted`. Called again after an interruption, it goes on from the
    last checkpoint.

    Args:
        video: a video file or a folder of images, or a list of them.
        checkpoint: the network to adapt, as `stpl fit` wrote it; `streets` or `streets:3` are source models of the
            embedded benchmark that the package ships.
        output: folder to write into; `runs/video/<name of the video>/seed<k>` if not given.
        experiment: which method; a name in experiments/tables.yaml.
        steps: training steps.
        lr: learning rate of the network; the method's own if not given.
        batch_size: clips a step; the most of 4, 2 and 1 that fits into memory if not given.
        size: height and width the network sees, and to which images of any size are resized; the size the checkpoint
            was trained at if not given.
        stride: take every stride-th frame.
        seed: decides the order of clips and their augmentation.
        precision: of training, 32-true, bf16-mixed or 16-mixed; chosen from the hardware if not given.
        model: in place of `checkpoint`: one, or `package.module:callable`, which builds a network of your own, or `hf:`
            with a folder or a name on the hub of Hugging Face, or a YAML file that says all of this. With `checkpoint`:
            what builds its network, if that is one of your own.
        weights: file with its state dict; the weights that the callable gives it if not given.
        key: which state dict, where the file holds several.
        arguments: of the callable, as JSON: '{"num_classes": 19}'.
        features: layer whose output the features are; proposed if not given.
        logits: where the logits stand in what it returns, such as `out` or `0`.
        classes: a label space by name, or a YAML file with `classes` and, if you like, `palette`; those of the network
            if it comes from Hugging Face, else Cityscapes' 19, if not given.
        mean: what is subtracted from frames in 0..255; ImageNet's if not given.
        std: what they are divided by; ImageNet's if not given.
        channels: rgb or bgr, the order of its input, and of mean and std; rgb if not given and a network of Hugging
            Face does not say.
    """
    from stpl.apply.memory import check_size
    from stpl.apply.settings import BENCH, Settings, check_outputs, run_name
    from stpl.apply.source import NetworkSource
    from stpl.data.video_source import check_footage
    from stpl.runs.folder import is_fresh
    from stpl.runs.record import RunKey, runs_root

    videos = video if isinstance(video, list) else [video]
    settings = Settings(experiment, steps, lr, batch_size, stride, seed, precision)
    folder = output or RunKey(BENCH, run_name(videos), seed).directory(runs_root())
    check_size(size, settings.batch_size)
    source = NetworkSource(
        checkpoint, model, weights, key, arguments, features, logits, classes, mean, std, channels, size
    )
    check_footage(videos, stride=stride)
    is_fresh(folder)
    check_outputs(folder)
    from stpl.apply.shown import adapt_and_show  # imports torch, which takes seconds

    adapt_and_show(source, videos, folder, settings)
