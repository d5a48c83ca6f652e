"""Anybody's loaders: what they yield is brought to what a method takes, or refused in one line."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, Subset

from stpl.data.augment import CrossFrameAugmentation
from stpl.data.augment_device import with_view
from stpl.data.clip import BACKWARD, Batch, Clip, Wants, clip_seed
from stpl.errors import ConfigError, DataError
from stpl.nn.generators import generators_kept

_RENEWAL_SEED = 20160312  # of no run
_COLLATE = "give DataLoader collate_fn=stpl.data.clip.collate"


def training_batch(given: Any, wanted: Mapping[str, Wants]) -> Batch:
    """What a training loader yields, as a batch that holds what is wanted of each stream, and no more.

    Args:
        given: a `Batch`, clips of the target alone, or clips by stream, as Lightning yields them of several loaders.
        wanted: by stream: target, source, before.

    Raises:
        ConfigError: it is something else, or something that is wanted is not there.
    """
    streams = given.clips() if isinstance(given, Batch) else given
    if not isinstance(streams, Mapping):
        streams = {"target": streams}
    for stream in wanted:
        if stream not in streams:
            mend = f"yield Batch(target=…, {stream}=…), or choose a method that does without"
            what = f"this method wants {stream} clips, and a batch has none"
            raise ConfigError(what, where="training loader", mend=mend)
    clips: dict[str, Any] = {
        name: _carrying(streams[name], wants, f"training loader, {name}") for name, wants in wanted.items()
    }
    return Batch(**clips)


def evaluation_clip(given: Any) -> Clip:
    """What a loader for evaluation or prediction yields, a `Batch` or its target alone, as clips with flow.

    Raises:
        ConfigError: it is something else, or without flow. Labels may be missing.
    """
    clip = given.target if isinstance(given, Batch) else given
    labels = tuple(clip.labels) if isinstance(clip, Clip) else ()
    return _carrying(clip, Wants(flows=(BACKWARD,), labels=labels, visible=(0,)), "evaluation loader")


def renewal_clips(loader: Any, batches: int, augmentation: CrossFrameAugmentation | None) -> list[Clip]:
    """Batches of a training loader's target clips to renew statistics from: the same at every call.

    Of a `DataLoader` they are spread evenly over its data set and read beside the loader, which may be in the middle of
    an epoch; of any other iterable they are its first.

    Args:
        loader: or several, by stream.
        batches: how many at most.
        augmentation: makes the augmented views that clips lack; `None` if none are wanted.

    Raises:
        ConfigError: there is no training loader, or it yields something else.
    """
    if isinstance(loader, Mapping):
        loader = loader.get("target")
    if loader is None:
        what, mend = "there is none to renew statistics from", "fit first, or set the method's `statistics` to running"
        raise ConfigError(what, where="training loader", mend=mend)
    if isinstance(loader, DataLoader):
        loader = _spread(loader, batches)
    wanted = {"target": Wants(augmented=augmentation is not None)}
    with generators_kept():
        clips = [training_batch(given, wanted).target for given in islice(loader, batches)]
    for number, clip in enumerate(clips):
        if augmentation is not None and clip.augmented is None:
            seeds = [clip_seed(_RENEWAL_SEED, number, place) for place in range(len(clip.frames))]
            clips[number] = with_view(augmentation, clip, seeds)
    return clips


def _spread(loader: DataLoader[Any], batches: int) -> DataLoader[Any]:
    """A loader in this process of that many batches, evenly spread over the same data set if it can be."""
    size = None if loader.batch_sampler is None else getattr(loader.batch_sampler, "batch_size", 1)
    clips: Any = loader.dataset
    if not isinstance(clips, IterableDataset):
        count = len(clips)
        wanted = min(count, batches * (size or 1))
        clips = Subset(clips, [place * count // wanted for place in range(wanted)])
    return DataLoader(clips, batch_size=size, collate_fn=loader.collate_fn)


def _carrying(clip: Any, wants: Wants, where: str) -> Clip:
    """Clips with what is wanted of them alone."""
    if not isinstance(clip, Clip):
        mend = f"let it yield stpl.data.clip.Batch or Clip: {_COLLATE}"
        raise ConfigError(f"it yields {_named(clip)}, not clips", where=where, mend=mend)
    check_frames(clip)
    if clip.frames.ndim != 5:
        raise ConfigError(f"frames are {list(clip.frames.shape)}, not [B,T,3,H,W]", where=where, mend=_COLLATE)
    lacks = [f"frame {offset}" for offset in wants.frames if offset not in clip.offsets]
    lacks += [f"flow {pair}" for pair in wants.flows if pair not in clip.flows]
    lacks += [f"label {offset}" for offset in wants.labels if offset not in clip.labels]
    if lacks:
        mend = "give Clip(frames, flows={(0, -1): …}, labels={0: …}); stpl.data.flow.estimators.estimate gives flow"
        raise ConfigError(f"clips lack {', '.join(lacks)}", where=where, mend=mend)
    frames, offsets = clip.frames, clip.offsets
    if offsets != wants.frames:
        frames, offsets = torch.stack([clip.frame(offset) for offset in wants.frames], 1), wants.frames
    return replace(
        clip,
        frames=frames,
        offsets=offsets,
        flows={pair: clip.flows[pair] for pair in wants.flows},
        labels={offset: clip.labels[offset] for offset in wants.labels},
        visible={offset: mask for offset, mask in clip.visible.items() if offset in wants.visible},
        augmented=clip.augmented if wants.augmented else None,
    )


def check_frames(*clips: Clip) -> None:
    """Raise `DataError` for frames that are not uint8: floats in 0…1 would all be black. No value is looked at."""
    for clip in clips:
        if clip.frames.dtype != torch.uint8:
            found = str(clip.frames.dtype).removeprefix("torch.")
            mend = "of frames in 0…1 make (255 * frames).round().to(torch.uint8)"
            raise DataError(f"frames are uint8 RGB in 0…255, these are {found}", where="Clip.frames", mend=mend)


def _named(value: Any) -> str:
    """What a value is, in a few words."""
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return f"a {type(value).__name__}"
