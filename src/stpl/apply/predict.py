"""`stpl predict`: label images of footage, or of a benchmark's frames as the official Cityscapes evaluator reads them.

What is done with footage stands in `stpl.apply.labelling`.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from stpl.apply.labelling import check_empty, label_video
from stpl.arguments import call
from stpl.data.clip import Clip
from stpl.data.image import write_png
from stpl.data.label_space import LabelSpace
from stpl.errors import ConfigError, cannot_write, refusals
from stpl.runs.fit import build_evaluation
from stpl.runs.request import Request, predict_help
from stpl.runs.sitting import signals_told


def predict(args: Sequence[str]) -> None:
    """`stpl predict`: write the predictions of a network, on footage if there is `--video`, else on a benchmark.

    Args:
        args: the command line after `stpl predict`.

    Raises:
        StplError: for a mistake in configuration, data or checkpoint, or a full disk; DIR does not appear then.
    """
    if any(word.split("=")[0] == "--video" for word in args):
        call(label_video, args, prog="stpl predict", usage="--video=FILE --checkpoint=FILE --out=DIR")
        return
    request = Request.parse(args)
    if not {"checkpoint", "out"} <= request.overrides.keys():
        print(predict_help())
        return
    out, colors = Path(request.overrides.pop("out")), _switch(request.overrides.pop("colors", "false"))
    check_empty(out)
    cli = build_evaluation(request)
    if cli.trainer.world_size > 1:
        raise ConfigError("predictions are written by one process", where="trainer.devices", mend="use one device")
    partial = out.with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        writer = LabelImages(partial, cli.model.options.space, colors)
        cli.trainer.callbacks.append(writer)  # type: ignore[attr-defined]
        loader = cli.datamodule.val_dataloader()
        with refusals("trainer", among="lightning"), signals_told(cli.trainer):
            cli.trainer.predict(cli.model, dataloaders=loader, return_predictions=False)
        partial.replace(out)
    except OSError as error:
        raise cannot_write(out, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # of what failed on the way
    print(f"wrote {writer.written} predictions to {out}", file=sys.stderr)


def _switch(value: str) -> bool:
    if value.lower() not in ("true", "false"):
        raise ConfigError(f"'{value}' is neither true nor false", where="--colors", mend="write --colors=true")
    return value.lower() == "true"


class LabelImages(Callback):
    """Writes predicted train ids as images of Cityscapes label ids while `Trainer.predict` goes on.

    Args:
        folder: to write into.
        space: the classes that are predicted.
        colors: write images in the palette of Cityscapes as well. Their names begin with `color_`: the evaluator looks
            through all sub-folders for names that begin with the frame's, and refuses to find two.
    """

    def __init__(self, folder: Path, space: LabelSpace, colors: bool) -> None:
        self.folder, self.colors = folder, colors
        self.ids, self.palette = label_ids(space), space.palette
        self.written = 0
        self._progress = Progress(console=Console(stderr=True))

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show progress."""
        self._progress.start()
        self._progress.add_task("predicting", total=sum(map(int, trainer.num_predict_batches)))

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Clip, batch_idx: int, _: int = 0
    ) -> None:
        """Write the images of a batch."""
        prediction: Tensor = outputs
        for key, label in zip(batch.key, prediction.cpu().numpy(), strict=True):
            name = key.replace("/", "_")
            write_png(self.folder / f"{name}_pred_labelIds.png", self.ids[label])
            if self.colors:
                write_png(self.folder / "colors" / f"color_{name}.png", self.palette[label])
            self.written += 1
        self._progress.advance(self._progress.task_ids[0])

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the line."""
        self._progress.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the terminal back."""
        self._progress.stop()


def label_ids(space: LabelSpace) -> NDArray[np.uint8]:
    """Cityscapes label ids uint8 `[K]` by train id; of several ids of one class, the lowest (person, not rider)."""
    table = space.lookup("cityscapes")
    return np.array([np.flatnonzero(table == train_id)[0] for train_id in range(space.num_classes)], dtype=np.uint8)
