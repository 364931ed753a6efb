"""Data sources: callables that return a `DataSet`, to be named by a recipe or called in Python.

A recipe says ``source = "thresher_training.sources:table"``; the keyword arguments are its
``[data.options]``.
"""

from thresher.ngrams import hashed_ngrams
from thresher_training.sources.augmentation import Augmentation
from thresher_training.sources.formats import (
    arrays,
    delimited,
    images,
    mulan,
    ngrams,
    parquet,
    table,
    text,
)

__all__ = [
    "Augmentation",
    "arrays",
    "delimited",
    "hashed_ngrams",
    "images",
    "mulan",
    "ngrams",
    "parquet",
    "table",
    "text",
]
