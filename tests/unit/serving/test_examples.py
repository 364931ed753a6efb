"""Raw examples become a served model's inputs by the spec that the model carries."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from PIL import Image

from thresher.artifacts.input_spec import InputSpec, NgramSpec, PictureSpec, TextSpec
from thresher.certificate import Certificate, file_digest
from thresher.errors import DataError, NotFoundError, ParityError
from thresher.ngrams import hashed_ngrams
from thresher.tables.csv_files import CsvOptions
from thresher.tables.pictures import decode_picture
from thresher_serving import ModelMetadata, TensorMetadata, true_labels
from thresher_serving.client.examples import ExampleReader, NoTokenizerError

WEATHER = InputSpec(
    columns={"features": ("wind", "rain", "day")},
    fills={"rain": 0.5},
    flagged={"features": ("rain",)},
    categories={"categories": {"sky": ("blue", "grey"), "zone": ("1", "2")}},
)
ROWS = [
    {"wind": 1.5, "rain": None, "day": 7, "sky": "grey", "zone": 2, "id": 2**60 + 1},
    {"wind": -2.25, "rain": 3.0, "day": 0, "sky": "green", "zone": 1, "id": 5},
    {"wind": 1e-3, "rain": 0.1, "day": 16777216, "sky": None, "zone": 9, "id": 6},
]
FEATURES = np.float32([[1.5, 0.5, 7, 1], [-2.25, 3, 0, 0], [1e-3, 0.1, 16777216, 0]])
CATEGORIES = np.int64([[3, 3], [0, 2], [1, 0]])


def model(spec: InputSpec | None, **inputs: tuple[str, tuple[int, ...]]) -> ModelMetadata:
    return ModelMetadata(
        name="m",
        version=3,
        versions=(3,),
        max_batch_size=8,
        inputs={
            name: TensorMetadata(name=name, datatype=datatype, shape=shape)
            for name, (datatype, shape) in inputs.items()
        },
        outputs={},
        decision=None,
        input_spec=spec,
    )


WEATHER_MODEL = model(WEATHER, features=("FP32", (4,)), categories=("INT64", (2,)))


def frame() -> pd.DataFrame:
    return pd.DataFrame(ROWS).astype({"rain": "float64"})


def as_csv(folder: Path) -> Any:
    frame().to_csv(folder / "rows.csv", index=False)
    return folder / "rows.csv"


def as_shuffled_csv(folder: Path) -> Any:
    frame()[["sky", "id", "rain", "wind", "zone", "day"]].to_csv(folder / "rows.csv.gz")
    return folder / "rows.csv.gz"


def as_parquet(folder: Path) -> Any:
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "rows.parquet", row_group_size=2)
    return folder / "rows.parquet"


def as_feather(folder: Path) -> Any:
    pyarrow.feather.write_feather(frame(), folder / "rows.feather")
    return str(folder / "rows.feather")


SOURCES = {
    "list of dicts": lambda _: ROWS,
    "dict of lists": lambda _: {k: [row[k] for row in ROWS] for k in ROWS[0]},
    "arrow table": lambda _: pa.Table.from_pylist(ROWS),
    "frame": lambda _: frame(),
    "csv": as_csv,
    "shuffled gzip csv": as_shuffled_csv,
    "parquet": as_parquet,
    "feather": as_feather,
}


@pytest.mark.parametrize("source", SOURCES)
def test_the_same_rows_give_the_same_inputs_from_every_source(source: str, tmp_path: Path) -> None:
    got = ExampleReader().arrays(WEATHER_MODEL, SOURCES[source](tmp_path))
    np.testing.assert_array_equal(got["features"], FEATURES)
    np.testing.assert_array_equal(got["categories"], CATEGORIES)
    assert got["features"].dtype == np.float32
    assert got["categories"].dtype == np.int64


def test_one_row_is_a_dict_of_values() -> None:
    got = ExampleReader().arrays(WEATHER_MODEL, ROWS[1])
    np.testing.assert_array_equal(got["features"], FEATURES[1:2])


def test_one_row_may_hold_numbers_of_numpy() -> None:
    """As a loop over a frame or an array gives them."""
    row = ROWS[0] | {"wind": np.float64(1.5), "day": np.int64(7), "sky": np.str_("grey")}
    made = ExampleReader().arrays(WEATHER_MODEL, row)
    np.testing.assert_array_equal(made["features"], FEATURES[:1])
    np.testing.assert_array_equal(made["categories"], CATEGORIES[:1])


def test_arrays_pass_as_they_are() -> None:
    arrays = {"features": FEATURES, "categories": CATEGORIES}
    assert ExampleReader().arrays(WEATHER_MODEL, arrays) is arrays
    plain = model(None, x=("FP32", (3,)))
    row = np.zeros((1, 3), np.float32)
    assert ExampleReader().arrays(plain, row)["x"] is row


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{**ROWS[0], "wind": "x"}], r'row 0: column "wind": "x" is no number'),
        ([ROWS[1], {**ROWS[0], "day": 2**24 + 1}], r"row 1: .*16777217 cannot be held by float32"),
        ([{"wind": 1.0, "rain": 1.0, "day": 1}], r"sky, zone"),
        ([{**ROWS[0], "day": None}], r'column "day": missing, expected a number'),
        ([{**ROWS[0], "wind": float("inf")}], r'column "wind": infinite'),
    ],
)
def test_rows_that_are_no_inputs_are_named(rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        ExampleReader().arrays(WEATHER_MODEL, rows)


def picture(folder: Path, name: str = "a.png") -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / name)
    return folder / name


def test_a_picture_is_resized_as_in_training(tmp_path: Path) -> None:
    path = picture(tmp_path)
    photos = model(
        InputSpec(pictures=PictureSpec(size=8, resize="pad")), image=("UINT8", (3, 8, 8))
    )
    expected = decode_picture(path, size=8, resize="pad")[None]
    reader = ExampleReader()
    for given in (
        path,
        str(path),
        path.read_bytes(),
        Image.open(path),
        [path],
        [path.read_bytes()],
    ):
        np.testing.assert_array_equal(reader.arrays(photos, given)["image"], expected)
    assert len(reader.arrays(photos, [path, path])["image"]) == 2


def test_a_picture_for_a_model_without_a_spec_has_to_fit(tmp_path: Path) -> None:
    plain = model(None, image=("UINT8", (1, 30, 50)))
    got = ExampleReader().arrays(plain, picture(tmp_path))
    expected = np.array(Image.open(tmp_path / "a.png").convert("L"))
    np.testing.assert_array_equal(got["image"][0, 0], expected)
    with pytest.raises(DataError, match=r"a\.png.*\[3, 30, 50\].*takes \[3, 8, 8\]"):
        ExampleReader().arrays(model(None, image=("UINT8", (3, 8, 8))), tmp_path / "a.png")


def test_a_deep_grey_picture_is_scaled_not_clipped(tmp_path: Path) -> None:
    deep = np.uint16([[0, 40 * 257, 150 * 257, 65535]])
    Image.fromarray(deep).save(tmp_path / "deep.png")
    plain = model(None, image=("UINT8", (1, 1, 4)))
    got = ExampleReader().arrays(plain, tmp_path / "deep.png")
    assert got["image"].reshape(-1).tolist() == [0, 40, 150, 255]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.png", b"not a picture", "cannot be decoded"),
        ("a.png", b"\x89PNG\r\n\x1a\n", "cannot be decoded"),
        ("a.npy", b"not an array", "is no NumPy file"),
        ("a.npy", b"", "is no NumPy file"),
        ("a.gif", b"GIF89a", "no file to read; expected .parquet"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises((DataError, NotFoundError), match=message):
        ExampleReader().arrays(model(None, image=("UINT8", (3, 8, 8))), tmp_path / name)


def test_an_array_file_that_promises_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "a.npy").open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (10**12, 3)}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(b"\0" * 24)
    with pytest.raises(DataError, match=r"12,000,000,000,000 bytes, and 24 follow"):
        ExampleReader().arrays(model(None, x=("FP32", (3,))), tmp_path / "a.npy")


def test_saved_arrays_hold_one_row_or_several(tmp_path: Path) -> None:
    vector = model(None, x=("FP32", (3,)))
    np.save(tmp_path / "one.npy", np.float32([1, 2, 3]))
    np.save(tmp_path / "two.npy", np.float32([[1, 2, 3], [4, 5, 6]]))
    reader = ExampleReader()
    assert reader.arrays(vector, tmp_path / "one.npy")["x"].tolist() == [[1, 2, 3]]
    both = reader.arrays(vector, [tmp_path / "one.npy", tmp_path / "two.npy"])
    assert both["x"].tolist() == [[1, 2, 3], [1, 2, 3], [4, 5, 6]]
    np.save(tmp_path / "wide.npy", np.float64([1, 2, 3]))
    with pytest.raises(DataError, match=r"wide\.npy: got float64 .*expected float32"):
        reader.arrays(vector, tmp_path / "wide.npy")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"none\.png: no such file"):
        ExampleReader().arrays(model(None, image=("UINT8", (3, 8, 8))), tmp_path / "none.png")


def test_texts_become_ngrams_without_a_tokenizer(tmp_path: Path) -> None:
    spec = InputSpec(ngrams=NgramSpec(max_ngrams=4, num_buckets=64))
    light = model(spec, ngram_ids=("INT64", (4,)), ngram_mask=("INT64", (4,)))
    texts = ["not bad", "bad"]
    expected = hashed_ngrams(texts, max_ngrams=4, num_buckets=64)
    (tmp_path / "texts.csv").write_text("id,text\n1,not bad\n2,bad\n")
    for given in (texts, {"text": texts}, tmp_path / "texts.csv"):
        got = ExampleReader().arrays(light, given)
        np.testing.assert_array_equal(got["ngram_ids"], expected["ngram_ids"])
    assert len(ExampleReader().arrays(light, "bad")["ngram_ids"]) == 1


def test_texts_without_a_tokenizer_say_which_model_takes_them() -> None:
    tokens = model(InputSpec(text=TextSpec()), input_ids=("INT64", (-1,)))
    for given in ("hello", ["hello"], {"text": ["hello"]}):
        with pytest.raises(
            NoTokenizerError, match=r"tokenizer=PATH.*repository=PATH.*m\.text"
        ) as caught:
            ExampleReader().arrays(tokens, given)
        assert caught.value.texts == ["hello"]


def test_a_text_for_a_model_that_takes_texts_is_sent_as_it_is() -> None:
    texts = model(None, text=("BYTES", (1,)))
    got = ExampleReader().arrays(texts, ["é", ""])["text"]
    assert got.tolist() == [["é".encode()], [b""]]


def write_certificate(folder: Path, file: str = "inputs.json") -> None:
    """Write a certificate that binds one file; one that is not there by no digest of its own."""
    path = folder / file
    files = {file: file_digest(path) if path.is_file() else "0" * 64}
    texts = ("source", "precision", "decision_sha256", "weights_sha256", "created")
    numbers = ("num_rows", "num_decisions", "num_flips", "band_half_width")
    made = Certificate(
        model="m",
        version=3,
        files=files,
        data_sha256={},
        engines=(),
        tools={},
        **dict.fromkeys(texts, "x"),  # type: ignore[arg-type]
        **dict.fromkeys(numbers, 0),  # type: ignore[arg-type]
    )
    (folder / "certificate.json").write_text(made.to_json())


def test_too_many_categories_for_a_configuration_come_from_the_repository(tmp_path: Path) -> None:
    from dataclasses import replace

    values = tuple(f"value number {number:06d}" for number in range(5_000))
    spec = InputSpec(categories={"categories": {"word": values}})
    sent = InputSpec.from_json(spec.for_configuration().to_json())
    assert sent.vocabulary_sha256 == spec.vocabulary_digest
    assert len(sent.to_json()) < 1_000
    words = model(sent, categories=("INT64", (1,)))
    with pytest.raises(DataError, match="repository=PATH"):
        ExampleReader().arrays(words, {"word": [values[7]]})
    folder = tmp_path / "m" / "3"
    folder.mkdir(parents=True)
    (folder / "inputs.json").write_text(spec.to_json())
    write_certificate(folder)
    known = replace(words, certificate_sha256=file_digest(folder / "certificate.json"))
    reader = ExampleReader(repository=tmp_path)
    assert reader.arrays(known, {"word": [values[7], "new"]})["categories"].tolist() == [[9], [0]]
    other = replace(words, certificate_sha256="0" * 64)  # the server has another version
    with pytest.raises(DataError, match="repository=PATH"):
        reader.arrays(other, {"word": [values[7]]})
    swapped = (values[8], values[7])
    changed = InputSpec(categories={"categories": {"word": (*values[:7], *swapped, *values[9:])}})
    (folder / "inputs.json").write_text(changed.to_json())
    with pytest.raises(ParityError, match=r"inputs\.json is not what was proven.*other bytes"):
        reader.arrays(known, {"word": [values[7]]})


def test_a_repository_s_inputs_and_tokenizer_are_those_of_its_certificate(tmp_path: Path) -> None:
    """A certificate that names neither, next to files that the server's own do not know."""
    from dataclasses import replace

    folder = tmp_path / "m" / "3"
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text("{}")
    write_certificate(folder, "model.onnx")
    known = replace(TOKEN_MODEL, certificate_sha256=file_digest(folder / "certificate.json"))
    reader = ExampleReader(repository=tmp_path)
    with pytest.raises(ParityError, match=r"tokenizer\.json is not what was proven.*no such file"):
        reader.arrays(known, ["a text"])
    (folder / "inputs.json").write_text(TOKEN_SPEC.to_json())
    with pytest.raises(ParityError, match=r"inputs\.json is not what was proven.*no such file"):
        reader.arrays(known, ["a text"])


