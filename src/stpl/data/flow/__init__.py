"""Optical flow: who estimates it, where it is kept, what files hold it.

One convention everywhere, the project's and the DA-VSN lineage's: **a flow from a to b lies on the grid of a**. Pixel
(x, y) of frame a lies at (x+dx, y+dy) in frame b; channel 0 is dx (right), channel 1 is dy (down), unit pixel. The
«backward flow» leads from the current frame t to t-1, so that `later[y, x] ≈ earlier[y + dy, x + dx]`. (STPL §3.1
writes o_{t-1→t}; all released code of the lineage uses t→t-1 with backward sampling, as here.) In memory a flow is
float32 `[2,H,W]`.

`estimators` is what an estimator is, and the default one, `raft` another; `flow_cache` keeps what they find;
`flow_formats` reads and writes files, `flow_files` is `stpl data flow`, `flow_check` says whether a flow is right.
"""

from stpl.data.flow.estimators import estimate
from stpl.data.flow.flow_cache import FlowCache
from stpl.data.flow.flow_formats import Flow, probe, read, unknown_pixels, write
from stpl.data.flow.vectors import consistent, flip, resize

__all__ = [
    "Flow",
    "FlowCache",
    "consistent",
    "estimate",
    "flip",
    "probe",
    "read",
    "resize",
    "unknown_pixels",
    "write",
]
