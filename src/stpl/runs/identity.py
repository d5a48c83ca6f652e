"""What a run is: its key, its settings, and the content of the files that these name; a resumed run is the same one.

A path does not say what a file holds, so a run keeps a hash of the content of every file that decides its numbers
(`run.inputs` in its config.yaml), and each of its checkpoints carries a mark of the run. Imports no torch.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from stpl.data.videos.content import content_id
from stpl.errors import CheckpointError, ConfigError, StplError
from stpl.files import write_atomically
from stpl.nn.checkpoint_files import located
from stpl.runs.record import CONFIG, NEUTRAL, RunKey
from stpl.yaml_files import load_yaml

MARK = "run"
"""Entry of a checkpoint that says which run wrote it: `{"bench", "experiment", "seed", "settings"}`."""

_INPUTS = ("checkpoint", "ensemble", "path", "source_list", "target_train_list", "target_val_list")
"""Last names of the settings that name a file or folder whose content decides a run's numbers."""

_SHOWN = 6


def inputs(settings: Mapping[str, Any]) -> dict[str, str]:
    """Resolved setting → hash of the content of the files and folders that it names; absent ones are left out."""
    found = {}
    for name, value in flat_settings(settings).items():
        texts = value if isinstance(value, list) else [value]
        if not texts or not is_input(name) or not all(isinstance(text, str) and text for text in texts):
            continue
        paths = [Path(text) for text in texts]
        if all(path.is_file() or path.is_dir() for path in paths):
            with suppress(StplError):  # a folder that is no footage: its path is compared
                found[name] = " ".join(map(content_id, paths))
    return found


def is_input(name: str) -> bool:
    """Whether a setting, by its dotted name, names a file or folder whose content decides a run's numbers."""
    return name.startswith(("model.", "data.")) and name.rsplit(".", 1)[-1] in _INPUTS


def comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted name → value of what makes a run the one that it is: files by their content, others as they are written.

    What changes where or how fast it computes (`NEUTRAL`) is left out, and so is what is `null`.
    """
    found = {k: v for k, v in flat_settings(settings).items() if v is not None and not k.startswith(NEUTRAL)}
    return found | _known_inputs(settings)


def _known_inputs(settings: Mapping[str, Any]) -> dict[str, str]:
    return settings.get("run", {}).get("inputs") or {}


def flat_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= flat_settings(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def mark_of(key: RunKey, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's checkpoints say of it; its resolved settings have `run.inputs`."""
    text = json.dumps(comparable(settings), sort_keys=True, default=str)
    digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return {"bench": key.bench, "experiment": key.experiment, "seed": key.seed, "settings": digest}


def mark_in(directory: Path, key: RunKey) -> dict[str, Any]:
    """The mark of the run in a folder, by the settings that it keeps there; an older version kept no `run.inputs`."""
    settings = load_yaml(directory / CONFIG)
    mark = mark_of(key, settings)
    return mark if "inputs" in settings.get("run", {}) else {n: v for n, v in mark.items() if n != "settings"}


def check_mark(content: Mapping[str, Any], expected: Mapping[str, Any], path: Path) -> None:
    """Raise `CheckpointError` for another run's checkpoint; one of an older version, which carries no mark, passes."""
    mark = content.get(MARK)
    if not isinstance(mark, Mapping) or all(mark.get(name) == value for name, value in expected.items()):
        return
    whose = f"{mark.get('bench')}/{mark.get('experiment')}/seed{mark.get('seed')}"
    mine = f"{expected['bench']}/{expected['experiment']}/seed{expected['seed']}"
    other = f"of the run {whose}" if whose != mine else "of a run of this name with other settings"
    what = f"is a checkpoint {other}, not of {mine}" if whose != mine else f"is a checkpoint {other}"
    mend = "put the run's own checkpoint back, or delete the run's folder to run it again"
    raise CheckpointError(what, where=path, mend=mend)


def kept_settings(directory: Path, last: Path) -> dict[str, Any] | None:
    """The settings of the run that `directory` holds a checkpoint `last` of; `None` if there is nothing to go on from.

    Raises:
        ConfigError: if the settings are gone or torn: nobody could say what the checkpoint is.
    """
    if not last.is_file():
        return None
    if not (directory / CONFIG).exists():
        what = f"nothing says with what settings {last.name} was made"
        mend = f"delete {directory}, or name another folder, to begin anew"
        raise ConfigError(what, where=directory / CONFIG, mend=mend)
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
    computes (`NEUTRAL`) may differ, and a file may lie elsewhere or be called otherwise, if it holds the same.

    Args:
        directory: the run's folder.
        last: its checkpoint to go on from, which may not be there yet.
        settings: resolved, in plain types.

    Raises:
        ConfigError: naming the settings that differ, or those whose files hold something else now.
    """
    before = kept_settings(directory, last)
    if before is None:
        text = yaml.dump(settings, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=2**31)
        write_atomically(directory / CONFIG, text)
        return
    mend = f"put them back to go on with it; or delete {directory}, or name another folder, to begin anew"
    known, given = _known_inputs(before), _known_inputs(settings)
    changed = [name for name in sorted(known.keys() & given.keys()) if known[name] != given[name]]
    if changed:
        flat = flat_settings(settings)
        files = ", ".join(f"{name} ({_word(flat.get(name))})" for name in changed)
        what = f"the files of {files} are not those that this run began with"
        raise ConfigError(what, where=directory / CONFIG, mend=mend)
    old, new = (_by_place(one, known.keys() & given.keys()) for one in (before, settings))
    differing = [name for name in sorted(old | new) if old.get(name) != new.get(name)]
    if differing:
        shown = [f"{name}: {_word(old.get(name))} → {_word(new.get(name))}" for name in differing[:_SHOWN]]
        more = f", and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
        what = f"this run began with other settings: {', '.join(shown)}{more}"
        raise ConfigError(what, where=directory / CONFIG, mend=mend)


def _by_place(settings: Mapping[str, Any], compared: Iterable[str]) -> dict[str, Any]:
    """What must not differ, without the files whose content is `compared` already."""
    found = comparable({**settings, "run": {}})
    for name in compared:
        found.pop(name, None)
    for name, value in found.items():
        if is_input(name) and isinstance(value, str):
            path = Path(value)
            found[name] = str(path if located(path) != path else path.resolve())  # a shipped model has a name
    source, checkpoint = found.get("start_from"), str(found.get("model.init_args.checkpoint", ""))
    if source is not None and re.search(rf"/{re.escape(source)}/seed\d+/checkpoints/last\.ckpt$", checkpoint):
        del found["model.init_args.checkpoint"]  # it follows from `start_from`, the seed and where the runs lie
    return found


def _word(value: Any) -> str:
    return "null" if value is None else str(value)
