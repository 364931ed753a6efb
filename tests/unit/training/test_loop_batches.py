"""Which rows make a step, what is cut off a batch, and what a schedule and groups are."""

import numpy as np
import pytest
import torch
from torch import nn

from thresher_training import OptimizationConfig, Split
from thresher_training.loop import fit, predict_logits, seeded
from thresher_training.loop.batches import TrainBatches, is_mapped, trimmed
from thresher_training.loop.optimizer import make_optimizer, parameter_groups
from thresher_training.loop.sampling import Sampler, row_lengths, slices
from thresher_training.loop.schedule import make_schedule
from thresher_training.losses import BceLoss


def texts(seed, num_rows=500, width=24):
    """Token ids with padding; a label is there where its token is."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(3, 50, size=(num_rows, width))
    mask = (np.arange(width) < rng.integers(1, width, size=num_rows)[:, None]).astype(np.int64)
    ids = ids * mask
    return Split(
        inputs={"ids": ids, "mask": mask},
        targets_NL=np.stack([(ids == k).any(axis=1) for k in (3, 4)], axis=1),
    )


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.widths = nn.Embedding(50, 8), []
        self.last = nn.Linear(8, 2)

    def forward(self, ids, mask):
        self.widths.append(ids.shape[1])
        vectors = self.table(ids) * mask[..., None]
        return self.last(vectors.sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1))


def sampler(split, trim_by="mask", **options):
    return Sampler.of(split, OptimizationConfig(**options), seed=3, trim_by=trim_by)


@pytest.mark.parametrize("trim_by", [None, "mask"])
def test_each_row_comes_once_an_epoch_in_an_order_of_its_own(trim_by):
    drawn = sampler(texts(0), trim_by, batch_size=32)
    first, again, second = drawn.steps(1), drawn.steps(1), drawn.steps(2)
    assert len(first) == drawn.num_steps == 16
    assert sorted(np.concatenate(first)) == list(range(500))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(np.concatenate(first), np.concatenate(second))


def test_rows_of_a_step_are_of_similar_length():
    split = texts(0)
    lengths = row_lengths(split.inputs["mask"])

    def padding(steps):
        return sum((lengths[rows].max() - lengths[rows]).sum() for rows in steps) / lengths.sum()

    assert padding(sampler(split, batch_size=32).steps(1)) < 0.1
    assert padding(sampler(split, None, batch_size=32).steps(1)) > 0.5


def test_steps_depend_on_the_product_of_batch_size_and_accumulate():
    one, other = sampler(texts(0), batch_size=32), sampler(texts(0), batch_size=8, accumulate=4)
    assert all(np.array_equal(a, b) for a, b in zip(one.steps(1), other.steps(1), strict=True))


@pytest.mark.parametrize(
    ("num_rows", "size", "sizes"),
    [(6, 3, [3, 3]), (7, 3, [3, 4]), (8, 3, [3, 3, 2]), (1, 3, [1]), (2, 1, [1, 1]), (0, 3, [])],
)
def test_no_batch_is_left_with_a_single_row(num_rows, size, sizes):
    assert [part.stop - part.start for part in slices(num_rows, size)] == sizes


def test_padding_is_cut_off_every_input_of_that_width():
    inputs = {
        "mask": torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0]]),
        "ids": torch.arange(8).reshape(2, 4),
        "other": torch.ones(2, 3),
        "cube": torch.ones(2, 4, 4),
    }
    cut = trimmed(inputs, "mask")
    assert {name: list(t.shape) for name, t in cut.items()} == {
        "mask": [2, 2],
        "ids": [2, 2],
        "other": [2, 3],
        "cube": [2, 4, 4],
    }
    assert trimmed({"mask": torch.zeros(2, 4)}, "mask")["mask"].shape == (2, 1)


def test_trimming_changes_widths_and_not_logits():
    split, network = texts(0), Bag()
    plain = predict_logits(network, split.inputs)
    assert set(network.widths) == {24}
    network.widths.clear()
    np.testing.assert_allclose(
        predict_logits(network, split.inputs, trim_by="mask"), plain, atol=1e-6
    )
    assert min(network.widths) < 20
    network.widths.clear()
    config = OptimizationConfig(epochs=1, batch_size=32)
    fit(network, split, texts(1), BceLoss(), config, seed=0, trim_by="mask")
    assert min(network.widths) < 6


def test_prediction_of_no_rows_and_of_one():
    network = Bag()
    for num_rows in (0, 1):
        inputs = {name: array[:num_rows] for name, array in texts(0).inputs.items()}
        for trim_by in (None, "mask"):
            assert predict_logits(network, inputs, trim_by=trim_by).shape == (num_rows, 2)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_the_shares_of_a_steps_batches_add_up_over_all_processes(world_size):
    split = texts(0)
    targets = split.targets_NL.copy()
    targets[:250] = np.nan
    split = Split(inputs=split.inputs, targets_NL=targets)
    steps = sampler(split, batch_size=16, accumulate=2).steps(1)
    shares, rows = np.zeros(len(steps)), []
    for rank in range(world_size):
        batches = TrainBatches(
            *(split, 16, torch.device("cpu")),
            seed=0,
            augment=None,
            trim_by="mask",
            rank=rank,
            world_size=world_size,
        )
        for at, step in enumerate(batches.steps(steps, epoch=1)):
            shares[at] += sum(piece.share for piece in step.pieces)
            rows += [piece.rows for piece in step.pieces if piece.share]
            for piece, batch in zip(step.pieces, batches.make(step.pieces), strict=True):
                np.testing.assert_array_equal(batch.targets_NL, targets[piece.rows])
    np.testing.assert_allclose(shares, 1)
    assert set(np.concatenate(rows)) >= set(range(250, 500))


def test_a_view_of_a_mapped_array_is_known_as_one(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((4, 3)))
    assert is_mapped(np.load(tmp_path / "x.npy", mmap_mode="c")[1:])
    assert not is_mapped(np.ones(3)[1:])


def rates(num_steps, **options):
    parameter = nn.Parameter(torch.zeros(2))
    config = OptimizationConfig(learning_rate=0.1, **options)
    optimizer = torch.optim.AdamW([parameter], lr=0.1)
    schedule = make_schedule(optimizer, config, num_steps)
    found = []
    for _ in range(num_steps):
        found.append(optimizer.param_groups[0]["lr"])
        parameter.grad = torch.ones(2)
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle", "constant"])
@pytest.mark.parametrize("warmup_fraction", [0.0, 0.2, 1.0])
def test_schedules_rise_to_the_learning_rate_and_then_do_as_they_are_called(
    schedule, warmup_fraction
):
    found = rates(50, schedule=schedule, warmup_fraction=warmup_fraction)
    top = int(np.argmax(found))
    assert max(found) == pytest.approx(0.1, rel=0.05)
    assert found[:top] == sorted(found[:top])
    if warmup_fraction < 1:
        assert top <= 11
        assert found[-1] == pytest.approx(0.1 if schedule == "constant" else 0, abs=2e-3)
    assert len(rates(1, schedule=schedule, warmup_fraction=warmup_fraction)) == 1


def test_only_weights_of_layers_decay():
    network = nn.Sequential(
        nn.Embedding(9, 4),
        nn.Linear(4, 4),
        nn.LayerNorm(4),
        nn.BatchNorm1d(4),
        nn.MultiheadAttention(4, 2),
    )
    network[1].bias.requires_grad_(requires_grad=False)
    decayed, plain = parameter_groups(network, 0.1)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    assert {names[id(p)] for p in decayed["params"]} == {
        "1.weight",
        "4.in_proj_weight",
        "4.out_proj.weight",
    }
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert "0.weight" in {names[id(p)] for p in plain["params"]}
    assert "1.bias" not in {names[id(p)] for group in (decayed, plain) for p in group["params"]}


def test_the_optimizer_is_pytorchs_adamw_with_decoupled_decay():
    with seeded(0):
        mine, peer = nn.Linear(4, 2), nn.Linear(4, 2)
    peer.load_state_dict(mine.state_dict())
    config = OptimizationConfig(learning_rate=0.01, weight_decay=0.3)
    one = make_optimizer(mine, config)
    other = torch.optim.AdamW(
        [{"params": [peer.weight]}, {"params": [peer.bias], "weight_decay": 0.0}],
        lr=0.01,
        weight_decay=0.3,
        fused=False,
    )
    x = torch.randn(8, 4)
    for _ in range(5):
        for network, optimizer in ((mine, one), (peer, other)):
            optimizer.zero_grad()
            network(x).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(mine.weight, peer.weight)
    torch.testing.assert_close(mine.bias, peer.bias)
