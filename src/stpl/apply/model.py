"""A network to adapt or to predict with, opened as its description says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

from stpl.apply.network import Frame, checked, load_network, predict
from stpl.apply.origin import HUGGING_FACE, NetworkOrigin, read_classes
from stpl.apply.settings import STATE
from stpl.data.flow.estimators import estimator_class
from stpl.data.flow.flow_cache import FlowCache
from stpl.data.image import resize_rgb
from stpl.data.label_space import LabelSpace
from stpl.data.videos.content import content_id
from stpl.data.videos.video_clips import pair_clip
from stpl.errors import CheckpointError, ConfigError, note
from stpl.nn import formats, huggingface, weights
from stpl.nn.accel import Accel
from stpl.nn.checkpoint_files import located
from stpl.nn.finite import fault
from stpl.nn.layers import candidates, proposed
from stpl.nn.network import NetworkOptions, around
from stpl.nn.normalization import AS_THEY_ARE
from stpl.nn.own import IN_MEMORY, OwnNetwork, OwnSegmenter, build_module, lending
from stpl.nn.state import same
from stpl.nn.wrappers import plain, wrapped_as


@dataclass(frozen=True)
class Model:
    """A network to adapt.

    Attributes:
        options: what it is, for checkpoints and command lines.
        frame_size: height and width of the frames it is to see.
        checkpoint: its weights, if a checkpoint of the suite holds them.
        network: the network itself, if it is of your own.
        loaded: the same of a checkpoint of the suite: what becomes of the file later does not matter.
        content: of the checkpoint's file as it was read.
        origin: the network it is a copy of, if Python code holds that.
        flow_estimator: of the flow it uses; see `stpl.data.flow.estimators`.
    """

    options: NetworkOptions
    frame_size: tuple[int, int]
    checkpoint: Path | None = None
    network: Accel | None = None
    loaded: Accel | None = None
    content: str = ""
    origin: nn.Module | None = None
    flow_estimator: str = "dis"

    def at_hand(self) -> AbstractContextManager[None]:
        """Within it, checkpoints of the network can be loaded even if only Python code holds it."""
        return nullcontext() if self.origin is None else lending(self.origin)

    @property
    def build(self) -> str | None:
        """What builds a network of your own."""
        own = self.options.architecture
        return own.builder if isinstance(own, OwnNetwork) else None

    @property
    def name(self) -> str:
        """What to call it: what builds it, the run that trained it, or its file."""
        if self.origin is not None:
            return type(plain(self.origin)).__name__
        if self.build is not None or self.checkpoint is None:
            return str(self.build)
        inside = self.checkpoint.parent.name == "checkpoints"
        return self.checkpoint.parents[2].name if inside else self.checkpoint.stem

    @property
    def accel(self) -> Accel:
        """The network in its ACCEL, in evaluation mode."""
        if self.network is not None:
            return self.network.eval()
        assert self.loaded is not None
        return self.loaded.eval()

    def check_unchanged(self) -> None:
        """Raise `CheckpointError` if the checkpoint's file holds something else than when it was read."""
        if self.checkpoint is not None and content_id(self.checkpoint) != self.content:
            raise CheckpointError("has changed since it was read", where=self.checkpoint, mend="load it again")

    @property
    def module(self) -> nn.Module:
        """What the callable builds or Hugging Face loads; of a checkpoint of the suite, its segmenter.

        What Python code holds within wrappers (`torch.compile`, DataParallel, AveragedModel) comes within the same.
        """
        segmenter = self.accel.segmenter
        if not isinstance(segmenter, OwnSegmenter):
            return segmenter
        return segmenter.net if self.origin is None else wrapped_as(self.origin, segmenter.net)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of its classes, in the order of the ids that it predicts."""
        return self.options.space.classes

    def predict(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """Label maps uint8 `[H,W]` of frames uint8 `[H,W,3]` RGB in order, each at its own size, the first one's too.

        The network may use the frame before; the first one is its own.

        Raises:
            DataError: a frame is something else: floating-point, grey, with an alpha channel, a tensor.
        """
        flow, before = FlowCache(estimator=self.flow_estimator), None
        for frame in checked(frames):
            seen = resize_rgb(frame, self.frame_size)
            clip = pair_clip(seen if before is None else before, seen, flow)
            yield predict([self.accel], clip, frame.shape)[0]
            before = seen

    def adapted(self, checkpoint: Path) -> Model:
        """The same with the weights of a checkpoint that an adaptation of it wrote."""
        if self.network is None:
            loaded, content = load_network(checkpoint), content_id(checkpoint)
            return replace(self, checkpoint=checkpoint, loaded=loaded, content=content)
        with self.at_hand():
            return replace(self, network=load_network(checkpoint, self.build))

    def is_in(self, path: Path) -> bool:
        """Whether a checkpoint holds the very weights of the network."""
        assert self.network is not None
        kept, mine = weights.tensors(weights.read(path), path), self.network.state_dict()
        return kept.keys() == mine.keys() and all(same(kept[name], value) for name, value in mine.items())

    def hand_back(self, state: Mapping[str, torch.Tensor], folder: Path) -> Path:
        """Write weights of a network of your own in the form in which it came.

        Args:
            state: under the network's own names (`own_state`).
            folder: to write into.

        Returns:
            `adapted.pt`, the state dict; or the folder `adapted`, which `from_pretrained` reads.
        """
        assert self.network is not None
        own, segmenter = self.options.architecture, self.network.segmenter
        assert isinstance(own, OwnNetwork)
        assert isinstance(segmenter, OwnSegmenter)
        if own.builder != huggingface.BUILD:
            formats.write(folder / STATE, state)
            return folder / STATE
        segmenter.net.load_state_dict(dict(state))
        huggingface.save(segmenter.net, str(own.arguments["name"]), folder / "adapted")
        return folder / "adapted"

    def save(self, path: Path) -> None:
        """Write a network of your own as a checkpoint of the suite, whole or not at all."""
        assert self.network is not None
        described = weights.description(self.options, self.frame_size, 0)
        formats.write(path, {"stpl": described, "state_dict": self.network.state_dict()})


def own_state(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The state dict of a network of your own, under its own names, from a checkpoint of the suite."""
    before = "segmenter.net."
    state = weights.tensors(weights.read(checkpoint), checkpoint)
    return {name.removeprefix(before): value for name, value in state.items() if name.startswith(before)}


