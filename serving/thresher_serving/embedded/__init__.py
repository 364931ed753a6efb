"""NVIDIA's Triton server on this machine: found or installed, started, watched and ended.

Its public names are those of `thresher_serving`.
"""
