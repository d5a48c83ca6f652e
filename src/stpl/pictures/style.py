"""What all pictures of the suite share: background, text, the gap between parts."""

BACKGROUND, TEXT = (22, 24, 28), (226, 228, 232)
GAP = 8
