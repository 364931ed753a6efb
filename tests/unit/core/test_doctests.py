import doctest
import importlib

import pytest


@pytest.mark.parametrize(
    "name",
    [
        "thresher.config",
        "thresher.decision",
        "thresher.deviation",
        "thresher.errors",
        "thresher.ngrams",
        "thresher.observations",
        "thresher.artifacts.input_spec",
        "thresher.scores",
        "thresher.testing",
        "thresher.tolerances",
    ],
)
def test_examples_in_docstrings_are_true(name: str) -> None:
    outcome = doctest.testmod(importlib.import_module(name))
    assert outcome.attempted
    assert not outcome.failed
