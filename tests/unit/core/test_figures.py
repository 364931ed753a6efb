"""Label names in pictures: no name fails a figure, is read as a formula, or prints a warning."""

from __future__ import annotations

import io
import warnings

import pytest
from matplotlib.figure import Figure

from thresher.figures import figure_text, write_figure

NAMES = [r"$\frac{1}$", "a$b^$_c", "$5 to $10", "US$", "猫", "\x1b[31mred", "two\nlines", r"\$", ""]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_drawn_without_an_error_or_a_warning(name: str) -> None:
    figure = Figure()
    axes = figure.subplots()
    axes.set_yticks([0], [figure_text(name)])
    axes.annotate(figure_text(name), (0, 0))
    target = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_figure(figure, target)
    assert target.getvalue().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", NAMES)
def test_dollar_signs_are_no_formula(name: str) -> None:
    from matplotlib.cbook import is_math_text

    assert not is_math_text(figure_text(name))


def test_a_long_name_is_cut_and_stands_on_one_line_without_control_characters() -> None:
    assert figure_text("many words\nin one name", 10) == "many word…"
    assert figure_text("\x1b[31mred") == r"\x1b[31mred"
    assert figure_text("x" * 9 + "$", 10) == "x" * 9 + r"\$"
