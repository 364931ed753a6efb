"""The photograph network: logits that serving can trust, for any size of picture."""

import numpy as np
import pytest
import torch

from thresher.errors import ConfigError
from thresher_training import Split
from thresher_training.networks_images import photo_resnet
from thresher_training.preflight import check_network, export_without_noise
from thresher_training.prior import set_prior_bias

BATCH = torch.export.Dim("batch", min=1)


def pictures(num_rows, *, height=24, width=24):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(
        0, 256, (num_rows, 3, height, width), dtype=torch.uint8, generator=generator
    )


def used_network(**options):
    """Return a network whose norms have statistics and whose blocks add something."""
    torch.manual_seed(0)
    network = photo_resnet(**{"num_labels": 5, "channels": [4, 8, 12], **options})
    for name, parameter in network.named_parameters():
        if name.endswith("second_norm.weight"):
            torch.nn.init.ones_(parameter)
    with torch.no_grad():
        network(pictures(16))
    return network.eval()


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_rows_logits_do_not_depend_on_the_rest_of_its_batch(mirrored):
    network, image = used_network(mirrored=mirrored), pictures(6)
    logits = network(image=image)
    assert logits.shape == (6, 5)
    assert logits.dtype == torch.float32
    for row in range(6):
        torch.testing.assert_close(network(image[row : row + 1]), logits[row : row + 1])


def test_mirrored_gives_a_picture_and_its_mirror_image_the_same_logits():
    image = pictures(4)
    mirrored, plain = used_network(mirrored=True), used_network(mirrored=False)
    torch.testing.assert_close(mirrored(image.flip(3)), mirrored(image))
    assert (plain(image.flip(3)) - plain(image)).abs().max() > 1e-3
    torch.testing.assert_close(mirrored(image), (plain(image) + plain(image.flip(3))) / 2)


def test_in_training_a_picture_is_seen_once_and_as_it_is():
    image = pictures(4)
    logits = [used_network(mirrored=m, dropout=0.0).train()(image) for m in (False, True)]
    torch.testing.assert_close(logits[0], logits[1])


@pytest.mark.parametrize(("height", "width"), [(64, 64), (33, 50), (7, 9), (1, 1)])
@pytest.mark.parametrize("channels", [[4], [4, 8, 8, 12]])
def test_pictures_of_any_size_get_logits(height, width, channels):
    network = photo_resnet(num_labels=3, channels=channels).eval()
    logits = network(pictures(2, height=height, width=width))
    assert logits.shape == (2, 3)
    assert logits.isfinite().all()


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_the_exported_network_gives_the_same_logits_for_any_batch(mirrored, memory_format):
    network = used_network(mirrored=mirrored).to(memory_format=memory_format)
    with export_without_noise():
        program = torch.export.export(network, (pictures(3),), dynamic_shapes=[{0: BATCH}])
    for num_rows in (1, 2, 7):
        image = pictures(num_rows, height=24)
        torch.testing.assert_close(program.module()(image), network(image), atol=1e-5, rtol=1e-5)


def test_it_can_be_trained_and_starts_from_the_labels_frequencies():
    image = pictures(8).numpy()
    targets = np.float32([[row < 2, row < 6] for row in range(8)])
    network = photo_resnet(num_labels=2, channels=[4, 8])
    assert check_network(network, Split(inputs={"image": image}, targets_NL=targets)) == {
        "image": (0,)
    }
    set_prior_bias(network, targets)
    assert network.head[-1].bias[0] < 0 < network.head[-1].bias[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": []}, r"channels is \[\], expected .* such as \[24, 48, 96, 192\]"),
        ({"channels": [8, 0]}, r"channels is \[8, 0\], expected a whole number above 0"),
        ({"channels": [8, 16.5]}, r"channels is \[8, 16.5\], expected a whole number"),
        ({"channels": 8}, "channels is 8, expected a whole number above 0 for each stage"),
        ({"dropout": 1.0}, r"dropout is 1.0, expected a number from 0 to below 1"),
        ({"dropout": float("nan")}, "dropout is nan, expected a number"),
    ],
)
def test_an_option_that_gives_no_network_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        photo_resnet(num_labels=2, **options)
