"""Whether a flow is right, by the frames themselves: warped by the right flow, the earlier one is the later one.

The flow as it is given competes with the flows that the common mistakes would need: reversed, axes swapped, vectors in
other units. What explains the frames best, over several pairs, is what the file holds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from stpl.data.flow.flow_formats import Flow

GIVEN, STILL = "as given", "not warped"
_ANEW = "estimate it anew (stpl data flow)"


@dataclass(frozen=True)
class Alternative:
    """Another reading of a flow.

    Attributes:
        change: makes the flow that was perhaps meant.
        meaning: what the given flow looks like if this one fits better.
        mend: what to do about it.
    """

    change: Callable[[Flow], Flow]
    meaning: str
    mend: str


def _times(factor: float) -> Callable[[Flow], Flow]:
    return lambda flow: flow * np.float32(factor)


ALTERNATIVES = {
    STILL: Alternative(np.zeros_like, "unrelated to the frames", f"pair files and frames anew, or {_ANEW}"),
    "reversed": Alternative(_times(-1), "reversed: it points from t-1 to t", f"negate both components, or {_ANEW}"),
    "axes swapped": Alternative(lambda flow: flow[::-1], "swapped: dy comes before dx", f"store dx first, or {_ANEW}"),
    "swapped and reversed": Alternative(
        lambda flow: -flow[::-1], "swapped and reversed", f"store -dx, then -dy, or {_ANEW}"
    ),
    "×0.1": Alternative(_times(0.1), "ten times too large", "divide by 10: perhaps tenths of a pixel, read as pixels"),
    "×10": Alternative(_times(10), "ten times too small", "multiply by 10: int16 files hold tenths of a pixel"),
    "×0.5": Alternative(_times(0.5), "twice too large", "scale the vectors with the size of the file"),
    "×2": Alternative(_times(2), "twice too small", "scale the vectors with the size of the file"),
}
"""What else a flow may be, beside right."""

_GAIN = 0.9  # a flow that explains motion leaves at most this part of the error that doing nothing leaves
_NEAR = 1.05  # within 5 % of the best reading, the given one passes
_LEAST_ERROR = 0.5  # grey levels; below it there is no motion to see it by


@dataclass(frozen=True)
class FlowVerdict:
    """What the frames say about a flow.

    Attributes:
        right: whether the flow may be used; also true where the frames hardly move, which shows nothing.
        words: the verdict in one sentence.
        errors: mean photometric error in grey levels of each reading.
        pairs: number of pairs of frames it rests on.
    """

    right: bool
    words: str
    errors: dict[str, float]
    pairs: int


def warp_errors(later: NDArray[np.uint8], earlier: NDArray[np.uint8], flow: Flow) -> dict[str, float]:
    """Photometric error of every reading of a flow from one frame uint8 `[H,W,3]` to an earlier one of its size.

    Returns:
        Mean absolute difference in grey levels between the later frame and the earlier one, warped; coordinates are
        clamped to the border (a flow that points outside is not forgiven).
    """
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32) for frame in (later, earlier)]
    readings = {GIVEN: flow} | {name: other.change(flow) for name, other in ALTERNATIVES.items()}
    y, x = np.indices(grey[0].shape, dtype=np.float32)
    errors = {}
    for name, (dx, dy) in readings.items():
        warped = cv2.remap(grey[1], x + dx, y + dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        errors[name] = float(np.abs(grey[0] - warped).mean())
    return errors


def flow_verdict(errors: Sequence[dict[str, float]]) -> FlowVerdict:
    """The verdict on a set's flow from `warp_errors` of some of its pairs (at least one)."""
    mean = {name: float(np.mean([pair[name] for pair in errors])) for name in errors[0]}
    best = min(mean, key=lambda name: mean[name])
    given, still = mean[GIVEN], mean[STILL]
    numbers = f"error {given:.1f} against {still:.1f} {STILL}"
    if still < _LEAST_ERROR:
        right, words = True, f"flow cannot be judged: the frames hardly move ({numbers})"
    elif given <= _GAIN * still and given <= _NEAR * mean[best]:
        right, words = True, f"flow is right: {numbers}"
    elif best == GIVEN or mean[best] > _GAIN * still:
        right, words = False, _complaint(STILL, numbers)
    else:
        right, words = False, _complaint(best, f"{numbers} and {mean[best]:.1f} {best}")
    return FlowVerdict(right, words, mean, len(errors))


def _complaint(name: str, numbers: str) -> str:
    other = ALTERNATIVES[name]
    return f"flow looks {other.meaning} ({numbers}); {other.mend}"
