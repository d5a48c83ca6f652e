"""STPL: source-free domain adaptation of video semantic segmentation (Lo et al., CVPR 2023)."""

import os

__version__ = "0.1.0"

# albumentations asks the package index for a newer version at import unless this is set.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
