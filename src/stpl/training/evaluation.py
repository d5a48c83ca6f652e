"""The metrics of every evaluation, whatever the method: one pass over the clips, one forward pass of each.

Shape legend: B clips in a batch, K classes, D feature channels, H×W pixels, h×w features.
"""

import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric

from stpl.data.clip import BACKWARD, IGNORE, Clip
from stpl.data.label_space import LabelSpace
from stpl.errors import DivergedError
from stpl.metrics.feature_space import FeatureSpace
from stpl.metrics.sampling import PixelSample
from stpl.metrics.segmentation import SegmentationMetrics
from stpl.metrics.selection import validators
from stpl.metrics.temporal import TemporalConsistency, VideoQuality, continues, photometric_occlusion, stretches
from stpl.nn.accel import Observation
from stpl.nn.segmenter import grid_of, upsample
from stpl.nn.warp import warp
from stpl.training.ranks import to_first

Arrays = dict[str, NDArray[Any]]
_SAMPLES, _OF_ONE_VIDEO = 12, 4  # clips to look at, and how many successive ones of a video
_PIXELS = 1 << 15  # to which larger frames are reduced: 12 clips stay below 1.5 MB


class Evaluator(nn.Module):
    """All metrics of an evaluation, and the arrays from which figures of it are drawn.

    Temporal metrics compare with the prediction of the previous frame that ACCEL makes anyway, the one before fusion:
    it exists for every clip of every data set. They live on the grid of the frames, where flow is known. Occlusions are
    exact where clips carry `visible`, and found by the change of colour elsewhere.

    Where several processes share the clips, each a stretch of them, `gather` joins what they found in the order of the
    clips. Every sum is formed from the same parts in the same order as in one process, to the last digit.
    """

    def __init__(self, space: LabelSpace) -> None:
        super().__init__()
        self.space = space
        self.segmentation = SegmentationMetrics.of(space)
        self.feature_space = FeatureSpace()
        self.consistency = TemporalConsistency(space)
        self.quality = VideoQuality(space)
        self.validators = nn.ModuleDict(validators(space.num_classes))
        self.samples = ClipSamples()
        for metric in self._metrics():
            metric.distributed_available_fn = _never  # they are joined once, by `gather`

    def begin(self, first_clip: int) -> None:
        """Set how many clips come before those of this process."""
        for metric in self._metrics():
            if isinstance(metric, PixelSample):
                metric.first_clip = first_clip

    def gather(self) -> None:
        """Give the first process what all have found; the others' numbers remain those of their own clips."""
        states = [{k: _on(v, "cpu") for k, v in metric.metric_state.items()} for metric in self._metrics()]
        parts = to_first((states, self.quality.keys, self.samples))
        if len(parts) == 1:
            return
        all_states, keys, samples = zip(*parts, strict=True)
        for metric, of_ranks in zip(self._metrics(), zip(*all_states, strict=True), strict=True):
            for name in metric.metric_state:
                setattr(metric, name, _on(_joined([state[name] for state in of_ranks]), metric.device))
        self.quality.keys = [key for part in keys for key in part]
        self.samples = ClipSamples.joined(samples)

    def _metrics(self) -> list[Metric]:
        return [module for module in self.modules() if isinstance(module, Metric)]

    @torch.no_grad()
    def update(self, clip: Clip, observed: Observation) -> None:
        """Add a batch of clips, with labels or without, and what the network predicts for it."""
        keys = (clip.key,) if isinstance(clip.key, str) else clip.key
        prediction = predicted(observed.logits, clip)
        for validator in self._validators().values():
            validator.update(observed.logits)
        label = clip.labels.get(0)
        known = observed.logits.argmax(1) if label is None else label
        self.feature_space.update(observed.features, nearest(known, grid_of(observed.features)))
        if label is not None:
            self.segmentation.update(prediction, label)
            self.quality.update(prediction, label, keys)
        self._compare_frames(clip, observed, prediction)
        self.samples.update(keys, clip.frame(), prediction, label)

    def _compare_frames(self, clip: Clip, observed: Observation, prediction: Tensor) -> None:
        size, label = clip.size, clip.labels.get(0)
        if grid_of(prediction) != size:
            prediction = upsample(observed.logits, size).argmax(1)
            label = None if label is None else nearest(label, size)
        flow, visible = clip.flows[BACKWARD], clip.visible.get(0)
        if visible is None:
            occluded = photometric_occlusion(clip.frame(), warp(clip.frame(-1).float(), flow))
        else:
            occluded = ~visible
        self.consistency.update(prediction, upsample(observed.previous, size).argmax(1), flow, occluded, label)

    def numbers(self) -> dict[str, Any]:
        """The metrics as plain numbers; a group or number that could not be computed is missing.

        `score` is the label-free score that selects a checkpoint (`None` if the network yields no numbers), and
        `scores` has it and its alternatives by name.
        `miou`, `iou` (by class name, `None` where absent), `accuracy` and `class_accuracy` are in percent and, like
        `protocol` (how they were found), missing if the clips had no labels. `feature_space` and `temporal` are groups
        of numbers: see `FeatureSpace`, `TemporalConsistency` and `VideoQuality` (`vpq` by window, `vpq_mean`). `vpq` by
        class name is the mean over the windows, `None` where the class is absent.
        """
        scores = _plain({name: validator.compute() for name, validator in self._validators().items()})
        found: dict[str, Any] = {"score": scores.get("information_maximization"), "scores": scores}
        if self.segmentation.update_called:
            values = self.segmentation.compute()
            found |= {name: _number(value) for name, value in values.items() if name != "iou"}
            found["iou"] = dict(zip(self.space.classes, map(_number, values["iou"]), strict=True))
            found["protocol"] = self.space.protocol
        found["feature_space"] = _plain(self.feature_space.compute())
        found["temporal"] = _plain(self.consistency.compute())
        windows = _plain(self.quality.compute()) if self.quality.update_called else {}
        if windows:
            found["temporal"] |= {"vpq": windows, "vpq_mean": sum(windows.values()) / len(windows)}
            classes = torch.stack(list(self.quality.of_classes().values())).nanmean(0)
            found["vpq"] = dict(zip(self.space.classes, map(_number, classes), strict=True))
        return found

    def arrays(self) -> dict[str, Arrays]:
        """What figures are drawn from, by name: `features`, `samples` and, where there were labels, `evaluation`."""
        features, classes, clips = self.feature_space.sample()
        found: dict[str, Arrays] = {
            "features": {
                "features": features.clamp(-65504, 65504).half().cpu().numpy(),
                "classes": classes.byte().cpu().numpy(),
                "clips": clips.int().cpu().numpy(),
            },
            "samples": self.samples.arrays(),
        }
        if self.quality.update_called:
            found["evaluation"] = {"keys": np.array(self.quality.keys), "confusions": self.clip_confusions()}
        return found

    def clip_confusions(self) -> NDArray[np.int32]:
        """Pixel counts `[N,K,K]` of each labelled clip, in the order of `quality.keys`; rows are the truth."""
        confusions = torch.cat(self.quality.confusions)[:, :-1].clone()
        confusions[:, self.segmentation.dropped] = 0
        confusions[:, :, self.segmentation.dropped] = 0
        return np.asarray(confusions.int().cpu().numpy())

    def reset(self) -> None:
        """Forget everything."""
        for metric in self._metrics():
            metric.reset()
        self.samples = ClipSamples()

    def _validators(self) -> dict[str, Metric]:
        return cast(dict[str, Metric], dict(self.validators.items()))


