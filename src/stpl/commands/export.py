"""`stpl export`: a network as one file for other programs; what options alone decide is refused before torch loads."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

from stpl.apply.settings import Format, Output
from stpl.errors import ConfigError
from stpl.option_types import Size


def export(
    *,
    out: Path,
    checkpoint: Path | None = None,
    model: str | None = None,
    format: Format | None = None,  # noqa: A002 -- the name of the option
    size: Size | None = None,
    output: Output = "logits",
    frames: int | None = None,
) -> None:
    """Write a network as ONNX or TorchScript: frames RGB uint8 `[B,3,H,W]` in, logits `[B,K,H,W]` or ids out.

    Normalisation and upsampling are part of it. Height and width are fixed; the batch may be of any size where the
    network needs one frame, and is one where it needs two. The file is loaded again and must give what the network
    gives, on random, dark, bright and flat frames, before it gets its name. A network that decides by values of a
    frame is refused where the file would keep one side alone. Classes, palette and size are in its metadata.

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
    from stpl.apply.source import NetworkSource
    from stpl.files import check_file

    kind = format or _by_ending(out)
    if frames not in (None, 1, 2):
        raise ConfigError(f"{frames} frames", where="--frames", mend="choose 1 or 2")
    check_file(out)
    if kind == "onnx":
        _check_packages()
    source = NetworkSource(checkpoint, model, size=size)
    from stpl.apply.exporting import write
    from stpl.apply.model import open_model

    written = write(open_model(source), out, kind, output, frames)
    print(f"wrote {out}: {written}", file=sys.stderr)


def _by_ending(out: Path) -> Format:
    kinds: dict[str, Format] = {".onnx": "onnx", ".pt": "torchscript", ".ts": "torchscript"}
    if out.suffix not in kinds:
        raise ConfigError(f"'{out.suffix}' tells no format", where="--out", mend="name it *.onnx or *.pt, or --format")
    return kinds[out.suffix]


def _check_packages() -> None:
    """Refuse ONNX where what writes and runs it is not installed."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            import_module(package)
        except ImportError as error:
            mend = "pip install 'stpl[export]', or --format=torchscript"
            raise ConfigError(f"ONNX needs {package}", where="--format", mend=mend) from error
