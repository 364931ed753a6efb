"""A network with a correlation head through torch.export and the export stage: the same logits."""

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import nn

from thresher_export.convert import convert
from thresher_training.correlation import with_correlation
from thresher_training.networks import mlp
from thresher_training.preflight import export_without_noise
from thresher_training.recipe import CorrelationConfig

NUM_LABELS, NUM_FEATURES = 14, 9


class Trained(nn.Module):
    """Two inputs, in an order that is not the alphabet's."""

    def __init__(self):
        super().__init__()
        self.body = mlp(num_labels=NUM_LABELS, num_features=NUM_FEATURES)

    def forward(self, table, mask):
        return self.body(table * mask)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = with_correlation(Trained(), CorrelationConfig(hidden=8, dropout=0.2), NUM_LABELS)
    for parameter in network.correlation.parameters():  # as if trained: not the identity any more
        nn.init.normal_(parameter)
    return network.eval()


@pytest.fixture(scope="module")
def program(network):
    batch = torch.export.Dim("batch", min=1)
    with export_without_noise():
        return torch.export.export(
            network,
            (torch.zeros(3, NUM_FEATURES), torch.ones(3, NUM_FEATURES)),
            dynamic_shapes=[{0: batch}, {0: batch}],
        )


def inputs(num_rows):
    rng = np.random.default_rng(num_rows)
    table = (30 * rng.standard_normal((num_rows, NUM_FEATURES))).astype(np.float32)
    return {"table": table, "mask": (table > -20).astype(np.float32)}


@pytest.mark.parametrize("num_rows", [1, 2, 257])
def test_the_exported_program_gives_the_networks_logits_for_any_batch(network, program, num_rows):
    tensors = [torch.from_numpy(array) for array in inputs(num_rows).values()]
    with torch.inference_mode():
        torch.testing.assert_close(program.module()(*tensors), network(*tensors))


def test_onnx_runtime_gives_them_too_under_the_networks_input_names(network, program, tmp_path):
    path = tmp_path / "model.onnx"
    ir.save(convert(program), path)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["table", "mask"]
    assert [value.shape for value in session.get_outputs()] == [["batch", NUM_LABELS]]
    for num_rows in (1, 2, 257):
        rows = inputs(num_rows)
        (logits,) = session.run(["logits"], rows)
        with torch.inference_mode():
            expected = network(**{name: torch.from_numpy(array) for name, array in rows.items()})
            plain = network.network(*map(torch.from_numpy, rows.values()))
        np.testing.assert_allclose(logits, expected.numpy(), rtol=1e-4, atol=1e-4)
        assert np.abs(logits - plain.numpy()).max() > 0.1  # the head is in the file
