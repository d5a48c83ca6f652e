"""Frames and id maps as files: decode, resize, encode, keep. Every failure names its file.

Pillow does the work, for two reasons: a torn PNG is an error here (OpenCV prints a line and may return half an image),
and its bicubic filter, which widens when it shrinks an image, is the very one of the DA-VSN/TPS data loaders.
"""

import contextlib
import io
import struct
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from stpl.errors import DataError
from stpl.files import write_atomically

Key = TypeVar("Key")

_TORN = "delete the file, then unpack or download it again"

_RGB_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"})
"""What Pillow turns into 8-bit RGB rightly; 16-bit colours it has reduced to their upper byte by then."""

_ID_MODES = frozenset({"1", "L", "P", "I;16", "I"})
_LOSSY = frozenset({"JPEG", "MPO", "JPEG2000", "WEBP"})
_STRETCHED = {"L;2": 85, "L;4": 17}
"""What Pillow multiplies grey values of 2 and 4 bits by, so that they fill 8."""

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First pixel (x, y) and steps of the seven passes of an interlaced PNG."""

_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)
_NOTES = frozenset({"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"})  # where Pillow finds an orientation
_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # tags of TIFF


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """The image at `path` as uint8 `[H,W,3]` RGB, the right way up.

    16-bit grey is scaled to 8 bits (65535 is white, or 4095 in a 12-bit TIFF); an alpha channel is left out, so that
    colours are those that were stored; the orientation in the EXIF data of a photograph is applied, as it is to videos.

    Raises:
        DataError: the file is missing, torn, no image, too large, or of a kind whose white is unknown (float, 32 bits).
    """
    image, kind, _ = _decode(path)
    if image.mode.startswith("I;16") or (image.mode == "I" and kind == "PPM"):  # Pillow scales a PGM to 16 bits
        return np.stack([_scaled_grey(image)] * 3, axis=2)
    if image.mode not in _RGB_MODES:
        what = f"a frame must have 8 or 16 bits a channel, this image has mode {image.mode}"
        mend = "convert it to an 8-bit PNG, with the range of values that you mean"
        raise DataError(what, where=path, mend=mend)
    # By way of RGBA: a palette with transparency makes Pillow warn otherwise.
    transparent = "transparency" in image.info or image.mode in ("LA", "PA", "RGBa")
    return np.array((image.convert("RGBA") if transparent else image).convert("RGB"))  # a copy: Pillow's is read-only


def _scaled_grey(image: Image.Image) -> NDArray[np.uint8]:
    """Grey of up to 16 bits as 8 bits, white as white."""
    tags: Any = getattr(image, "tag_v2", {})
    white = 2 ** tags.get(_BITS, (16,))[0] - 1
    grey = np.rint(np.asarray(image).astype(np.float32) * np.float32(255 / white)).clip(0, 255).astype(np.uint8)
    return np.asarray(255 - grey, np.uint8) if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else grey


def read_ids(path: Path) -> NDArray[np.integer[Any]]:
    """The single-channel id map at `path`, integers `[H,W]` as stored.

    Grey values of 1, 2 and 4 bits (as programs that shrink a PNG write them) are not stretched to 8 bits, and indices
    into a palette of greys are those greys.

    Raises:
        DataError: as `read_rgb`; the image has colours, or a lossy format, which makes other ids of ids.
    """
    image, kind, raw = _decode(path)
    if kind in _LOSSY:
        lossy = "a lossy format, whose ids are not those that were drawn"
        mend = "give the original PNG; it cannot be had back from this file"
        raise DataError(f"this label is a {kind} file, whatever its name: {lossy}", where=path, mend=mend)
    if image.mode not in _ID_MODES:
        what = f"a label must have one channel of ids, this image has mode {image.mode}"
        raise DataError(what, where=path, mend="give the id image (for example *_labelIds.png), not the coloured one")
    ids = np.asarray(image)
    if image.mode == "P":
        colours = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
        if len(colours) > ids.max(initial=0) and (colours == colours[:, :1]).all():
            return np.asarray(colours[:, 0][ids])
    return ids.astype(np.uint8) if image.mode == "1" else ids // _STRETCHED.get(raw, 1)


def _decode(path: Path) -> tuple[Image.Image, str | None, str]:
    """An image, the right way up, with its file's format and the layout of its pixels there."""
    with _naming(path), Image.open(path) as image:
        kind, raw = image.format, str(image.tile[0].args) if image.tile else ""
        image.load()
        last_row = (0, image.height - 1, *image.size)
        if kind == "PNG" and (image.info.get("interlace") or not np.asarray(image.crop(last_row)).any()):
            _check_rows(path)
        return image if kind == "TIFF" else ImageOps.exif_transpose(image), kind, raw  # Pillow turns a TIFF


