"""What a network predicts on a benchmark's frames, as files that the official Cityscapes evaluator reads."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from lightning import Callback, LightningModule, Trainer
from numpy.typing import NDArray

from stpl.apply.out_folder import filled
from stpl.data.clip import Clip
from stpl.data.data_set import DataSet
from stpl.data.image import write_png
from stpl.data.label_space import LabelSpace
from stpl.data.sets import data_set
from stpl.errors import ConfigError, refusals
from stpl.progress import Progress
from stpl.runs.fit import build_evaluation
from stpl.runs.request import Request
from stpl.runs.trainer import callbacks_of, signals_raised


def label_benchmark(request: Request, out: Path, colors: bool) -> None:
    """Write the predictions of a network on a benchmark into a folder, with `colors` in the palette of Cityscapes too.

    Raises:
        StplError: for a mistake in configuration, data or checkpoint, or a full disk; `out` does not appear then.
    """
    cli = build_evaluation(request)
    if cli.trainer.world_size > 1:
        raise ConfigError("predictions are written by one process", where="trainer.devices", mend="use one device")
    with filled(out) as folder:
        writer = _LabelImages(folder, cli.model.options.space, data_set(cli.datamodule.evaluated), colors)
        callbacks_of(cli.trainer).append(writer)
        loader = cli.datamodule.val_dataloader()
        with refusals("trainer", among="lightning"), signals_raised(cli.trainer):
            cli.trainer.predict(cli.model, dataloaders=loader, return_predictions=False)
    print(f"wrote {writer.written} predictions to {out}", file=sys.stderr)


class _LabelImages(Callback):
    """Writes predicted train ids as images of a data set's label ids while `Trainer.predict` goes on.

    Names of images in colours begin with `color_`: the evaluator looks through all sub-folders for names that begin
    with the frame's, and refuses to find two.
    """

    def __init__(self, folder: Path, space: LabelSpace, known: DataSet, colors: bool) -> None:
        self.folder, self.colors = folder, colors
        self.ids, self.palette = label_ids(space, known), space.palette
        self.written = 0

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.progress = Progress("predicting", sum(map(int, trainer.num_predict_batches)))

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Clip, batch_idx: int, _: int = 0
    ) -> None:
        for key, label in zip(batch.key, outputs.cpu().numpy(), strict=True):
            name = key.replace("/", "_")
            write_png(self.folder / f"{name}_pred_labelIds.png", self.ids[label])
            if self.colors:
                write_png(self.folder / "colors" / f"color_{name}.png", self.palette[label])
            self.written += 1
        self.progress.add()


def label_ids(space: LabelSpace, known: DataSet) -> NDArray[np.uint8]:
    """A data set's label ids uint8 `[K]` by train id: of several ids of one class the lowest (person, not rider)."""
    table, void = known.table(space), known.labels.void or 0
    ids = [np.flatnonzero(table == train_id) for train_id in range(space.num_classes)]
    return np.array([found[0] if len(found) else void for found in ids], dtype=np.uint8)
