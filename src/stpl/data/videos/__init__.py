"""Footage: video files and folders of images as clips. Begin with `video_clips`."""
