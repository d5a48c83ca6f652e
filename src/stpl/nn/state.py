"""The state_dict in a checkpoint's content, wherever its program put it, under the names its network has.

It is looked for in this order: the one that `key` names; the one under `state_dict`; the only one that there is. A file
that holds several others (a model and its moving average, a student and its teacher) is refused with their names.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stpl.errors import CheckpointError

State = dict[str, Tensor]

TOP = "."  # what the content itself is called where it is a state_dict
COUNTER = "num_batches_tracked"  # what the names of BatchNorm's counters end with
EXTRA = "_extra_state"  # what those of extra state end with (`nn.Module.get_extra_state`), which need not be tensors
_USUAL = "state_dict"
_NETWORK = "network."  # the entries of a training module of ours that are its network
# What DistributedDataParallel, `torch.compile`, FSDP and activation checkpointing put into names, in any order:
_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})

_ASIDE = ("optim", "sched", "lr_", "scaler", "callbacks", "loops")  # beginnings of keys that hold no network
_DEPTH, _NAMES_SHOWN = 3, 8


def find(content: Mapping[Any, Any], key: str | None = None, path: Path | None = None) -> tuple[str, State]:
    """The state_dict in the content of a checkpoint, as it is stored, and what it is called there.

    Args:
        content: what `formats.read` gave.
        key: which one; of nested mappings with a dot between, such as `ema.model`, and `.` for the content itself;
            where none has this name, what the names of the tensors begin with, such as `student`.
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
    if name not in there and (part := _part(there, name)):
        return name, part
    if name not in there or (key is None and name != _USUAL and len(there) > 1):
        found = ", ".join(f"{name} ({len(state)} tensors)" for name, state in there.items())
        raise CheckpointError(
            f"holds no state_dict '{key}', but {found}" if key else f"holds several state_dicts: {found}",
            where=path,
            mend=f"save the one you mean alone, or choose it where there is that option: --key={next(iter(there))}",
        )
    return name, there[name]


def _part(there: Mapping[str, State], key: str) -> State:
    """What begins with `key` in one of several state_dicts, with or without the name of that before it."""
    for name, state in there.items():
        for start in (key.removeprefix(f"{name}."), key):
            if found := _under(state, f"{start}."):
                return found
    return {}


def candidates(content: Mapping[Any, Any]) -> dict[str, State]:
    """All mappings in `content` that look like a state_dict, by name: those with dotted names of tensors, if any.

    Without such names it is the content itself, if it holds tensors (a network of one layer), else what is inside.
    """
    found = dict(_walk(content, ()))
    dotted = {name: state for name, state in found.items() if any("." in key for key in state)}
    return dotted or ({TOP: found[TOP]} if TOP in found else found)


def _walk(content: Mapping[Any, Any], place: tuple[str, ...]) -> Iterator[tuple[str, State]]:
    state = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if state:
        state |= {key: value for key, value in content.items() if isinstance(key, str) and key.endswith(EXTRA)}
        yield ".".join(place) or TOP, state
    for key, value in content.items():
        nested = isinstance(key, str) and isinstance(value, Mapping) and len(place) < _DEPTH
        if nested and not key.lower().startswith(_ASIDE) and not key.endswith(EXTRA):
            yield from _walk(value, (*place, key))


def of_ours(state: State, evaluated: str | None = None) -> State:
    """The network in a state_dict of this suite's checkpoints: what stands under `evaluated`, or else `network`.

    Nothing else is removed: a network may call a part of its own `module`.
    """
    return _under(state, _NETWORK if evaluated is None else f"{evaluated}.") or state


def unwrapped(state: State, path: Path | None = None) -> State:
    """The tensors of a network that is not known yet: without what wraps it, and without what stands beside it.

    If names begin with a wrapper, the others are left out (`n_averaged` of an averaged model); if names begin with
    `network.`, only these are used. Raises `CheckpointError` if two tensors have one name then.
    """
    wrapped = {key: value for key, value in state.items() if key.partition(".")[0] in _WRAPPERS}
    found = _renamed(wrapped or state, path)
    return _under(found, _NETWORK) or found


