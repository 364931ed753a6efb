"""Hashed n-grams of words and characters: numbers for a text without a vocabulary or tokenizer.

Source: K. Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", ICML 2009; the
n-grams inside words are those of P. Bojanowski et al., "Enriching Word Vectors with Subword
Information", TACL 2017.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from thresher.errors import ConfigError

__all__ = ["hashed_ngrams"]

_TOKEN = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")


def hashed_ngrams(
    texts: Sequence[str],
    *,
    words: int = 2,
    characters: Sequence[int] = (),
    num_buckets: int = 1 << 18,
    max_ngrams: int = 256,
) -> dict[str, npt.NDArray[np.int64]]:
    """Return each text's n-grams as bucket numbers, ``ngram_ids`` and ``ngram_mask``, [N, K].

    Texts are lower-cased; punctuation marks are words too. A bucket that occurs twice in a text is
    there twice. Which bucket depends on nothing but the n-gram (CRC-32), so whoever calls the
    model gets the same numbers.

    Args:
        texts: N texts.
        words: The longest sequence of words.
        characters: Shortest and longest sequence of characters inside a word; none if empty.
        num_buckets: Buckets, the padding 0 among them.
        max_ngrams: K; of a longer text the single words are kept first.

    Raises:
        ConfigError: If an option is out of range.

    Example:
        >>> found = hashed_ngrams(["not bad", "bad"], max_ngrams=4)
        >>> found["ngram_mask"].tolist()
        [[1, 1, 1, 0], [1, 0, 0, 0]]
    """
    if words < 1 or num_buckets < 2 or max_ngrams < 1:
        raise ConfigError(
            f"words is {words}, num_buckets {num_buckets}, max_ngrams {max_ngrams}; expected at "
            "least 1, 2 and 1"
        )
    if characters and (len(characters) != 2 or not 1 <= characters[0] <= characters[1]):
        raise ConfigError(
            f"characters is {list(characters)}, expected shortest and longest length, as [3, 5]"
        )
    ids = np.zeros((len(texts), max_ngrams), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, text in enumerate(texts):
        found = []
        for ngram in _ngrams(text, words, characters):
            found.append(1 + zlib.crc32(ngram.encode()) % (num_buckets - 1))
            if len(found) == max_ngrams:
                break
        ids[row, : len(found)] = found
        mask[row, : len(found)] = 1
    return {"ngram_ids": ids, "ngram_mask": mask}


def _ngrams(text: str, words: int, characters: Sequence[int]) -> Iterator[str]:
    tokens = _TOKEN.findall(text.lower())
    for length in range(1, words + 1):
        for start in range(len(tokens) - length + 1):
            yield " ".join(tokens[start : start + length])
    if characters:
        for token in tokens:
            marked = f"<{token}>"
            for length in range(characters[0], characters[1] + 1):
                for start in range(len(marked) - length + 1):
                    # the mark keeps a piece apart from a word that is spelled alike
                    yield f"#{marked[start : start + length]}"
