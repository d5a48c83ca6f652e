"""What networks of Hugging Face say of themselves: their classes, and how their frames are normalised."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stpl.errors import ConfigError
from stpl.nn import huggingface


def test_ids_of_classes_are_numbers() -> None:
    names = [f"class {place}" for place in range(12)]
    for ids in (dict(enumerate(names)), json.loads(json.dumps(dict(enumerate(names)))), names):
        space = huggingface.named_classes(SimpleNamespace(id2label=ids))
        assert space is not None
        assert list(space.classes) == names
    for wrong in ({1: "a", 2: "b"}, {0: "a", 2: "b"}, {"0": "a", "x": "b"}, {"0": "a", 0: "b"}):
        with pytest.raises(ConfigError, match="which are not 0, 1, 2"):
            huggingface.named_classes(SimpleNamespace(id2label=wrong))


SCALED = {"do_rescale": True, "rescale_factor": 1 / 255}
HALF = {"do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
FILE = "preprocessor_config.json"
PROCESSORS: dict[str, tuple[str, dict[str, Any], Any]] = {
    "BGR": (FILE, {**SCALED, "do_flip_channel_order": True, "do_normalize": False}, (0, 255, "bgr")),
    "its code says BGR": (FILE, {"image_processor_type": "MobileViTImageProcessor"}, (0, 255, "bgr")),
    "scaled": (FILE, {**SCALED, **HALF}, (127.5, 63.75, "rgb")),
    "not normalised": (FILE, {**SCALED, **HALF, "do_normalize": False}, (0, 255, "rgb")),
    "neither": (FILE, {**HALF, "do_rescale": False, "do_normalize": False}, (0, 1, "rgb")),
    "not scaled": (
        FILE,
        {"do_rescale": False, "do_normalize": True, "image_mean": [120] * 3, "image_std": [60] * 3}, (120, 60, "rgb"),
    ),
    "of a processor": ("processor_config.json", {"image_processor": {**SCALED, **HALF}}, (127.5, 63.75, "rgb")),
    "scaled by nobody": (FILE, {**HALF, "do_rescale": False}, None),
    "no file": ("other.json", {}, None),
}  # fmt: skip


@pytest.mark.parametrize("title", PROCESSORS)
def test_the_network_s_own_processor_is_asked(title: str, tmp_path: Path) -> None:
    file, content, expected = PROCESSORS[title]
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "segformer"}))
    kind = {} if "image_processor" in content else {"image_processor_type": "SegformerImageProcessor"}
    (tmp_path / file).write_text(json.dumps(kind | content))
    found = huggingface.preprocessing_of(str(tmp_path))
    assert (found and (found.mean[0], found.std[2], found.channels)) == expected
    out = tmp_path / "out"
    out.mkdir()
    huggingface.save(SimpleNamespace(save_pretrained=lambda folder: None), str(tmp_path), out)  # type: ignore[arg-type]
    assert [path.name for path in out.iterdir()] == ([] if title == "no file" else [file])
