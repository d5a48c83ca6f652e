"""Names of files as data: a regular expression that reads them, a template that writes them, an index of what is there.

A frame before or after another one is looked up in the index, which is made by listing a folder once; no name is put
together from a number, so names may hold whatever else changes from frame to frame.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from stpl.errors import DataError

Fields = Mapping[str, str | int]
"""What a name holds: text by group, but for `number`, an int."""


class FrameId(NamedTuple):
    """A frame by its number in its video: `sequence`, e.g. "aachen_000000", or empty where a data set has one video."""

    sequence: str
    number: int

    def before(self, distance: int = 1) -> FrameId:
        """The frame `distance` frames earlier."""
        return FrameId(self.sequence, self.number - distance)


@dataclass(frozen=True)
class FilePattern:
    """How the files of one kind are named.

    Attributes:
        folder: where they lie, relative to the data set's folder; with the field `split`.
        name: regular expression of a path below it. The group `number` is the number of the frame, `sequence` the name
            of its video where there are several; other groups stand for what else a name holds.
        template: writes that path from these groups; `number` is an int, e.g. "{sequence}/{sequence}_{number:05d}.jpg".
        number: of the frame, where names hold none.
    """

    folder: str
    name: str
    template: str
    number: int | None = None

    def parse(self, path: str) -> Fields | None:
        """What a path below the folder holds; `None` for any other than `template` would write."""
        match = re.fullmatch(self.name, path)
        if match is None:
            return None
        fields: dict[str, str | int] = dict(match.groupdict(default=""))
        fields["number"] = int(match["number"]) if self.number is None else self.number
        return fields if self.write(fields) == path else None

    def frame(self, path: str) -> FrameId | None:
        """The frame that a path is the name of, whether it is there or not; `None` for any other path."""
        fields = self.parse(path)
        return None if fields is None else FrameId(str(fields.get("sequence", "")), int(fields["number"]))

    def write(self, fields: Fields) -> str:
        """The path that holds these fields; `*` stands for what is not known."""
        return self.template.format_map(defaultdict[str, str | int](lambda: "*", fields))


@dataclass(frozen=True)
class FrameFiles:
    """The files of one kind below one folder, by frame, in order. None of them has been opened.

    Attributes:
        paths: relative path of each; as they come from a list of the folder, none leads out of it.
    """

    pattern: FilePattern
    folder: Path
    paths: dict[FrameId, str]

    @classmethod
    def scan(cls, pattern: FilePattern, folder: Path) -> FrameFiles:
        """The files that lie in `folder` now; none if there is no folder.

        Raises:
            DataError: two files are one frame, or a folder cannot be read.
        """
        paths: dict[FrameId, str] = {}
        for path in _list(folder, pattern.template.count("/")):
            frame = pattern.frame(path)
            if frame is not None and paths.setdefault(frame, path) != path:
                mend = f"keep one of them, this or {paths[frame]}"
                raise DataError("two files are the same frame", where=folder / path, mend=mend)
        return cls(pattern, folder, dict(sorted(paths.items())))

    def __iter__(self) -> Iterator[FrameId]:
        return iter(self.paths)

    def __contains__(self, frame: FrameId) -> bool:
        return frame in self.paths

    def path(self, frame: FrameId) -> Path:
        """Where the file of a frame lies that is there."""
        return self.folder / self.paths[frame]

    def missing(self, frame: FrameId, fields: Fields | None = None) -> Path:
        """Where the file of a frame would lie; its name holds some fields, or those that all names of its video do."""
        if fields is None:
            same = [self.fields(other) for other in self if other.sequence == frame.sequence] or [{}]
            fields = {key: value for key, value in same[0].items() if all(one[key] == value for one in same)}
        return self.folder / self.pattern.write({**fields, **frame._asdict()})

    def fields(self, frame: FrameId) -> Fields:
        """What the name of a file that is there holds."""
        fields = self.pattern.parse(self.paths[frame])
        assert fields is not None  # it was parsed when the folder was listed
        return fields


def _list(folder: Path, depth: int) -> Iterator[str]:
    """Relative paths of what lies `depth` folders below a folder."""
    if not folder.is_dir():
        return
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208 (a hundred thousand names are quicker than as many paths)
    except OSError as error:
        what = f"the folder cannot be read ({error.strerror})"
        raise DataError(what, where=folder, mend="mend its permissions") from error
    for name in names:
        if depth:
            yield from (f"{name}/{below}" for below in _list(folder / name, depth - 1))
        else:
            yield name


def text_lines(path: Path, what: str) -> list[tuple[int, str]]:
    """The lines of a text file that are not empty, with their numbers; raises `DataError`, which calls it `what`."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()  # Windows' editors put a mark in front
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{what} cannot be read ({error})", where=path, mend="check the path") from error
    return [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
