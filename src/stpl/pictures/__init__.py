"""What several rooms draw: colours of classes, labels over frames, films of panels side by side.

Begin with `labels`; `colours` alone does not import OpenCV.
"""
