"""Writing a network as ONNX or TorchScript, compared with the original before the file is kept."""

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from copy import deepcopy
from dataclasses import dataclass
from importlib import import_module
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stpl import __version__
from stpl.apply.branches import values_read
from stpl.apply.loaded import LoadedNetwork
from stpl.apply.resources import check_prediction
from stpl.apply.settings import Format, Output
from stpl.errors import StplError, first_line, note
from stpl.files import whole_file
from stpl.nn.accel import Accel
from stpl.nn.outputs import logits_in
from stpl.nn.own import OwnSegmenter
from stpl.nn.segmenter import Segmentation, upsample
from stpl.nn.warp import resize_flow

_NEAR = 1e-3  # largest difference of logits, relative to the largest logit
_TIED = 1e-4  # of classes whose logits differ by less, relative to the largest, either is right: flat frames have ties
_SAME = 0.999  # share of the pixels whose class must be the same
_OPSET = 18
_BATCHES = {1: (2, 1), 2: (1,)}  # by the number of frames: the sizes with which a file is compared, the written first
_RANDOM = (0, 256)
_FRAMES = {
    "random": _RANDOM, "dark": (0, 32), "bright": (224, 256), "black": (0, 4), "grey": (126, 130), "white": (252, 256),
}  # fmt: skip
"""Kinds of frames to compare with: the range of their values. Of quite equal ones each library pools another index."""


class OneFrame(nn.Module):
    """Frames `[B,3,H,W]` RGB in 0..255, uint8 or float, to logits `[B,K,H,W]`: the network without its ACCEL."""

    inputs = ("frames",)

    def __init__(self, accel: Accel) -> None:
        super().__init__()
        self.segmenter = accel.segmenter

    def forward(self, frames: Tensor) -> Tensor:
        """Logits at the frames' size."""
        return upsample(self.segmenter(frames).logits, (frames.shape[-2], frames.shape[-1]))


class TwoFrames(nn.Module):
    """A frame and the one before it, with the flow from the one to the other, to logits: all of ACCEL."""

    inputs = ("frames", "previous", "flow")

    def __init__(self, accel: Accel) -> None:
        super().__init__()
        self.accel = accel

    def forward(self, frames: Tensor, previous: Tensor, flow: Tensor) -> Tensor:
        """Logits `[B,K,H,W]` of `frames` `[B,3,H,W]`; `flow` `[B,2,H,W]` in pixels, on their grid."""
        now, before = self.accel.segment(frames).logits, self.accel.segment(previous).logits
        fused = self.accel.fuse(now, before, resize_flow(flow, (now.shape[-2], now.shape[-1])))
        return upsample(fused, (frames.shape[-2], frames.shape[-1]))


class Classes(nn.Module):
    """The likeliest class of each pixel, uint8 `[B,H,W]`, by the logits of a network."""

    def __init__(self, net: OneFrame | TwoFrames) -> None:
        super().__init__()
        self.net, self.inputs = net, net.inputs

    def forward(self, *inputs: Tensor) -> Tensor:
        """Ids."""
        logits: Tensor = self.net(*inputs)
        return logits.argmax(1).to(torch.uint8)


def write(network: LoadedNetwork, out: Path, kind: Format, output: Output, frames: int | None) -> str:
    """Write a network as one file, whole or not at all; what it takes and gives and how near it is, in words.

    Args:
        network: on the CPU afterwards.
        out: the file.
        kind: its format.
        output: logits, or ids.
        frames: 1 or 2; by what the network was trained with if not given.

    Raises:
        StplError: the network cannot be exported so, or the file does not give what the network gives.
    """
    accel = network.accel.cpu()
    fused = accel.uses_previous
    count = frames or (2 if fused else 1)
    if count == 1 and fused:
        note("without the frame before, this is not all that the network predicts with")
    check_prediction(accel.num_classes, network.frame_size, _BATCHES[count][0])
    net: Any = OneFrame(accel) if count == 1 else TwoFrames(accel)
    exported = (net if output == "logits" else Classes(net)).eval()
    read = values_read(exported, examples(network, count, _BATCHES[count][0]))
    export = Export(exported, network, out, kind, count, read)
    near = _traced_or_scripted(export) if kind == "torchscript" else _kept(export, exported)
    return f"{', '.join(exported.inputs)} → {output}; {near}"


@dataclass(frozen=True)
class Export:
    """An export under way."""

    original: nn.Module  # the network with the inputs and the output of the file
    network: LoadedNetwork  # the same as it was loaded
    out: Path
    kind: Format
    frames: int  # 1 or 2
    read: str | None  # where the network reads values of a frame, if it does


