"""Everything that yields a `Clip`: data sets, optical flow, augmentation, data modules.

Begin with `clip` (the one object that all methods take) and `datamodule` (what serves it).
"""
