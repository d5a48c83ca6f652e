"""A run may take several sittings: what may differ between them, and how one ends before the last step."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import yaml
from lightning import Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from stpl.errors import ConfigError, Terminated, check_range
from stpl.files import write_atomically
from stpl.nn.checkpoint_files import located
from stpl.runs.identity import changed_inputs, comparable, flat_settings, is_input
from stpl.runs.record import CONFIG
from stpl.signals import ENDING_SIGNALS, heard
from stpl.yaml_files import load_yaml

_SHOWN = 6


class SittingTimer(Timer):
    """Lightning's timer of `trainer.max_time`, for each sitting anew: its own would end the next one at once."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the time that a sitting took is not the next one's."""
        return {}


def begun_with(directory: Path, last: Path) -> dict[str, Any] | None:
    """The settings of the run that `directory` holds a checkpoint `last` of; `None` if there is nothing to go on from.

    Raises:
        ConfigError: if the settings are gone or torn: nobody could say what the checkpoint is.
    """
    if not last.is_file():
        return None
    if not (directory / CONFIG).exists():
        raise ConfigError(
            f"nothing says with what settings {last.name} was made",
            where=directory / CONFIG,
            mend=f"delete {directory}, or name another folder, to begin anew",
        )
    return load_yaml(directory / CONFIG)


class _Dumper(yaml.SafeDumper):
    """Writes a list of plain values in one line."""

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        """The node of a list."""
        plain = not any(isinstance(item, dict | list) for item in sequence)
        return super().represent_sequence(tag, sequence, flow_style=plain)


def keep_settings(directory: Path, last: Path, settings: Mapping[str, Any]) -> None:
    """Write a run's resolved settings into its folder, or see that it goes on with those that it began with.

    What a checkpoint resumes (optimiser, schedule) keeps the old settings and everything else takes the new ones: a run
    that went on with others would be none that any record could describe. Only what changes where or how fast it
    computes (`NEUTRAL`) may differ, since a run may be finished on another machine, or with more loader processes; and
    a file may lie elsewhere or be called otherwise, if it holds the same.

    Args:
        directory: the run's folder.
        last: its checkpoint to go on from, which may not be there yet.
        settings: resolved, in plain types.

    Raises:
        ConfigError: naming the settings that differ, or those whose files hold something else now.
    """
    before = begun_with(directory, last)
    if before is None:
        text = yaml.dump(settings, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=2**31)
        write_atomically(directory / CONFIG, text)
        return
    mend = f"put them back to go on with it; or delete {directory}, or name another folder, to begin anew"
    changed = changed_inputs(before, settings)
    if changed:
        files = ", ".join(f"{name} ({_word(flat_settings(settings).get(name))})" for name in changed)
        what = f"the files of {files} are not those that this run began with"
        raise ConfigError(what, where=directory / CONFIG, mend=mend)
    old, new = _by_place(before, settings)
    differing = [name for name in sorted(old | new) if old.get(name) != new.get(name)]
    if differing:
        shown = [f"{name}: {_word(old.get(name))} → {_word(new.get(name))}" for name in differing[:_SHOWN]]
        more = f", and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
        what = f"this run began with other settings: {', '.join(shown)}{more}"
        raise ConfigError(what, where=directory / CONFIG, mend=mend)


def _by_place(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What must not differ. Files whose content both sides know are left out: it is compared already."""
    known = [settings.get("run", {}).get("inputs") or {} for settings in (before, now)]
    found = [comparable({**settings, "run": {}}) for settings in (before, now)]
    for settings in found:
        for name in known[0].keys() & known[1].keys():
            settings.pop(name, None)
        for name in [name for name, value in settings.items() if is_input(name) and isinstance(value, str)]:
            path = Path(settings[name])
            settings[name] = str(path if located(path) != path else path.resolve())  # a shipped model has a name
        source, checkpoint = settings.get("start_from"), str(settings.get("model.init_args.checkpoint", ""))
        if source is not None and re.search(rf"/{re.escape(source)}/seed\d+/checkpoints/last\.ckpt$", checkpoint):
            del settings["model.init_args.checkpoint"]  # it follows from `start_from`, the seed and where the runs lie
    return found[0], found[1]


def _word(value: Any) -> str:
    return "null" if value is None else str(value)


def check_steps(trainer: Trainer) -> None:
    """Refuse what would have a run end at another step than its last, train on other clips, or not be evaluated.

    Raises:
        ConfigError: naming the setting of the trainer.
    """
    interval, steps = trainer.val_check_interval, trainer.max_steps
    if steps < 0:
        raise ConfigError(f"trainer.max_steps is {steps}", mend="set the number of steps")
    if trainer.limit_val_batches == 0:
        raise ConfigError("nothing would be evaluated", where="trainer.limit_val_batches", mend="choose 1 or more")
    if trainer.gradient_clip_val is not None:
        check_range("trainer.gradient_clip_val", trainer.gradient_clip_val)  # below 0 it would climb the loss
    for name, whole, mend in (
        ("accumulate_grad_batches", 1, "use data.loading.batch_size"),
        ("fast_dev_run", False, "set a small trainer.max_steps"),
        ("overfit_batches", 0.0, "leave it out"),
        ("limit_train_batches", 1.0, "leave it out, and set trainer.max_steps"),
        ("max_epochs", -1, "leave it out, and set trainer.max_steps"),
    ):
        value = getattr(trainer, name)
        if steps > 0 and (type(value), value) != (type(whole), whole):  # 1 is one batch, 1.0 all of them
            raise ConfigError(
                f"a run is counted in steps, and takes one batch a step (asked: {value})",
                where=f"trainer.{name}",
                mend=mend,
            )
    if steps > 0 and (not isinstance(interval, int) or interval < 1 or steps % interval):
        raise ConfigError(
            f"trainer.max_steps ({steps}) is not a multiple of trainer.val_check_interval ({interval})",
            mend="choose them so that the last step is evaluated",
        )


@contextmanager
def signals_told(trainer: Trainer) -> Iterator[None]:
    """Have Ctrl-C and the signals that end a run end it as they end any program; Lightning would exit with 1 or 0.

    Raises:
        KeyboardInterrupt: after Ctrl-C; `Terminated` after one of `ENDING_SIGNALS`, once the step or batch at hand is
            done.
    """
    received: list[int] = []

    def pass_on(number: int, _: FrameType | None) -> None:
        """Have Lightning see SIGTERM, which it hears."""
        received.append(number)
        os.kill(os.getpid(), signal.SIGTERM)

    others = [number for number in ENDING_SIGNALS if number != signal.SIGTERM]
    # Lightning would call an earlier handler of SIGTERM in the middle of a step.
    with heard(pass_on, others), heard(signal.SIG_DFL, [signal.SIGTERM]):
        try:
            yield
        except SIGTERMException:
            raise Terminated(*received[:1]) from None
        except SystemExit as end:
            if isinstance(end.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            raise
        if trainer.received_sigterm:
            raise Terminated(*received[:1])
