"""Where one scene of a video ends and another begins: no clip may pair frames across such a cut.

Only hard cuts are looked for. A fade changes each pair of frames a little, and its flow is as good as any.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

THUMBNAIL = (18, 32)
"""Height and width of what frames are compared by."""

_FAR = 0.5  # structural distance, in [0, 2], above which two frames may be of two scenes
_TIMES = 3.0  # times the distance of the pairs around it
_AROUND = 8  # pairs on either side that show how much this video moves
_FLAT = 2.0  # grey levels; less contrast than this has no structure


def thumbnail(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What a frame uint8 `[H,W,3]` is compared by, uint8 `[18,32,3]`."""
    return cv2.resize(frame, THUMBNAIL[::-1], interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def find_cuts(thumbnails: NDArray[np.uint8]) -> list[int]:
    """The frames with which a new scene begins, rising; the first frame is none.

    A pair of frames is a cut if its structural distance is large, and large beside that of the pairs around it: a fast
    turn of the camera is far in every pair. Brightness and contrast are removed first, so that neither a flash nor an
    exposure that adapts is one; a frame without any structure, such as a black one, is compared with none.

    Args:
        thumbnails: of successive frames, uint8 `[N,18,32,3]`.
    """
    distances = structural_distances(thumbnails)
    cuts = []
    for place, distance in enumerate(distances):
        around = np.r_[distances[max(0, place - _AROUND) : place], distances[place + 1 : place + 1 + _AROUND]]
        usual = float(np.median(around)) if len(around) else 0.0
        if distance > max(_FAR, _TIMES * usual):
            cuts.append(place + 1)
    return cuts


def structural_distances(thumbnails: NDArray[np.uint8]) -> NDArray[np.float64]:
    """1 - correlation of each frame with the one before, `[N-1]` in [0, 2]; 0 where either has no structure.

    Of blurred thumbnails, shifted against each other by up to two pixels each way: motion is no change of scene.
    """
    grey = thumbnails.astype(np.float32).mean(3)
    soft = np.stack([cv2.GaussianBlur(image, (3, 3), 0) for image in grey]) if len(grey) else grey
    earlier, later = soft[:-1], soft[1:]
    best = np.full(len(later), 2.0)
    for down in range(-2, 3):
        for right in range(-2, 3):
            best = np.minimum(best, 1 - _correlations(_window(earlier, down, right), _window(later, -down, -right)))
    flat = soft.std((1, 2)) < _FLAT
    return np.where(flat[:-1] | flat[1:], 0.0, best)


def _window(images: NDArray[np.float32], down: int, right: int) -> NDArray[np.float32]:
    """The part of images `[N,h,w]` that is left when they are shifted over others by half of what is asked."""
    height, width = images.shape[1:]
    top, left = max(0, down), max(0, right)
    return images[:, top : height + min(0, down), left : width + min(0, right)]


def _correlations(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float64]:
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (one, other))
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    norms = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    found: NDArray[np.float64] = (a * b).sum(1) / np.maximum(norms, 1e-9)
    return found
