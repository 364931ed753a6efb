"""What a Triton release has no kernel for: small integers are widened, the rest is refused."""

import warnings
from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from thresher.errors import ConversionError
from thresher_export.convert import convert
from thresher_export.kernels import check_kernels

Step = Callable[[Tensor], Tensor]
STEPS: dict[str, Step] = {
    "255 - x": lambda x: 100 - x if x.dtype == torch.int8 else 255 - x,
    "x + 100": lambda x: x + 100,
    "x * x": lambda x: x * x,
    "x // 3": lambda x: x // 3,
    "x % 7": lambda x: x % 7,
    "x >> 1": lambda x: x >> 1,
    "x << 1": lambda x: x << 1,
    "(x >> 2) & 3": lambda x: (x >> 2) & 3,
    "-x": lambda x: -x,
    "x > 10": lambda x: x > 10,
    "x == x.flip": lambda x: x == x.flip(1),
    "maximum": lambda x: torch.maximum(x, x.flip(1)),
    "clamp": lambda x: x.clamp(3, 100),
    "where": lambda x: torch.where(x > 10, x, 0),
    "masked_fill": lambda x: (x > 10).masked_fill(x > 50, value=False),
    "sort": lambda x: x.sort(1).values,
    "amax": lambda x: x.amax(1, keepdim=True),
    "cumsum": lambda x: x.cumsum(1),
    "matmul": lambda x: x @ torch.ones(6, 6, dtype=x.dtype),
    "pad": lambda x: nn.functional.pad(x, (1, 1)),
}


class Integers(nn.Module):
    """All steps on integers, side by side."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([step(x).float() for step in STEPS.values()], dim=1)


def converted(network: nn.Module, x: Tensor, **options: str) -> ir.Model:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        program = torch.export.export(
            network.eval(), (x,), dynamic_shapes=[{0: torch.export.Dim.AUTO}]
        )
    return convert(program, **options)


def rows(dtype: torch.dtype) -> Tensor:
    numbers = torch.iinfo(dtype)
    torch.manual_seed(0)
    return torch.randint(numbers.min, numbers.max + 1, (9, 6)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16], ids=str)
def test_small_integers_wrap_around_as_in_torch_on_every_release(dtype: torch.dtype) -> None:
    x = rows(dtype)
    model = converted(Integers(), x)
    check_kernels(model, "24.10")
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (results,) = session.run(None, {"x": x.numpy()})
    first = 0
    for name, step in STEPS.items():
        wanted = step(x).float().numpy()
        np.testing.assert_array_equal(results[:, first : first + wanted.shape[1]], wanted, name)
        first += wanted.shape[1]


class Doubles(nn.Module):
    """A convolution in float64, which no ONNX Runtime has on a CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv1d(1, 3, 6).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.double().unsqueeze(1)).squeeze(-1).float()


def test_what_no_release_can_compute_is_refused_with_the_operator_and_the_type() -> None:
    with pytest.raises(ConversionError, match=r"24\.10 .*1\.19\.2.* cannot compute Conv on double"):
        converted(Doubles(), torch.randn(3, 6))


def model_of(op_type: str, dtype: ir.DataType) -> ir.Model:
    x = ir.Value(name="x", shape=ir.Shape(["batch", 6]), type=ir.TensorType(dtype))
    node = ir.node(op_type, [x, x])
    node.outputs[0].type = x.type
    graph = ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": 20})
    return ir.Model(graph, ir_version=10)


def test_a_kernel_that_came_later_is_refused_with_the_release_that_has_it() -> None:
    model = model_of("Sub", ir.DataType.UINT8)
    with pytest.raises(ConversionError, match=r"Sub on uint8.*--target-triton 25\.03"):
        check_kernels(model, "25.02")
    check_kernels(model, "25.03")
    check_kernels(model_of("Sub", ir.DataType.INT32), "24.10")


def test_half_precision_is_left_to_onnx_runtime_which_casts_it_itself() -> None:
    check_kernels(model_of("Mul", ir.DataType.FLOAT16), "24.10")
