"""The one door for checkpoints: reading them safely, and putting weights into a module.

A checkpoint of this suite is a Lightning checkpoint whose entry `stpl` says, in plain types, what the network is:
`{"schema": 2, "network": {…NetworkOptions…}, "classes": [names], "frame_size": [H, W], "step": int, "holds": …}`, where
`holds` is "network", or "backbone" where the classifiers are absent (a converted ImageNet checkpoint). What else a file
may be, and how damage is noticed: see `stpl.nn.formats`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stpl.errors import CheckpointError, ConfigError, did_you_mean, first_line
from stpl.nn import formats, huggingface
from stpl.nn.builder import imported
from stpl.nn.checkpoint_files import existing
from stpl.nn.finite import fault
from stpl.nn.network import NetworkOptions, architectures
from stpl.nn.own import OwnNetwork
from stpl.nn.state import find, fits, missing, of_network, of_ours, other_shapes, unexpected, unwrapped

SCHEMA = 2
BACKBONE = "segmenter.backbone."  # what the backbone's keys begin with
Holds = Literal["network", "backbone"]
"""What a checkpoint declares to hold: the whole network, or only its backbone."""

_NAMES_SHOWN = 5
_Content = tuple[tuple[int, ...], dict[str, Any]]
_KEPT: ContextVar[dict[Path, _Content | None]] = ContextVar("kept", default={})  # noqa: B039 -- never changed


def read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint file, or of a shipped model by its name, in any format of `stpl.nn.formats`.

    Raises:
        CheckpointError: the file is missing, damaged, no checkpoint, or not made of tensors and plain types.
    """
    path = existing(path)
    kept, file = _KEPT.get(), path.stat()
    state = (file.st_size, file.st_mtime_ns, file.st_ctime_ns, file.st_ino)  # size and time alone can be copied
    if path in kept and (found := kept[path]) is not None and found[0] == state:
        return found[1]
    content = formats.read(path)
    if not isinstance(content, dict):
        what = f"holds a {type(content).__name__}, not a state_dict"
        raise CheckpointError(what, where=path, mend="save the network's state_dict")
    if path in kept:
        kept[path] = (state, content)
    return content


@contextmanager
def read_once(path: Path) -> Iterator[None]:
    """Within it, a checkpoint (`path` as for `read`) is read from the disk once, unless its file changes."""
    path, outer = existing(path), _KEPT.get()
    if path in outer:
        yield
        return
    token = _KEPT.set({path: None, **outer})
    try:
        yield
    finally:
        _KEPT.reset(token)


def describe(path: Path, builder: str | None = None) -> NetworkOptions:
    """The network a checkpoint of this suite was made for.

    Args:
        path: the checkpoint.
        builder: what may be called to build the network, if it is one of your own: `OwnNetwork.builder`, or the class
            of an architecture of your own, `package.module:Class`. No file may name code that is then executed.

    Raises:
        CheckpointError: it does not say what network it is of, or this is built by other code.
    """
    network = entry(path)["network"]
    kind = str(network["architecture"]["class_path"])
    if kind not in architectures():
        module, _, name = kind.rpartition(".")
        if builder != f"{module}:{name}":
            raise _not_trusted(f"{module}:{name}", path)
        imported(builder, "--builder")
    options = NetworkOptions.from_dict(network)
    own = options.architecture
    named = huggingface.BUILD if (builder or "").startswith("hf:") else builder
    if isinstance(own, OwnNetwork):
        if own.builder != named:
            raise _not_trusted(own.builder, path)
    elif builder is not None and builder.replace(":", ".") != kind:
        why = f"the checkpoint is of {own.title}, which the suite builds itself"
        raise ConfigError(f"this does nothing here: {why}", where="--builder", mend="leave it out")
    return options


def _not_trusted(builder: str, path: Path) -> CheckpointError:
    what = f"is of a network that {builder} builds, and nothing that a file names is called"
    return CheckpointError(what, where=path, mend=f"if you trust it, name it: --builder={builder}")


def frame_size(path: Path) -> tuple[int, int]:
    """Height and width of the frames that the network of a checkpoint of this suite was trained on."""
    height, width = entry(path)["frame_size"]
    return height, width


