"""What a run is: its key, its settings, and the content of the files that these name. Imports no torch.

A path says where a file lies and not what it holds: a video may be replaced, moved, or named by another path. So a run
keeps a hash of the content of every file that decides its numbers (`run.inputs` in its config.yaml), and each of its
checkpoints carries a mark of the run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from stpl.data.video.content import content_id
from stpl.errors import CheckpointError, StplError
from stpl.runs.record import CONFIG, NEUTRAL, RunKey
from stpl.yaml_files import load_yaml

MARK = "run"
"""Entry of a checkpoint that says which run wrote it: `{"bench", "experiment", "seed", "settings"}`."""

_INPUTS = ("checkpoint", "committee", "path", "source_list", "target_train_list", "target_val_list")
"""Last names of the settings that name a file or folder whose content decides a run's numbers."""


def inputs(settings: Mapping[str, Any]) -> dict[str, str]:
    """Setting → hash of the content of the files and folders that it names; those that are not there are left out.

    Args:
        settings: resolved, nested.
    """
    found = {}
    for name, value in flat_settings(settings).items():
        paths = [Path(path) for path in _texts(value)] if is_input(name) else []
        if paths and all(path.is_file() or path.is_dir() for path in paths):
            with suppress(StplError):  # a folder that is no footage: its path is compared
                found[name] = " ".join(map(content_id, paths))
    return found


def is_input(name: str) -> bool:
    """Whether a setting, by its dotted name, names a file or folder whose content decides a run's numbers."""
    return name.startswith(("model.", "data.")) and name.rsplit(".", 1)[-1] in _INPUTS


def _texts(value: Any) -> list[str]:
    """The texts of a setting; none for what is neither a text nor a list of texts."""
    texts = value if isinstance(value, list) else [value]
    return texts if all(isinstance(text, str) and text for text in texts) else []


def comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted name → value of what makes a run the one that it is: files by their content, others as they are written.

    What changes where or how fast it computes (`NEUTRAL`) is left out, and so is what is `null`.
    """
    found = {k: v for k, v in flat_settings(settings).items() if v is not None and not k.startswith(NEUTRAL)}
    return found | (settings.get("run", {}).get("inputs") or {})


def flat_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= flat_settings(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def mark_of(key: RunKey, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's checkpoints say of it.

    Args:
        key: of the run.
        settings: resolved, with `run.inputs`.
    """
    text = json.dumps(comparable(settings), sort_keys=True, default=str)
    digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return {"bench": key.bench, "experiment": key.experiment, "seed": key.seed, "settings": digest}


def mark_in(directory: Path, key: RunKey) -> dict[str, Any]:
    """The mark of the run in a folder, by the settings that it keeps there; an older version kept no `run.inputs`."""
    settings = load_yaml(directory / CONFIG)
    mark = mark_of(key, settings)
    return mark if "inputs" in settings.get("run", {}) else {n: v for n, v in mark.items() if n != "settings"}


def check_mark(content: Mapping[str, Any], expected: Mapping[str, Any], path: Path) -> None:
    """Refuse a checkpoint of another run; one of an older version, which carries no mark, passes.

    Args:
        content: of the checkpoint.
        expected: names and values that its mark must have.
        path: the file.

    Raises:
        CheckpointError: the mark differs.
    """
    mark = content.get(MARK)
    if not isinstance(mark, Mapping) or all(mark.get(name) == value for name, value in expected.items()):
        return
    whose = f"{mark.get('bench')}/{mark.get('experiment')}/seed{mark.get('seed')}"
    mine = f"{expected['bench']}/{expected['experiment']}/seed{expected['seed']}"
    other = f"of the run {whose}" if whose != mine else "of a run of this name with other settings"
    raise CheckpointError(
        f"is a checkpoint {other}, not of {mine}" if whose != mine else f"is a checkpoint {other}",
        where=path,
        mend="put the run's own checkpoint back, or delete the run's folder to run it again",
    )


def changed_inputs(before: Mapping[str, Any], now: Mapping[str, Any]) -> Sequence[str]:
    """The settings whose files hold something else than when the run began."""
    old, new = (settings.get("run", {}).get("inputs") or {} for settings in (before, now))
    return [name for name in sorted(old.keys() & new.keys()) if old[name] != new[name]]
