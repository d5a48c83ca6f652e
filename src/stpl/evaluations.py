"""The numbers of an evaluation, by name. Imports no torch."""

from collections.abc import Mapping
from typing import Any

GROUPS = ("scores", "feature_space", "temporal", "weights", "pseudo_labels")
"""Groups of an evaluation: label-free scores, feature-space metrics, temporal metrics, how the weights changed, what
pseudo-labels are worth (`run.judge_labels`)."""

OF_CLASSES = ("iou", "vpq")
"""Metrics of an evaluation by class name: intersection over union, and VPQ^s where windows of frames exist."""


def flat(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """All numbers of an evaluation under the names that they are logged by after `val/`, as in `metrics.csv`.

    A class's numbers are `iou/road` and `vpq/road`; numbers of a group have their bare name, those by k `purity@10`.
    The step is left out.
    """
    found = {name: value for name, value in evaluation.items() if isinstance(value, float)}
    found |= {f"{kind}/{name}": value for kind in OF_CLASSES for name, value in evaluation.get(kind, {}).items()}
    for name, value in (item for group in GROUPS for item in evaluation.get(group, {}).items()):
        found |= {f"{name}@{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
    return {name: value for name, value in found.items() if value is not None}
