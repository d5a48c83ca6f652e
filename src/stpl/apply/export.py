"""`stpl export`: a network as one file for other programs, compared with the original before the file is kept."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stpl import __version__
from stpl.apply.label_files import chosen
from stpl.apply.model import Model
from stpl.errors import ConfigError, StplError, note
from stpl.nn.accel import Accel, no_fusion
from stpl.nn.segmenter import upsample
from stpl.nn.warp import resize_flow

Format = Literal["onnx", "torchscript"]
Output = Literal["logits", "ids"]

_NEAR = 1e-3  # largest difference of logits, relative to the largest logit
_SAME = 0.999  # share of the pixels whose class must be the same
_OPSET = 18
_BATCHES = {1: (2, 1), 2: (1,)}  # by the number of frames: the sizes with which a file is compared


class OneFrame(nn.Module):
    """Frames `[B,3,H,W]` RGB in 0..255, uint8 or float, to logits `[B,K,H,W]`: the network by itself.

    Args:
        accel: around it.
    """

    inputs = ("frames",)

    def __init__(self, accel: Accel) -> None:
        super().__init__()
        self.segmenter = accel.segmenter

    def forward(self, frames: Tensor) -> Tensor:
        """Logits at the frames' size."""
        return upsample(self.segmenter(frames).logits, (frames.shape[-2], frames.shape[-1]))


class TwoFrames(nn.Module):
    """A frame and the one before it, with the flow from the one to the other, to logits: all of ACCEL.

    Args:
        accel: the network.
    """

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
    """The likeliest class of each pixel, uint8 `[B,H,W]`.

    Args:
        net: gives logits.
    """

    def __init__(self, net: OneFrame | TwoFrames) -> None:
        super().__init__()
        self.net, self.inputs = net, net.inputs

    def forward(self, *inputs: Tensor) -> Tensor:
        """Ids."""
        logits: Tensor = self.net(*inputs)
        return logits.argmax(1).to(torch.uint8)


def export(
    out: Path,
    checkpoint: Path | None = None,
    model: str | None = None,
    format: Format | None = None,  # noqa: A002 -- the name of the option
    size: tuple[int, int] | None = None,
    output: Output = "logits",
    frames: int | None = None,
) -> None:
    """Write a network as ONNX or TorchScript: frames RGB uint8 `[B,3,H,W]` in, logits `[B,K,H,W]` or ids out.

    Normalisation and upsampling are part of it. Height and width are fixed; the batch may be of any size where the
    network needs one frame, and is one where it needs two. The file is loaded again and must give what the network
    gives, on random frames, before it gets its name. Classes, palette and size are in its metadata.

    Args:
        out: file to write: `.onnx`, or `.pt` for TorchScript.
        checkpoint: the network, as `stpl fit` or `stpl adapt` wrote it; `streets` is one that the package ships.
        model: in place of it: `package.module:callable`, `hf:` with a folder or a name, or a YAML file that says more
            (see docs/own.md). With `checkpoint`: what builds the network, if it is one of your own.
        format: onnx or torchscript; by the ending of `out` if not given.
        size: height and width of the frames; what the checkpoint was trained at if not given.
        output: logits, or ids: the likeliest class of each pixel.
        frames: 1: the network by itself; 2: with the frame before it and the flow (`previous`, `flow`), which it uses
            if it was trained with ACCEL; by that if not given.
    """
    kind = format or _by_ending(out)
    network = chosen(checkpoint, model, size)
    accel = network.accel.cpu()
    fused = not torch.equal(accel.score_fusion.weight, no_fusion(accel.num_classes))
    count = frames or (2 if fused else 1)
    if count not in (1, 2):
        raise ConfigError(f"{count} frames", where="--frames", mend="choose 1 or 2")
    if count == 1 and fused:
        note("without the frame before, this is not all that the network predicts with")
    net: Any = OneFrame(accel) if count == 1 else TwoFrames(accel)
    exported = (net if output == "logits" else Classes(net)).eval()
    partial = out.with_name(f".{out.name}.partial{out.suffix}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with _one_line(kind):
            _WRITERS[kind](exported, examples(network, count, _BATCHES[count][0]), partial, _told(network))
        told = compare(exported, _LOADERS[kind](partial), network, count)
        partial.replace(out)
    except OSError as error:
        raise StplError(f"cannot be written: {error.strerror or error}", where=out, mend="free some space") from error
    finally:
        partial.unlink(missing_ok=True)
    print(f"wrote {out}: {', '.join(exported.inputs)} → {output}; {told}", file=sys.stderr)


def _by_ending(out: Path) -> Format:
    kinds: dict[str, Format] = {".onnx": "onnx", ".pt": "torchscript", ".ts": "torchscript"}
    if out.suffix not in kinds:
        raise ConfigError(f"'{out.suffix}' tells no format", where="--out", mend="name it *.onnx or *.pt, or --format")
    return kinds[out.suffix]


def examples(network: Model, frames: int, batch: int) -> tuple[Tensor, ...]:
    """Random inputs of a batch: frames, and for two of them the frame before and flow."""
    generator, size = torch.Generator().manual_seed(batch), network.frame_size
    images = torch.randint(0, 256, (2, batch, 3, *size), dtype=torch.uint8, generator=generator)
    flow = 3 * torch.randn(batch, 2, *size, generator=generator)
    return (images[0],) if frames == 1 else (images[0], images[1], flow)


def compare(original: nn.Module, loaded: Callable[..., Tensor], network: Model, frames: int) -> str:
    """How near a loaded file is to the network, in words.

    Raises:
        StplError: not near enough.
    """
    apart, same = 0.0, 1.0
    for batch in _BATCHES[frames]:
        inputs = examples(network, frames, batch)
        with torch.no_grad():
            expected = original(*inputs)
        found = loaded(*inputs)
        if found.shape != expected.shape:
            raise _differs(f"gives {list(found.shape)} where the network gives {list(expected.shape)}")
        if expected.dtype != torch.uint8:
            apart = max(apart, float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-6)))
            found, expected = found.argmax(1), expected.argmax(1)
        same = min(same, float((found == expected).double().mean()))
    if not (apart <= _NEAR and same >= _SAME):
        raise _differs(f"differs by {apart:.2g} of the largest logit, and in the class of {1 - same:.2%} of the pixels")
    return f"differs by at most {apart:.1e} of the largest logit, {same:.2%} of the classes are the same"


