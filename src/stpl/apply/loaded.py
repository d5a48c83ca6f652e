"""A network with its weights, opened as its description says, and how it labels frames."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from stpl.apply.origin import HUGGING_FACE, NetworkOrigin, read_classes, title_of
from stpl.apply.settings import STATE
from stpl.data.clip import Clip, collate
from stpl.data.flow.estimators import estimator_class
from stpl.data.flow.flow_cache import FlowCache
from stpl.data.image import resize_rgb
from stpl.data.label_space import LabelSpace
from stpl.data.videos.content import content_id
from stpl.data.videos.stream import FrameStream
from stpl.data.videos.video_clips import clips_in_order, pair_clip
from stpl.errors import CheckpointError, ConfigError, DataError, DivergedError, note
from stpl.nn import formats, huggingface, weights
from stpl.nn.accel import Accel
from stpl.nn.checkpoint_files import located
from stpl.nn.finite import fault
from stpl.nn.foreign import plain, wrapped_as
from stpl.nn.generators import generators_kept
from stpl.nn.network import NetworkOptions, around_own, as_accel, build_network
from stpl.nn.normalization import AS_THEY_ARE
from stpl.nn.own import IN_MEMORY, OwnNetwork, OwnSegmenter, build_module, holding
from stpl.nn.segmenter import upsample
from stpl.nn.state import equal

Frame = NDArray[np.uint8]


@dataclass(frozen=True)
class LoadedNetwork:
    """A network with its weights, to predict with or to adapt.

    Attributes:
        options: what it is, for checkpoints and configurations.
        frame_size: height and width of the frames it is to see.
        network: the network in its ACCEL; what becomes of its file later does not matter.
        checkpoint: of a network of the suite's own architectures, the file it was read from.
        content: the identity of that file's content as it was read.
        held: the network that Python code holds, if this is a copy of it.
        flow_estimator: of the flow it uses; see `stpl.data.flow.estimators`.
    """

    options: NetworkOptions
    frame_size: tuple[int, int]
    network: Accel
    checkpoint: Path | None = None
    content: str = ""
    held: nn.Module | None = None
    flow_estimator: str = "dis"

    @property
    def flow(self) -> str | None:
        """The estimator of its flow, where it uses the frame before."""
        return self.flow_estimator if self.network.uses_previous else None

    def buildable(self) -> AbstractContextManager[None]:
        """Within it, checkpoints of the network can be loaded even if only Python code holds it."""
        return nullcontext() if self.held is None else holding(self.held)

    @property
    def builder(self) -> str | None:
        """What builds a network of your own; `None` for an architecture, which the suite builds and knows by name."""
        architecture = self.options.architecture
        return architecture.builder if isinstance(architecture, OwnNetwork) else None

    @property
    def name(self) -> str:
        """What to call it: what builds it, the run that trained it, or its file."""
        if self.held is not None:
            return type(plain(self.held)).__name__
        if self.builder is not None or self.checkpoint is None:
            return str(self.builder)
        return title_of(self.checkpoint)

    @property
    def accel(self) -> Accel:
        """The network in its ACCEL, in evaluation mode."""
        return self.network.eval()

    def check_unchanged(self) -> None:
        """Raise `CheckpointError` if the checkpoint's file holds something else than when it was read."""
        if self.checkpoint is not None and content_id(self.checkpoint) != self.content:
            raise CheckpointError("has changed since it was read", where=self.checkpoint, mend="load it again")

    @property
    def proposal(self) -> str:
        """If nobody named the layer of its features: which one is used, why, and what others there are."""
        segmenter = self.network.segmenter
        return segmenter.proposal if isinstance(segmenter, OwnSegmenter) else ""

    @property
    def module(self) -> nn.Module:
        """What the callable builds or Hugging Face loads; of a checkpoint of the suite, its segmenter.

        What Python code holds within wrappers (`torch.compile`, DataParallel, AveragedModel) comes within the same.
        """
        segmenter = self.accel.segmenter
        if not isinstance(segmenter, OwnSegmenter):
            return segmenter
        return segmenter.net if self.held is None else wrapped_as(self.held, segmenter.net)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of its classes, in the order of the ids that it predicts."""
        return self.options.space.classes

    def predict(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """Label maps uint8 `[H,W]` of frames uint8 `[H,W,3]` RGB in order, each at its own size, the first one's too.

        The network may use the frame before; the first one is its own.

        Raises:
            DataError: a frame is something else: floating-point, grey, with an alpha channel, a tensor.

        Examples:
            >>> import stpl
            >>> network = stpl.load("streets")
            >>> frame = np.full((64, 128, 3), 128, np.uint8)
            >>> [(labels.shape, labels.dtype.name) for labels in network.predict([frame, frame])]
            [((64, 128), 'uint8'), ((64, 128), 'uint8')]
        """
        flow, before = None if self.flow is None else FlowCache(estimator=self.flow), None
        for frame in _checked(frames):
            seen = resize_rgb(frame, self.frame_size)
            clip = pair_clip(seen if before is None else before, seen, flow)
            yield predict(self.accel, clip, frame.shape)
            before = seen

    def adapted(self, checkpoint: Path) -> "LoadedNetwork":
        """The same with the weights of a checkpoint that an adaptation of it wrote."""
        with self.buildable():
            network = load_network(checkpoint, self.builder)
        if self.checkpoint is None:
            return replace(self, network=network)
        return replace(self, network=network, checkpoint=checkpoint, content=content_id(checkpoint))

    def is_in(self, path: Path) -> bool:
        """Whether a checkpoint holds the very weights of the network."""
        return equal(_on_host(self.network.state_dict()), weights.tensors(weights.read(path), path))

    def write_weights(self, folder: Path) -> Path | None:
        """Write the weights of a network of your own into a folder, in the form in which it came.

        Returns:
            `adapted.pt`, the state dict under the network's own names; or the folder `adapted`, which `from_pretrained`
            reads; `None` for a network of the suite's own architectures.
        """
        own, segmenter = self.options.architecture, self.network.segmenter
        if not (isinstance(own, OwnNetwork) and isinstance(segmenter, OwnSegmenter)):
            return None
        if own.builder != huggingface.BUILD:
            formats.write(folder / STATE, _on_host(segmenter.net.state_dict()))
            return folder / STATE
        huggingface.save(segmenter.net, str(own.arguments["name"]), folder / "adapted")
        return folder / "adapted"

    def save(self, path: Path) -> None:
        """Write the network as a checkpoint of the suite, whole or not at all."""
        described = weights.description(self.options, self.frame_size, 0)
        formats.write(path, {"stpl": described, "state_dict": _on_host(self.network.state_dict())})


def _on_host(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.cpu() if isinstance(value, torch.Tensor) else value for name, value in state.items()}


def _checked(frames: Iterable[Frame]) -> Iterator[Frame]:
    """Frames that Python code gives; raises `DataError` for whatever is no uint8 `[H,W,3]`."""
    where, mend = "predict", "give NumPy arrays uint8 [H,W,3], RGB in 0…255, one a frame"
    if not isinstance(frames, Iterable):
        raise DataError(f"this is a {type(frames).__name__}", where=where, mend=mend)
    for place, frame in enumerate(frames):
        dtype, shape = getattr(frame, "dtype", ""), tuple(getattr(frame, "shape", ()))
        fits = dtype == np.uint8 and len(shape) == 3 and shape[2] == 3 and min(shape) > 0
        if not (isinstance(frame, np.ndarray) and fits):
            kind = " ".join(filter(None, (type(frame).__name__, str(dtype), str(list(shape)) if shape else "")))
            raise DataError(f"frame {place} is a {kind}", where=where, mend=mend)
        yield frame


@torch.inference_mode()
def predict(network: Accel, clip: Clip, shape: tuple[int, ...]) -> Frame:
    """What a network, in evaluation mode, says of a clip's current frame: train ids uint8 `[H,W]` of a frame's shape.

    The clip has no batch; its frames have the size that the network sees. The frame before and the backward flow are
    needed where the network uses them.

    Raises:
        DivergedError: the network gives no finite numbers.
    """
    batch = collate([clip]).to(next(network.parameters()).device)
    logits = upsample(network.predict(batch), (shape[0], shape[1]))
    if not bool(logits.isfinite().all()):
        raise DivergedError("the network's output is not finite", mend="use another checkpoint")
    labels: Frame = logits.argmax(1)[0].to(torch.uint8).cpu().numpy()
    return labels


def labelled(
    networks: Sequence[LoadedNetwork], source: FrameStream, flow: FlowCache, first: int = 0
) -> Iterator[tuple[Frame, list[Frame]]]:
    """Frames, from the one of number `first` on, with what each network predicts at their size.

    Each network sees them at its own size, with the flow of its own estimator, which `flow` keeps, if it uses any;
    those that see the same clips share them. The frame before a source's first one is that one itself.
    """
    views = [(network.frame_size, network.flow) for network in networks]
    kinds = list(dict.fromkeys(views))
    flows = [None if name is None else replace(flow, estimator=name) for _, name in kinds]
    streams = [clips_in_order(source, size, flow) for (size, _), flow in zip(kinds, flows, strict=True)]
    for seen in islice(zip(*streams, strict=True), first, None):
        frame = seen[0][0]
        clips = {kind: clip for kind, (_, clip) in zip(kinds, seen, strict=True)}
        pairs = zip(networks, views, strict=True)
        yield frame, [predict(network.accel, clips[view], frame.shape) for network, view in pairs]


def load_network(checkpoint: Path, builder: str | None = None) -> Accel:
    """The network a checkpoint describes, with its weights, ready to predict; `builder` as for `weights.describe`."""
    with weights.read_once(checkpoint):
        options = weights.describe(checkpoint, builder)
        with generators_kept():  # fresh weights, which the checkpoint's replace, are drawn
            network = build_network(options)
        weights.load(checkpoint, network, options=options)
    return network.eval().to(_device())


def _device() -> str:
    """Where networks predict."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def open_network(origin: NetworkOrigin) -> LoadedNetwork:
    """The network that `origin` describes; generators of random numbers are left as they were.

    Raises:
        StplError: it cannot be used.
    """
    estimator = origin.flow_estimator or "dis"
    estimator_class(estimator)
    with generators_kept():
        model = _own(origin) if origin.checkpoint is None else _described(origin, located(origin.checkpoint))
    return replace(model, flow_estimator=estimator)


