import numpy as np
import pytest

from thresher_export.parity.rows import (
    at_size,
    extreme_rows,
    masks_of,
    not_a_number_rows,
    random_rows,
    sizes_of,
)

LENGTHS = np.array([2, 8, 5, 3, 8, 6])


def texts() -> dict[str, np.ndarray]:
    mask = (np.arange(8) < LENGTHS[:, None]).astype(np.int64)
    ids = np.random.default_rng(0).integers(5, 90, mask.shape) * mask
    return {"input_ids": ids, "attention_mask": mask}


def test_a_mask_is_found_and_flags_of_their_own_are_not() -> None:
    assert masks_of(texts()) == ["attention_mask"]
    kinds = np.zeros((6, 8), np.int64)
    assert masks_of({**texts(), "token_type_ids": kinds})[0] == "attention_mask"
    words = np.random.default_rng(0).integers(0, 2, (6, 50))
    assert masks_of({"words": words}) == []


def test_made_up_ids_stay_inside_what_was_seen_and_padding_stays() -> None:
    inputs = texts()
    for made in (random_rows(inputs), extreme_rows(inputs)):
        ids, mask = made.inputs["input_ids"], made.inputs["attention_mask"]
        assert ids.dtype == np.int64
        assert len(ids) == len(mask) == len(made.names)
        assert ids.max() <= inputs["input_ids"].max()
        assert ids.min() >= 0
        assert (ids[mask == 0] == 0).all()
        assert set(mask.sum(axis=1)) <= set(LENGTHS)


def test_extreme_rows_hold_the_boundary_ids_in_the_shortest_and_longest_row() -> None:
    inputs = texts()
    made = extreme_rows(inputs)
    assert set(made.inputs["attention_mask"].sum(axis=1)) == {2, 8}
    row = made.names.index("largest in the longest row")
    assert (made.inputs["input_ids"][row] == inputs["input_ids"].max()).all()


def test_extreme_floats_are_zero_denormal_and_large_of_either_sign() -> None:
    features = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    made = extreme_rows({"features": features})
    rows = dict(zip(made.names, made.inputs["features"], strict=True))
    assert not rows["zero"].any()
    assert 0 < rows["denormal"].max() < np.finfo(np.float32).tiny
    largest = np.abs(features).max(axis=0)
    np.testing.assert_allclose(rows["large"], 1000 * largest, rtol=1e-6)
    np.testing.assert_allclose(rows["large, negative"], -1000 * largest, rtol=1e-6)
    assert set(np.sign(rows["large, alternating"])) == {-1, 1}


def test_pictures_are_black_white_and_noise() -> None:
    pictures = np.random.default_rng(0).integers(10, 200, (12, 3, 8, 8)).astype(np.uint8)
    made = extreme_rows({"pictures": pictures})
    assert made.inputs["pictures"].dtype == np.uint8
    assert {int(row.min()) for row in made.inputs["pictures"]} == {0, 255}
    noise = random_rows({"pictures": pictures}).inputs["pictures"]
    assert (noise.min(), noise.max()) == (0, 255)


def test_each_column_of_a_table_is_drawn_from_its_own_values() -> None:
    rng = np.random.default_rng(0)
    columns = {
        "narrow": rng.normal(0.5, 0.6, 300),
        "wide": rng.normal(-3e5, 14_458, 300),
        "heavy": rng.lognormal(0, 3, 300),
        "yes_or_no": rng.integers(0, 2, 300),
        "category": rng.integers(7, 12, 300),
        "constant": np.full(300, 4.25),
    }
    features = np.stack(list(columns.values()), axis=1).astype(np.float32)
    made = random_rows({"features": features}).inputs["features"]
    column = dict(zip(columns, made.T, strict=True))
    far = np.abs(made - features.mean(axis=0)) / np.maximum(features.std(axis=0), 1e-9)
    assert (far[:, :2].max(axis=0) < 12).all()  # three times what real rows show
    assert (far[:, :2].max(axis=0) > 4).all()
    assert set(column["yes_or_no"]) == {0, 1}
    assert set(column["category"]) <= set(range(7, 12))
    assert set(column["constant"]) == {4.25}
    ends = extreme_rows({"features": features})
    large = ends.inputs["features"][ends.names.index("large")]
    np.testing.assert_allclose(large[:3], 1000 * np.abs(features[:, :3]).max(axis=0), rtol=1e-6)
    assert large[3:5].tolist() == [1, 11]


def test_integer_columns_keep_to_their_own_ids() -> None:
    rng = np.random.default_rng(0)
    ids = np.stack([rng.integers(0, 3, 200), rng.integers(500, 900, 200)], axis=1)
    for made in (random_rows({"ids": ids}), extreme_rows({"ids": ids})):
        low, high = made.inputs["ids"].min(axis=0), made.inputs["ids"].max(axis=0)
        assert (low >= ids.min(axis=0)).all()
        assert (high <= ids.max(axis=0)).all()


def test_random_rows_are_the_same_each_time() -> None:
    features = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    a, b = (random_rows({"features": features}).inputs["features"] for _ in range(2))
    np.testing.assert_array_equal(a, b)
    assert a.std() > 2 * features.std()


def test_shorter_sizes_take_rows_that_lose_padding_only() -> None:
    inputs = texts()
    made = at_size(inputs, {"input_ids": 1, "attention_mask": 1}, 5)
    assert made["input_ids"].shape == (3, 5)
    assert sorted(made["attention_mask"].sum(axis=1)) == [2, 3, 5]


def test_longer_sizes_are_hidden_by_the_mask() -> None:
    inputs = texts()
    made = at_size(inputs, {"input_ids": 1, "attention_mask": 1}, 13)
    assert made["input_ids"].shape == (6, 13)
    np.testing.assert_array_equal(made["attention_mask"].sum(axis=1), LENGTHS)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(1, None, [1, 3, 5, 8, 13]), (2, 8, [2, 3, 5, 8]), (8, 8, [8])],
)
def test_sizes_stay_within_what_the_program_takes(
    low: int, high: int | None, expected: list[int]
) -> None:
    assert sizes_of(8, low=low, high=high) == expected


def test_rows_that_are_not_numbers_need_a_float_input() -> None:
    assert not_a_number_rows(texts()) is None
    made = not_a_number_rows({"x": np.ones((3, 2), np.float32)})
    assert made is not None
    np.testing.assert_array_equal(made.inputs["x"][:, 0], [np.nan, np.inf, -np.inf])
    np.testing.assert_array_equal(made.inputs["x"][:, 1], 1)
