"""Cross-frame augmentation: blur and colour jitter, one draw for all frames of a clip.

STPL §3.2 makes its second view by "randomized Gaussian blurring and color jittering" and cites TPS for it; the default
strengths are those of TPS's released code. Both are photometric: pixels stay where they are, so the flow and the
pseudo-labels of the original view hold for the augmented one. How a clip is augmented follows from its seed
(`clip_seed`) alone: nothing here reads or advances a global generator.
"""

import importlib.metadata
import os
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpl.data.clip import clip_seed
from stpl.errors import ConfigError, DataError

_BLUR, _JITTER, _FRAME = range(3)  # `clip_seed` steps that keep the draws of one call independent
_local = threading.local()


@dataclass(frozen=True)
class CrossFrameAugmentation:
    """Gaussian blur, then colour jitter, with one draw for all frames of a clip.

    Attributes:
        blur_sigmas: standard deviations of the blur, of which one is drawn, **relative to the frame's height**. TPS
            draws Pillow's `GaussianBlur(radius)`, whose radius is the standard deviation, from {5, 7, 9} pixels at
            512×1024; 7/512 means 7 px there and 1.3 px at 96×192, the same loss of detail of the scene.
        blur_probability: how often a clip is blurred (TPS 0.6).
        brightness: factor drawn from [max(0, 1-b), 1+b] (TPS 0.8).
        contrast: as brightness, about the mean grey of each frame (TPS 0.8).
        saturation: as brightness (TPS 0.8).
        hue: shift drawn from [-h, h] turns of the colour circle, h ≤ 0.5 (TPS 0.2).
        jitter_probability: how often the colours of a clip are jittered (TPS 0.8).
        per_frame: draw for every frame anew instead of once for the clip. The ablation of cross-frame consistency;
            nothing in the paper asks for it.

    Raises:
        ConfigError: a value is out of range, or the AGPL fork of albumentations is installed.
    """

    blur_sigmas: tuple[float, ...] = (5 / 512, 7 / 512, 9 / 512)
    blur_probability: float = 0.6
    brightness: float = 0.8
    contrast: float = 0.8
    saturation: float = 0.8
    hue: float = 0.2
    jitter_probability: float = 0.8
    per_frame: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "blur_sigmas", tuple(self.blur_sigmas))  # a YAML list must hash too
        for sigma in self.blur_sigmas or (0.0,):
            _check("blur_sigmas", sigma, 1e-4, 0.5)
        for name, high in _LIMITS.items():
            _check(name, getattr(self, name), 0.0, high)
        refuse_agpl_fork()

    def __call__(self, frames: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
        """Augment the frames uint8 `[T,H,W,3]` RGB of one clip, into memory of their own.

        A pure function of its arguments, safe in threads and workers; raises `DataError` for another type or shape.
        """
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
            what = f"augmentation takes uint8 frames [T,H,W,3], got {frames.dtype} {list(frames.shape)}"
            raise DataError(what, mend="augment before frames are normalised, and one clip at a time")
        parts = []
        for first, last, part_seed in self.stretches(len(frames), seed):
            part = frames[first:last]
            for transform in self.transforms(part.shape[1], part_seed):
                part = transform(images=part)["images"]
            parts.append(part)
        return np.concatenate(parts)

    def stretches(self, frames: int, seed: int) -> list[tuple[int, int, int]]:
        """First frame, end and seed of every stretch of a clip that shares a draw: the clip, or each frame."""
        if not self.per_frame:
            return [(0, frames, seed)]
        return [(i, i + 1, clip_seed(seed, _FRAME, i)) for i in range(frames)]

    def transforms(self, height: int, seed: int) -> tuple[Any, Any]:
        """Blur and jitter for frames of this height, each with a seed of its own.

        A Compose gives all its members one seed, so that their first draws, the decisions to act, are equal: with 0.6
        and 0.8 a clip would never be blurred without being jittered.
        """
        blur, jitter = _transforms(self, height)
        for purpose, transform in ((_BLUR, blur), (_JITTER, jitter)):
            transform.set_random_seed(clip_seed(seed, purpose, 0))
        return blur, jitter


_LIMITS = {"blur_probability": 1.0, "brightness": 10.0, "contrast": 10.0, "saturation": 10.0, "hue": 0.5,
           "jitter_probability": 1.0}  # fmt: skip
"""Largest value of each option; the smallest is 0."""


def _check(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        what, where = f"{value} is outside [{low}, {high}]", f"augmentation option '{name}'"
        raise ConfigError(what, where=where, mend="choose a value inside")


def _transforms(options: CrossFrameAugmentation, height: int) -> tuple[Any, Any]:
    """Blur and jitter for frames of this height; built once a thread, because a transform holds its generator."""
    kept: dict[tuple[CrossFrameAugmentation, int], tuple[Any, Any]] = _local.__dict__.setdefault("transforms", {})
    key = (options, height)
    if key not in kept:
        A = import_albumentations()
        sigmas = [height * sigma for sigma in options.blur_sigmas]
        blurs = [A.GaussianBlur(blur_limit=0, sigma_limit=(sigma, sigma), p=1.0) for sigma in sigmas]
        strengths = {name: getattr(options, name) for name in ("brightness", "contrast", "saturation", "hue")}
        jitter = A.ColorJitter(**strengths, p=options.jitter_probability)
        kept[key] = A.OneOf(blurs, p=options.blur_probability), jitter
    return kept[key]


def import_albumentations() -> Any:
    """The package: imported where it is first needed, because it takes two seconds, and kept from asking for news."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations

    return albumentations


def refuse_agpl_fork() -> None:
    """Raise `ConfigError` if AlbumentationsX is installed: it answers to the same import name under the AGPL."""
    try:
        version = importlib.metadata.version("albumentationsx")
    except importlib.metadata.PackageNotFoundError:
        return
    what = f"AlbumentationsX {version} (AGPL-3.0) is installed in place of albumentations (MIT)"
    mend = "run: pip uninstall albumentationsx && pip install --force-reinstall albumentations==2.0.8"
    raise ConfigError(what, mend=mend)
