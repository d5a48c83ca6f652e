"""The last few results of a function, such as decoded frames."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Key = TypeVar("Key")


class Recent(Generic[Key]):
    """Arrays that were made last, up to a number of bytes; at least one.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._kept: OrderedDict[Key, NDArray[np.uint8]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, key: Key) -> bool:
        return key in self._kept

    def get(self, key: Key, make: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """The array of a key, made if it is not kept."""
        if key not in self._kept:
            self.put(key, make())
        self._kept.move_to_end(key)
        return self._kept[key]

    def put(self, key: Key, array: NDArray[np.uint8]) -> None:
        """Keep an array, and let go of the oldest beyond the limit; all are of its size."""
        self._kept[key] = array
        while len(self._kept) * array.nbytes > self.limit and len(self._kept) > 1:
            self._kept.popitem(last=False)
