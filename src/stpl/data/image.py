"""Frames and id maps as files: decode, resize, encode. Every failure names its file.

Pillow does the work, for two reasons: a torn PNG is an error here (OpenCV prints a line and may return half an image),
and its bicubic filter, which widens when it shrinks an image, is the very one of the DA-VSN/TPS data loaders.
"""

from __future__ import annotations

import contextlib
import io
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from stpl.errors import DataError

_ID_MODES = ("L", "P", "I;16", "I")
_TORN = "delete the file, then unpack or download it again"


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """The image at `path` as uint8 `[H,W,3]` RGB; raises `DataError` if it is missing, torn or no image."""
    return np.array(_decode(path).convert("RGB"))  # a copy: Pillow's own memory is read-only


def read_ids(path: Path) -> NDArray[np.integer[Any]]:
    """The single-channel id map at `path`, integers `[H,W]` as stored; raises `DataError` as `read_rgb` does."""
    image = _decode(path)
    if image.mode not in _ID_MODES:
        raise DataError(
            f"a label must have one channel of ids, this image has mode {image.mode}",
            where=path,
            mend="give the id image (for example *_labelIds.png), not the coloured one",
        )
    return np.asarray(image)


def _decode(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except FileNotFoundError:
        raise DataError("there is no such image file", where=path, mend="check the path, or unpack the file") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        # Pillow raises SyntaxError for a broken chunk of a PNG.
        raise DataError(f"the image cannot be decoded ({error})", where=path, mend=_TORN) from error


def resize_rgb(frame: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The frame uint8 `[H,W,3]` at `size` = (height, width), bicubic with the filter widened when shrinking."""
    return _resize(frame, size, Image.Resampling.BICUBIC)


def resize_ids(ids: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The id map uint8 `[H,W]` at `size` = (height, width), nearest neighbour: no new id can appear."""
    return _resize(ids, size, Image.Resampling.NEAREST)


def _resize(array: NDArray[np.uint8], size: tuple[int, int], filter_: Image.Resampling) -> NDArray[np.uint8]:
    if array.shape[:2] == size:
        return array
    return np.array(Image.fromarray(array).resize(size[::-1], filter_))


def stack_frames(frames: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Frames uint8 `[H,W,3]`, oldest first, as the tensor uint8 `[T,3,H,W]` of a `Clip`."""
    return torch.from_numpy(np.ascontiguousarray(np.stack(frames).transpose(0, 3, 1, 2)))


def write_png(path: Path, image: NDArray[np.uint8]) -> None:
    """Write uint8 `[H,W,3]` (RGB) or `[H,W]` (ids) as PNG; the folder is made, the file appears whole or not at all."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png")
    write_atomically(path, buffer.getvalue())


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that no reader ever sees half of it; raises `DataError` if the disk refuses.

    Several processes may write the same path at once: each uses a temporary name of its own, the last one stays.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise DataError(
            f"cannot be written ({error.strerror})", where=path, mend="free disk space, or choose a writable folder"
        ) from error
