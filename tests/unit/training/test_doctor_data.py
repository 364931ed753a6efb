"""What the doctor sees in targets and inputs: each fault planted in real data, and found."""

import numpy as np
import pytest
import torch

from support.patients import LABELS, data_of, patient, scans
from thresher.errors import DataError
from thresher_training import Split
from thresher_training.doctor import examine
from thresher_training.doctor.refusal import as_finding
from thresher_training.networks import mlp


def found(data, code, **changes):
    """The finding with this code."""
    diagnosis = examine(patient(data, **changes), fits=True)
    matching = [finding for finding in diagnosis.findings if finding.code == code]
    assert matching, diagnosis.findings
    return matching[0]


def only(data, **changes):
    """All codes that are found."""
    return examine(patient(data, **changes), fits=True).codes


def targets_with(rows, columns, value):
    targets = scans()[1].copy()
    targets[rows, columns] = value
    return targets


def features_with(rows, columns, value):
    features = scans()[0].copy()
    features[rows, columns] = value
    return features


def test_nothing_is_found_in_scans_as_they_are():
    assert only(data_of()) == ()


def test_unknown_targets_are_no_fault():
    targets = scans()[1].copy()
    targets[np.random.default_rng(0).random(targets.shape) < 0.3] = np.nan
    assert only(data_of(targets=targets)) == ()


@pytest.mark.parametrize(
    ("rows", "split", "level"),
    [
        (slice(0, 1000), "train", "warning"),
        (slice(1000, 1400), "validation", "warning"),
        (slice(1400, None), "test", "note"),
    ],
)
def test_a_label_without_positives_is_told_for_its_split(rows, split, level):
    finding = found(data_of(targets=targets_with(rows, 4, 0)), "no-positives")
    assert finding.level == level
    assert f"in the {split} split" in finding.what
    assert '1 of 5 labels: "zero"' in finding.evidence


def test_a_label_that_is_always_on_has_no_negatives():
    finding = found(data_of(targets=targets_with(slice(0, 1000), 1, 1)), "no-negatives")
    assert finding.level == "warning"
    assert '"large"' in finding.evidence


def test_a_train_split_without_any_positive_is_an_error():
    finding = found(data_of(targets=targets_with(slice(0, 1000), slice(None), 0)), "no-positives")
    assert finding.level == "error"


def test_one_hot_targets_are_called_single_label_under_bce():
    digits = scans()[1][:, 4].astype(int) + 2 * (scans()[1][:, 1].astype(int))
    targets = np.eye(3, dtype=np.float32)[digits]
    finding = found(data_of(targets=targets, labels=("small", "zero", "large")), "single-label")
    assert finding.level == "warning"
    assert "cross-entropy" in finding.fix
    assert "1,000 of 1,000 train rows" in finding.evidence


def test_two_labels_that_exclude_each_other_only_mostly_are_not_single_label():
    targets = scans()[1][:, [0, 3]]  # "2" is even and prime, "9" is neither
    assert "single-label" not in only(data_of(targets=targets, labels=("even", "prime")))


def test_class_numbers_as_targets_become_a_finding():
    with pytest.raises(DataError) as refused:
        Split(inputs={"features": scans()[0]}, targets_NL=np.arange(1797) % 10)
    finding = as_finding(refused.value)
    assert (finding.level, finding.code) == ("error", "integer-targets")
    assert "numpy.eye" in finding.fix


@pytest.mark.parametrize(
    ("row", "value", "hint"), [(3, 2, "-1/1 targets"), (3, -1, "-1/1"), (1100, 0.4, "soft labels")]
)
def test_targets_out_of_range_become_a_finding_that_names_row_and_label(row, value, hint):
    with pytest.raises(DataError) as refused:
        data_of(targets=targets_with(row, 2, value))
    finding = as_finding(refused.value)
    assert (finding.level, finding.code) == ("error", "targets-out-of-range")
    assert '"loop"' in finding.evidence
    assert hint in finding.fix


def test_nan_features_become_a_finding():
    with pytest.raises(DataError) as refused:
        data_of(features_with(7, 3, np.nan))
    finding = as_finding(refused.value)
    assert (finding.level, finding.code) == ("error", "non-finite-features")
    assert "row 7" in finding.evidence


def test_infinite_features_are_an_error_that_names_the_row():
    finding = found(data_of(features_with([7, 9], 3, np.inf)), "non-finite-features")
    assert finding.level == "error"
    assert "2 of 1,000 rows (first: row 7)" in finding.evidence


