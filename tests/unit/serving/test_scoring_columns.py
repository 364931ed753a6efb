"""Columns are found by name, keep every digit and their shape, or the job is refused at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from support.networks import publish_network
from support.scoring import engine_of, read_parts, read_rejects, score_into
from thresher.artifacts.input_spec import InputSpec
from thresher.errors import DataError
from thresher.published_models import PublishedModels
from thresher_serving.scoring import OutputForm, ScoredVersion, ScoringOptions, score

SPEC = InputSpec(columns={"features": ("wind", "sun", "rain")})


def write(rows: pa.Table, path: Path) -> Path:
    """Write a table in the format of a name's ending."""
    if path.suffix == ".parquet":
        pq.write_table(rows, path)
    elif path.suffix == ".arrow":
        feather.write_feather(rows, path, compression="uncompressed")
    elif path.suffix == ".npz":
        np.savez(path, **{name: rows[name].to_numpy() for name in rows.column_names})
    else:
        pacsv.write_csv(rows, path)
    return path


@pytest.fixture(scope="module")
def parities(tmp_path_factory: pytest.TempPathFactory) -> ScoredVersion:
    """A network of whole numbers: "a" is yes where the last bit is 1, "b" where the next one is."""
    nodes = [
        ("BitShift", ["id", "one"], ["half"], {"direction": "RIGHT"}),
        ("Concat", ["id", "half"], ["both"], {"axis": 1}),
        ("BitwiseAnd", ["both", "one"], ["bits"]),
        ("Cast", ["bits"], ["numbers"], {"to": 1}),
        ("Sub", ["numbers", "middle"], ["logits"]),
    ]
    constants = {"one": np.uint64(1), "middle": np.float32(0.5)}
    return publish_network(
        tmp_path_factory.mktemp("models"), nodes, {"id": (13, [1])}, constants=constants
    )


@pytest.fixture(scope="module")
def weather(tmp_path_factory: pytest.TempPathFactory) -> ScoredVersion:
    """A network whose logits are its three numbers, which have names."""
    return publish_network(
        tmp_path_factory.mktemp("models"),
        [("Identity", ["features"], ["logits"])],
        {"features": (1, [3])},
        labels=("a", "b", "c"),
        spec=SPEC,
    )


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".arrow", ".npz"])
def test_whole_numbers_keep_their_last_digit_in_every_format(
    parities: ScoredVersion, tmp_path: Path, suffix: str
) -> None:
    ids = np.random.default_rng(0).integers(2**60, 2**64, 100, dtype=np.uint64)
    ids[:3] = [0, 2**53 + 1, 2**64 - 1]
    score_into(parities, write(pa.table({"id": ids}), tmp_path / f"in{suffix}"), tmp_path / "out",
               ScoringOptions())  # fmt: skip
    told = [[n for n, bit in (("a", 1), ("b", 2)) if int(each) & bit] for each in ids]
    assert read_parts(tmp_path / "out")["labels"].to_pylist() == told
    assert not read_rejects(tmp_path / "out")


def test_whole_numbers_that_an_input_would_round_are_rejected_alike(
    weather: ScoredVersion, tmp_path: Path
) -> None:
    wind = [2**24, 2**24 + 1, 2**24 + 2, -(2**53) - 1, 2**62]
    rows = pa.table({"wind": wind, "sun": [1.5] * 5, "rain": pa.array([0] * 5, pa.int8())})
    for suffix in (".parquet", ".csv", ".arrow", ".npz"):
        out = tmp_path / f"out{suffix}"
        score_into(weather, write(rows, tmp_path / f"in{suffix}"), out, ScoringOptions())
        assert read_parts(out)["row"].to_pylist() == [0, 2, 4], suffix
        assert [r["column"] for r in read_rejects(out)] == ["wind", "wind"], suffix
        assert "16777217 cannot be held by float32" in read_rejects(out)[0]["reason"]


