"""What a data source may return, and what is refused with the place named."""

import numpy as np
import pytest

from thresher.errors import DataError
from thresher_training import DataSet, Split


def make_split(rows=4, **changes):
    x = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
    y = np.tile(np.float32([[0, 1], [1, 1]]), (rows, 1))[:rows]
    return Split(**{"inputs": {"features": x}, "targets_NL": y, **changes})


def make_data(labels=("a", "b"), **splits):
    named = {"train": make_split(), "validation": make_split(), "test": make_split(), **splits}
    return DataSet(labels=labels, splits=named, source="made up")


def test_targets_of_any_number_type_become_float32():
    split = make_split(targets_NL=np.array([[True, False]] * 4))
    assert split.targets_NL.dtype == np.float32
    assert split.targets_NL[0].tolist() == [1, 0]


def test_unknown_targets_are_allowed():
    assert make_data(train=make_split(targets_NL=np.float32([[np.nan, 1]] * 4))).num_labels == 2


@pytest.mark.parametrize("value", [0.5, 2, -1, np.inf])
def test_a_target_that_is_not_0_or_1_is_named_by_row_and_label(value):
    targets = np.float32([[0, 1], [1, value], [0, 0], [0, 0]])
    with pytest.raises(
        DataError, match=f'validation split: target of label "b" in row 1 is {value:g}'
    ):
        make_data(validation=make_split(targets_NL=targets))


def test_row_counts_that_differ_are_refused():
    with pytest.raises(DataError, match='input "features" has 3 rows, targets have 4'):
        make_split(inputs={"features": np.zeros((3, 3), np.float32)})


def test_nan_in_an_input_is_counted():
    x = np.zeros((4, 3), np.float32)
    x[[1, 3], 0] = np.nan
    with pytest.raises(DataError, match=r'"features" holds NaN in 2 of 4 rows \(first: row 1\)'):
        make_data(test=make_split(inputs={"features": x}))


def test_an_empty_split_is_refused():
    with pytest.raises(DataError, match="the test split is empty"):
        make_data(test=make_split(rows=0))


def test_a_missing_split_is_refused():
    with pytest.raises(DataError, match="splits are"):
        DataSet(labels=("a", "b"), splits={"train": make_split()}, source="made up")


def test_labels_that_repeat_are_refused():
    with pytest.raises(DataError, match="repeated: a"):
        make_data(labels=("a", "a"))


def test_a_label_count_that_differs_from_the_columns_is_refused():
    with pytest.raises(DataError, match="2 target columns for 3 labels"):
        make_data(labels=("a", "b", "c"))


@pytest.mark.parametrize(
    "x", [np.zeros((4, 5), np.float32), np.zeros((4, 3), np.float64)], ids=["shape", "kind"]
)
def test_inputs_that_differ_between_splits_are_refused(x):
    with pytest.raises(DataError, match="the validation split has inputs"):
        make_data(validation=make_split(inputs={"features": x}))


def test_an_input_without_numbers_is_refused():
    with pytest.raises(DataError, match='input "features" is <U1'):
        make_split(inputs={"features": np.array(list("abcd"))})


def test_soft_targets_are_for_training_alone():
    soft = make_split(targets_NL=np.float32([[0.25, 1], [0, 1], [1, 0], [np.nan, 0.5]]))
    assert make_data(train=soft).splits["train"] is soft
    with pytest.raises(DataError, match=r"the test split: .* is 0\.25, expected 0, 1 or NaN"):
        make_data(test=soft)


def test_padding_is_trimmed_by_an_input_that_exists():
    splits = {name: make_split() for name in ("train", "validation", "test")}
    with pytest.raises(DataError, match=r'trim_by is "mask", expected an input of shape \[N, T\]'):
        DataSet(labels=("a", "b"), splits=splits, source="made up", trim_by="mask")


def test_texts_are_as_many_as_rows():
    with pytest.raises(DataError, match="there are 1 texts, targets have 4 rows"):
        make_split(texts=["only one"])


def test_the_digest_follows_every_value():
    x = np.zeros((4, 3), np.float32)
    before = make_split(inputs={"features": x}).digest
    x[3, 2] = 1
    assert before != make_split(inputs={"features": x}).digest
    assert len(before) == 16
