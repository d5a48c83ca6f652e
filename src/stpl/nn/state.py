"""The state_dict in a checkpoint's content, wherever its program put it, under the names its network has.

It is looked for in this order: the one that `key` names; the one under `state_dict`; the only one that there is. A file
that holds several others (a model and its moving average, a student and its teacher) is refused with their names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from stpl.errors import CheckpointError

State = dict[str, Tensor]

TOP = "."
"""What the content itself is called where it is a state_dict."""

_USUAL = "state_dict"
_NETWORK = "network."  # the entries of a training module of ours that are its network
_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""What DistributedDataParallel, `torch.compile`, FSDP and activation checkpointing put into names, in any order."""

_ASIDE = ("optim", "sched", "lr_", "scaler", "callbacks", "loops")  # beginnings of keys that hold no network
_DEPTH, _NAMES_SHOWN = 3, 8


def find(content: Mapping[Any, Any], key: str | None = None, path: Path | None = None) -> tuple[str, State]:
    """The state_dict in the content of a checkpoint, as it is stored, and what it is called there.

    Args:
        content: what `formats.read` gave.
        key: which one; of nested mappings with a dot between, such as `ema.model`, and `.` for the content itself.
        path: the file, for messages.

    Raises:
        CheckpointError: there is none, none of this name, or several to choose from.
    """
    there = candidates(content)
    name = key or (_USUAL if _USUAL in there else next(iter(there), ""))
    if not there:
        keys = ", ".join(str(key) for key in list(content)[:_NAMES_SHOWN]) or "none at all"
        mend = "give a file that holds the tensors of a network by name"
        raise CheckpointError(f"holds no state_dict; its keys are {keys}", where=path, mend=mend)
    if name not in there or (key is None and name != _USUAL and len(there) > 1):
        told = ", ".join(f"{name} ({len(state)} tensors)" for name, state in there.items())
        raise CheckpointError(
            f"holds no state_dict '{key}', but {told}" if key else f"holds several state_dicts: {told}",
            where=path,
            mend=f"save the one you mean alone, or choose it where there is that option: --key={next(iter(there))}",
        )
    return name, there[name]


def candidates(content: Mapping[Any, Any]) -> dict[str, State]:
    """All mappings in `content` that look like a state_dict, by name: those with dotted names of tensors, if any.

    Without such names it is the content itself, if it holds tensors (a network of one layer), else what is inside.
    """
    found = dict(_walk(content, ()))
    dotted = {name: state for name, state in found.items() if any("." in key for key in state)}
    top = {name: state for name, state in found.items() if name == TOP}
    return dotted or top or found


def _walk(content: Mapping[Any, Any], place: tuple[str, ...]) -> Iterator[tuple[str, State]]:
    state = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if state:
        yield ".".join(place) or TOP, state
    for key, value in content.items():
        nested = isinstance(key, str) and isinstance(value, Mapping) and len(place) < _DEPTH
        if nested and not key.lower().startswith(_ASIDE):
            yield from _walk(value, (*place, key))


def of_network(state: State, path: Path | None = None, prefix: str | None = None) -> State:
    """The tensors under the network's own names: without what wraps it, and without what stands beside it.

    If names begin with a wrapper, the others are left out (`n_averaged` of an averaged model); if names begin with
    `network.`, or with `prefix` if that is given, only these are taken.

    Raises:
        CheckpointError: two tensors have one name then.
    """
    wrapped = {key: value for key, value in state.items() if key.partition(".")[0] in _WRAPPERS}
    names = {key: _unwrapped(key) for key in wrapped or state}
    found = {name: state[key] for key, name in names.items()}
    if len(found) < len(names):
        mend = "save the state_dict of the network itself"
        raise CheckpointError("holds tensors of one name twice, with and without a wrapper", where=path, mend=mend)
    start = prefix or _NETWORK
    inside = {key.removeprefix(start): value for key, value in found.items() if key.startswith(start)}
    return inside or found


def _unwrapped(key: str) -> str:
    return ".".join(part for part in key.split(".") if part not in _WRAPPERS)
