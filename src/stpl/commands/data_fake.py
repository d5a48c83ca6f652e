"""`stpl data fake`: a tiny data set in its true layout."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from stpl.option_types import Count, Natural, Size


def data_fake(
    dataset: str,
    *,
    root: Path = Path("data"),
    size: Size = (128, 256),
    clips: Count | None = None,
    seed: Natural = 0,
    layout: Literal["renamed", "archive"] = "renamed",
) -> None:
    """Write a tiny data set in its true layout, drawn by the street renderer, with labels in its own ids.

    VIPER shows the player's own car; Cityscapes the bonnet of its own. There are no riders (the renderer counts them
    as people), and in SYNTHIA, which knows no trucks, buses and bicycles, those are void.

    Args:
        dataset: viper, synthia or cityscapes.
        root: folder that holds the data sets' own folders; this one's must not exist yet, or be empty.
        size: height and width of the frames.
        clips: labelled frames a split, rounded up to the same number in both cities or sequences; a few if not given.
        seed: another seed draws other drives.
        layout: of SYNTHIA: renamed as DA-VSN wants it (rgb, label), or as its archive unpacks.
    """
    from stpl.data.fake import fake

    fake(dataset, root, size, clips, seed, layout)
