"""Arrays on disk that are complete or absent."""

import io
import json
import math
import os
import shutil
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from errno import ENOSPC
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from stpl.errors import DataError
from stpl.files import write_atomically

MANIFEST, _BEGUN, _JOURNAL = "manifest.json", "begun.json", "journal"


class _Written(NamedTuple):
    """What a journal says of a row: its CRC-32 in each array, and its name."""

    checksums: Sequence[int]
    name: str


@dataclass(frozen=True)
class Rows:
    """Arrays with a row for each of `count` things, in a folder that is complete or absent.

        FOLDER/   manifest.json, and for each array NAME.npy

    They grow in `FOLDER.partial`, where journals say which rows are written, so that a call that was stopped goes on.
    Several processes and threads may write, each other rows; one of them begins and finishes. Each row has a checksum,
    which is compared at every reading. Methods that write raise `OSError` where the disk refuses it.

    Attributes:
        folder: where they lie.
        arrays: type and shape of a row of each array, by its name.
        count: number of rows.
        about: what they depend on, in plain types. What was begun with something else is begun anew; what was finished
            with something else is refused.
        title: what they are, for messages.
    """

    folder: Path
    arrays: Mapping[str, tuple[str, tuple[int, ...]]]
    count: int
    about: Mapping[str, Any] = field(default_factory=dict)
    title: str = "the cache"

    @classmethod
    def found(cls, folder: Path, title: str) -> Self:
        """The finished rows in a folder, whatever they are; raises `DataError` if they are torn."""
        bare = cls(folder, {}, 0, title=title)
        try:
            held = bare._manifest["arrays"].items()
            arrays = {name: (str(kind), tuple(map(int, shape[1:]))) for name, (kind, shape) in held}
            (count,) = {int(shape[0]) for _, (_, shape) in held}
            about = dict(bare._manifest["about"])
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            raise bare._torn(MANIFEST, repr(error)) from error
        rows = cls(folder, arrays, count, about, title)
        rows.check()
        return rows

    @property
    def finished(self) -> bool:
        """Whether all rows are there."""
        return self.folder.is_dir()

    def begin(self) -> list[int]:
        """Make room for all rows unless that is done; the indices of those that are not written yet."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        begun = self._is_begun()
        written = self.written().items() if begun else ()
        done = {index: row for index, row in written if self._holds(index, row)}  # not so after a power cut
        need = (self.count - len(done)) * sum(self._row_bytes(name) for name in self.arrays)
        if (free := shutil.disk_usage(self.folder.parent).free) < need:
            raise OSError(ENOSPC, f"{need / 1e6:,.0f} MB are needed, {free / 1e6:,.0f} MB are free")
        if not begun:
            shutil.rmtree(self.partial, ignore_errors=True)
            self.partial.mkdir()
            for name in self.arrays:
                with self._growing(name).open("wb") as file:
                    file.write(self._header(name))
                    file.truncate(self._place(name, self.count))
            (self.partial / _BEGUN).write_text(json.dumps(self._description), encoding="utf-8")
        journals = list(self.partial.glob(f"{_JOURNAL}-*"))
        write_atomically(self.partial / _JOURNAL, "".join(map(_line, done, done.values())), kind=DataError)
        for journal in journals:
            journal.unlink()
        return [index for index in range(self.count) if index not in done]

    def write(self, index: int, row: Mapping[str, NDArray[Any]], name: str = "") -> None:
        """Write one row of every array; not through a memory map, where a full disk would kill the process."""
        checksums = []
        for array, (kind, shape) in self.arrays.items():
            values = np.ascontiguousarray(row[array], kind)
            if values.shape != shape:
                raise ValueError(f"a row of {array} is {shape}, not {values.shape}")
            with self._growing(array).open("r+b") as file:
                file.seek(self._place(array, index))
                file.write(values.data)
            checksums.append(zlib.crc32(values.data))
        with self._journal.open("a", encoding="utf-8") as journal:
            journal.write(_line(index, _Written(checksums, name)))

    def written(self) -> dict[int, _Written]:
        """The rows that are written, while not all are."""
        found = {}
        for path in sorted(self.partial.glob(f"{_JOURNAL}*")):
            for line in path.read_text(encoding="utf-8").splitlines():
                with suppress(ValueError):  # half a line, as a power cut leaves it
                    index, checksums, name = json.loads(line)
                    found[int(index)] = _Written(checksums, name)
        return found

    def finish(self) -> None:
        """Give the folder its name, in place of one that was finished with something else."""
        done = self.written()
        rows = [done[index] for index in range(self.count)]
        for name in self.arrays:
            with self._growing(name).open("r+b") as file:
                os.fsync(file.fileno())
        checksums = {name: [row.checksums[place] for row in rows] for place, name in enumerate(self.arrays)}
        manifest = {**self._description, "names": [row.name for row in rows], "checksums": checksums}
        write_atomically(self.partial / MANIFEST, json.dumps(manifest), kind=DataError)
        for path in (self.partial / _BEGUN, *self.partial.glob(f"{_JOURNAL}*")):
            path.unlink()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.partial.rename(self.folder)

    def check(self) -> None:
        """Raise `DataError` if the finished rows are torn, as far as sizes show, or were made with something else."""
        held, wanted = self._manifest["arrays"], self._description["arrays"]
        if (held, self._manifest["about"]) != (wanted, self._description["about"]):
            what = f"{self.title} was made from something else (it holds {held}, wanted are {wanted})"
            raise DataError(what, where=self.folder, mend=self._mend)
        for name in self._checksums:
            path, size = self.folder / f"{name}.npy", self._place(name, self.count)
            if not path.is_file() or path.stat().st_size != size:
                found = path.stat().st_size if path.is_file() else "no"
                raise self._torn(path.name, f"{found} bytes, {size} were written")

    def row(self, array: str, index: int) -> NDArray[Any]:
        """A copy of one row; raises `DataError` if the disk does not hold what was written."""
        row = np.array(self.array(array)[index])
        if zlib.crc32(row.data) != self._checksums[array][index]:
            raise self._torn(f"{array}.npy", f"row {index} is not what was written")
        return row

    def array(self, name: str) -> NDArray[Any]:
        """A read-only memory map of all rows, unchecked; the file is opened by the first call in each process."""
        if name not in self._maps:
            path, header = self.folder / f"{name}.npy", self._header(name)
            kind, shape = self.arrays[name]
            try:
                with path.open("rb") as file:
                    whole = file.read(len(header)) == header
                self._maps[name] = np.memmap(path, kind, "r", len(header), (self.count, *shape))
            except (OSError, ValueError) as error:
                raise self._torn(path.name, str(error)) from error
            if not whole:
                raise self._torn(path.name, "its header is not what was written")
        return self._maps[name]

    @cached_property
    def names(self) -> list[str]:
        """The names of all rows."""
        return list(map(str, self._manifest["names"]))

    def __getstate__(self) -> dict[str, Any]:
        """Without what was read: a memory map would be pickled as all that it maps."""
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}

    @property
    def partial(self) -> Path:
        """The folder while they grow; what is put there stays in the finished one."""
        return self.folder.with_name(f"{self.folder.name}.partial")

    @property
    def _description(self) -> dict[str, Any]:
        arrays = {name: [kind, [self.count, *shape]] for name, (kind, shape) in self.arrays.items()}
        return {"arrays": arrays, "about": json.loads(json.dumps(self.about))}

    @cached_property
    def _journal(self) -> Path:
        return self.partial / f"{_JOURNAL}-{uuid4().hex}"

    @cached_property
    def _maps(self) -> dict[str, NDArray[Any]]:
        return {}

    @cached_property
    def _manifest(self) -> dict[str, Any]:
        try:
            content = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))
            return {key: content[key] for key in ("arrays", "about", "names", "checksums")}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self._torn(MANIFEST, repr(error)) from error

    @cached_property
    def _checksums(self) -> dict[str, list[int]]:
        try:
            found = {name: list(map(int, self._manifest["checksums"][name])) for name in self.arrays}
        except (ValueError, KeyError, TypeError) as error:
            raise self._torn(MANIFEST, repr(error)) from error
        if any(len(checksums) != self.count for checksums in found.values()):
            raise self._torn(MANIFEST, "its checksums are not as many as its rows")
        return found

    def _is_begun(self) -> bool:
        with suppress(OSError, ValueError):
            begun = json.loads((self.partial / _BEGUN).read_text(encoding="utf-8")) == self._description
            return begun and all(self._growing(name).is_file() for name in self.arrays)
        return False

    def _holds(self, index: int, row: _Written) -> bool:
        """Whether the disk holds a row as it was written, while not all are."""
        for name, checksum in zip(self.arrays, row.checksums, strict=True):
            with self._growing(name).open("rb") as file:
                file.seek(self._place(name, index))
                if zlib.crc32(file.read(self._row_bytes(name))) != checksum:
                    return False
        return True

    def _growing(self, name: str) -> Path:
        return self.partial / f"{name}.npy"

    def _header(self, name: str) -> bytes:
        header, (kind, shape) = io.BytesIO(), self.arrays[name]
        described = np.lib.format.dtype_to_descr(np.dtype(kind))
        fields = {"descr": described, "fortran_order": False, "shape": (self.count, *shape)}
        np.lib.format.write_array_header_1_0(header, fields)
        return header.getvalue()

    def _row_bytes(self, name: str) -> int:
        kind, shape = self.arrays[name]
        return math.prod(shape) * np.dtype(kind).itemsize

    def _place(self, name: str, index: int) -> int:
        """Where a row begins in its file."""
        return len(self._header(name)) + index * self._row_bytes(name)

    @property
    def _mend(self) -> str:
        return f"delete the folder {self.folder}; it will be made again"

    def _torn(self, name: str, why: str) -> DataError:
        return DataError(f"{self.title} is torn ({why})", where=self.folder / name, mend=self._mend)


def _line(index: int, row: _Written) -> str:
    return json.dumps([index, *row]) + "\n"
