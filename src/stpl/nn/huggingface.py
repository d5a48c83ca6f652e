"""Semantic segmentation networks of Hugging Face, from a local folder or the hub, and back into a folder.

`transformers` is an extra (`pip install 'stpl[hf]'`), and is imported when it is needed.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stpl.data.label_space import LabelSpace, own_classes
from stpl.errors import ConfigError, first_line
from stpl.files import writing
from stpl.nn.segmenter import Normalization

BUILD = "stpl.nn.huggingface:load"
"""What `OwnNetwork.builder` is for such a network, with its name as the argument `name`."""

_WHERE = "--network"
_SHOWN = 8
_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")  # what the second says counts
_ASKED = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std", "do_flip_channel_order")


class SemanticMaps(nn.Module):
    """A network that predicts masks with a class each (MaskFormer, Mask2Former), as one of semantic logits.

    The score of a class at a pixel is the sum over masks of its probability times the mask's (Cheng et al.,
    Mask2Former, CVPR 2022); its logarithm is the logit.

    Args:
        net: with `class_queries_logits` `[B,Q,K+1]` and `masks_queries_logits` `[B,Q,h,w]`.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, frames: Tensor) -> Tensor:
        """Logits `[B,K,h,w]`."""
        output = self.net(frames)
        classes = output.class_queries_logits.softmax(-1)[..., :-1]
        scores: Tensor = torch.einsum("bqk,bqhw->bkhw", classes, output.masks_queries_logits.sigmoid())
        return scores.clamp(min=1e-8).log()


def load(name: str) -> nn.Module:
    """The network in a folder of `save_pretrained`, or of that name on the hub.

    Raises:
        ConfigError: `transformers` is not installed, or there is no such network of segmentation.
    """
    transformers, config = _imported(), _config(name)
    masks = type(config) in transformers.MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING
    kind = transformers.AutoModelForUniversalSegmentation if masks else transformers.AutoModelForSemanticSegmentation
    try:
        net: nn.Module = kind.from_pretrained(name)
    except (ValueError, OSError) as error:
        mend = "name a network of semantic segmentation"
        raise ConfigError(first_line(error), where=_WHERE, mend=mend) from error
    return SemanticMaps(net) if masks else net


def classes_of(name: str) -> LabelSpace:
    """The classes of a network, as its own configuration names them; raises `ConfigError` as `load` does."""
    space = named_classes(_config(name))
    if space is None:
        mend = "give them: --classes=FILE.yaml"
        raise ConfigError("its configuration names no classes", where=_WHERE, mend=mend)
    return space


def named_classes(config: Any) -> LabelSpace | None:
    """The classes that a configuration names (`id2label`, ids as numbers or as text), if it does.

    Raises:
        ConfigError: its ids are not 0, 1, 2, …, or its names are no classes.
    """
    names = getattr(config, "id2label", None)
    if not names:
        return None
    pairs = names.items() if isinstance(names, Mapping) else enumerate(names)
    given = sorted((int(str(key)) if str(key).isdecimal() else -1, str(name)) for key, name in pairs)
    ids = [place for place, _ in given]
    if ids != list(range(len(ids))):
        shown = ", ".join(map(str, list(names)[:_SHOWN])) + (", …" if len(ids) > _SHOWN else "")
        mend = "name a class for each logit, from 0 on, or give the classes: --classes=FILE.yaml"
        raise ConfigError(f"id2label names the ids {shown}, which are not 0, 1, 2, …", where=_WHERE, mend=mend)
    return own_classes([name for _, name in given])


def preprocessing_of(name: str) -> Normalization | None:
    """What the image processor of a network does to its frames, by its settings; sizes are the user's own.

    `None` where no file of a processor lies in the network's folder or the local cache of the hub, or does not say it.
    """
    files = _processor_files(name)
    if not files:
        return None
    transformers = _imported()
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
        given = {key: getattr(processor, key, None) for key in _ASKED}
    except Exception:  # of a kind that is not known here, or whose library is absent: what is written must do
        given = _written(files)
    try:
        return _preprocessing(given)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None


def _processor_files(name: str) -> list[Path]:
    """The files of a network's image processor, in its folder or in the cache of the hub."""
    find = _imported().utils.cached_file
    refusals = ("missing_entries", "connection_errors", "gated_repo")
    options = {f"_raise_exceptions_for_{what}": False for what in refusals}
    found = []
    for file in _PROCESSOR_FILES:
        with suppress(OSError, ValueError):
            found.append(find(name, file, **options))
    return [Path(path) for path in found if path]


def _written(files: Sequence[Path]) -> dict[str, Any]:
    """The settings of a processor as its files have them, where they are not left to its code."""
    given: dict[str, Any] = {"do_rescale": True, "rescale_factor": 1 / 255}
    for file in files:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            given |= content.get("image_processor", content)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            mend = "mend it, or give --mean, --std and --channels"
            raise ConfigError("is torn: it holds no settings of an image processor", where=file, mend=mend) from error
    return {"do_normalize": "image_mean" in given} | given


def _preprocessing(given: Mapping[str, Any]) -> Normalization | None:
    """Settings as one normalisation: (x·factor - mean) / std of frames x in 0..255; `None` if they cannot be meant."""
    factor = float(given["rescale_factor"] or 1 / 255) if given.get("do_rescale") else 1.0
    means, stds = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if given.get("do_normalize"):
        means, stds = _three(given["image_mean"]), _three(given["image_std"])
        if min(stds) <= 0 or (factor == 1 and max(*means, *stds) <= 1):
            return None  # the second: they are of frames in 0..1, and nothing brings them there
    mean, std = ((x / factor, y / factor, z / factor) for x, y, z in (means, stds))
    return Normalization(mean, std, "bgr" if given.get("do_flip_channel_order") else "rgb")


def _three(value: Any) -> tuple[float, float, float]:
    """Three numbers, of three or of one for all."""
    red, green, blue = (value,) * 3 if isinstance(value, int | float) else value
    return float(red), float(green), float(blue)


def save(module: nn.Module, name: str, folder: Path) -> None:
    """Write a network into a folder that `from_pretrained` reads, with the files of its image processor."""
    net: Any = module.net if isinstance(module, SemanticMaps) else module
    with writing(folder):
        net.save_pretrained(folder)
        for beside in _processor_files(name):
            (folder / beside.name).write_bytes(beside.read_bytes())


def _config(name: str) -> Any:
    try:
        return _imported().AutoConfig.from_pretrained(name)
    except (ValueError, OSError) as error:
        mend = "give a folder with config.json and weights, or the name of a network on the hub"
        raise ConfigError(first_line(error), where=_WHERE, mend=mend) from error


def _imported() -> Any:
    """The library, with its own messages switched off."""
    try:
        transformers: Any = import_module("transformers")
    except ImportError as error:
        mend = "pip install 'stpl[hf]'"
        raise ConfigError("networks of Hugging Face need transformers", where=_WHERE, mend=mend) from error
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers
