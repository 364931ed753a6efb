"""`thresher tune --set LABEL=VALUE`, where labels and objectives hold "=" themselves."""

import pytest

from thresher.cli.tune import _own_objective
from thresher.errors import ConfigError


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("rain=f2", ("rain", "f2")),
        ("rain=0.7", ("rain", "fixed=0.7")),
        ("x=y=f2", ("x=y", "f2")),
        ("x=y=0.7", ("x=y", "fixed=0.7")),
        ("rain=precision@recall>=0.9", ("rain", "precision@recall>=0.9")),
        ("x=y=precision@recall>=0.9", ("x=y", "precision@recall>=0.9")),
        ("rain=cost(fp=1,fn=5)", ("rain", "cost(fp=1,fn=5)")),
        ("rain=fixed=0.3", ("rain", "fixed=0.3")),
    ],
)
def test_the_value_begins_where_the_rest_can_be_read(choice, expected):
    assert _own_objective(choice) == expected


@pytest.mark.parametrize("choice", ["rain", "=f2", "rain=", "x=y=f3x", "rain=1.7"])
def test_what_cannot_be_read_is_refused(choice):
    with pytest.raises(ConfigError, match="expected LABEL=0.7 or LABEL=OBJECTIVE"):
        _own_objective(choice)