def test_dicts_texts_bytes_and_pictures_need_no_pyarrow(tmp_path: Path) -> None:
    picture(tmp_path)
    program = f"""
import sys
sys.modules["pyarrow"] = None
sys.modules["pandas"] = None
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
import json
import numpy as np
from thresher.artifacts.input_spec import InputSpec
from thresher_serving import ModelMetadata, TensorMetadata
from thresher_serving.client.examples import ExampleReader

def model(spec, **inputs):
    tensors = {{n: TensorMetadata(name=n, datatype=d, shape=s) for n, (d, s) in inputs.items()}}
    return ModelMetadata(name="m", version=1, versions=(1,), max_batch_size=8, inputs=tensors,
                         outputs={{}}, decision=None, input_spec=spec)

reader = ExampleReader()
spec = InputSpec.from_json({WEATHER.to_json()!r})
weather = model(spec, features=("FP32", (4,)), categories=("INT64", (2,)))
rows = json.loads({json.dumps(ROWS)!r})
print(reader.arrays(weather, rows)["features"].tolist())
content = Path({str(tmp_path / "a.png")!r}).read_bytes()
print(reader.arrays(model(None, image=("UINT8", (3, 30, 50))), content)["image"].shape)
print(reader.arrays(model(None, text=("BYTES", (1,))), "text")["text"].tolist())
print(reader.arrays(model(None, x=("FP32", (2,))), np.zeros((1, 2), np.float32))["x"].shape)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    features, image, text, array = done.stdout.splitlines()
    np.testing.assert_array_equal(np.float32(json.loads(features)), FEATURES)
    assert (image, text, array) == ("(1, 3, 30, 50)", "[[b'text']]", "(1, 2)")


def test_a_picture_in_memory_is_read_like_its_file(tmp_path: Path) -> None:
    path = picture(tmp_path)
    buffer = io.BytesIO()
    Image.open(path).save(buffer, format="PNG")
    plain = model(None, image=("UINT8", (3, 30, 50)))
    reader = ExampleReader()
    np.testing.assert_array_equal(
        reader.arrays(plain, buffer.getvalue())["image"], reader.arrays(plain, path)["image"]
    )


def test_true_labels_are_those_of_the_table_next_to_the_picture(tmp_path: Path) -> None:
    assert true_labels(tmp_path / "a.png") is None
    (tmp_path / "metadata.csv").write_text("file_name,labels\na.png,rain fog\nb.png,\n")
    assert true_labels(tmp_path / "a.png") == ["rain", "fog"]
    assert true_labels(tmp_path / "b.png") == []
    assert true_labels(tmp_path / "c.png") is None


def test_a_table_of_true_labels_without_its_columns_is_named(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text("file,labels\n")
    with pytest.raises(
        DataError, match=r"metadata\.csv: missing column file_name; got file, labels"
    ):
        true_labels(tmp_path / "a.png")


TOKEN_SPEC = InputSpec(text=TextSpec(column="text", tokenizer="tokenizer.json", max_length=8))
TOKEN_MODEL = model(TOKEN_SPEC, input_ids=("INT64", (-1,)), attention_mask=("INT64", (-1,)))
TEXT_MODEL = model(None, text=("BYTES", (1,)))


@pytest.mark.parametrize("served", [TOKEN_MODEL, TEXT_MODEL], ids=["tokens", "texts"])
def test_a_missing_text_is_an_error_and_its_row_does_not_vanish(served: ModelMetadata) -> None:
    for table in (
        pd.DataFrame({"text": ["a", None]}),
        {"text": ["a", None]},
        [{"text": "a"}, {"text": None}],
    ):
        with pytest.raises(DataError, match=r"row 1: column \"text\": missing") as raised:
            ExampleReader().arrays(served, table)
        assert not isinstance(raised.value, NoTokenizerError)


@pytest.mark.parametrize(
    "given",
    [
        {"text": ["a", "b c"]},
        [{"text": "a"}, {"text": "b c"}],
        pd.DataFrame({"text": ["a", "b c"], "id": [1, 2]}),
        pa.table({"text": ["a", "b c"]}),
        pd.Series(["a", "b c"]),
        np.array(["a", "b c"]),
        np.array(["a", "b c"], object),
        ("a", "b c"),
    ],
    ids=["dict", "dicts", "frame", "arrow", "series", "array", "objects", "tuple"],
)
def test_texts_of_every_kind_reach_a_model_that_takes_texts(given: Any) -> None:
    made = ExampleReader().arrays(TEXT_MODEL, given)
    assert made["text"].tolist() == [[b"a"], [b"b c"]]
    with pytest.raises(NoTokenizerError) as raised:
        ExampleReader().arrays(TOKEN_MODEL, given)
    assert raised.value.texts == ["a", "b c"]


def test_texts_given_as_bytes_are_refused_with_what_to_do() -> None:
    with pytest.raises(DataError, match=r"content\.decode\(\)"):
        ExampleReader().arrays(TEXT_MODEL, [b"a"])


def test_a_row_of_a_frame_is_one_row() -> None:
    made = ExampleReader().arrays(WEATHER_MODEL, frame().iloc[1])
    np.testing.assert_array_equal(made["features"], FEATURES[1:2])
    np.testing.assert_array_equal(made["categories"], CATEGORIES[1:2])


@pytest.mark.parametrize("empty", [frame()[:0], {name: [] for name in ROWS[0]}])
def test_a_table_without_rows_is_refused(empty: Any) -> None:
    with pytest.raises(DataError, match="holds no row"):
        ExampleReader().arrays(WEATHER_MODEL, empty)


def test_an_arrow_column_without_a_name_is_refused() -> None:
    with pytest.raises(DataError, match="no named columns"):
        ExampleReader().arrays(WEATHER_MODEL, pa.chunked_array([["a"]]))


def test_a_text_that_is_too_long_for_a_file_name_is_no_file() -> None:
    with pytest.raises(NotFoundError, match="no such file"):
        ExampleReader().arrays(WEATHER_MODEL, "word " * 2_000)


def test_bytes_that_are_no_picture_are_named_once() -> None:
    taken = model(None, image=("UINT8", (1, 2, 2)))
    with pytest.raises(DataError, match="^row 0: garbage: a picture's content was expected"):
        ExampleReader().arrays(taken, b"garbage")
    with pytest.raises(DataError, match="^row 0: missing, expected a picture$"):
        ExampleReader().arrays(taken, b"")


def test_a_folder_is_called_a_folder(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="a folder; expected"):
        ExampleReader().arrays(WEATHER_MODEL, tmp_path)


def test_a_column_of_mixed_kinds_is_named() -> None:
    mixed = frame().astype({"wind": object})
    mixed.loc[1, "wind"] = "abc"
    with pytest.raises(DataError, match="wind"):
        ExampleReader().arrays(WEATHER_MODEL, mixed)


def test_an_argument_of_predict_is_a_text_of_any_length_but_no_missing_file() -> None:
    from thresher.cli.predict import _example

    assert _example("why? " * 2_000, takes_texts=True).kind == "text"
    assert _example("see rows.csv", takes_texts=True).kind == "text"
    with pytest.raises(NotFoundError, match=r"rows\.csv: no such file"):
        _example("rows.csv", takes_texts=True)
    with pytest.raises(NotFoundError, match="no such file"):
        _example("why? " * 2_000, takes_texts=False)


def test_a_table_with_other_delimiters_is_read_as_it_is_said_to_be(tmp_path: Path) -> None:
    frame().to_csv(tmp_path / "rows.csv", index=False, sep=";", encoding="utf-16")
    reader = ExampleReader(csv=CsvOptions(delimiter=";", encoding="utf-16"))
    got = reader.arrays(WEATHER_MODEL, tmp_path / "rows.csv")
    np.testing.assert_array_equal(got["features"], FEATURES)
    with pytest.raises(DataError, match="utf-16"):
        ExampleReader().arrays(WEATHER_MODEL, tmp_path / "rows.csv")