def test_a_model_of_before_takes_numbers_as_it_did(tmp_path: Path) -> None:
    version = publish_network(
        tmp_path, [("Identity", ["x"], ["logits"])], {"x": (1, [1])}, labels=("a",)
    )
    (version.file.parent / "inputs.json").write_text('{"columns": {"x": ["wind"]}}')
    version = ScoredVersion.published(PublishedModels(tmp_path), "net", 1, unproven=True)
    found = score(version, pa.table({"wind": [2**24 + 1, None]}), engine_of(version))
    assert found.table["row"].to_pylist() == [0]


def test_what_is_a_number_is_so_in_every_format(weather: ScoredVersion, tmp_path: Path) -> None:
    cells = ["1_000", "true", "٣", "1e3", " 7 ", "0x10", "NA", "1.", "+2", "½", "inf", "1,5", "-0"]
    rows = pa.table({"wind": cells, "sun": ["1"] * 13, "rain": ["1"] * 13})
    pq.write_table(rows, tmp_path / "in.parquet")
    pacsv.write_csv(rows, tmp_path / "in.csv", pacsv.WriteOptions(quoting_style="all_valid"))
    for name in ("in.parquet", "in.csv"):
        score_into(weather, tmp_path / name, tmp_path / f"out-{name}", ScoringOptions())
        assert read_parts(tmp_path / f"out-{name}")["row"].to_pylist() == [1, 3, 4, 7, 8, 12], name
    columns = {name: rows[name].to_pylist() for name in rows.column_names}
    for given in (rows, rows.to_pandas(), columns, rows.to_pylist()):
        found = score(weather, given, engine_of(weather))
        assert found.table["row"].to_pylist() == [1, 3, 4, 7, 8, 12]


def _matrix_version(root: Path) -> ScoredVersion:
    """Publish a network whose logits are a matrix of two rows and three columns, row by row."""
    return publish_network(
        root,
        [("Reshape", ["x", "flat"], ["logits"])],
        {"x": (1, [2, 3])},
        constants={"flat": np.int64([0, 6])},
        labels=tuple("abcdef"),
    )


def test_tensors_are_read_in_the_order_of_their_axes(tmp_path: Path) -> None:
    version = _matrix_version(tmp_path)
    values = np.random.default_rng(0).normal(size=(5, 2, 3)).astype(np.float32)
    told = version.decision.probabilities(values.reshape(5, 6))
    stored = np.ascontiguousarray(values.transpose(0, 2, 1)).reshape(5, 6)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(stored.reshape(-1)), 6)
    kind = pa.fixed_shape_tensor(pa.float32(), (3, 2), permutation=[1, 0])
    columns = {
        "a tensor": pa.FixedShapeTensorArray.from_numpy_ndarray(values),
        "a transposed tensor": pa.ExtensionArray.from_storage(kind, flat),
        "lists of lists": pa.array(values.tolist()),
        "flat lists": pa.array(values.reshape(5, 6).tolist()),
    }
    for what, cells in columns.items():
        found = score(version, pa.table({"x": cells}), engine_of(version)).table
        given = np.stack(found["probabilities"].to_numpy())
        np.testing.assert_allclose(given, told, atol=1e-6, err_msg=what)


@pytest.mark.parametrize("kind", ["tensor", "lists", "ragged"])
def test_arrays_of_another_shape_are_rejected_though_their_sizes_agree(
    tmp_path: Path, kind: str
) -> None:
    version = _matrix_version(tmp_path)
    values = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    cells: Any = pa.array(values.tolist())
    if kind == "tensor":
        cells = pa.FixedShapeTensorArray.from_numpy_ndarray(values)
    if kind == "ragged":
        cells = pa.array([[[1.0, 2], [3.0, 4, 5, 6]], [[1.0, 2, 3, 4, 5, 6]]])
    found = score(version, pa.table({"x": cells}), engine_of(version))
    assert found.table.num_rows == 0
    assert all("expected" in reason for reason in found.rejects["reason"].to_pylist())