def _differs(how: str) -> StplError:
    return StplError(f"the exported network {how}; no file is kept", mend="try the other --format")


def _told(network: Model) -> dict[str, str]:
    """What the file says of itself."""
    space = network.options.space
    return {
        "stpl": __version__,
        "classes": json.dumps(list(space.classes)),
        "palette": json.dumps(space.palette.tolist()),
        "size": json.dumps(list(network.frame_size)),
    }


@contextmanager
def _one_line(kind: Format) -> Iterator[None]:
    """Have an exporter speak in one line: none if it works, the reason if it fails."""
    if kind == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            try:
                import_module(package)
            except ImportError as error:
                mend = "pip install 'stpl[export]', or --format=torchscript"
                raise ConfigError(f"ONNX needs {package}", where="--format", mend=mend) from error
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")  # both exporters warn of what they themselves will become
            yield
    except (OSError, StplError):
        raise
    except Exception as error:  # an exporter raises whatever it comes across in a network
        reason = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        raise StplError(
            f"the network cannot be exported as {kind}: {reason[0][:200]}", mend="try the other --format"
        ) from error


def _write_torchscript(net: nn.Module, inputs: tuple[Tensor, ...], path: Path, told: dict[str, str]) -> None:
    trace: Any = torch.jit.trace
    try:
        traced = trace(net, inputs, check_trace=False)
    except (RuntimeError, TypeError):  # checks of shapes that tracing makes tensors of; a program has none left
        traced = trace(torch.export.export(net, inputs).module(), inputs, check_trace=False)
    torch.jit.save(traced, str(path), _extra_files={"stpl.json": json.dumps(told)})


def _write_onnx(net: nn.Module, inputs: tuple[Tensor, ...], path: Path, told: dict[str, str]) -> None:
    names = list(net.inputs)  # type: ignore[arg-type]
    batch = torch.export.Dim("batch", min=1, max=1024)
    shapes: Any = ({0: batch},) if len(names) == 1 else None
    if isinstance(net, Classes) and shapes is not None:
        shapes = (shapes,)
    program: Any = torch.onnx.export(
        net,
        inputs,
        dynamo=True,
        opset_version=_OPSET,
        input_names=names,
        output_names=["output"],
        dynamic_shapes=shapes,
        verbose=False,
    )
    program.model.metadata_props.update(told)
    program.save(str(path), external_data=False)


def _load_torchscript(path: Path) -> Callable[..., Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        load: Any = torch.jit.load
        loaded = load(str(path))

    @torch.no_grad()
    def call(*inputs: Tensor) -> Tensor:
        """What the file gives."""
        return loaded(*inputs)  # type: ignore[no-any-return]

    return call


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
