"""Data sources: callables that return a `DataSet`, to be named by a recipe or called in Python.

A recipe says ``source = "thresher_training.sources:parquet"``; the keyword arguments are its
``[data.options]``.
"""

from thresher.ngrams import hashed_ngrams
from thresher_training.sources.array_files import arrays
from thresher_training.sources.augmentation import Augmentation
from thresher_training.sources.image_folder import images
from thresher_training.sources.mulan_files import mulan
from thresher_training.sources.table_sources import delimited, parquet
from thresher_training.sources.texts import ngrams, text

__all__ = [
    "Augmentation",
    "arrays",
    "delimited",
    "hashed_ngrams",
    "images",
    "mulan",
    "ngrams",
    "parquet",
    "text",
]