def test_texts_without_a_token_are_named():
    from thresher_training import DataSet
    from thresher_training.doctor.inputs import _without_a_token

    mask = np.ones((10, 4), dtype=np.int64)
    mask[[3, 7]] = 0
    targets = np.zeros((10, 2), dtype=np.float32)
    inputs = {"input_ids": mask * 5, "attention_mask": mask}
    split = Split(inputs=inputs, targets_NL=targets)
    data = DataSet(
        labels=("a", "b"),
        source="texts",
        splits={"train": split, "validation": split, "test": split},
    )
    findings = list(_without_a_token(data))
    assert [(f.level, f.code) for f in findings] == [("warning", "empty-texts")] * 3
    assert "2 of 10 rows (first: row 3, 7)" in findings[0].evidence


def test_constant_columns_are_named():
    finding = found(data_of(features_with(slice(None), [3, 5], 0.5)), "constant-features")
    assert finding.level == "note"
    assert "2 of" in finding.evidence
    assert "first: 3, 5" in finding.evidence


def test_rows_that_are_all_the_same_are_an_error():
    features = np.repeat(scans()[0][:1], 1797, axis=0)
    assert found(data_of(features), "constant-features").level == "error"


@pytest.mark.parametrize(
    ("factor", "word"), [(1e5, "huge"), (1e-6, "tiny"), (np.r_[1e4, np.ones(60)], "some columns")]
)
def test_wildly_scaled_features_are_told_with_the_layer_that_sees_them(factor, word):
    width = scans()[0].shape[1]
    factor = np.resize(factor, width) if np.ndim(factor) else factor
    features = (scans()[0] + 0.1).astype(np.float32) * np.float32(factor)
    finding = found(data_of(features), "feature-scale")
    assert word in finding.what
    assert "layers.0 (Linear)" in finding.evidence


def test_a_network_that_begins_with_a_norm_may_see_any_scale():
    class Normed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            width = scans()[0].shape[1]
            self.norm = torch.nn.BatchNorm1d(width)
            self.body = mlp(num_labels=5, num_features=width)

        def forward(self, features):
            return self.body(self.norm(features))

    assert only(data_of(scans()[0] * np.float32(1e5)), network=Normed()) == ()


def copied(count, *, new_targets=False):
    """The scans, where the first test rows are copies of train rows."""
    features, targets = (array.copy() for array in scans())
    features[1400 : 1400 + count] = features[100 : 100 + count]
    targets[1400 : 1400 + count] = targets[100 : 100 + count]
    if new_targets:
        targets[1400 : 1400 + count] = 1 - targets[1400 : 1400 + count]
    return data_of(features, targets)


def test_copies_across_splits_are_counted_with_examples():
    finding = found(copied(20), "duplicates")
    assert finding.level == "warning"
    assert "20 of 397 test rows (5.0%) are in train, 20 of them with the same targets" in (
        finding.evidence
    )
    assert "test row 0 is row 100" in finding.evidence


def test_few_copies_or_copies_with_other_targets_are_only_a_note():
    assert found(copied(2), "duplicates").level == "note"
    finding = found(copied(20, new_targets=True), "duplicates")
    assert finding.level == "note"
    assert "0 of them with the same targets" in finding.evidence


def test_every_input_counts_when_rows_are_compared():
    data = copied(20)
    splits = {
        name: Split(
            inputs={**split.inputs, "number": np.arange(len(split)) + 10_000 * at},
            targets_NL=split.targets_NL,
        )
        for at, (name, split) in enumerate(data.splits.items())
    }
    pair = data_of(**splits)

    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body = patient().network

        def forward(self, features, number):
            return self.body(features) + 0 * number[:, None]

    assert "duplicates" not in only(pair, network=Two())


def test_target_columns_in_another_order_in_one_split_are_seen():
    targets = scans()[1].copy()
    targets[1400:] = targets[1400:][:, [4, 1, 2, 3, 0]]
    finding = found(data_of(targets=targets), "label-order")
    assert '"even"' in finding.evidence
    assert '"zero"' in finding.evidence
    assert finding.level == "warning"


def test_a_label_that_is_far_more_frequent_in_one_split_is_told():
    targets = scans()[1].copy()
    targets[1400:1700, 4] = 1
    finding = found(data_of(targets=targets), "label-shift")
    assert '"zero" ' in finding.evidence


def test_batches_without_positives_are_expected_from_size_and_frequencies():
    targets = scans()[1].copy()
    targets[:, :] = 0
    for column in range(len(LABELS)):
        targets[column :: 200 + column, column] = 1
    data = data_of(targets=targets)
    finding = found(data, "empty-batches", batch_size=16, prior_bias=True)
    drawn = np.random.default_rng(0)
    any_on = (data.splits["train"].targets_NL > 0).any(axis=1)
    share = np.mean([not any_on[drawn.permutation(1000)[:16]].any() for _ in range(2000)])
    told = float(finding.evidence.split("rows, ")[1].split("%")[0]) / 100
    assert told == pytest.approx(share, abs=0.04)
    for changes in ({"batch_size": 512}, {"sampler": "label_aware"}):
        assert "empty-batches" not in only(data, prior_bias=True, **changes)
