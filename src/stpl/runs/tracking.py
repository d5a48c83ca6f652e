"""What Weights & Biases gets of a run: its resolved configuration, the code's version, metrics, tables and pictures.

`metrics.csv` and the record stay the source of truth: W&B's own offline log is lost with a process that is killed.
"""

from __future__ import annotations

import itertools
import os
import secrets
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning import Callback, LightningModule, Trainer

from stpl.data.clip import Clip
from stpl.data.label_space import IGNORE
from stpl.errors import ConfigError, StplError, first_line, note
from stpl.files import check_file, write_atomically
from stpl.runs.charts import IOU, PICTURES, VIDEO, charts, film
from stpl.runs.record import RunKey, RunRecord, flat, read_metrics
from stpl.runs.recorder import RunOptions, git_commit, versions
from stpl.training import Method

if TYPE_CHECKING:
    from lightning.pytorch.loggers import WandbLogger

SHOWN = 4
"""Clips of which every evaluation shows frame, prediction and label."""

_FILES = "files"
_placed: dict[str, str] = {}  # what this program set, which another run in this process may change


def wandb_logger(options: RunOptions, directory: Path, key: RunKey) -> WandbLogger | None:
    """A W&B logger if the options ask for one, or a W&B agent runs this; imported only then.

    A run that goes on from its checkpoint goes on in W&B too: its id lies in its folder. Runs of one experiment are
    grouped, so that W&B shows their mean over seeds.

    Raises:
        ConfigError: for "online" without an account; there is no prompt for one.
    """
    in_sweep = "WANDB_SWEEP_ID" in os.environ
    if options.wandb == "disabled" and not in_sweep:
        return None
    from lightning.pytorch.loggers import WandbLogger

    offline = options.wandb == "offline" or os.environ.get("WANDB_MODE") == "offline"
    if not offline and os.environ.get("WANDB_MODE") != "disabled":
        import wandb

        if not wandb.login(prompt=False):
            mend = "call `wandb login`, or set run.wandb=offline and `wandb sync` the run's folder later"
            raise ConfigError("no W&B account is known here", where="run.wandb", mend=mend)
    directory.mkdir(parents=True, exist_ok=True)
    _keep_files(directory, offline)
    kept_id = directory / "wandb.id"
    if not in_sweep and not kept_id.exists():
        write_atomically(kept_id, secrets.token_hex(8) + "\n")
    return WandbLogger(
        name=f"{key.experiment} seed {key.seed}",
        group=f"{key.bench}/{key.experiment}",
        tags=[key.bench],  # by which the workspace of a benchmark finds its runs
        save_dir=directory,
        project="stpl",
        offline=offline,
        id=None if in_sweep else kept_id.read_text(encoding="utf-8").strip(),  # the agent gives its own
    )


def _keep_files(directory: Path, offline: bool) -> None:
    """Have W&B keep in the run's folder what else it writes below HOME: always offline, else where HOME is read-only.

    What an offline run uploads later then lies beside it. A place that the user named stays.
    """
    import platformdirs  # W&B brings it

    places = {"WANDB_DATA_DIR": platformdirs.user_data_path, "WANDB_CACHE_DIR": platformdirs.user_cache_path}
    for variable, find in places.items():
        if os.environ.get(variable) not in (None, _placed.get(variable)):
            continue
        os.environ.pop(variable, None)
        if offline or not _may_write(find("wandb")):
            os.environ[variable] = _placed[variable] = str((directory / "wandb" / _FILES).resolve())


def _may_write(folder: Path) -> bool:
    try:
        check_file(folder / _FILES)
    except StplError:
        return False
    return True


class Tracking(Callback):
    """Sends what the recorder does not: configuration, version, per-class tables, pictures, charts, video.

    Only the first of several processes has one. The resolved `config` may change until the run begins.
    """

    def __init__(self, logger: WandbLogger, config: dict[str, Any]) -> None:
        self.logger = logger
        self.config = config | {"code": {"git": git_commit(), **versions()}}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Send the configuration before anything else; raises `ConfigError` if W&B cannot begin."""
        try:
            self.logger.log_hyperparams(self.config)
        except Exception as error:  # of its client, its process or its network
            what = f"W&B cannot begin: {first_line(error)}"
            raise ConfigError(what, where="run.wandb", mend="mend that, or leave run.wandb out") from error

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Send pictures of the first clips: the current frame, with prediction and label as masks."""
        _, batch, batch_idx = args[:3]
        assert isinstance(pl_module, Method)
        if batch_idx == 0:
            first = replace(batch.map(lambda tensor: tensor[:SHOWN]), key=batch.key[:SHOWN])
            self._send_pictures(pl_module, first, trainer.global_step)

    def finish(self, record: RunRecord | None) -> None:
        """Send the record's last numbers, the table of per-class IoU, charts and video, and end the run in W&B.

        The run is recorded by then, whatever becomes of that: an error is a note.
        """
        try:
            try:
                if record is not None:
                    self._send_summary(record)
                    self._send_arrays(record, Path(self.logger.save_dir or "."))
            finally:
                self.logger.experiment.finish()
        except Exception as error:  # of its client, its process or its network
            note(f"W&B lacks the end of this run: {first_line(error)}", where="run.wandb")

    def fail(self) -> None:
        """End the run in W&B as one that failed, if it has begun there."""
        if self.logger._experiment is not None:  # to ask for `experiment` would begin it
            self.logger.experiment.finish(exit_code=1)

    def replay(self, record: RunRecord, metrics: Path) -> None:
        """Send a run that was recorded before, its curves from `metrics.csv`: a W&B agent requests it once more."""
        self.logger.log_hyperparams(self.config)
        for step, rows in itertools.groupby(read_metrics(metrics), key=lambda row: row[0]):
            self.logger.log_metrics({name: value for _, name, value in rows}, step)
        self.finish(record)

    def _send_summary(self, record: RunRecord) -> None:
        rows = [[name, iou] for name, iou in record["last"]["iou"].items()]
        self.logger.log_table(IOU, columns=["class", "IoU"], data=rows, step=record["last"]["step"])
        for moment, evaluation in (("selected", record["selected"]), ("best", record["best"])):
            numbers = {f"{moment}/{name}": value for name, value in flat(evaluation or {}).items()}
            self.logger.experiment.summary.update(numbers)

    def _send_arrays(self, record: RunRecord, run: Path) -> None:
        step = record["last"]["step"]
        drawn: dict[str, Any] = {**charts(record, run)}  # no numbers, and logged all the same
        if drawn:
            self.logger.log_metrics(drawn, step)
        with tempfile.TemporaryDirectory() as folder:  # W&B copies the file when it is logged
            if video := film(record, run, Path(folder) / f"{VIDEO}.webm"):
                self.logger.log_video(VIDEO, [str(video)], step, caption=["input, label, prediction"])

    def _send_pictures(self, method: Method, clip: Clip, step: int) -> None:
        with torch.no_grad():
            prediction = method.predict_step(clip, 0)
        names = dict(enumerate(method.options.space.classes)) | {IGNORE: "ignored"}
        layers = {"prediction": prediction} | ({"label": clip.labels[0]} if 0 in clip.labels else {})
        masks = [
            {layer: {"mask_data": ids[place].cpu().numpy(), "class_labels": names} for layer, ids in layers.items()}
            for place in range(len(clip.frames))
        ]
        frames = [frame.permute(1, 2, 0).cpu().numpy() for frame in clip.frame()]
        self.logger.log_image(PICTURES, frames, step, masks=masks, caption=list(clip.key))