def _traced_or_scripted(export: Export) -> str:
    """Write TorchScript from a trace; where that would not be the network, from the source of a network of your own."""
    failed = None if export.read is None else _decides("torchscript", export.read)
    if failed is None:
        try:
            return _kept(export, export.original)
        except StplError as error:
            failed = error
    try:
        with _one_line(export):
            program = _scripted(export.original)
        return _kept(export, program)
    except StplError:  # the trace is what most networks need, so its failure is the one to report
        raise failed from None


def _kept(export: Export, written: nn.Module) -> str:
    """Write a network, read it back and compare it with the original; the file appears if it is near enough."""
    with _one_line(export):
        inputs = examples(export.network, export.frames, _BATCHES[export.frames][0])
        content = _WRITERS[export.kind](written, inputs, _metadata(export.network, export.frames))
    with whole_file(export.out) as file:
        file.write(content)
        file.flush()
        with _one_line(export):
            try:
                loaded = _LOADERS[export.kind](Path(file.name))
            except Exception:
                _check_names(written)
                raise
        return compare(export, loaded)


def _check_names(net: nn.Module) -> None:
    """Raise an error for the module of a class that torch.jit writes and cannot read again: no identifier of Python."""
    for module in sorted({type(layer).__module__ for layer in nn.Module.modules(net)}):
        if not all(part.isidentifier() for part in module.split(".")):
            raise RuntimeError(f"torch.jit cannot read the name of the module '{module}' again") from None


class _Program(nn.Module):
    """A network of somebody else's from its source, branches and all, and not from a trace."""

    def __init__(self, segmenter: OwnSegmenter) -> None:
        super().__init__()
        for layer in nn.Module.modules(segmenter.net):
            layer._forward_hooks.clear()  # of the features, which no file gives
        script: Any = torch.jit.script
        self.net, self.path, self.normalize = script(segmenter.net), segmenter.path, segmenter.normalize

    def forward(self, frames: Tensor) -> Segmentation:
        """The logits, in place of features too."""
        logits = logits_in(self.net(self.normalize(frames)), self.path)
        return Segmentation(logits, logits)


def _scripted(exported: nn.Module) -> nn.Module:
    """A copy in which networks of somebody else's are programs; raises what `torch.jit.script` does."""
    found = deepcopy(exported)
    for module in list(nn.Module.modules(found)):
        for name, part in module.named_children():
            if isinstance(part, OwnSegmenter):
                setattr(module, name, _Program(part))
    return found


def examples(network: LoadedNetwork, frames: int, batch: int, values: tuple[int, int] = _RANDOM) -> tuple[Tensor, ...]:
    """Random inputs of a batch, of values in a range: frames, and for two of them the frame before and flow."""
    generator, size = torch.Generator().manual_seed(batch), network.frame_size
    images = torch.randint(*values, (2, batch, 3, *size), dtype=torch.uint8, generator=generator)
    flow = 3 * torch.randn(batch, 2, *size, generator=generator)
    return (images[0],) if frames == 1 else (images[0], images[1], flow)


@torch.no_grad()
def compare(export: Export, loaded: Callable[..., Tensor]) -> str:
    """How near a loaded file is to the network, in words.

    Raises:
        StplError: not near enough.
    """
    original, form = export.original, export.kind
    ids = isinstance(original, Classes)
    network: Any = original.net if ids else original
    apart, same = 0.0, 1.0
    batches = _BATCHES[export.frames]
    cases = [("random", batch) for batch in batches] + [(kind, 1) for kind in _FRAMES if kind != "random"]
    for kind, batch in cases:
        inputs = examples(export.network, export.frames, batch, _FRAMES[kind])
        expected = network(*inputs)
        try:
            found = loaded(*inputs)
        except Exception as error:  # whatever another library finds wrong with its own file
            raise _differs(f"cannot take a batch of {batch}: {_reason(error)}", form) from error
        size = expected.argmax(1).shape if ids else expected.shape
        if found.shape != size:
            raise _differs(f"gives {list(found.shape)} where the network gives {list(size)}", form)
        here, alike = _nearness(expected, found)
        if not (here <= _NEAR and alike >= _SAME):
            how = f"differs on {kind} frames by {here:.2g} of the largest logit, and in the class of {1 - alike:.2%}"
            raise _differs(f"{how} of the pixels", form)
        apart, same = max(apart, here), min(same, alike)
    return f"differs by at most {apart:.1e} of the largest logit, {same:.2%} of the classes are the same"


