"""The forms in which a prediction can be read."""

from __future__ import annotations

import numpy as np
import pytest

from thresher.errors import DataError, NotANumberError
from thresher_serving import Prediction
from thresher_serving.client.prediction import check_is_number

PROBABILITIES = np.float32([[0.9, 0.2, 0.5], [0.1, np.nan, 0.1]])


def prediction(*, thresholds: bool = True) -> Prediction:
    limits = np.float32([0.5, 0.1, 0.6])
    return Prediction(
        probabilities=PROBABILITIES,
        labels=np.greater_equal(PROBABILITIES, limits),
        label_names=("rain", "fog", "snow"),
        thresholds=limits if thresholds else None,
        model_name="weather",
        model_version=7,
    )


def test_top_lists_the_most_probable_first_whatever_the_thresholds() -> None:
    first, second = prediction().top(2)
    assert [(name, round(p, 3)) for name, p, _ in first] == [("rain", 0.9), ("snow", 0.5)]
    assert [name for name, _, _ in second] == ["rain", "snow"], "equals in order, NaN last"
    assert first[1].threshold == pytest.approx(0.6)


def test_top_of_more_than_there_are_lists_all_and_of_none_is_refused() -> None:
    assert [name for name, _, _ in prediction().top(9)[1]] == ["rain", "snow", "fog"]
    with pytest.raises(DataError, match="k is 0"):
        prediction().top(0)


def test_dictionaries_hold_labels_and_all_probabilities_by_name() -> None:
    first, second = prediction().to_dicts()
    assert first["labels"] == ["rain", "fog"]
    assert list(first["probabilities"]) == ["rain", "fog", "snow"]
    assert first["probabilities"]["rain"] == pytest.approx(0.9)
    assert second["labels"] == []
    assert np.isnan(second["probabilities"]["fog"])


def test_an_arrow_table_has_a_line_for_each_row_and_label() -> None:
    table = prediction().to_arrow()
    assert table.column_names == ["row", "label", "probability", "threshold", "predicted"]
    lines = table.to_pylist()
    assert [(line["row"], line["label"], line["predicted"]) for line in lines] == [
        (0, "rain", True),
        (0, "fog", True),
        (0, "snow", False),
        (1, "rain", False),
        (1, "fog", False),
        (1, "snow", False),
    ]
    assert lines[2]["threshold"] == pytest.approx(0.6)
    assert prediction(thresholds=False).to_arrow()["threshold"].null_count == 6


def test_a_data_frame_pivots_to_a_column_for_each_label() -> None:
    frame = prediction().to_pandas()
    wide = frame.pivot_table(index="row", columns="label", values="probability", observed=True)
    np.testing.assert_array_equal(wide[["rain", "snow"]].to_numpy(), PROBABILITIES[:, [0, 2]])


def test_named_lists_a_rows_labels() -> None:
    assert [label.name for label in prediction().named(0)] == ["rain", "fog"]
    assert [label.name for label in prediction().named(1, every=True)] == ["rain", "fog", "snow"]
    assert prediction(thresholds=False).named(0)[0].threshold is None


def test_a_printed_answer_stays_short_however_many_rows_and_labels_it_has() -> None:
    names = tuple(f"label {at}" for at in range(50))
    probabilities = np.linspace(0, 1, 200 * 50, dtype=np.float32).reshape(200, 50)
    answer = Prediction(
        probabilities=probabilities,
        labels=probabilities >= 0.5,
        label_names=names,
        thresholds=None,
        model_name="weather",
        model_version=3,
    )
    lines = str(answer).splitlines()
    assert lines[0] == "<Prediction by weather version 3: 200 rows x 50 labels"
    assert lines[1:5] == ["  0: no label", "  1: no label", "  2: no label", "  ..."]
    assert lines[-1].startswith("  199: label 49 1.000, label 48 1.000, ")
    assert lines[-1].endswith("and 44 more>")
    assert len(lines) == 8
    assert max(map(len, lines)) < 120
    assert repr(answer) == str(answer)


def test_a_printed_answer_names_few_rows_and_shows_controls_as_text() -> None:
    answer = Prediction(
        probabilities=np.float32([[0.25, 0.75]]),
        labels=np.array([[False, True]]),
        label_names=("a", "\x1b[31mb"),
        thresholds=None,
        model_name="weather",
        model_version=3,
    )
    assert str(answer) == (
        "<Prediction by weather version 3: 1 row x 2 labels\n  0: \\x1b[31mb 0.750>"
    )
    empty = Prediction(
        probabilities=np.zeros((0, 2), np.float32),
        labels=np.zeros((0, 2), bool),
        label_names=("a", "b"),
        thresholds=None,
        model_name="weather",
        model_version=3,
    )
    assert str(empty) == "<Prediction by weather version 3: 0 rows x 2 labels>"


def test_nan_is_an_error_that_names_the_rows_and_holds_the_others() -> None:
    with pytest.raises(NotANumberError, match=r"NaN for 1 of 2 rows: row 1\. ") as error:
        check_is_number(prediction())
    assert isinstance(error.value, DataError)
    assert error.value.rows == (1,)
    assert error.value.prediction.named(0)[0].name == "rain"
