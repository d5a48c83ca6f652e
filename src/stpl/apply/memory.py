"""What frames take of memory at the least, known from their size alone, so that it is refused before anything loads."""

from __future__ import annotations

from stpl.errors import ConfigError
from stpl.machine import free_memory

_LEAST = 16  # bytes of a pixel: of a frame as bytes, and as float32 for the network; all else comes on top
_GIB = 2**30


def check_size(size: tuple[int, int] | None, batch_size: int | None = None, where: str = "--size") -> None:
    """Refuse a frame size, or a number of clips a step, that the memory of this machine cannot hold.

    What passes may still be too much for a network: `stpl.apply.resources` estimates that once the network is there.

    Args:
        size: height and width of the frames, above 0; nothing is checked without it.
        batch_size: clips a step, above 0; one if not given.
        where: the size stands.

    Raises:
        ConfigError: too much memory.
    """
    if size is None:
        return
    each, free = _LEAST * size[0] * size[1], free_memory()
    if each > free:
        raise too_large(each, free, (free / each) ** 0.5, "at the least", where)
    if batch_size is not None and each * batch_size > free:
        raise too_many(batch_size, each * batch_size, free, free // each)


def too_large(need: int, free: int, shrink: float, how: str, where: str = "--size") -> ConfigError:
    """The error for frames of which not even one fits.

    Args:
        need: bytes.
        free: bytes.
        shrink: share of height and width that would fit; 0 if no frame would.
        how: with what it needs so much.
        where: the size stands.
    """
    smaller = f"give a size of {100 * shrink:.0f} % of its height and width, or " if shrink >= 0.005 else ""
    return ConfigError(
        f"it needs {need / _GIB:.1f} GiB {how}, {free / _GIB:.1f} are free",
        where=where,
        mend=f"{smaller}free some memory" if smaller or not shrink else "give a far smaller size",
    )


def too_many(batch_size: int, need: int, free: int, fits: int) -> ConfigError:
    """The error for clips that do not fit together.

    Args:
        batch_size: their number.
        need: bytes.
        free: bytes.
        fits: how many do.
    """
    return ConfigError(
        f"{batch_size} clips a step need {need / _GIB:.1f} GiB, {free / _GIB:.1f} are free",
        where="--batch_size",
        mend=f"choose {fits} or fewer",
    )
