"""`stpl data fake`: a tiny data set in its true layout."""

from __future__ import annotations

from pathlib import Path

from stpl.option_types import Count, Natural, Size


def data_fake(
    dataset: str,
    *,
    root: Path = Path("data"),
    size: Size = (128, 256),
    clips: Count | None = None,
    seed: Natural = 0,
    layout: str | None = None,
) -> None:
    """Write a tiny data set in its true layout, drawn by the street renderer, with labels in its own ids.

    Its own car is shown where the data set shows one. There are no riders (the renderer counts them as people), and
    classes that the data set does not know are void.

    Args:
        dataset: name of the data set, or of a module of your own that declares one; a wrong name lists all.
        root: folder that holds the data sets' own folders; this one's must not exist yet, or be empty.
        size: height and width of the frames.
        clips: labelled frames a split, rounded up to the same number in all its videos; a few if not given.
        seed: another seed draws other drives.
        layout: of the data set's layouts, e.g. renamed or archive (of SYNTHIA); the first one if not given.
    """
    from stpl.data.fake import fake

    fake(dataset, root, size, clips, seed, layout)