def test_columns_are_found_by_name_whatever_their_order(
    weather: ScoredVersion, tmp_path: Path
) -> None:
    rows = pa.table({"rain": [0.5], "id": ["x"], "wind": [-1.0], "sun": [2.0]})
    told = weather.decision.probabilities(np.float32([[-1, 2, 0.5]]))
    for suffix in (".parquet", ".csv", ".arrow"):
        out = tmp_path / f"out{suffix}"
        score_into(weather, write(rows, tmp_path / f"in{suffix}"), out, ScoringOptions())
        given = np.stack(read_parts(out)["probabilities"].to_numpy())
        np.testing.assert_allclose(given, told, atol=1e-6)


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".arrow", "in memory", "pandas"])
@pytest.mark.parametrize("names", ["twice", "missing", "misnamed"])
def test_repeated_and_missing_columns_are_refused_before_a_row_is_scored(
    weather: ScoredVersion, tmp_path: Path, suffix: str, names: str
) -> None:
    listed = {
        "twice": ["wind", "sun", "rain", "sun"],
        "missing": ["wind", "rain"],
        "misnamed": ["wind", "suns", "rain"],
    }[names]
    rows = pa.table([pa.array([float(at)] * 3) for at in range(len(listed))], names=listed)
    message = 'column names must differ; repeated: "sun"' if names == "twice" else "sun"
    with pytest.raises(DataError, match=message):
        if suffix == "in memory":
            score(weather, rows, engine_of(weather))
        elif suffix == "pandas":
            frame = pd.DataFrame(np.zeros((3, len(listed))), columns=listed)
            score(weather, frame, engine_of(weather))
        else:
            path = tmp_path / f"in{suffix}"
            if suffix == ".csv":
                path.write_text("\n".join([",".join(listed), ",".join("1" * len(listed))]) + "\n")
            else:
                write(rows, path)
            score_into(weather, path, tmp_path / "out", ScoringOptions())
    assert not [*(tmp_path / "out").rglob("*.parquet")]


def test_numbers_of_arff_are_taken_over_to_the_last_digit_or_rejected(
    weather: ScoredVersion, tmp_path: Path
) -> None:
    ids = ["7", str(2**53 + 1), "x", "?", str(2**60), "1.5"]
    names = ("id", "wind", "sun", "rain")
    head = "@relation r\n" + "".join(f"@attribute {name} numeric\n" for name in names) + "@data\n"
    (tmp_path / "in.arff").write_text(head + "".join(f"{each},1,2,3\n" for each in ids))
    options = ScoringOptions(form=OutputForm(columns=("id",)))
    score_into(weather, tmp_path / "in.arff", tmp_path / "out", options)
    assert read_parts(tmp_path / "out")["id"].to_pylist() == [7, None, 2**60, 1.5]
    rejects = read_rejects(tmp_path / "out")
    assert [(row["row"], row["column"]) for row in rejects] == [(1, "id"), (2, "id")]
    assert "9007199254740993 cannot be held by float64" in rejects[0]["reason"]


def test_ids_of_arrows_view_types_are_taken_over(weather: ScoredVersion, tmp_path: Path) -> None:
    numbers = {"wind": [1.0, None, 3.0], "sun": [1.0] * 3, "rain": [1.0] * 3}
    rows = pa.table({"id": pa.array(["a", "b", "c"], pa.string_view()), **numbers})
    options = ScoringOptions(form=OutputForm(columns=("id",)))
    score_into(weather, write(rows, tmp_path / "in.arrow"), tmp_path / "out", options)
    assert read_parts(tmp_path / "out")["id"].to_pylist() == ["a", "c"]
    assert [row["id"] for row in read_rejects(tmp_path / "out")] == ["b"]
    assert score(weather, rows, engine_of(weather), options).table["id"].to_pylist() == ["a", "c"]


def test_a_header_line_with_another_delimiter_is_refused_with_the_option(
    weather: ScoredVersion, tmp_path: Path
) -> None:
    (tmp_path / "in.csv").write_text("id;wind;sun;rain\n1;1;2;3\n")
    with pytest.raises(DataError, match="in.csv has one column, .*--delimiter ';'"):
        score_into(weather, tmp_path / "in.csv", tmp_path / "out",
                   ScoringOptions(form=OutputForm(columns=("id",))))  # fmt: skip
