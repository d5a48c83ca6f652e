"""Everything that yields a `Clip`: data sets, optical flow, augmentation, data modules."""
