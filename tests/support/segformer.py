"""A tiny SegFormer in the format of Hugging Face."""

import json
from pathlib import Path

import torch

CLASSES = ("road", "car", "sky")


def save_segformer(folder: Path) -> None:
    """Write a SegFormer of three classes, with random weights, as `save_pretrained` does."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    names = dict(enumerate(CLASSES))
    config = SegformerConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32], num_attention_heads=[1, 2, 3, 4], decoder_hidden_size=32,
        id2label=names, label2id={name: place for place, name in names.items()},
    )  # fmt: skip
    torch.manual_seed(0)
    SegformerForSemanticSegmentation(config).save_pretrained(folder)
    processing = {"image_mean": [0.5, 0.25, 0.125], "image_std": [0.2, 0.2, 0.2]}
    (folder / "preprocessor_config.json").write_text(json.dumps(processing))
