"""Networks: logits of the right shape, the same for a row whatever its batch."""

import pytest
import torch

from thresher.errors import ConfigError
from thresher_training.networks import digits_cnn, mlp


@pytest.mark.parametrize("shape", [(24, 80), (32, 40)])
def test_digits_cnn_gives_a_logit_per_label_for_any_picture_size(shape):
    torch.manual_seed(0)
    network = digits_cnn(num_labels=7, channels=[4, 8]).eval()
    image = torch.randint(0, 256, (5, 1, *shape), dtype=torch.uint8)
    logits = network(image=image)
    assert logits.shape == (5, 7)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(network(image[:2]), logits[:2])


def test_digits_cnn_sees_a_digit_wherever_it_is():
    torch.manual_seed(0)
    network = digits_cnn(num_labels=3, channels=[4, 8]).eval()
    image = torch.zeros(2, 1, 24, 80, dtype=torch.uint8)
    image[0, 0, 8:16, 16:24] = 255
    image[1, 0, 8:16, 48:56] = 255
    logits = network(image)
    torch.testing.assert_close(logits[0], logits[1])


@pytest.mark.parametrize("hidden", [(), (8,), (8, 4)])
def test_mlp_gives_a_logit_per_label(hidden):
    logits = mlp(num_labels=3, num_features=5, hidden=hidden)(features=torch.ones(4, 5))
    assert logits.shape == (4, 3)


def test_scaling_undoes_the_units_of_the_columns():
    torch.manual_seed(0)
    features = torch.randn(400, 3)
    units = torch.tensor([1.0, 1000.0, 0.5])
    found = {}
    for name, x in (("same", features), ("other", features * units + 5 * units)):
        torch.manual_seed(1)
        network = mlp(num_labels=2, num_features=3, scaling="asinh")
        for _ in range(200):  # the running figures settle
            network(x)
        found[name] = network.eval()(x).detach()
    torch.testing.assert_close(found["same"], found["other"], atol=0.02, rtol=0)


def test_unit_rows_makes_bags_of_words_equally_long():
    network = mlp(num_labels=2, num_features=4, scaling="unit_rows").eval()
    few = torch.tensor([[1.0, 0, 0, 1], [0, 0, 0, 0]])
    torch.testing.assert_close(network(few), network(3 * few))
    assert network(few).isfinite().all()


def test_an_unknown_scaling_is_refused():
    with pytest.raises(ConfigError, match='unknown scaling "standrd"; did you mean "standard"'):
        mlp(num_labels=2, num_features=4, scaling="standrd")


@pytest.mark.parametrize("num_features", [0, 5])
def test_mlp_embeds_categories_and_takes_no_id_for_unknown(num_features):
    network = mlp(num_labels=3, num_features=num_features, category_sizes=(4, 6)).eval()
    inputs = {"features": torch.ones(4, 5)} if num_features else {}
    ids = torch.tensor([[0, 0], [2, 3], [-7, 3], [99, 5]])
    logits = network(**inputs, categories=ids)
    assert logits.shape == (4, 3)
    known = network(**inputs, categories=torch.tensor([[0, 0], [2, 3], [0, 3], [0, 5]]))
    torch.testing.assert_close(logits, known)
    assert not torch.equal(logits[1], logits[2])
    first = network.categories.table.weight[torch.tensor([0, 4])]
    assert torch.count_nonzero(first) == 0  # what training did not see says nothing


def test_mlp_without_any_input_is_refused():
    with pytest.raises(ConfigError, match="expected an input"):
        mlp(num_labels=2, num_features=0)
