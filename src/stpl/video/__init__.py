"""Video files in, side-by-side videos out."""