def open_model(origin: NetworkOrigin) -> Model:
    """The network that `origin` describes; generators of random numbers are left as they were.

    Raises:
        StplError: it cannot be used.
    """
    estimator = origin.flow_estimator or "dis"
    estimator_class(estimator)
    with isolate_rng():
        model = _own(origin) if origin.checkpoint is None else _described(origin, located(origin.checkpoint))
    return replace(model, flow_estimator=estimator)


def _own(origin: NetworkOrigin) -> Model:
    """A network of your own."""
    assert origin.size is not None
    own, space = _asked(origin, origin.size)
    if (own.mean, own.std) == AS_THEY_ARE and origin.mean is not None:
        note("frames in 0…255 go into the network as they are; for one that takes 0…1 give std 255,255,255", "--std")
    held: nn.Module | None = origin.module
    with nullcontext() if held is None else lending(held):
        module = build_module(own)
    if origin.weights is not None:
        weights.own_weights(module, weights.of_file(origin.weights, origin.key), origin.weights)
    if not own.features and (found := proposed(candidates(module, origin.size), space.num_classes)) is not None:
        own = replace(own, features=found.name)
    options = NetworkOptions(own, classes=space.classes, palette=space.colours)
    network = around(OwnSegmenter(module, own, space.num_classes), options)
    if (bad := fault(module.state_dict())) is not None:
        raise ConfigError(f"its weights are of no use: {bad}", where="--network", mend="give it other weights")
    return Model(options, origin.size, network=network, origin=held)


def _described(origin: NetworkOrigin, checkpoint: Path) -> Model:
    """What a checkpoint of the suite holds; a network of your own is loaded at once."""
    build = origin.builder
    options = weights.describe(checkpoint, build)
    size = weights.frame_size(checkpoint) if origin.size is None else origin.size
    if isinstance(options.architecture, OwnNetwork):
        return Model(options, size, network=load_network(checkpoint, build))
    kind = type(options.architecture)
    if build not in (None, f"{kind.__module__}:{kind.__qualname__}"):
        why = f"the checkpoint is of {options.architecture.title}, which the suite builds itself"
        raise ConfigError(f"this does nothing here: {why}", where="--builder", mend="leave it out")
    checkpoint = checkpoint.absolute()
    return Model(options, size, checkpoint, loaded=load_network(checkpoint), content=content_id(checkpoint))


def _asked(origin: NetworkOrigin, size: tuple[int, int]) -> tuple[OwnNetwork, LabelSpace]:
    """How a network of your own is built, and its classes: what its own files say, and what is given."""
    space, hub = origin.space, None  # the latter is the name of a network of Hugging Face
    if origin.module is not None:
        config = getattr(plain(origin.module), "config", None)
        own, space = OwnNetwork(IN_MEMORY), space or huggingface.named_classes(config)
        hub = getattr(config, "_name_or_path", None)
    elif origin.kind == "hugging face":
        hub = str(origin.network).removeprefix(HUGGING_FACE)
        own, space = OwnNetwork(huggingface.BUILD, {"name": hub}), space or huggingface.classes_of(hub)
    else:
        own = OwnNetwork(str(origin.network), dict(origin.arguments or {}))
    if hub is not None and (origin.mean is None or origin.channels is None):
        own = _as_its_processor(own, hub, origin)
    if origin.channels not in (None, own.channels):  # the default's order is that of its channels
        own = replace(own, mean=own.mean[::-1], std=own.std[::-1])
    space = space or read_classes("cityscapes19")
    names = ("features", "logits", "mean", "std", "channels")
    given = {name: getattr(origin, name) for name in names if getattr(origin, name) is not None}
    return replace(own, **given, frame_size=size), space


def _as_its_processor(own: OwnNetwork, name: str, origin: NetworkOrigin) -> OwnNetwork:
    """A network of Hugging Face with the normalisation of its image processor; a note where that is not known."""
    known = huggingface.preprocessing_of(name) if name else None
    if known is not None:
        return replace(own, mean=known.mean, std=known.std, channels=known.channels)
    if origin.mean is None:
        mean, std = (",".join(f"{value:g}" for value in values) for values in (own.mean, own.std))
        assumed = f"mean {mean}, std {std} in 0…255, {origin.channels or own.channels}"
        where = f"{HUGGING_FACE}{name}" if name else "the network"
        note(f"no image processor says its normalisation; assumed: {assumed} (--mean, --std, --channels)", where)
    return own
