"""What users of tritonclient stumble over: layouts, byte orders, texts, masks, read-only views."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest

from thresher.errors import DataError
from thresher_serving import Client, RunningServer

ROWS = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
"""Two requests of a model that takes four rows at once."""


@pytest.mark.parametrize(
    "rows",
    [
        np.asfortranarray(ROWS),
        np.ascontiguousarray(ROWS.T).T,
        ROWS[::-1],
        ROWS[:, ::-1],
        ROWS[::2],
        np.repeat(ROWS, 2, axis=1)[:, ::2],
        np.broadcast_to(ROWS[:1], (6, 3)),
        ROWS.view(np.recarray),
        np.ma.array(ROWS, mask=False),
        np.frombuffer(ROWS.tobytes(), np.float32).reshape(6, 3),
    ],
    ids=["F", "T", "reversed", "columns", "step", "inner", "broadcast", "rec", "ma", "read-only"],
)
def test_values_go_by_their_place_whatever_the_layout(client: Client, rows: np.ndarray) -> None:
    got = client.predict("weather", rows, outputs=("probabilities", "logits"))
    np.testing.assert_array_equal(got.logits, np.array(rows.tolist(), np.float32))


def test_arrays_of_other_libraries_are_taken_through_dlpack(client: Client) -> None:
    torch = pytest.importorskip("torch")
    for tensor in (torch.from_numpy(ROWS), torch.from_numpy(ROWS.T.copy()).T):
        got = client.predict("weather", {"x": tensor}, outputs=("probabilities", "logits"))
        np.testing.assert_array_equal(got.logits, tensor.numpy())
    with pytest.raises(DataError, match=r'input "x" cannot be read'):
        client.predict("weather", {"x": torch.zeros(2, 3, requires_grad=True)})
    with pytest.raises(DataError, match=r'input "x" cannot be read'):
        client.predict("weather", {"x": torch.zeros(2, 3, device="meta")})


def test_what_is_on_a_gpu_is_refused_with_the_copy_to_make(client: Client) -> None:
    class OnGpu:
        def __dlpack__(self, **_: Any) -> Any:
            raise BufferError("not read")

        def __dlpack_device__(self) -> tuple[int, int]:
            return 2, 0  # kDLCUDA

    with pytest.raises(DataError, match=r"not in this host's memory; copy it: tensor\.cpu\(\)"):
        client.predict("weather", {"x": OnGpu()})


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ROWS.astype(">f4"), "is >f4, expected float32"),
        (ROWS.astype(np.longdouble), "is float128, expected float32"),
        (ROWS.astype(np.complex64), "is complex64, expected float32"),
        (np.ma.array(ROWS, mask=ROWS > 0), "has masked values"),
        (np.float32(1), "expected|shape"),
    ],
    ids=["byte order", "long double", "complex", "masked", "scalar"],
)
def test_what_would_be_sent_as_something_else_is_refused(
    client: Client, rows: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        client.predict("weather", {"x": rows})


def test_texts_and_bytes_arrive_as_they_are(client: Client) -> None:
    cells = ["", "a\0b", "\0", "tail\0\0", "ü\U0001f600", b"b\0", "x" * 100_000, "end"]
    given = np.array(cells, np.object_).reshape(4, 2)
    got = client.infer("type_string", given)["y"]
    expected = [cell if isinstance(cell, bytes) else cell.encode() for cell in cells]
    assert got.ravel().tolist() == expected
    fixed = np.array([["ab", "c"], ["", "déf"]])
    assert client.infer("type_string", fixed)["y"].tolist() == [
        [b"ab", b"c"],
        [b"", "déf".encode()],
    ]


@pytest.mark.parametrize("cell", [None, 1, 1.5, float("nan"), ["a"]])
def test_what_is_no_text_is_not_sent_as_one(client: Client, cell: Any) -> None:
    given = np.array([["a", "b"]], np.object_)
    given[0, 1] = cell
    with pytest.raises(DataError, match=rf'"x" holds a {type(cell).__name__}, expected str or by'):
        client.infer("type_string", given)


def test_a_text_that_is_no_unicode_is_refused(client: Client) -> None:
    with pytest.raises(DataError, match=r'input "x": .*surrogates not allowed'):
        client.infer("type_string", np.array([["a", "\ud800"]], np.object_))


@pytest.mark.parametrize("rows", [1, 4, 5])
def test_answers_are_the_callers_to_change(client: Client, rows: int) -> None:
    """Also those that came in one message, which tritonclient gives as read-only views."""
    got = client.predict("weather", np.zeros((rows, 3), np.float32))
    got.probabilities[0, 0] = 0.25
    got.labels[0] = False
    client.infer("two", {"x": np.zeros((rows, 2), np.float32),
                         "far": np.zeros((rows, 1), np.float32)})["y"][0] = 3  # fmt: skip


def test_a_program_that_closes_nothing_and_is_late_ends(server: RunningServer) -> None:
    code = """
import sys
import numpy as np
from thresher.errors import ServerError
from thresher_serving import Client
client = Client(sys.argv[1])
client.infer("picking", np.zeros((40, 1), np.int64))
try:
    client.infer("picking", np.zeros((1, 1), np.int64), timeout_s=0.05)  # waits 0.3 s for more
except ServerError:
    print("late")
"""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, server.grpc_url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "late\n"), done.stderr
    assert time.monotonic() - start < 30
