"""The options of the benchmark, and one drive as a pure function of them."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stpl.data.streets.domain import CLEAN, SHIFTS, DomainShift, ShiftName, photograph
from stpl.data.streets.layout import make_scene
from stpl.data.streets.render import draw
from stpl.errors import ConfigError

DOMAINS = ("studio", "camera")
SPLITS = ("train", "val")


@dataclass(frozen=True)
class StreetsOptions:
    """What the benchmark `streets` is made of; every field is part of the cache's name.

    Attributes:
        seed: ≥ 0; another seed gives other drives.
        shift: what the camera does, by name: see `SHIFTS`.
        strengths: of `DomainShift`, by name: those that replace the named shift's.
        severity: all strengths are multiplied by it, 0 (no shift) to 1.
        height: pixels, ≥ 16.
        width: pixels, ≥ 16.
        frames: frames per drive, ≥ 2.
        train_drives: drives in the train split of either domain.
        val_drives: drives in the studio's val split.
        camera_val_drives: drives in the camera's val split, on which methods are compared.
    """

    seed: int = 0
    shift: ShiftName = "camera"
    strengths: dict[str, float] = field(default_factory=dict)
    severity: float = 1.0
    height: int = 128
    width: int = 256
    frames: int = 4
    train_drives: int = 300
    val_drives: int = 40
    camera_val_drives: int = 60

    def __post_init__(self) -> None:
        least = {"seed": 0, "height": 16, "width": 16, "frames": 2, "train_drives": 1, "val_drives": 1,
                 "camera_val_drives": 1}  # fmt: skip
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ConfigError(f"streets: {name} is {getattr(self, name)}", mend=f"choose {name} ≥ {bound}")
        if not 0 <= self.severity <= 1:
            raise ConfigError(f"streets: severity is {self.severity}", mend="choose a severity between 0 and 1")
        if self.shift not in SHIFTS:
            raise ConfigError(f"streets has no shift '{self.shift}'", mend=f"choose one of: {', '.join(SHIFTS)}")
        known = [item.name for item in fields(DomainShift)]
        for name in self.strengths:
            if name not in known:
                raise ConfigError(f"streets: a shift has no '{name}'", mend=f"choose one of: {', '.join(known)}")
        self.shift_of("camera")  # its strengths are in range

    def shift_of(self, domain: str) -> DomainShift:
        """What lies between the scene and the pictures of a domain."""
        if domain != "camera":
            return CLEAN
        return replace(SHIFTS[self.shift], **self.strengths).scaled(self.severity)

    def drives(self, domain: str, split: str) -> int:
        """Number of drives of one split; raises `ConfigError` for an unknown domain or split."""
        for name, value, known in (("domain", domain, DOMAINS), ("split", split, SPLITS)):
            if value not in known:
                raise ConfigError(f"streets has no {name} '{value}'", mend=f"choose one of: {', '.join(known)}")
        if split == "train":
            return self.train_drives
        return self.val_drives if domain == "studio" else self.camera_val_drives

    def content(self, domain: str, split: str) -> dict[str, Any]:
        """The options on which the drives of one split depend, as plain values (the name of its cache)."""
        values = {name: getattr(self, name) for name in ("seed", "height", "width", "frames")}
        return {**values, "drives": self.drives(domain, split), "shift": asdict(self.shift_of(domain))}


@dataclass(frozen=True)
class Drive:
    """T consecutive frames with everything that is known about them.

    Attributes:
        frames: uint8 `[T,3,H,W]` RGB.
        labels: uint8 `[T,H,W]`, train ids of `viper15`, 255 on poles.
        flow: float32 `[T,2,H,W]`, pixels; backward flow of each frame on its own grid, zero at frame 0.
        visible: bool `[T,H,W]`, whether the point was visible in the previous frame; false at frame 0.
    """

    frames: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    flow: NDArray[np.float32]
    visible: NDArray[np.bool_]


def draw_drive(options: StreetsOptions, domain: str, split: str, index: int) -> Drive:
    """Draw drive `index` of a split. The same arguments give the same bytes in any process."""
    options.drives(domain, split)
    stream = [options.seed, zlib.crc32(f"{domain}/{split}".encode()), index]
    shift = options.shift_of(domain)
    scene = make_scene(shift.make_palette(np.random.default_rng([*stream, 0])), options.frames)
    drawn = draw(scene, options.height, options.width)
    frames = photograph(drawn.frames, drawn.depth, shift, np.random.default_rng([*stream, 1]))
    return Drive(np.ascontiguousarray(frames.transpose(0, 3, 1, 2)), drawn.labels, drawn.flow, drawn.visible)


def renderer_version() -> str:
    """Hash of everything that decides what is drawn: this package's drawing modules, OpenCV's and NumPy's versions."""
    digest = hashlib.sha256(f"{cv2.__version__} {np.__version__}".encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.stem not in ("__init__", "cache", "reader"):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]
