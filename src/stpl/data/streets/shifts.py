"""The domain shifts that have a name.

`camera`, the default, was chosen by controls alone (docs/streets.md): the source model as it is, renewed statistics
with and without augmented frames, and the oracle. The others are there to see whether what holds before one camera
holds before another; nothing was chosen by what any method does on them.
"""

from __future__ import annotations

from typing import Literal

from stpl.data.streets.domain import DomainShift

ShiftName = Literal["camera", "dusk", "fog", "palette"]

SHIFTS: dict[ShiftName, DomainShift] = {
    "camera": DomainShift(
        palette=0.85, grain=0.08, overcast=0.12, haze=0.005, exposure=0.18, white_balance=0.08, gamma=0.13,
        desaturation=0.13, flatness=0.04, vignette=0.13, defocus=0.35, motion=1.3, flicker=0.04, shot_noise=0.02,
        read_noise=0.01, lost_blocks=0.025, compression=0.2,
    ),
    "dusk": DomainShift(
        palette=0.2, grain=0.3, overcast=0.9, haze=0.004, dark=0.9, exposure=0.3, white_balance=0.35, gamma=0.2,
        desaturation=0.4, flatness=0.0, vignette=0.35, defocus=0.6, motion=5.0, flicker=0.1, shot_noise=0.06,
        read_noise=0.025, lost_blocks=0.03, compression=0.4,
    ),
    "fog": DomainShift(
        palette=0.2, grain=0.3, overcast=0.8, haze=0.04, exposure=0.25, white_balance=0.08, gamma=0.15,
        desaturation=0.5, flatness=0.25, vignette=0.2, defocus=0.9, motion=2.0, flicker=0.06, shot_noise=0.03,
        read_noise=0.015, lost_blocks=0.03, compression=0.4,
    ),
    "palette": DomainShift(
        palette=0.68, grain=0.08, overcast=0.12, haze=0.0104, exposure=0.352, white_balance=0.152, gamma=0.264,
        desaturation=0.264, flatness=0.08, vignette=0.264, defocus=0.704, motion=2.64, flicker=0.08, shot_noise=0.0424,
        read_noise=0.0208, lost_blocks=0.0528, compression=0.424,
    ),
}  # fmt: skip
"""Strengths by name. `palette` moves the colours of things so far that statistics follow only a part of it."""
