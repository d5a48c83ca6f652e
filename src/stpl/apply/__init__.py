"""A network on footage: adapt one to a video, predict frames, film what several of them see.

Begin with `adapt`, and with `loaded`, which loads a checkpoint and labels a stream of frames.
"""
