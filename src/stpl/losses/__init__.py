"""Losses as functions on tensors, each after one paper's equation.

Begin with `pixel_contrast`: Eq. 3 and 4 of STPL, and the engines that compute them.
"""
