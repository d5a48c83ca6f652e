"""Image files of every mode: their values are read rightly, or the file is refused by name."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from stpl.data import flow
from stpl.data.image import image_size, read_ids, read_rgb
from stpl.data.sets.synthia import read_classes
from stpl.errors import DataError

RGB = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
RAMP = np.tile(np.arange(0, 65536, 257, dtype=np.uint16), (4, 1))  # 16 bits: exactly 0 to 255 of 8


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, bits: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + extra + body


def grey_png(values: list[int], bits: int) -> bytes:
    """One row of grey values of a few bits."""
    packed = np.packbits(((np.array(values)[:, None] >> np.arange(bits)[::-1]) & 1).astype(np.uint8).ravel())
    return png(len(values), 1, bits, 0, b"\0" + packed.tobytes())


def tiff(values: NDArray[np.uint16], bits: int, photometric: int, data: bytes) -> bytes:
    height, width = values.shape
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height, 279: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_16_bit_grey_is_scaled_and_not_clipped(name: str, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / name), RAMP)
    assert np.array_equal(read_rgb(tmp_path / name), np.repeat((RAMP / 257).astype(np.uint8)[..., None], 3, axis=2))


def test_16_bit_colours_keep_their_range(tmp_path: Path) -> None:
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    for name in ("a.png", "a.tif", "a.ppm"):
        cv2.imwrite(str(tmp_path / name), np.dstack([ramp] * 3))
        assert np.abs(read_rgb(tmp_path / name) - ramp[..., None] / 257).max() <= 1


def test_white_of_a_tiff_is_white(tmp_path: Path) -> None:
    """12 bits end at 4095, and some scanners count from white to black."""
    values = np.array([[0, 4095, 2048, 1024]], np.uint16)
    packed = bytes(b for x, y in values.reshape(-1, 2).tolist() for b in (x >> 4, (x & 15) << 4 | y >> 8, y & 255))
    (tmp_path / "a.tif").write_bytes(tiff(values, 12, 1, packed))
    assert read_rgb(tmp_path / "a.tif")[0, :, 0].tolist() == [0, 255, 128, 64]
    (tmp_path / "b.tif").write_bytes(tiff(values, 16, 0, (values * 16).tobytes()))
    assert read_rgb(tmp_path / "b.tif")[0, :, 0].tolist() == [255, 0, 127, 191]


@pytest.mark.parametrize("mode", ["F", "I"])
def test_values_whose_white_is_unknown_are_refused(mode: str, tmp_path: Path) -> None:
    kind = np.float32 if mode == "F" else np.int32
    Image.fromarray((RGB[..., 0] / 255).astype(kind)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=rf"a\.tif: a frame must have 8 or 16 bits a channel.* mode {mode}\n.*→ conv"):
        read_rgb(tmp_path / "a.tif")


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1"])
def test_other_modes_keep_their_colours(mode: str, tmp_path: Path) -> None:
    """Against Pillow's own value of each pixel; what is transparent shows the colour that is stored."""
    image = Image.fromarray(RGB).convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(RGB[..., 1]))
    extra: dict[str, Any] = {"transparency": bytes(range(256))} if mode == "P" else {}
    image.save(tmp_path / "a.png", **extra)
    found = read_rgb(tmp_path / "a.png")
    colours = image.getpalette() or []
    for y, x in ((0, 0), (5, 17), (23, 31)):
        value: Any = image.getpixel((x, y))
        if mode == "P":
            expected = colours[3 * value : 3 * value + 3]
        else:
            expected = list(value[:3]) if mode == "RGBA" else [value[0] if mode == "LA" else value] * 3
        assert found[y, x].tolist() == expected


def test_ink_becomes_light(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    assert np.abs(read_rgb(tmp_path / "a.jpg")[8, 8] - np.array([255.0, 0, 0])).max() <= 2


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_a_photograph_is_turned_the_right_way_up(suffix: str, tmp_path: Path) -> None:
    """All eight orientations of the EXIF standard (its table of row 0 and column 0)."""
    stored = np.zeros((16, 32, 3), np.uint8)
    stored[:8, :8], stored[:8, -8:] = (255, 0, 0), (0, 0, 255)  # red in row 0 and column 0, blue at the row's end
    corners = {1: "lt rt", 2: "rt lt", 3: "rb lb", 4: "lb rb", 5: "lt lb", 6: "rt rb", 7: "rb rt", 8: "lb lt"}
    for orientation, places in corners.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / f"{orientation}.{suffix}"
        extra: dict[str, Any] = {} if suffix in ("png", "tif") else {"quality": 100}
        Image.fromarray(stored).save(path, exif=exif, **extra)
        found = read_rgb(path)
        assert found.shape == ((16, 32, 3) if orientation < 5 else (32, 16, 3))
        assert image_size(path) == found.shape[:2]
        for place, channel in zip(places.split(), (0, 2), strict=True):
            x, y = {"l": 4, "r": -4}[place[0]], {"t": 4, "b": -4}[place[1]]
            assert found[y, x].argmax() == channel, (orientation, place)
            assert found[y, x, channel] > 200, (orientation, place)


def test_16_bit_grey_is_turned_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RAMP).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_rgb(tmp_path / "a.png")[..., 0], np.rot90(RAMP / 257, -1).astype(np.uint8))


