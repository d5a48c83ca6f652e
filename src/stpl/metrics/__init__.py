"""Metrics: a functional core and thin torchmetrics classes around it.

Begin with `segmentation` (mIoU from one confusion matrix of the whole data set).
"""