def of_network(state: State, wanted: Mapping[str, Any], path: Path | None = None) -> State:
    """The tensors of a network whose names are known, under these names.

    Names fit as they are, or without what all of them begin with, which may be anything (`module.`, `model.`,
    `student.`); what stands beside the network is left out then. Where neither fits, what wrappers put into the middle
    of names does not count. Nothing is removed that the network calls a part of its own. Where no place fits, the
    result is what stands at the one that comes nearest.

    Raises:
        CheckpointError: several places fit, or two tensors have one name.
    """
    found = _placed(state, wanted, path)
    plain = {_plain(name): name for name in wanted}
    if fits(found, wanted) or len(plain) < len(wanted):
        return found
    renamed = _renamed(state, path)
    again = _placed(renamed, plain, path)
    return {plain.get(name, name): value for name, value in again.items()} if fits(again, plain) else found


def fits(state: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether names are those of a network, as `missing` and `unexpected` have it."""
    return not missing(state, wanted) and not unexpected(state, wanted)


def missing(state: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Names of a network that are not there, sorted; it can do without counters of batches and extra state."""
    return sorted(name for name in wanted if name not in state and not name.endswith((COUNTER, EXTRA)))


def unexpected(state: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Names that the network does not have, sorted, but for counters of batches."""
    return sorted(name for name in state if name not in wanted and not name.endswith(COUNTER))


def other_shapes(state: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Names of tensors that have another shape in the network, sorted."""
    return sorted(
        name
        for name, value in state.items()
        if isinstance(value, Tensor) and isinstance(wanted.get(name), Tensor) and value.shape != wanted[name].shape
    )


def _placed(state: State, wanted: Mapping[str, Any], path: Path | None) -> State:
    """What stands in the one place of a state_dict at which the network's names do."""
    counts = Counter(start for name in state for start in _starts(name) if name.removeprefix(start) in wanted)
    nearest = max(counts, key=lambda start: (counts[start], -len(start)), default="")
    least = len(missing({}, wanted))
    places = {start: _under(state, start) for start, count in counts.items() if count >= least}
    places = {start: found for start, found in places.items() if fits(found, wanted)}
    if "" in places:
        return state
    places = {start: found for start, found in places.items() if not other_shapes(found, wanted)} or places
    if not places:
        return _under(state, nearest)
    first, *others = places.values()
    if not all(equal(found, first) for found in others):  # some programs list one network twice
        names = [start.rstrip(".") for start in places]
        what = f"holds {len(names)} networks that fit: {', '.join(names)}"
        mend = f"save the one you mean alone, or choose it where there is that option: --key={names[0]}"
        raise CheckpointError(what, where=path, mend=mend)
    return first


def _starts(name: str) -> Iterator[str]:
    """What a name may begin with before that of a network's tensor: nothing, and every number of parts."""
    yield ""
    yield from (name[: place + 1] for place, letter in enumerate(name) if letter == ".")


def _under(state: State, start: str) -> State:
    return {name.removeprefix(start): value for name, value in state.items() if name.startswith(start)}


def equal(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two state_dicts hold the same tensors; extra state, which may be anything, is not looked at."""
    return one.keys() == other.keys() and all(
        isinstance(other[name], Tensor) and torch.equal(value, other[name])
        for name, value in one.items()
        if isinstance(value, Tensor)
    )


def _renamed(state: State, path: Path | None) -> State:
    """The same without wrappers in names."""
    found = {_plain(name): value for name, value in state.items()}
    if len(found) < len(state):
        mend = "save the state_dict of the network itself"
        raise CheckpointError("holds tensors of one name twice, with and without a wrapper", where=path, mend=mend)
    return found


def _plain(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)