@pytest.mark.parametrize(("bits", "values"), [(1, [0, 1, 1]), (2, [0, 1, 3, 2]), (4, [0, 15, 7, 1]), (8, [0, 33, 255])])
def test_ids_of_few_bits_are_not_stretched(bits: int, values: list[int], tmp_path: Path) -> None:
    """Programs that shrink a PNG store no more bits than its values need."""
    (tmp_path / "a.png").write_bytes(grey_png(values, bits))
    assert read_ids(tmp_path / "a.png").tolist() == [values]
    assert read_classes(tmp_path / "a.png").tolist() == [values]


@pytest.mark.parametrize(("colours", "expected"), [("grey", [23, 7, 23]), ("red and blue", [1, 0, 1])])
def test_ids_in_a_palette(colours: str, expected: list[int], tmp_path: Path) -> None:
    """A palette of greys is how a shrunken grey image looks: the greys are the ids. Else the indices are."""
    palette = bytes([7, 7, 7, 23, 23, 23]) if colours == "grey" else bytes([255, 0, 0, 0, 0, 255])
    (tmp_path / "a.png").write_bytes(png(3, 1, 8, 3, b"\0" + bytes([1, 0, 1]), chunk(b"PLTE", palette)))
    assert read_ids(tmp_path / "a.png").tolist() == [expected]


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_a_label_in_a_lossy_format_is_refused_whatever_its_name(kind: str, tmp_path: Path) -> None:
    Image.fromarray(RGB[..., 0]).save(tmp_path / "a.png", kind)
    with pytest.raises(DataError, match=rf"a\.png: this label is a {kind} file, whatever its name: a lossy format"):
        read_ids(tmp_path / "a.png")


@pytest.mark.parametrize("read", [read_rgb, read_ids, read_classes, flow.read, image_size])
def test_an_image_too_large_is_one_line_that_names_it(read: Callable[[Path], Any], tmp_path: Path) -> None:
    bits, colour = (16, 2) if read is flow.read else (8, 0)
    (tmp_path / "big.png").write_bytes(png(20000, 20000, bits, colour, bytes(9)))
    with pytest.raises(DataError, match=r"big\.png: the .* has more than 179 megapixels, or its header says so"):
        read(tmp_path / "big.png")


@pytest.mark.parametrize(("read", "bits", "colour"), [(read_rgb, 8, 2), (read_ids, 8, 0), (read_classes, 16, 2),
                                                      (flow.read, 16, 2)])  # fmt: skip
def test_a_header_that_promises_more_than_there_is(
    read: Callable[[Path], Any], bits: int, colour: int, tmp_path: Path
) -> None:
    """Every checksum is right; the rows end half-way."""
    row = b"\0" + bytes([1] * (32 * (bits // 8) * (3 if colour == 2 else 1)))
    (tmp_path / "a.png").write_bytes(png(32, 24, bits, colour, row * 24))
    read(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes(png(32, 24, bits, colour, row * 12))
    with pytest.raises(DataError, match=r"a\.png: "):
        read(tmp_path / "a.png")


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 8), (13, 9)])
def test_black_images_of_any_size_are_whole(mode: str, size: tuple[int, int], tmp_path: Path) -> None:
    """The check for missing rows knows how many bytes a row has."""
    Image.new(mode, size).save(tmp_path / "a.png")
    assert not read_rgb(tmp_path / "a.png").any()


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (5, 5), (8, 9)])
@pytest.mark.parametrize("missing", [0, 1, 2, 9])
def test_interlaced_images_are_counted_pass_by_pass(size: tuple[int, int], missing: int, tmp_path: Path) -> None:
    """Against the definition: pixel (x, y) belongs to the pass that the 8 by 8 table of the PNG standard names."""
    table = ["16462646", "77777777", "56565656", "77777777", "36463646", "77777777", "56565656", "77777777"]
    width, height = size
    rows = []
    for number in "1234567":
        for y in range(height):
            inside = [x for x in range(width) if table[y % 8][x % 8] == number]
            rows += [b"\0" + bytes(len(inside))] if inside else []
    data = b"".join(rows)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 1))
    body = chunk(b"IDAT", zlib.compress(data[: max(0, len(data) - missing)])) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + head + body)
    if missing:
        with pytest.raises(DataError, match=r"a\.png: the image"):
            read_ids(tmp_path / "a.png")
    else:
        assert not read_ids(tmp_path / "a.png").any()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "PPM", "GIF"])
def test_whatever_is_damaged_the_file_is_named(kind: str, tmp_path: Path) -> None:
    """Decoders raise what they like; a traceback here would end a check of thousands of files."""
    exif, file, draw = Image.Exif(), io.BytesIO(), random.Random(0)
    exif[0x0112] = 6
    Image.fromarray(RGB).save(file, kind, exif=exif)
    whole, refused = file.getvalue(), 0
    for _ in range(150):
        data = bytearray(whole)
        place = draw.randrange(min(300, len(data)))
        data[place : place + 4] = draw.randbytes(4)
        (tmp_path / "a.png").write_bytes(data[: draw.randrange(len(data))] if draw.random() < 0.3 else data)
        for read in (read_rgb, read_ids, image_size):
            try:
                read(tmp_path / "a.png")
            except DataError as error:
                refused += error.where == str(tmp_path / "a.png")
    assert refused > 50
