"""Pseudo-labels of a whole split on disk: what a network said of every clip, made in one go, complete or absent."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stpl.errors import DataError
from stpl.rows import MANIFEST, Rows

_TITLE = "the store of pseudo-labels"


class PseudoLabels:
    """The labels in a finished folder, by the clips' names; raises `DataError` if it is torn."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._store = folder, Rows.found(folder, _TITLE)
        self.about = self._store.about
        self.has_soft = "soft" in self._store.arrays
        self._rows = {key: row for row, key in enumerate(self._store.names)}

    def __len__(self) -> int:
        return len(self._rows)

    def of(self, keys: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Labels int64 and doubts float32, both `[B,h,w]`; raises `DataError` if a clip has none or they are torn."""
        labels, doubts = self._rows_of(keys, "labels"), self._rows_of(keys, "doubts")
        return labels.long(), doubts.float()

    def soft(self, keys: Sequence[str]) -> Tensor:
        """Soft labels float32 `[B,K,h,w]`; raises `DataError` as `of` does."""
        return self._rows_of(keys, "soft").float()

    def _rows_of(self, keys: Sequence[str], name: str) -> Tensor:
        unknown = next((key for key in keys if key not in self._rows), None)
        if unknown is not None:
            raise DataError(f"{unknown} has no pseudo-label", where=self.folder, mend="make them for this split")
        return torch.from_numpy(np.stack([self._store.row(name, self._rows[key]) for key in keys]))


def finished(folder: Path) -> bool:
    """Whether the labels of a folder are all there."""
    return (folder / MANIFEST).is_file()


def last_round(run: Path) -> Path | None:
    """The folder of the last round of labels that a run finished, below the run's own; `None` if it finished none."""
    rounds = [path for path in (run / "pseudo").glob("round*") if finished(path)]
    return max(rounds, key=lambda path: int(path.name.removeprefix("round")), default=None)


def growing(folder: Path, about: Mapping[str, Any], count: int, size: tuple[int, int], soft: int = 0) -> Rows:
    """What becomes the labels in a folder: of `count` clips, each of a size, with `soft` probabilities; see `Rows`."""
    arrays = {"labels": ("uint8", size), "doubts": ("float16", size)}
    return Rows(folder, arrays | ({"soft": ("float16", (soft, *size))} if soft else {}), count, about, _TITLE)