def _check_rows(path: Path) -> None:
    """Raise `DataError` if a PNG holds fewer rows than its header says: Pillow leaves the others black, in silence."""
    data = path.read_bytes()
    width, height, bits, colour, _, _, interlaced = struct.unpack(">IIBBBBB", data[16:29])
    parts, place = [], len(_PNG_MAGIC)
    while place < len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        if data[place + 4 : place + 8] == b"IDAT":
            parts.append(data[place + 8 : place + 8 + length])
        place += 12 + length
    wanted = 0
    for x, y, dx, dy in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - x) // dx), -(-(height - y) // dy)
        row_bytes = -(-columns * bits * _CHANNELS[colour] // 8)
        wanted += max(rows, 0) * (1 + row_bytes) if columns > 0 else 0  # each row begins with the name of its filter
    found = len(zlib.decompressobj().decompress(b"".join(parts), wanted))
    if found < wanted:
        raise DataError(f"the image is cut short: it holds {found} of {wanted} bytes", where=path, mend=_TORN)


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of the image at `path`, the right way up, from its header; raises `DataError`."""
    with _naming(path), Image.open(path) as image:
        width, height = image.size
        noted = not _NOTES.isdisjoint(image.info)  # without, a PNG would be decoded to look for them at its end
        turned = image.format != "TIFF" and noted and image.getexif().get(_ORIENTATION) in _TURNED
        return (width, height) if turned else (height, width)


def image_mode(path: Path) -> str:
    """The layout of the pixels of the image at `path` in Pillow's words, from its header; raises `DataError`."""
    with _naming(path), Image.open(path) as image:
        return image.mode


def image_count(path: Path) -> int:
    """How many images, such as pages, the file at `path` holds; raises `DataError`."""
    with _naming(path), Image.open(path) as image:
        return int(getattr(image, "n_frames", 1))


def checked_bytes(path: Path, what: str = "the image", mend: str = _TORN) -> bytes:
    """The content of a PNG, once every chunk's checksum is compared: OpenCV may return half of a torn image.

    Raises:
        DataError: it is missing, torn, no image or too large; the message calls it `what` and advises to `mend`.
    """
    with _naming(path, what, mend):
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            image.verify()
        return data


@contextlib.contextmanager
def _naming(path: Path, what: str = "the image", mend: str = _TORN) -> Iterator[None]:
    """Turn what goes wrong with the image file at `path` into a `DataError` that names it."""
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError("there is no such image file", where=path, mend="check the path, or unpack the file") from None
    except Exception as error:  # decoders raise whatever a damaged file makes of them
        reason = f"cannot be decoded ({error})"
        if isinstance(error, Image.DecompressionBombError):
            most = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
            reason = f"has more than {most:.0f} megapixels, or its header says so; it is not read"
            mend = "make it smaller, or delete the file if it should be smaller"
        elif isinstance(error, UnidentifiedImageError):
            reason = "cannot be decoded (its content is of no kind that Pillow knows)"
            mend = f"{mend}; or, if it is whole and of another kind, convert it to PNG or JPEG"
        elif isinstance(error, OSError) and error.errno is not None:
            reason, mend = f"cannot be read ({error.strerror})", "check the file"
        raise DataError(f"{what} {reason}", where=path, mend=mend) from error


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


def png(image: NDArray[np.uint8]) -> bytes:
    """A PNG file of uint8 `[H,W,3]` (RGB) or `[H,W]` (ids)."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png")
    return buffer.getvalue()


def jpeg(image: NDArray[np.uint8]) -> bytes:
    """A JPEG file of uint8 `[H,W,3]` (RGB)."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "jpeg", quality=95)
    return buffer.getvalue()


def write_png(path: Path, image: NDArray[np.uint8]) -> None:
    """Write an image as PNG; the folder is made, the file appears whole or not at all."""
    write_atomically(path, png(image), kind=DataError, sync=False)


class Recent(Generic[Key]):
    """The frames that were made last, as many as fit into `limit` bytes, at least one. All are of one size."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[Key, NDArray[np.uint8]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Key, make: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """The frame of a key, made if it is not kept."""
        if key not in self._kept:
            self._kept[key] = made = make()
            while len(self._kept) * made.nbytes > self._limit and len(self._kept) > 1:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]
