"""A network of another kind than the package has, as a user writes one: this file, and one overlay that names it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stpl.nn.segmenter import NORMALIZATIONS, Architecture, ParameterGroup, Segmentation, Segmenter


@dataclass(frozen=True)
class ToyTransformer(Architecture):
    """Patches, one layer of attention, and a linear classifier.

    Attributes:
        patch: pixels of a patch along each axis.
        width: channels of a patch.
    """

    patch: int = 8
    width: int = 16

    def build(self, num_classes: int) -> ToySegmenter:
        return ToySegmenter(self, num_classes)


class ToySegmenter(Segmenter):
    level = "tokens"

    def __init__(self, options: ToyTransformer, num_classes: int) -> None:
        super().__init__()
        self.stride, self.feature_dim, self.num_classes = options.patch, options.width, num_classes
        self.normalization = NORMALIZATIONS["imagenet"]
        self.patches = nn.Conv2d(3, options.width, options.patch, options.patch)
        self.position = nn.Parameter(torch.randn(1, options.width, 1, 1))
        self.layer = nn.TransformerEncoderLayer(options.width, 2, 2 * options.width, 0.0, batch_first=True)
        self.head = nn.Conv2d(options.width, num_classes, 1)

    def forward(self, frames: Tensor) -> Segmentation:
        grid = self.patches(self.normalize(frames)) + self.position
        features = self.layer(grid.flatten(2).mT).mT.reshape(grid.shape)
        return Segmentation(features, self.head(features))

    def parameter_groups(self) -> list[ParameterGroup]:
        """As SegFormer's: neither norms nor position embeddings decay."""
        plain = {"position", *(name for name, _ in self.named_parameters() if ".norm" in name)}
        encoder = [(name, p) for name, p in self.named_parameters() if not name.startswith("head.")]
        return [
            ParameterGroup("backbone", [p for name, p in encoder if name not in plain]),
            ParameterGroup("backbone", [p for name, p in encoder if name in plain], decays=False),
            ParameterGroup("classifiers", list(self.head.parameters())),
        ]
