"""The client against a real Triton: what it checks, names, cuts and puts together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from thresher import Decision
from thresher.errors import DataError, NotFoundError, ServerError
from thresher_serving import Client

LOGITS = np.float32([[0.3, -1.7, 2.1], [-0.2, 0.9, -3.3], [0, 0, 0], [9, -9, 0.5], [1, 2, 3]])


@pytest.mark.parametrize("version", [1, 2])
def test_labels_are_probabilities_at_or_above_thresholds_bit_for_bit(
    client: Client, decisions: dict[int, Decision], version: int
) -> None:
    rng = np.random.default_rng(0)
    rows = np.concatenate([LOGITS, rng.normal(0, 3, (500, 3)).astype(np.float32)])
    got = client.predict("weather", rows, version=version)
    assert got.thresholds is not None
    np.testing.assert_array_equal(got.thresholds, decisions[version].thresholds)
    np.testing.assert_array_equal(got.labels, got.probabilities >= got.thresholds)
    on_it = got.probabilities[version - 1] == got.thresholds
    assert on_it.all(), "the row that the thresholds were taken from lies exactly on them"
    assert got.labels[version - 1].all()


def test_an_unversioned_request_is_answered_and_named_by_the_highest_version(
    client: Client, decisions: dict[int, Decision]
) -> None:
    got = client.predict("weather", LOGITS)
    assert (got.model_name, got.model_version) == ("weather", 2)
    np.testing.assert_array_equal(got.thresholds, decisions[2].thresholds)
    assert got.label_names == ("rain", "fog", "snow")


def test_named_lists_the_labels_that_a_row_has(client: Client) -> None:
    got = client.predict("weather", LOGITS, version=1)
    (name, probability, threshold), *others = got.named(4)
    assert name == "rain"
    assert probability >= (threshold or 1)
    assert [label.name for label in others] == ["fog", "snow"]
    assert [label.name for label in got.named(1)] == ["fog"]
    assert [label.name for label in got.named(1, every=True)] == ["rain", "fog", "snow"]


def test_nan_logits_give_nan_and_no_label(client: Client) -> None:
    got = client.predict("weather", np.float32([[np.nan, 5, np.inf]]), allow_nonfinite=True)
    assert np.isnan(got.probabilities[0, 0])
    assert got.labels[0].tolist() == [False, True, True]


@pytest.mark.parametrize("rows", [1, 4, 5, 13])
def test_more_rows_than_a_batch_come_back_in_order(client: Client, rows: int) -> None:
    x = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3) / 10
    got = client.predict("weather", x, outputs=("probabilities", "labels", "logits"))
    np.testing.assert_array_equal(got.logits, x)
    assert len(got) == rows
    assert got.labels.dtype == np.bool_


def test_no_rows_give_empty_arrays(client: Client) -> None:
    got = client.predict("weather", np.empty((0, 3), np.float32))
    assert got.probabilities.shape == got.labels.shape == (0, 3)
    assert got.probabilities.dtype == np.float32
    assert got.label_names == ("rain", "fog", "snow")


def test_labels_not_asked_for_are_the_servers_own(client: Client) -> None:
    asked = client.predict("weather", LOGITS)
    computed = client.predict("weather", LOGITS, outputs=("probabilities",))
    np.testing.assert_array_equal(asked.labels, computed.labels)


def test_a_model_that_tells_no_decision_still_answers(client: Client) -> None:
    got = client.predict("unnamed", LOGITS)
    assert got.thresholds is None
    assert got.label_names == ("label_0", "label_1", "label_2")
    assert [label.threshold for label in got.named(0)] == [None] * 3
    with pytest.raises(DataError, match=r'ask for the output "labels" too'):
        client.predict("unnamed", LOGITS, outputs=("probabilities",))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"z": LOGITS}, 'unknown input "z". Valid: x'),
        ({1: LOGITS}, 'unknown input "1". Valid: x'),
        ({}, 'missing input "x"; got none'),
        (LOGITS.astype(np.float64), r'float64, expected float32 \(FP32\).*astype\("float32"\)'),
        (LOGITS.astype(np.int32), "is int32, expected float32"),
        (LOGITS[0], r"shape \[3\], expected \[N, 3\]: 1 axes, not 2.*array\[None\]"),
        (LOGITS[:, :2], r"shape \[5, 2\], expected \[N, 3\]: axis 1 is 2, not 3"),
        (LOGITS[None], r"shape \[1, 5, 3\].*3 axes, not 2"),
        (
            np.float32([[1, 2, 3], [np.nan, 2, np.inf], [1, 2, 3], [4, -np.inf, 0]]),
            "3 values that are NaN or infinite, in 2 of 4 rows, the first in row 1",
        ),
        ({"x": [["a", "b", "c"]]}, r'row 0: .*"a" is no number'),
        ({"x": [[1.0, 2.0]]}, r"row 0: .*shape \[2\], expected \[3\]"),
    ],
)
def test_bad_inputs_are_refused_before_anything_is_sent(
    client: Client, inputs: Any, message: str
) -> None:
    with pytest.raises(
        DataError, match=f"(model weather|the table).*{message.replace('(?s)', '')}"
    ):
        client.predict("weather", inputs)


@pytest.mark.parametrize("name", [5, None, ["weather"]])
def test_a_name_that_is_no_text_is_refused(client: Client, name: Any) -> None:
    for ask in (
        lambda: client.predict(name, LOGITS),
        lambda: client.infer(name, LOGITS),
        lambda: client.metadata(name),
    ):
        with pytest.raises(DataError, match="a model's name is a str, got"):
            ask()


def test_inputs_must_have_the_same_number_of_rows(client: Client) -> None:
    with pytest.raises(DataError, match=r"inputs differ in rows: {'x': 2, 'far': 1}"):
        client.predict(
            "two", {"x": np.zeros((2, 2), np.float32), "far": np.zeros((1, 1), np.float32)}
        )
    with pytest.raises(DataError, match=r'takes 2 inputs .*"x", "far".*got one array'):
        client.predict("two", np.zeros((2, 2), np.float32))


def test_an_unknown_model_lists_what_is_served(client: Client) -> None:
    with pytest.raises(NotFoundError, match=r'unknown model "wether"; did you mean "weather"'):
        client.predict("wether", LOGITS)


def test_an_unknown_version_lists_what_is_served(client: Client) -> None:
    with pytest.raises(NotFoundError, match=r'model weather: unknown version "9". Valid: 1, 2'):
        client.predict("weather", LOGITS, version=9)


def test_an_unknown_output_lists_the_models(client: Client) -> None:
    with pytest.raises(NotFoundError, match=r'unknown output "logit"; did you mean "logits"'):
        client.predict("weather", LOGITS, outputs=("probabilities", "labels", "logit"))
    with pytest.raises(DataError, match=r'expected "probabilities" among them'):
        client.predict("weather", LOGITS, outputs=("labels",))


def test_a_server_that_is_not_there_is_named_with_the_next_step() -> None:
    with (
        Client("127.0.0.1:1") as nobody,
        pytest.raises(
            ServerError, match=r"no Triton server answers at 127.0.0.1:1\. Run: thresher"
        ),
    ):
        nobody.predict("weather", LOGITS)


def test_waiting_for_what_never_gets_ready_ends_with_the_reason(client: Client) -> None:
    client.wait_ready()
    client.wait_ready("weather", version=1)
    with pytest.raises(ServerError, match=r"bad_dims is not ready after 0.2 s.*configuration"):
        client.wait_ready("bad_dims", timeout_s=0.2)


def test_metadata_tells_inputs_without_the_batch_axis(client: Client) -> None:
    model = client.metadata("weather", 1)
    assert (model.version, model.versions, model.max_batch_size) == (1, (1, 2), 4)
    assert model.inputs["x"].shape == (3,)
    assert model.inputs["x"].dtype == np.float32
    assert client.metadata("weather").version == 2


def test_an_example_from_a_file_can_be_asked_about(client: Client, tmp_path: Path) -> None:
    np.save(tmp_path / "row.npy", LOGITS[0])
    answer = client.predict("weather", tmp_path / "row.npy", version=1)
    assert answer.labels.shape == (1, 3)
    assert answer.labels.all()