def description(
    options: NetworkOptions, frame_size: tuple[int, int], step: int, holds: Holds = "network", origin: str | None = None
) -> dict[str, Any]:
    """The entry `stpl` of a checkpoint, in plain types.

    Frames of that height and width trained it for that many steps; `origin` says where converted weights came from.
    """
    plain = {
        "schema": SCHEMA,
        "network": options.to_dict(),
        "classes": list(options.space.classes),
        "frame_size": list(frame_size),
        "step": step,
        "holds": holds,
    }
    return plain if origin is None else {**plain, "origin": origin}


def entry(path: Path) -> dict[str, Any]:
    """What `description` wrote into a checkpoint; raises `CheckpointError` if there is nothing of the kind."""
    found = read(path).get("stpl")
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        what = f"does not describe its network (schema {SCHEMA} expected)"
        mend = "use a checkpoint that this version of stpl wrote, or `stpl weights convert` a foreign one"
        raise CheckpointError(what, where=path, mend=mend)
    return found


def load(
    path: Path, module: nn.Module, *, options: NetworkOptions | None = None, backbone_suffices: bool = False
) -> None:
    """Put the weights of a checkpoint into `module`, all of them and nothing else.

    Args:
        path: the name of a shipped model (`located`), a Lightning checkpoint (entry `state_dict`), a bare state_dict or
            a file that holds one state_dict under another key. What stands before the network's names is removed,
            and what stands beside it is left out; see `stpl.nn.state`.
        module: takes the weights.
        options: what the module was built from, compared with the checkpoint's own if it has them: classes, image
            normalisation, dilations and strides change no tensor's shape, and would load in silence.
        backbone_suffices: take a checkpoint that declares to hold only a backbone; the rest of `module` stays as it is.

    Raises:
        CheckpointError: the file is missing or torn, was made for other classes, its keys or shapes do not fit, its
            numbers are not finite, or it declares to hold only a backbone and that does not suffice.
    """
    content = read(path)
    meta = content.get("stpl", {})
    meta = meta if isinstance(meta, dict) else {}
    backbone_only = meta.get("holds", "network") == "backbone"
    if backbone_only and not backbone_suffices:
        mend = "train a source model from it (--experiment=source --model.checkpoint=…), and start from that"
        raise CheckpointError("holds only a backbone, no classifier", where=path, mend=mend)
    if meta.get("schema", SCHEMA) != SCHEMA:
        entry(path)  # which refuses it
    if options is not None and meta:
        _check_options(meta, options, path, backbone_only)
    wanted = module.state_dict()
    if backbone_only:
        wanted = {key: value for key, value in wanted.items() if key.startswith(BACKBONE)}
    state = tensors(content, path) if meta else of_network(find(content, None, path)[1], wanted, path)
    check_fit(state, wanted, path, mend="set network.* to the network it was trained with")
    check_finite(state, path)
    put(module, state)


def put(module: nn.Module, state: Mapping[str, Any]) -> None:
    """Put weights that fit into a module; what they lack stays as it is, and what it does not know is left out."""
    mine = module.state_dict()  # it says which version of each layer wrote it; without that, torch adds counters
    mine.update({name: value for name, value in state.items() if name in mine})
    module.load_state_dict(mine)


def _check_options(meta: Mapping[str, Any], options: NetworkOptions, path: Path, backbone_only: bool) -> None:
    kind, asked = str(meta["network"]["architecture"]["class_path"]), options.architecture
    made = NetworkOptions.from_dict(meta["network"]).architecture if kind in architectures() else None
    if made is None or made.title != asked.title:
        what = f"is of the network {kind if made is None else made.title}, not of {asked.title}"
        raise CheckpointError(what, where=path, mend="give a checkpoint of this network")
    made_for, classes = tuple(meta["classes"]), options.space.classes
    if made_for != classes and not backbone_only:
        trained, wanted = (f"{len(names)} classes ({', '.join(names)})" for names in (made_for, classes))
        mend = "choose the label space the checkpoint was trained for (network.label_space)"
        raise CheckpointError(f"was trained for {trained}, the network has {wanted}", where=path, mend=mend)
    names = [name for name in asked.shapeless if name in asked.of_backbone or not backbone_only]
    differing = {name: getattr(made, name) for name in names if getattr(made, name) != getattr(asked, name)}
    if differing:
        values = ", ".join(f"{name}={value}" for name, value in differing.items())
        mend = f"set {', '.join(f'network.architecture.{name}' for name in differing)} to that"
        raise CheckpointError(f"was trained with {values}", where=path, mend=mend)


