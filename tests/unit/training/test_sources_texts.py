"""Texts as token ids and as hashed n-grams."""

import numpy as np
import pytest

from thresher.artifacts.input_spec import InputSpec, NgramSpec, TextSpec
from thresher.errors import ConfigError, DataError, NotFoundError
from thresher_training.sources import hashed_ngrams, ngrams, text

tokenizers = pytest.importorskip("tokenizers", reason="needs tokenizers: pip install -e '.[text]'")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A word tokenizer and thirty texts without a header line."""
    monkeypatch.chdir(tmp_path)
    words = ["[PAD]", "[UNK]", "[CLS]", "rain", "sun", "and"]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", 2)]
    )
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    lines = ['"rain\t0\tx', "rain and sun\t0,1\tx", "sun\t1\tx"] * 10
    (tmp_path / "t.tsv").write_text("\n".join(lines) + "\n")
    (tmp_path / "names.txt").write_text("wet\nbright\n")
    return tmp_path


OPTIONS = {
    "columns": ["text", "labels", "id"],
    "quoting": False,
    "label_column": "labels",
    "label_names": "names.txt",
}


@pytest.mark.usefixtures("folder")
def test_texts_become_token_ids_with_their_tokenizer_kept():
    data = text("t.tsv", tokenizer="tokenizer.json", max_length=6, **OPTIONS)
    assert data.labels == ("wet", "bright")
    assert data.trim_by == "attention_mask"
    assert data.assets["tokenizer.json"].name == "tokenizer.json"
    assert data.input_spec == InputSpec(text=TextSpec(column="text", max_length=6))
    expected = {
        '"rain': ([2, 1, 3, 0, 0, 0], [1, 0]),
        "rain and sun": ([2, 3, 5, 4, 0, 0], [1, 1]),
        "sun": ([2, 4, 0, 0, 0, 0], [0, 1]),
    }
    for split in data.splits.values():
        assert split.inputs["input_ids"].dtype == np.int64
        assert len(split.texts) == len(split)
        for row, words in enumerate(split.texts):
            ids, targets = expected[words]
            assert split.inputs["input_ids"][row].tolist() == ids
            assert split.inputs["attention_mask"][row].tolist() == [int(i > 0) for i in ids]
            assert split.targets_NL[row].tolist() == targets
        assert split.texts[-1] == split.texts[len(split) - 1]
        assert split.texts[:2] == [split.texts[0], split.texts[1]]
        with pytest.raises(IndexError):
            split.texts[len(split)]


@pytest.mark.usefixtures("folder")
def test_long_texts_are_cut():
    data = text("t.tsv", tokenizer="tokenizer.json", max_length=3, **OPTIONS)
    row = list(data.splits["train"].texts).index("rain and sun")
    assert data.splits["train"].inputs["input_ids"][row].tolist() == [2, 3, 5]


@pytest.mark.usefixtures("folder")
def test_the_files_of_a_folder_are_the_splits():
    from shutil import copy

    copy("t.tsv", "other.tsv")
    data = text(
        *["."], train="t.tsv", test="other.tsv", tokenizer=".", validation_fraction=0.2, **OPTIONS
    )
    sizes = {name: len(split) for name, split in data.splits.items()}
    assert sizes["test"] == 30
    assert sizes["train"] + sizes["validation"] == 30


def test_a_broken_tokenizer_is_told(folder):
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(DataError, match=r"tokenizer\.json is not a tokenizer file"):
        text("t.tsv", tokenizer="tokenizer.json", **OPTIONS)
    with pytest.raises(NotFoundError, match=r'"tokenzier\.json"; did you mean "tokenizer\.json"'):
        text("t.tsv", tokenizer="tokenzier.json", **OPTIONS)


@pytest.mark.usefixtures("folder")
def test_an_unknown_text_column_is_told():
    with pytest.raises(DataError, match='unknown column "txt"; did you mean "text"'):
        ngrams("t.tsv", text_column="txt", **OPTIONS)


@pytest.mark.usefixtures("folder")
def test_ngrams_need_no_tokenizer_and_are_those_of_the_function():
    data = ngrams("t.tsv", max_ngrams=5, **OPTIONS)
    assert data.trim_by == "ngram_mask"
    assert data.assets == {}
    assert data.input_spec == InputSpec(ngrams=NgramSpec(column="text", max_ngrams=5))
    train = data.splits["train"]
    expected = hashed_ngrams(list(train.texts), max_ngrams=5)
    np.testing.assert_array_equal(train.inputs["ngram_ids"], expected["ngram_ids"])
    np.testing.assert_array_equal(train.inputs["ngram_mask"], expected["ngram_mask"])


def test_ngrams_are_words_then_pairs_then_pieces_of_words():
    found = hashed_ngrams(["Sun, sun"], words=2, characters=[4, 5], max_ngrams=12)
    ids, mask = found["ngram_ids"][0], found["ngram_mask"][0]
    # sun | , | sun | "sun ," | ", sun" | <sun, sun>, <sun> twice; "<,>" is too short
    assert int(mask.sum()) == 5 + 2 * 3
    assert ids[0] == ids[2] != ids[1]
    assert ids[5:8].tolist() == ids[8:11].tolist()
    assert ids[int(mask.sum()) :].tolist() == [0]
    assert (ids[mask == 1] > 0).all()


def test_the_numbers_of_ngrams_never_change():
    """What a served model was trained with must be what its callers compute: CRC-32 of the word."""
    found = hashed_ngrams(["sun"], num_buckets=1000, max_ngrams=1)
    assert found["ngram_ids"].tolist() == [[1 + 0x51B4CEF7 % 999]]


@pytest.mark.parametrize(
    "options", [{"words": 0}, {"num_buckets": 1}, {"max_ngrams": 0}, {"characters": [5, 3]}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ConfigError, match="expected"):
        hashed_ngrams(["a"], **options)
