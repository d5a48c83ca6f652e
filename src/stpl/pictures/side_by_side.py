"""Side-by-side videos that a browser plays.

The file is WebM with VP8 or VP9: the codecs that the OpenCV wheel can encode *and* browsers play. (It also encodes
MPEG-4 Part 2 in an .mp4, of which Chromium shows a black frame.)
"""

import contextlib
import math
import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from stpl.data.paths import check_name
from stpl.errors import ConfigError, DataError
from stpl.pictures.labels import BACKGROUND, GAP, TEXT
from stpl.pictures.labels import legend as draw_legend

_TITLE_HEIGHT, _TITLE_SIZE = 30, 18
_FOURCC = {"vp8": "VP80", "vp9": "VP90"}
_TALLEST = 2  # widths of a panel
_NARROWEST = 96  # pixels of a column, for its title
_LARGEST = 16382  # pixels of a side that the encoders take


@dataclass(frozen=True)
class VideoStyle:
    """How a video looks.

    Attributes:
        codec: `vp8` (four times faster to write) or `vp9` (60 % of the size).
        panel_width: pixels a panel may take across, and twice as many down. Larger ones shrink to it; smaller ones are
            enlarged by the largest whole factor that fits, so that pixels stay square blocks and labels keep their
            edges.
    """

    codec: Literal["vp8", "vp9"] = "vp8"
    panel_width: int = 640