@contextmanager
def as_checkpoint(origin: NetworkOrigin) -> Iterator[list[str]]:
    """A network as options of a run on a benchmark: its checkpoint, or one that exists meanwhile, builder and flow."""
    flow = [] if origin.flow_estimator is None else [f"--data.flow_estimator={origin.flow_estimator}"]
    if origin.checkpoint is not None:
        built = [] if origin.builder is None else [f"--builder={origin.builder}"]
        yield [f"--network={origin.network}", *built, *flow]
        return
    network = open_network(origin)
    with TemporaryDirectory() as folder:
        network.save(Path(folder) / "network.ckpt")
        yield [f"--network={folder}/network.ckpt", f"--builder={network.builder}", *flow]


def _own(origin: NetworkOrigin) -> LoadedNetwork:
    """A network of your own."""
    assert origin.size is not None
    own, space = _asked(origin, origin.size)
    if (own.mean, own.std) == AS_THEY_ARE and origin.mean is not None:
        note("frames in 0…255 go into the network as they are; for one that takes 0…1 give std 255,255,255", "--std")
    held: nn.Module | None = origin.module
    with nullcontext() if held is None else holding(held):
        module = build_module(own)
    if origin.weights is not None:
        weights.own_weights(module, weights.of_file(origin.weights, origin.key), origin.weights)
    network = around_own(module, own, space)
    if (bad := fault(module.state_dict())) is not None:
        raise ConfigError(f"its weights are of no use: {bad}", where="--network", mend="give it other weights")
    return LoadedNetwork(as_accel(network)[0], origin.size, network.to(_device()), held=held)


def _described(origin: NetworkOrigin, checkpoint: Path) -> LoadedNetwork:
    """What a checkpoint of the suite holds."""
    checkpoint = checkpoint.absolute()
    with weights.read_once(checkpoint):
        options = weights.describe(checkpoint, origin.builder)
        size = origin.size or weights.frame_size(checkpoint)
        network = load_network(checkpoint, origin.builder)
    if isinstance(options.architecture, OwnNetwork):
        return LoadedNetwork(options, size, network)
    return LoadedNetwork(options, size, network, checkpoint, content_id(checkpoint))


def _asked(origin: NetworkOrigin, size: tuple[int, int]) -> tuple[OwnNetwork, LabelSpace]:
    """How a network of your own is built, and its classes: what its own files say, and what is given."""
    space = None if origin.classes is None else read_classes(origin.classes)
    hub = None  # the name of a network of Hugging Face
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
    names = ("features", "logits", "mean", "std", "channels")
    given = {name: getattr(origin, name) for name in names if getattr(origin, name) is not None}
    return replace(own, **given, frame_size=size), space or read_classes("cityscapes19")


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
