"""Semantic segmentation networks of Hugging Face, from a local folder or the hub, and back into a folder.

`transformers` is an extra (`pip install 'stpl[hf]'`), and is imported when it is needed.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stpl.data.label_space import LabelSpace, own_classes
from stpl.errors import ConfigError, cannot_write

BUILD = "stpl.nn.huggingface:load"
"""What `OwnNetwork.build` is for such a network, with its name as the argument `name`."""

_WHERE = "--model"


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
    transformers = _imported()
    _quiet(transformers)
    config = _config(name)
    masks = type(config) in transformers.MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING
    kind = transformers.AutoModelForUniversalSegmentation if masks else transformers.AutoModelForSemanticSegmentation
    try:
        net: nn.Module = kind.from_pretrained(name)
    except (ValueError, OSError) as error:
        what = str(error).splitlines()[0]
        raise ConfigError(what, where=_WHERE, mend="name a network of semantic segmentation") from error
    return SemanticMaps(net) if masks else net


def classes_of(name: str) -> LabelSpace:
    """The classes of a network, as its own configuration names them; raises `ConfigError` as `load` does."""
    space = classes_told(_config(name))
    if space is None:
        mend = "give them: --classes=FILE.yaml"
        raise ConfigError("its configuration names no classes", where=_WHERE, mend=mend)
    return space


def classes_told(config: Any) -> LabelSpace | None:
    """The classes that a configuration names (`id2label`), if it does."""
    names = getattr(config, "id2label", None)
    return own_classes([str(names[place]) for place in sorted(names)]) if names else None


def normalization_of(name: str) -> tuple[tuple[float, float, float], tuple[float, float, float]] | None:
    """Mean and standard deviation in 0..255 that belong to a network; `None` if its folder does not tell them."""
    path = Path(name) / "preprocessor_config.json"
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        mean, std = ([255 * float(value) for value in told[key]] for key in ("image_mean", "image_std"))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def save(module: nn.Module, name: str, folder: Path) -> None:
    """Write a network into a folder that `from_pretrained` reads, with what lay beside it where it came from."""
    net: Any = module.net if isinstance(module, SemanticMaps) else module
    try:
        net.save_pretrained(folder)
        beside = Path(name) / "preprocessor_config.json"
        if beside.is_file():
            (folder / beside.name).write_bytes(beside.read_bytes())
    except OSError as error:
        raise cannot_write(folder, error) from error


def _config(name: str) -> Any:
    try:
        return _imported().AutoConfig.from_pretrained(name)
    except (ValueError, OSError) as error:
        what = str(error).splitlines()[0]
        mend = "give a folder with config.json and weights, or the name of a network on the hub"
        raise ConfigError(what, where=_WHERE, mend=mend) from error


def _imported() -> Any:
    try:
        return import_module("transformers")
    except ImportError as error:
        mend = "pip install 'stpl[hf]'"
        raise ConfigError("networks of Hugging Face need transformers", where=_WHERE, mend=mend) from error


def _quiet(transformers: Any) -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