class Shown(NamedTuple):
    """One clip of `samples.npz`: its current frame uint8 `[H,W,3]` RGB; label and prediction uint8 `[H,W]`."""

    key: str
    frame: NDArray[np.uint8]
    label: NDArray[np.uint8]
    prediction: NDArray[np.uint8]


class ClipSamples:
    """A few clips to look at, successive ones of a few videos, so that they play; the same in all runs of a benchmark.

    A hash of the name of their first clip chooses the videos. While the clips stream by, those of the videos that come
    first so far are kept, and those of the very first, which may have begun in another process.
    """

    def __init__(self) -> None:
        self._keys: list[str] = []
        self._videos: dict[int, dict[int, Shown]] = {}  # place of a video's first clip → place → clip
        self._begun = 0  # place of the first clip of the current video

    def update(self, keys: Sequence[str], frames: Tensor, predictions: Tensor, labels: Tensor | None = None) -> None:
        """Take the current frames uint8 `[B,3,H,W]` of a batch, and train ids `[B,H',W']`, 255 = ignore."""
        for i, key in enumerate(keys):
            place = len(self._keys)
            begins = not self._keys or not continues(self._keys[-1], key)
            self._keys.append(key)
            if begins:
                self._begin(place)
            if place - self._begun < _OF_ONE_VIDEO and self._begun in self._videos:
                label = torch.full_like(predictions[i], IGNORE) if labels is None else labels[i]
                self._videos[self._begun][place] = self._show(key, frames[i], label, predictions[i])

    def _begin(self, place: int) -> None:
        """Keep the video that begins here if it is among the first; drop the one that no longer is."""
        self._begun, self._videos[place] = place, {}
        ranked = sorted((first for first in self._videos if first), key=lambda first: _rank(self._keys[first]))
        for first in ranked[_SAMPLES:]:
            del self._videos[first]

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The samples of a set of clips, of which each of `parts` saw a stretch, in order; good for `arrays` only."""
        whole = cls()
        for part in parts:
            before = len(whole._keys)
            whole._videos[before] = {before + place: clip for place, clip in part._shown().items()}
            whole._keys += part._keys
        return whole

    def _show(self, key: str, frame: Tensor, label: Tensor, prediction: Tensor) -> Shown:
        height, width = frame.shape[1:]
        scale = min(1.0, (_PIXELS / (height * width)) ** 0.5)
        size = (max(1, int(height * scale)), max(1, int(width * scale)))
        small = frame if scale == 1 else F.interpolate(frame[None].float(), size=size, mode="area")[0].round().byte()
        maps = (nearest(x[None], size)[0].byte().cpu().numpy() for x in (label, prediction))
        return Shown(key, small.permute(1, 2, 0).cpu().numpy(), *maps)

    def arrays(self) -> Arrays:
        """`keys` `[S]`, `frames` uint8 `[S,H,W,3]`, `labels` and `predictions` uint8 `[S,H,W]`, in evaluation order."""
        shown = self._shown()
        chosen = [shown[place] for place in self._chosen()]
        names = {"frames": "frame", "labels": "label", "predictions": "prediction"}
        stacks = {plural: np.stack([getattr(clip, one) for clip in chosen]) for plural, one in names.items()}
        return {"keys": np.array([clip.key for clip in chosen]), **stacks}

    def _shown(self) -> dict[int, Shown]:
        return {place: clip for clips in self._videos.values() for place, clip in clips.items()}

    def _chosen(self) -> list[int]:
        """Places of the clips to show, rising."""
        videos: dict[int, list[int]] = {}
        for place, video in enumerate(stretches(self._keys)):
            videos.setdefault(video, []).append(place)
        ranked = sorted(videos.values(), key=lambda places: _rank(self._keys[places[0]]))
        return sorted([place for places in ranked for place in places[:_OF_ONE_VIDEO]][:_SAMPLES])


def _never() -> bool:
    return False


def _joined(parts: Sequence[Any]) -> Any:
    """States of a metric in all processes as one: lists follow each other, counts are summed."""
    if isinstance(parts[0], list):
        return [item for part in parts for item in part]
    return torch.stack(list(parts)).sum(0)


def _on(state: Tensor | list[Tensor], device: torch.device | str) -> Tensor | list[Tensor]:
    return [item.to(device) for item in state] if isinstance(state, list) else state.to(device)


def _rank(name: str) -> tuple[int, str]:
    return zlib.crc32(name.encode()), name


def predicted(logits: Tensor, clip: Clip) -> Tensor:
    """Classes int64 `[B,H,W]` of logits `[B,K,h,w]`, which are resized to the clips' labels, or frames without them."""
    return upsample(logits, grid_of(clip.labels.get(0, clip.frames))).argmax(1)


def check_output(logits: Tensor, clip: Clip) -> None:
    """Raise `DivergedError` for a network whose answer is no number: the largest of NaN is class 0, a road anywhere."""
    if not bool(logits.isfinite().all()):
        key = clip.key if isinstance(clip.key, str) else clip.key[0]
        raise DivergedError(
            f"the network's output is not finite for clip {key}",
            mend="lower optimizer.lr if it was trained here; a checkpoint that does this is of no use",
        )


def nearest(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels `[B,H,W]` at `size`: at each new place the nearest old one, corners aligned as for logits and features."""
    (height, width), (new_height, new_width) = labels.shape[-2:], size
    ys = torch.linspace(0, height - 1, new_height, device=labels.device).round().long()
    xs = torch.linspace(0, width - 1, new_width, device=labels.device).round().long()
    return labels[:, ys[:, None], xs]


def _plain(values: dict[Any, Any]) -> dict[str, Any]:
    """Tensors as numbers, names as strings; what is not a number is left out."""
    found = {str(k): _plain(v) if isinstance(v, dict) else _number(v) for k, v in values.items()}
    return {name: value for name, value in found.items() if value not in (None, {})}


def _number(value: Tensor) -> float | None:
    number = float(value)
    return None if number != number else number
