"""Torch modules without Lightning: networks, video segmentation, fusion, warping, weights.

Begin with `segmenter` (what a network looks like from outside) and `weights` (the one door for checkpoints).
"""
