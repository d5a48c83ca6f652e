"""`stpl export`: a network as one file for other programs; what options alone decide is refused before torch loads."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated

from stpl.apply.origin import NetworkOrigin
from stpl.apply.settings import Format, Output
from stpl.arguments import Short
from stpl.errors import ConfigError
from stpl.option_types import Count


def export(
    *,
    out: Path,
    network: Annotated[NetworkOrigin, Short("network", "builder", "classes", "size")],
    format: Format | None = None,  # noqa: A002 -- the name of the option
    output: Output = "logits",
    frames: Count | None = None,
) -> None:
    """Write a network as ONNX or TorchScript: frames RGB uint8 `[B,3,H,W]` in, logits `[B,K,H,W]` or ids out.

    Normalisation and upsampling are part of it. Height and width are fixed; the batch may be of any size where the
    network needs one frame, and is one where it needs two. The file is loaded again and must give what the network
    gives, on random, dark, bright and flat frames, before it gets its name. A network that decides by values of a
    frame is refused where the file would keep one side alone. Classes, palette and size are in its metadata.

    Args:
        out: file to write: `.onnx`, or `.pt` for TorchScript.
        network: the network to write.
        format: onnx or torchscript; by the ending of `out` if not given.
        output: logits, or ids: the likeliest class of each pixel.
        frames: 1: the network by itself; 2: with the frame before it and the flow (`previous`, `flow`), which it uses
            if it was trained with ACCEL; by that if not given.
    """
    from stpl.files import check_file

    kind = format or _by_ending(out)
    if frames not in (None, 1, 2):
        raise ConfigError(f"{frames} frames", where="--frames", mend="choose 1 or 2")
    check_file(out)
    if kind == "onnx":
        _check_packages()
    from stpl.apply.export import write
    from stpl.apply.loaded import open_network

    written = write(open_network(network), out, kind, output, frames)
    print(f"wrote {out}: {written}", file=sys.stderr)


def _by_ending(out: Path) -> Format:
    kinds: dict[str, Format] = {".onnx": "onnx", ".pt": "torchscript", ".ts": "torchscript"}
    if out.suffix not in kinds:
        raise ConfigError(f"'{out.suffix}' names no format", where="--out", mend="name it *.onnx or *.pt, or --format")
    return kinds[out.suffix]


def _check_packages() -> None:
    """Refuse ONNX where what writes and runs it is not installed."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            import_module(package)
        except ImportError as error:
            mend = "pip install 'stpl[export]', or --format=torchscript"
            raise ConfigError(f"ONNX needs {package}", where="--format", mend=mend) from error