class SideBySide:
    """Writes titled panels next to each other as a WebM video; a context manager.

    The file appears under its name when the `with` block ends well; if the block raises, nothing is left behind.

    Example:
        >>> with SideBySide(Path("adapted.webm"), 17.0, ["camera", "before", "after"]) as video:  # doctest: +SKIP
        ...     video.write([frame, overlay(frame, before, palette), overlay(frame, after, palette)])

    Args:
        path: file to write, ending in `.webm`; an existing file is replaced.
        fps: frames a second.
        titles: one a panel, in Latin letters (Pillow's built-in font has no Greek). Up to three panels stand in one
            row, more in a square.
        legend: class names and palette `[K,3]` to explain under the panels.
        style: codec and width of the panels.

    Raises:
        ConfigError: the suffix, `fps` or number of titles cannot be used.
        DataError: the path is not UTF-8; the encoder cannot open the file; panels differ from the titles in number, or
            in size from each other or from the frames before.
    """

    def __init__(
        self,
        path: Path,
        fps: float,
        titles: Sequence[str],
        *,
        legend: tuple[Sequence[str], NDArray[np.uint8]] | None = None,
        style: VideoStyle | None = None,
    ) -> None:
        style = style or VideoStyle()
        self._path, self._fps, self._titles, self._legend = Path(path), fps, tuple(titles), legend
        self._codec, self._panel_width = style.codec, style.panel_width
        check_name(self._path)
        if self._path.suffix.lower() != ".webm":
            raise ConfigError(
                f"a video of type '{self._path.suffix}' would not play in browsers", where=path, mend="name it *.webm"
            )
        if not 0 < fps < 1000 or not self._titles or self._codec not in _FOURCC or self._panel_width < 16:
            raise ConfigError(
                f"cannot write {len(self._titles)} panels of width {self._panel_width} at {fps} frames a second as "
                f"'{self._codec}'",
                where=path,
                mend="give one title or more, 0 < fps < 1000, panel_width of 16 or more, and codec vp8 or vp9",
            )
        # The container is chosen by the extension, so the temporary name keeps it.
        self._temporary = self._path.with_name(f".{self._path.stem}.{uuid.uuid4().hex}.webm")
        self._writer: cv2.VideoWriter | None = None
        self._shape: tuple[int, ...] = ()  # of a panel as given
        self._size = (0, 0)  # width and height of a panel as drawn
        self._corners: list[tuple[int, int]] = []
        self._canvas: NDArray[np.uint8] = np.zeros((0, 0, 3), np.uint8)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._writer is not None:
            self._writer.release()
            if kind is None:
                self._temporary.replace(self._path)
            else:
                self._discard()
        elif kind is None:
            raise DataError("no frame was written", where=self._path, mend="check that the input video has frames")

    def _discard(self) -> None:
        with contextlib.suppress(OSError):  # the error under way matters more
            self._temporary.unlink(missing_ok=True)

    def write(self, panels: Sequence[NDArray[np.uint8]]) -> None:
        """Append one frame made of `panels`, each uint8 `[H,W,3]` RGB of one size, in the order of the titles."""
        self._check(panels)
        if self._writer is None:
            self._shape = panels[0].shape
            self._lay_out()
            self._writer = self._open()
        canvas = self._canvas.copy()
        width, height = self._size
        shrinks = self._shape[0] > height or self._shape[1] > width
        for (x, y), panel in zip(self._corners, panels, strict=True):
            drawn = cv2.resize(panel, self._size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_NEAREST)
            canvas[y : y + height, x : x + width] = drawn
        self._writer.write(cv2.cvtColor(canvas, cv2.COLOR_RGB2BGR))

    def _check(self, panels: Sequence[NDArray[np.uint8]]) -> None:
        shapes = {panel.shape for panel in panels} | ({self._shape} if self._shape else set())
        right = len(panels) == len(self._titles) and len(shapes) == 1 and next(iter(shapes))[2:] == (3,)
        if not right or any(panel.dtype != np.uint8 for panel in panels):
            raise DataError(
                f"expected {len(self._titles)} uint8 panels [H,W,3] of one size, got "
                f"{[f'{panel.dtype} {panel.shape}' for panel in panels]}",
                where=self._path,
                mend="resize all panels to the size of the first frame's, and give one a title",
            )

    def _lay_out(self) -> None:
        """Find the panels' places, and draw the rest: background, titles, legend.

        Sides of the canvas are even, as the codecs' chroma wants.
        """
        scale = min(self._panel_width / self._shape[1], _TALLEST * self._panel_width / self._shape[0])
        if scale >= 1:
            scale = int(scale)
        height, width = (max(1, round(side * scale)) for side in self._shape[:2])
        self._size = (width, height)
        many = len(self._titles)
        columns = many if many <= 3 else math.ceil(math.sqrt(many))
        across, down = max(width, _NARROWEST) + GAP, height + _TITLE_HEIGHT
        self._corners = [(GAP + i % columns * across, _TITLE_HEIGHT + i // columns * down) for i in range(many)]
        image = Image.new("RGB", (GAP + columns * across, math.ceil(many / columns) * down + GAP), BACKGROUND)
        draw, font = ImageDraw.Draw(image), ImageFont.load_default(_TITLE_SIZE)
        for (x, y), title in zip(self._corners, self._titles, strict=True):
            draw.text((x + 2, y - _TITLE_HEIGHT // 2), title, font=font, fill=TEXT, anchor="lm")
        parts = [np.array(image)] + ([draw_legend(*self._legend, image.width)] if self._legend else [])
        canvas = np.vstack(parts)[:_LARGEST, :_LARGEST]
        odd = [(0, canvas.shape[0] % 2), (0, canvas.shape[1] % 2), (0, 0)]
        self._canvas = np.pad(canvas, odd, mode="edge")

    def _open(self) -> cv2.VideoWriter:
        height, width = self._canvas.shape[:2]
        fourcc = cv2.VideoWriter.fourcc(*_FOURCC[self._codec])
        with contextlib.suppress(OSError):  # the encoder then cannot open either, which is reported below
            self._path.parent.mkdir(parents=True, exist_ok=True)
        place = str(self._temporary.absolute())
        with _quiet():
            writer = cv2.VideoWriter(place, cv2.CAP_FFMPEG, fourcc, self._fps, (width, height))
        if not writer.isOpened():
            self._discard()
            if self._path.parent.is_dir() and not os.access(self._path.parent, os.W_OK | os.X_OK):
                raise DataError("permission denied: nothing may be written here", where=self._path.parent)
            raise DataError(
                f"the {self._codec} encoder cannot open a {width}×{height} video",
                where=self._path,
                mend="choose a writable folder and smaller panels, or reinstall opencv-python-headless",
            )
        return writer


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Close standard error for the moment in which OpenCV says that a tag 'is not supported', and then uses it."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
