"""Torch modules without Lightning: networks, fusion, warping, weights."""