def own_weights(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Put a state dict as it is stored in `path` into a network of your own; raises `CheckpointError` if none fits."""
    wanted = module.state_dict()
    state, mend = of_network(dict(state), wanted, path), "give the weights of this network, and its arguments"
    check_kinds(state, wanted, path, mend)
    check_finite(state, path)
    try:
        if fits(state, wanted):
            put(module, state)
        else:
            module.load_state_dict(dict(state))  # it may know names that an older version of it had
    except Exception as error:  # loading runs its author's code
        check_fit(state, wanted, path, mend)
        raise CheckpointError(first_line(error), where=path, mend=mend) from error


def tensors(content: Mapping[str, Any], path: Path | None = None, key: str | None = None) -> dict[str, Tensor]:
    """The tensors in what `read` gave, by the names of our networks or of a known layout; see `stpl.nn.state.find`."""
    meta, state = content.get("stpl"), find(content, key, path)[1]
    return of_ours(state, meta.get("evaluated")) if isinstance(meta, dict) else unwrapped(state, path)


def of_file(path: Path, key: str | None = None) -> dict[str, Tensor]:
    """The state dict in a file as it is stored, of a checkpoint of ours the network's; see `stpl.nn.state.find`."""
    content = read(path)
    ours = key is None and isinstance(content.get("stpl"), dict)
    return tensors(content, path) if ours else find(content, key, path)[1]


def check_fit(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path, mend: str) -> None:
    """Raise `CheckpointError`, naming keys and shapes, unless `state` has the keys and shapes of `wanted`."""
    absent, strange = missing(state, wanted), unexpected(state, wanted)
    if absent or strange:
        parts = [f"{len(absent)} missing ({_names(absent)})"] if absent else []
        parts += [f"{len(strange)} unexpected ({_names(strange, wanted)})"] if strange else []
        raise CheckpointError(f"its keys do not fit the network: {'; '.join(parts)}", where=path, mend=mend)
    check_kinds(state, wanted, path, mend)
    differing = other_shapes(state, wanted)
    if differing:
        shapes = [f"{key} {tuple(state[key].shape)} ≠ {tuple(wanted[key].shape)}" for key in differing]
        what = f"{len(shapes)} tensors have another shape than the network's: {_names(shapes)}"
        raise CheckpointError(what, where=path, mend=mend)


def check_kinds(state: Mapping[str, Any], wanted: Mapping[str, Any], path: Path, mend: str) -> None:
    """Raise `CheckpointError`, naming types, for tensors that are sparse, complex, bool and the like."""
    strangers = []
    for key, value in state.items():
        mine = wanted.get(key)
        if not isinstance(value, Tensor) or not isinstance(mine, Tensor):
            continue
        plain = value.layout == torch.strided and not value.is_meta and not value.is_quantized
        if not plain or (mine.is_floating_point() and not value.is_floating_point()):
            kind = f"{value.dtype} {value.layout}".replace(" torch.strided", "").replace("torch.", "")
            strangers.append(f"{key} ({'meta ' if value.is_meta else ''}{kind})")
    if strangers:
        raise CheckpointError(f"holds what no such network has: {_names(strangers)}", where=path, mend=mend)


def check_finite(state: Mapping[str, Any], path: Path) -> None:
    """Raise `CheckpointError`, naming a tensor, if weights or statistics hold NaN, infinity or a variance below 0."""
    found = fault(state)
    if found is not None:
        mend = "use a checkpoint from before that"
        raise CheckpointError(f"is of a network that diverged: {found}", where=path, mend=mend)


def _names(names: list[str], wanted: Mapping[str, Any] | None = None) -> str:
    hints = [did_you_mean(name, wanted or (), "{}").rstrip() for name in names[:_NAMES_SHOWN]]
    shown = [f"{name}, {hint}" if hint else name for name, hint in zip(names, hints, strict=False)]
    return ", ".join(shown) + (", …" if len(names) > _NAMES_SHOWN else "")
