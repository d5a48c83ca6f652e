"""Pseudo-labels of a whole split on disk: what a network said of every clip, made in one go, complete or absent.

They grow row by row in `<folder>.partial`, where a run that was killed goes on, and get their name when all are there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stpl.errors import DataError

_MANIFEST, _ABOUT = "manifest.json", "about.json"
_LABELS, _DOUBTS = "labels.npy", "doubts.npy"


class PseudoLabels:
    """The labels in a folder, by the clips' names.

    Args:
        folder: a finished one.

    Raises:
        DataError: it is torn.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
            self.about: dict[str, Any] = manifest["about"]
            self._rows = {str(key): row for row, key in enumerate(manifest["keys"])}
            self._labels: NDArray[np.uint8] = np.load(folder / _LABELS, mmap_mode="r")
            self._doubts: NDArray[np.float16] = np.load(folder / _DOUBTS, mmap_mode="r")
            whole = len(self._rows) == len(self._labels) and self._labels.shape == self._doubts.shape
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _torn(folder, repr(error)) from error
        if not whole:
            raise _torn(folder, "its parts do not fit together")

    def __len__(self) -> int:
        return len(self._rows)

    def of(self, keys: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Labels int64 and doubts float32, both `[B,h,w]`, of the clips of these names.

        Raises:
            DataError: a clip has none.
        """
        unknown = next((key for key in keys if key not in self._rows), None)
        if unknown is not None:
            raise DataError(f"{unknown} has no pseudo-label", where=self.folder, mend="make them for this split")
        rows = [self._rows[key] for key in keys]
        labels, doubts = (np.stack([array[row] for row in rows]) for array in (self._labels, self._doubts))
        return torch.from_numpy(labels.astype(np.int64)), torch.from_numpy(doubts.astype(np.float32))


def finished(folder: Path) -> bool:
    """Whether the labels of a folder are all there."""
    return (folder / _MANIFEST).is_file()


class Writer:
    """Writes a stretch of the rows of a folder of labels; several processes share one, each with its own stretch.

    Args:
        folder: that is to be.
        about: what the labels depend on; a folder begun with anything else, or by other stretches, is begun anew.
        processes: that write it.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any], processes: int = 1) -> None:
        self.folder, self.about, self.processes = folder, dict(about), processes
        self.partial = folder.with_name(f"{folder.name}.partial")

    def begin(self, count: int, size: tuple[int, int]) -> None:
        """Make room for `count` label maps of `size`, unless it is there; by the first process alone."""
        if self._is_begun(count, size):
            return
        self.partial.mkdir(parents=True, exist_ok=True)
        for path in self.partial.iterdir():
            path.unlink()
        for name, kind in ((_LABELS, np.uint8), (_DOUBTS, np.float16)):
            np.lib.format.open_memmap(self.partial / name, "w+", kind, (count, *size)).flush()
        (self.partial / _ABOUT).write_text(json.dumps(self._begun(count, size)), encoding="utf-8")

    def _begun(self, count: int, size: tuple[int, int]) -> dict[str, Any]:
        return {**self.about, "shape": [count, *size], "processes": self.processes}

    def _is_begun(self, count: int, size: tuple[int, int]) -> bool:
        try:
            found = json.loads((self.partial / _ABOUT).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return bool(found == json.loads(json.dumps(self._begun(count, size))))

    def keep(self, name: str, array: NDArray[Any]) -> None:
        """Keep an array beside the labels that grow, such as what a first pass over the split counted."""
        path = self.partial / f"{name}.npy"
        temporary = path.with_suffix(".writing")
        with temporary.open("wb") as file:
            np.save(file, array)
        temporary.replace(path)

    def kept(self, name: str) -> NDArray[Any] | None:
        """What `keep` kept under a name, if anything."""
        path = self.partial / f"{name}.npy"
        return np.load(path, allow_pickle=False) if path.is_file() else None

    def names(self, prefix: str) -> list[str]:
        """The names beginning with `prefix` under which arrays were kept, sorted."""
        return sorted(path.stem for path in self.partial.glob(f"{prefix}*.npy"))

    def done(self, first: int) -> int:
        """How many rows of the stretch that begins at `first` are written."""
        return len(self._keys(first))

    def _keys(self, first: int) -> list[str]:
        """The names of its clips; a line that a kill cut off does not count."""
        path = self.partial / f"rows-{first}"
        return path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else []

    def write(self, first: int, keys: Sequence[str], labels: Tensor, doubts: Tensor) -> None:
        """Write the next rows of the stretch that begins at `first`: labels and doubts `[B,h,w]` of `keys`."""
        done = self._keys(first)
        place = slice(first + len(done), first + len(done) + len(labels))
        for name, values in ((_LABELS, labels.byte()), (_DOUBTS, doubts.half())):
            array = np.lib.format.open_memmap(self.partial / name, "r+")
            array[place] = values.cpu().numpy()
            array.flush()
        text = "".join(f"{key}\n" for key in (*done, *keys))
        path = self.partial / f"rows-{first}"
        temporary = path.with_suffix(".writing")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)

    def finish(self) -> PseudoLabels:
        """Give the folder its name; by the first process alone, when all have written their stretch."""
        starts = sorted(int(path.name.partition("-")[2]) for path in self.partial.glob("rows-*"))
        manifest = {"about": self.about, "keys": [key for first in starts for key in self._keys(first)]}
        (self.partial / _MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
        shutil.rmtree(self.folder, ignore_errors=True)  # labels of other weights, from before a change
        self.partial.replace(self.folder)
        return PseudoLabels(self.folder)


def _torn(folder: Path, fault: str) -> DataError:
    return DataError(
        f"the pseudo-labels are torn ({fault})", where=folder, mend="delete the folder: they are made again"
    )
