"""A folder of images as footage: which of its files are frames, and in which order. Imports no torch."""

import contextlib
import os
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path

from PIL import Image

from stpl.data.image import image_count
from stpl.data.label_images import without_labels
from stpl.data.videos.decoder import note_once
from stpl.errors import DataError

_STILLS = frozenset(
    {"AVIF", "BMP", "DIB", "HEIF", "JPEG", "JPEG2000", "JXL", "MPO", "PNG", "PPM", "QOI", "TGA", "TIFF", "WEBP"}
)
"""Formats of Pillow, and of its plugins, that hold one picture each."""

_PLUGINS = {"pillow_heif": "register_heif_opener", "pillow_jxl": None}
_NO_FRAMES = frozenset({".apng", ".avifs", ".pbm", ".pfm"})  # moving pictures, masks of one bit, depth
_VIDEOS = frozenset(
    {".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts",
     ".vob", ".webm", ".wmv"}
)  # fmt: skip
_SEVERAL = frozenset({".tif", ".tiff", ".webp", ".png", ".avif"})  # may hold several images
_LITTER = frozenset({"thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r"})
_COMMON = (".png", ".jpg", ".jpeg", ".tif", ".bmp", ".webp", ".avif", ".jp2", ".heic", ".ppm")
_NAMED = 3  # files of a kind that a message names


@cache
def image_endings() -> frozenset[str]:
    """Endings of the names of images that can be read here: what Pillow opens, with the plugins that are installed."""
    for plugin, register in _PLUGINS.items():
        with contextlib.suppress(Exception):  # one that is broken is as good as none
            module = import_module(plugin)
            if register is not None:
                getattr(module, register)()
    known = Image.registered_extensions()
    opened = {ending for ending, kind in known.items() if kind in _STILLS and (kind in Image.OPEN or kind == "MPO")}
    return frozenset(opened - _NO_FRAMES)


def list_frames(folder: Path) -> list[Path]:
    """The frames in a folder, in natural order: img2 before img10. What is left out is counted in one line.

    Raises:
        DataError: the folder cannot be read or holds no image; or it is not clear which of them are labels.
    """
    try:
        state = folder.stat().st_mtime_ns
    except OSError as error:
        raise DataError(f"the folder cannot be read ({error.strerror})", where=folder, mend="check the path") from error
    return list(_list_frames(folder.absolute(), folder, state))


@cache
def _list_frames(_: Path, folder: Path, state: int) -> tuple[Path, ...]:
    images, others = list[Path](), list[Path]()
    for path in _files(folder):
        (images if path.suffix.lower() in image_endings() else others).append(path)
    if not images:
        raise _no_image(folder, others)
    if others:
        are = "file is" if len(others) == 1 else "files are"
        note_once(f"{len(others)} {are} left out: {_kinds(others)}", folder)
    frames = without_labels(sorted(images, key=natural))
    many = next((path for path in frames[:_NAMED] if path.suffix.lower() in _SEVERAL and image_count(path) > 1), None)
    if many is not None:
        note_once(f"{many.name} holds {image_count(many)} images; the first of each file is used", folder)
    return tuple(frames)


def _files(folder: Path) -> list[Path]:
    """Names in a folder of what is a file, or a link that leads nowhere; without hidden files and litter."""
    try:
        with os.scandir(folder) as entries:
            return [
                folder / entry.name
                for entry in entries
                if not entry.name.startswith(".")
                and entry.name.lower() not in _LITTER
                and (entry.is_file() or (entry.is_symlink() and not Path(entry.path).exists()))
            ]
    except OSError as error:
        mend = "mend its permissions"
        raise DataError(f"the folder cannot be read ({error.strerror})", where=folder, mend=mend) from error


def natural(path: Path) -> list[tuple[int, str]]:
    """Sort key in which runs of digits compare as numbers (and come before letters)."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdecimal() else (2**63, part) for part in parts if part] + [(0, path.name)]


def _kinds(paths: Sequence[Path]) -> str:
    """«2 .txt, 1 .mp4»."""
    kinds = Counter(path.suffix.lower() or "without an ending" for path in paths)
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items(), key=lambda item: (-item[1], item[0])))


def _no_image(folder: Path, others: Sequence[Path]) -> DataError:
    videos = sorted((path for path in others if path.suffix.lower() in _VIDEOS), key=natural)
    inner = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    endings = f"{' '.join(ending for ending in _COMMON if ending in image_endings())} and others that Pillow reads"
    mend = f"give a folder of images ({endings}), or a video file"
    if videos:
        names = ",".join(str(path) for path in videos[:_NAMED])
        mend = f"name videos one by one: --video=[{names}{',…' if len(videos) > _NAMED else ''}]"
    elif others:
        mend = f"convert them; images are {endings}"
    elif inner:
        mend = f"name its folders one by one: {', '.join(str(folder / name) for name in inner[:_NAMED])}"
    holds = f"it holds {_kinds(others)}" if others else f"it holds {len(inner)} folders" if inner else "it is empty"
    return DataError(f"no image found in this folder: {holds}", where=folder, mend=mend)
