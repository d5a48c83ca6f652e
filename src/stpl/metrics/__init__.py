"""Metrics: a functional core and thin torchmetrics classes around it, which can be imported from here.

Begin with `segmentation` (mIoU from one confusion matrix of the whole data set).
"""

from stpl.metrics.feature_space import FeatureSpace, class_variances, neighbour_purity, silhouette
from stpl.metrics.segmentation import SegmentationMetrics, confusion_matrix, intersection_over_union
from stpl.metrics.selection import InformationMaximization, NegativeEntropy, SoftNeighborhoodDensity
from stpl.metrics.temporal import TemporalConsistency, VideoQuality, propagate

__all__ = [
    "FeatureSpace",
    "InformationMaximization",
    "NegativeEntropy",
    "SegmentationMetrics",
    "SoftNeighborhoodDensity",
    "TemporalConsistency",
    "VideoQuality",
    "class_variances",
    "confusion_matrix",
    "intersection_over_union",
    "neighbour_purity",
    "propagate",
    "silhouette",
]