def _nearness(logits: Tensor, found: Tensor) -> tuple[float, float]:
    """How far logits or ids found are from `logits` `[B,K,H,W]`, and the share of pixels of the same class.

    Pixels to which the network gives no finite logits are left out: those of a flat frame, say, that it divides by the
    spread of its values.
    """
    known = logits.isfinite().all(1)
    if not known.any():
        return 0.0, 1.0
    expected = logits.movedim(1, -1)[known]
    largest = expected.abs().max().clamp(min=1e-6)
    if found.dtype == torch.uint8:
        apart, ids = 0.0, found[known].long()
    else:
        given = found.movedim(1, -1)[known]
        apart, ids = float((given - expected).abs().max() / largest), given.argmax(-1)
    behind = expected.amax(-1) - expected.gather(-1, ids[:, None])[:, 0]
    return apart, float((behind <= _TIED * largest).double().mean())


def _differs(how: str, kind: Format) -> StplError:
    return StplError(f"the exported network {how}; no file is kept", mend=_other(kind))


def _other(kind: Format) -> str:
    return "try --format=" + ("torchscript" if kind == "onnx" else "onnx")


def _decides(kind: Format, read: str) -> StplError:
    """The error for a network of which a file would hold one side of a branch alone."""
    return StplError(
        f"the network cannot be exported as {kind}: it reads values of the frame at {read}, which a file cannot do",
        mend="let tensors decide, by torch.where for instance",
    )


def _reason(error: Exception) -> str:
    """What another library says, in one line: its messages end in a traceback of their own."""
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return (lines[-1] if lines and lines[0].startswith("The following operation failed") else first_line(cause))[:200]


def _metadata(network: LoadedNetwork, frames: int) -> dict[str, str]:
    """What the file says of itself; of two frames, also which estimator's flow it takes."""
    space = network.options.space
    return {
        "stpl": __version__,
        "classes": json.dumps(list(space.classes)),
        "palette": json.dumps(space.palette.tolist()),
        "size": json.dumps(list(network.frame_size)),
        **({"flow_estimator": network.flow_estimator} if frames == 2 else {}),
    }


@contextmanager
def _one_line(export: Export) -> Iterator[None]:
    """Have an exporter print one line: none if it works, the reason if it fails."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")  # both exporters warn of what they themselves will become
            yield
    except (OSError, StplError):
        raise
    except Exception as error:  # an exporter raises whatever it comes across in a network
        if export.read is not None:
            raise _decides(export.kind, export.read) from error
        what = f"the network cannot be exported as {export.kind}: {_reason(error)}"
        raise StplError(what, mend=_other(export.kind)) from error


def _write_torchscript(net: nn.Module, inputs: tuple[Tensor, ...], metadata: dict[str, str]) -> bytes:
    trace: Any = torch.jit.trace
    try:
        traced = trace(net, inputs, check_trace=False)
    except (RuntimeError, TypeError):  # checks of shapes that tracing makes tensors of; a program has none left
        traced = trace(torch.export.export(net, inputs).module(), inputs, check_trace=False)
    content = BytesIO()
    torch.jit.save(traced, content, _extra_files={"stpl.json": json.dumps(metadata)})
    return content.getvalue()


def _write_onnx(net: nn.Module, inputs: tuple[Tensor, ...], metadata: dict[str, str]) -> bytes:
    names: Any = net.inputs
    shapes: Any = None
    if len(names) == 1:
        shapes = ({0: torch.export.Dim("batch", min=1, max=1024)},)
        shapes = (shapes,) if isinstance(net, Classes) else shapes
    program: Any = torch.onnx.export(
        net,
        inputs,
        dynamo=True,
        opset_version=_OPSET,
        input_names=list(names),
        output_names=["output"],
        dynamic_shapes=shapes,
        verbose=False,
    )
    program.model.metadata_props.update(metadata)
    content: bytes = program.model_proto.SerializeToString()
    return content


def _load_torchscript(path: Path) -> Callable[..., Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        load: Any = torch.jit.load
        loaded: Callable[..., Tensor] = load(str(path))
    return loaded


def _load_onnx(path: Path) -> Callable[..., Tensor]:
    runtime: Any = import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    return lambda *inputs: torch.from_numpy(
        session.run(None, {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)})[0]
    )


_WRITERS = {"onnx": _write_onnx, "torchscript": _write_torchscript}
_LOADERS = {"onnx": _load_onnx, "torchscript": _load_torchscript}
