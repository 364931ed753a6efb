"""Files as people bring them: each row is scored right or rejected, each file read or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from PIL import Image

from support.networks import publish_network
from support.scoring import (
    COLUMNS,
    OPTIONS,
    engine_of,
    expected,
    names_of,
    read_parts,
    read_rejects,
    score_into,
    table,
    weather_version,
)
from support.text_models import publish_text_model, write_tokenizer
from thresher.artifacts.input_spec import InputSpec, PictureSpec, TextSpec
from thresher.published_models import PublishedModels
from thresher.tables.csv_files import CsvOptions
from thresher_serving.scoring import OutputForm, ScoredVersion, ScoringOptions, score


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> ScoredVersion:
    return weather_version(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> ScoredVersion:
    """A network whose logits are the mean and minus the mean of grey, less 100, in tens."""
    nodes = [
        ("Cast", ["image"], ["pixels"], {"to": 1}),
        ("ReduceMean", ["pixels", "axes"], ["mean"], {"keepdims": 0}),
        ("Sub", ["mean", "middle"], ["around"]),
        ("Div", ["around", "scale"], ["share"]),
        ("Neg", ["share"], ["negative"]),
        ("Concat", ["share", "negative"], ["logits"], {"axis": 1}),
    ]
    constants = {
        "axes": np.int64([2, 3]),
        "middle": np.float32(100),
        "scale": np.float32(10),
    }
    spec = InputSpec(pictures=PictureSpec(size=4))
    return publish_network(
        tmp_path_factory.mktemp("pictures"),
        nodes,
        {"image": (2, [1, 4, 4])},
        constants=constants,
        spec=spec,
    )


def csv_options(**given: object) -> ScoringOptions:
    return ScoringOptions(features=COLUMNS, form=OPTIONS.form, csv=CsvOptions(**given))  # type: ignore[arg-type]


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("opened", ['"5 inch', '"', '"5 inch" wide'], ids=["inch", "alone", "more"])
def test_a_quote_that_is_not_closed_swallows_no_row(
    version: ScoredVersion, tmp_path: Path, opened: str, ends: str
) -> None:
    rows = table(200)
    cells = zip(*(rows[name].to_pylist() for name in ("id", *COLUMNS)), strict=True)
    lines = ["id,wind,sun,cloud,note", *(",".join(map(str, [*row, "x"])) for row in cells)]
    lines[101] = lines[101].removesuffix("x") + opened
    (tmp_path / "in.csv").write_text(ends.join(lines) + ends, newline="")
    report = score_into(version, tmp_path / "in.csv", tmp_path / "out")
    (reason,) = report.tally.broken
    assert "in.csv, line 102: a cell begins with a double quote" in reason
    assert "score: --no-quoting" in reason
    assert report.tally.num_scored == 0
    score_into(version, tmp_path / "in.csv", tmp_path / "text", csv_options(quoting=False))
    assert read_parts(tmp_path / "text")["id"].to_pylist() == rows["id"].to_pylist()


def test_quotes_that_are_closed_keep_delimiters_line_ends_and_quotes(
    version: ScoredVersion, tmp_path: Path
) -> None:
    ids = ["a,b", "two\nlines", 'say ""hi""', "", "ä\u2028ö", "plain"]
    lines = [f'"{name}","1","2",3' for name in ids]
    (tmp_path / "in.csv").write_text("\n".join(["id,wind,sun,cloud", *lines]) + "\n")
    score_into(version, tmp_path / "in.csv", tmp_path / "out")
    found = read_parts(tmp_path / "out")["id"].to_pylist()
    assert found == ["a,b", "two\nlines", 'say "hi"', "", "ä\u2028ö", "plain"]


def test_a_row_is_its_position_in_the_file_whatever_is_rejected_before_it(
    version: ScoredVersion, tmp_path: Path
) -> None:
    lines = ["id,wind,sun,cloud"]
    short, wrong, rng = [], [], np.random.default_rng(0)
    for row in range(20_000):
        kind = rng.random()
        if kind < 0.05:
            short.append(row)
        elif kind < 0.1:
            wrong.append(row)
        lines.append(
            f"{row},1" if kind < 0.05 else f"{row},x,2,3" if kind < 0.1 else f"{row},1,2,3"
        )
        if row % 100 == 0:
            lines.append("")  # a line without anything is no row
    (tmp_path / "in.csv").write_text("\n".join(lines) + "\n")
    report = score_into(version, tmp_path / "in.csv", tmp_path / "out")
    found = read_parts(tmp_path / "out")
    assert found["row"].to_pylist() == [int(name) for name in found["id"].to_pylist()]
    rejects = read_rejects(tmp_path / "out")
    assert [reject["row"] for reject in rejects] == sorted([*short, *wrong])
    told = {r["row"]: r["line"] for r in rejects if r["line"] is not None}
    assert told == {row: 2 + row + (row + 99) // 100 for row in short}
    assert report.tally.num_read == 20_000 == found.num_rows + len(rejects)


def test_utf_16_is_named_and_read_when_asked_for(version: ScoredVersion, tmp_path: Path) -> None:
    text = "id,wind,sun,cloud\nMünchen,1,2,3\n"
    (tmp_path / "in.csv").write_bytes(text.encode("utf-16"))
    report = score_into(version, tmp_path / "in.csv", tmp_path / "out")
    assert "--encoding utf-16" in report.tally.broken[0]
    score_into(version, tmp_path / "in.csv", tmp_path / "right", csv_options(encoding="utf-16"))
    assert read_parts(tmp_path / "right")["id"].to_pylist() == ["München"]


def test_an_id_that_is_no_utf_8_is_rejected_and_never_damaged(
    version: ScoredVersion, tmp_path: Path
) -> None:
    text = "id,wind,sun,cloud\na,1,2,3\nMünchen,1,2,3\nb,1,2,3\n"
    (tmp_path / "in.csv").write_bytes(text.encode("latin-1"))
    score_into(version, tmp_path / "in.csv", tmp_path / "out")
    assert read_parts(tmp_path / "out")["id"].to_pylist() == ["a", "b"]
    (reject,) = read_rejects(tmp_path / "out")
    assert (reject["row"], reject["column"], reject["reason"]) == (1, "id", "not UTF-8")
    score_into(version, tmp_path / "in.csv", tmp_path / "right", csv_options(encoding="latin-1"))
    assert read_parts(tmp_path / "right")["id"].to_pylist() == ["a", "München", "b"]


def test_a_header_that_is_no_utf_8_names_the_option(version: ScoredVersion, tmp_path: Path) -> None:
    text = "id,wind,sun,cloud,größe\na,1,2,3,4\n"
    (tmp_path / "in.csv").write_bytes(text.encode("latin-1"))
    report = score_into(version, tmp_path / "in.csv", tmp_path / "out")
    assert "line 1 is not utf-8 text" in report.tally.broken[0]
    assert "--encoding latin-1" in report.tally.broken[0]


def test_folders_named_by_values_are_decoded(version: ScoredVersion, tmp_path: Path) -> None:
    for name in ("city=S%C3%A3o%20Paulo", "city=__HIVE_DEFAULT_PARTITION__", "city=a%3Db"):
        (tmp_path / "in" / name).mkdir(parents=True)
        pq.write_table(table(2), tmp_path / "in" / name / "x.parquet")
    options = ScoringOptions(features=COLUMNS, form=OutputForm(columns=("city",)))
    score_into(version, tmp_path / "in", tmp_path / "out", options)
    found = read_parts(tmp_path / "out")["city"].to_pylist()
    assert sorted(found, key=str) == [None, None, "São Paulo", "São Paulo", "a=b", "a=b"]


def test_a_readme_next_to_the_data_is_passed_over(version: ScoredVersion, tmp_path: Path) -> None:
    pq.write_table(table(3), tmp_path / "rows.parquet")
    (tmp_path / "README.txt").write_text("what this is")
    report = score_into(version, tmp_path, tmp_path.parent / f"{tmp_path.name}-out")
    assert report.tally.num_scored == 3


@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_arff_is_scored_as_the_same_rows_in_parquet(
    version: ScoredVersion, tmp_path: Path, form: str
) -> None:
    rows = table(60).to_pydict()
    for name in COLUMNS:
        rows[name] = [0.0 if at % 3 == 0 else round(v, 4) for at, v in enumerate(rows[name])]
    head = "@relation w\n@attribute id string\n"
    head += "".join(f"@attribute {name} numeric\n" for name in COLUMNS) + "@data\n"
    lines = []
    for at in range(60):
        cells = [f"'{rows['id'][at]}'", *(str(rows[name][at]) for name in COLUMNS)]
        sparse = [f"{k} {cell}" for k, cell in enumerate(cells) if cell != "0.0"]
        lines.append(",".join(cells) if form == "dense" else "{" + ", ".join(sparse) + "}")
    lines[7] = "?,?,1,2" if form == "dense" else "{0 ?, 1 ?, 2 1, 3 2}"
    (tmp_path / "in.arff").write_text(head + "\n".join(lines) + "\n")
    score_into(version, tmp_path / "in.arff", tmp_path / "out")
    found = read_parts(tmp_path / "out")
    kept = [at for at in range(60) if at != 7]
    assert found["row"].to_pylist() == kept
    assert found["id"].to_pylist() == [rows["id"][at] for at in kept]
    labels = expected(version, pa.table(rows).take(kept))[1]
    assert found["labels"].to_pylist() == names_of(labels)
    (reject,) = read_rejects(tmp_path / "out")
    assert (reject["row"], reject["column"]) == (7, "wind")


def test_an_empty_text_and_a_missing_one_are_told_apart_in_every_format(tmp_path: Path) -> None:
    root = tmp_path / "models"
    publish_text_model(root, 1, length=None, with_text=False, serve=True)
    folder = root / "emotions" / "1"
    write_tokenizer(folder / "tokenizer.json")
    (folder / "inputs.json").write_text(InputSpec(text=TextSpec(max_length=8)).to_json())
    version = ScoredVersion.published(PublishedModels(root), "emotions", 1, unproven=True)
    rows = pa.table({"id": ["a", "b", "c", "d"], "text": ["so sad", "", None, "NA"]})
    pq.write_table(rows, tmp_path / "in.parquet")
    feather.write_feather(rows, tmp_path / "in.arrow", compression="uncompressed")
    pacsv.write_csv(rows, tmp_path / "in.csv", pacsv.WriteOptions(quoting_style="all_valid"))
    options = ScoringOptions(form=OutputForm(columns=("id",)))
    for name in ("in.parquet", "in.arrow", "in.csv"):
        out = tmp_path / f"out-{name}"
        score_into(version, tmp_path / name, out, options)
        assert read_parts(out)["id"].to_pylist() == ["a", "b", "d"], name
        assert [r["reason"] for r in read_rejects(out)] == ["missing, expected a text"], name
    assert score(version, rows.to_pandas(), engine_of(version), options).table.num_rows == 3


def test_a_folder_of_pictures_is_written_with_their_names(
    pictures: ScoredVersion, tmp_path: Path
) -> None:
    for name in ("b", "a", "c"):
        Image.new("L", (6, 6), 90).save(_made(tmp_path / "in") / f"{name}.png")
    (tmp_path / "in/d.png").write_bytes(b"none")
    score_into(pictures, tmp_path / "in", tmp_path / "out", ScoringOptions())
    assert read_parts(tmp_path / "out")["file"].to_pylist() == ["a.png", "b.png", "c.png"]
    assert [reject["file"] for reject in read_rejects(tmp_path / "out")] == ["d.png"]


def test_a_folder_that_links_to_itself_gives_each_picture_once(
    pictures: ScoredVersion, tmp_path: Path
) -> None:
    Image.new("L", (6, 6), 90).save(_made(tmp_path / "in/deep") / "a.png")
    (tmp_path / "in/deep/again").symlink_to(tmp_path / "in")
    (tmp_path / "in/other").symlink_to(tmp_path / "in/deep")
    report = score_into(pictures, tmp_path / "in", tmp_path / "out", ScoringOptions())
    assert report.tally.num_read == 1


def test_deep_pictures_are_scaled_and_unknown_depths_rejected(
    pictures: ScoredVersion, tmp_path: Path
) -> None:
    folder = _made(tmp_path / "in")
    greys = [0, 40, 150, 190, 30_000, 65_535]
    for at, grey in enumerate(greys):
        Image.fromarray(np.full((4, 4), grey, np.uint16)).save(folder / f"{at}.png")
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(folder / "float.tiff")
    Image.fromarray(np.full((4, 4), 200_000, np.int32)).save(folder / "whole.tiff")
    score_into(pictures, folder, tmp_path / "out", ScoringOptions())
    found = read_parts(tmp_path / "out")
    shares = np.float32([(round(grey / 257) - 100) / 10 for grey in greys])
    told = pictures.decision.probabilities(np.stack([shares, -shares], axis=1))
    np.testing.assert_allclose(np.stack(found["probabilities"].to_numpy()), told, atol=1e-5)
    rejects = read_rejects(tmp_path / "out")
    assert [r["file"] for r in rejects] == ["float.tiff", "whole.tiff"]
    assert all("whose scale is not known" in r["reason"] for r in rejects)


def test_a_picture_of_hundreds_of_megapixels_costs_its_row(
    pictures: ScoredVersion, tmp_path: Path
) -> None:
    folder = _made(tmp_path / "in")
    Image.new("1", (20_000, 20_000)).save(folder / "huge.png")
    Image.new("L", (6, 6), 90).save(folder / "small.png")
    score_into(pictures, folder, tmp_path / "out", ScoringOptions())
    assert read_parts(tmp_path / "out")["file"].to_pylist() == ["small.png"]
    assert "400000000 pixels" in read_rejects(tmp_path / "out")[0]["reason"]


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
