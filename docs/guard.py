"""Draws the cameras of `sweeps/guard.yaml`, before which the guard of `stpl adapt` is measured: `python docs/guard.py`.

Every strength of a camera is drawn by itself, evenly between the least and the largest that it has among the four
named cameras of `streets`. The seed was fixed before any camera was drawn, and no camera was drawn again.
"""

from __future__ import annotations

import json
from dataclasses import fields

import numpy as np

from stpl.data.streets.domain import SHIFTS, DomainShift

SEED, CAMERAS = 30, 4


def drawn() -> list[dict[str, float]]:
    """The strengths of each camera, by name, to three digits."""
    rng = np.random.default_rng(SEED)
    spans = {item.name: [getattr(shift, item.name) for shift in SHIFTS.values()] for item in fields(DomainShift)}
    return [
        {name: float(f"{rng.uniform(min(span), max(span)):.3g}") for name, span in spans.items()}
        for _ in range(CAMERAS)
    ]


if __name__ == "__main__":
    for camera in drawn():
        print(f"      - '{json.dumps(camera)}'")
