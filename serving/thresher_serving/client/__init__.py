"""Asks a served model for probabilities and labels, over gRPC or HTTP, blocking or awaiting.

Its public names are those of `thresher_serving`.
"""
