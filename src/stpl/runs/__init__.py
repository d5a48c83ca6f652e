"""What one run is: a command line becomes overlays and settings, a trained network, and a record on disk.

Begin with `fit` (runs one), `experiments` (which there are) and `record` (what is left). Imports no torch by itself.
"""
