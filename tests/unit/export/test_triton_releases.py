"""Which Triton release loads which ONNX model."""

import itertools
import re
from pathlib import Path

import onnx_ir as ir
import pytest

from thresher.errors import ConfigError, ConversionError
from thresher_export.triton_releases import DEFAULT_TARGET, RELEASES, check_loadable, triton_release


def model(opset: int, ir_version: int) -> ir.Model:
    graph = ir.Graph([], [], nodes=[], opset_imports={"": opset})
    return ir.Model(graph, ir_version=ir_version)


def test_the_table_has_every_month_from_the_oldest_to_the_newest() -> None:
    year, month = 24, 10
    for name in RELEASES:
        assert name == f"{year}.{month:02d}"
        year, month = (year, month + 1) if month < 12 else (year + 1, 1)
    assert next(iter(RELEASES)) == DEFAULT_TARGET == "24.10"


def test_limits_only_grow() -> None:
    limits = [(r.max_opset, r.max_ir_version) for r in RELEASES.values()]
    for older, newer in itertools.pairwise(limits):
        assert older[0] <= newer[0]
        assert older[1] <= newer[1]


def test_the_installed_onnx_runtime_loads_what_its_release_says() -> None:
    import numpy as np
    import onnxruntime as ort
    from onnx import TensorProto, helper

    newest = list(RELEASES.values())[-1]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
    )
    proto = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", newest.max_opset)],
        ir_version=newest.max_ir_version,
    )
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": np.ones((1, 2), np.float32)})
    assert y.tolist() == [[1, 1]]


@pytest.mark.parametrize("target", list(RELEASES))
def test_what_the_exporter_makes_loads_everywhere(target: str) -> None:
    check_loadable(model(20, 10), target)


@pytest.mark.parametrize(
    ("opset", "ir_version", "target", "able"),
    [
        (22, 10, "24.10", "25.03"),
        (21, 11, "24.10", "25.08"),
        (23, 11, "25.07", "25.08"),
        (24, 11, "25.08", "26.02"),
        (26, 13, "26.06", "26.07"),
    ],
)
def test_too_new_a_model_names_the_oldest_release_that_loads_it(
    opset: int, ir_version: int, target: str, able: str
) -> None:
    with pytest.raises(
        ConversionError, match=f"opset {opset} and IR {ir_version}; Triton"
    ) as error:
        check_loadable(model(opset, ir_version), target)
    assert f"the oldest Triton that loads it is {able}" in str(error.value)
    check_loadable(model(opset, ir_version), able)


def test_a_release_whose_onnx_runtime_is_not_known_is_held_to_the_one_before() -> None:
    unknown = [name for name, release in RELEASES.items() if not release.is_known]
    assert unknown == ["26.09", "26.10"]
    for name in unknown:
        check_loadable(model(26, 13), name)
        with pytest.raises(
            ConversionError, match=r"\(ONNX Runtime 1.28.0 or newer\) loads at most"
        ):
            check_loadable(model(27, 13), name)


def test_what_no_release_loads_is_said() -> None:
    with pytest.raises(ConversionError, match="no release up to 26.10 loads it"):
        check_loadable(model(28, 14), "26.08")


def test_a_function_in_the_model_counts_too() -> None:
    with_function = model(20, 10)
    function = ir.Function("own", "f", graph=ir.Graph([], [], nodes=[], opset_imports={"": 23}),
                           attributes=[])  # fmt: skip
    with_function.functions[function.identifier()] = function
    with pytest.raises(ConversionError, match="opset 23"):
        check_loadable(with_function, "24.10")


def test_an_unknown_release_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError) as error:
        triton_release("24.09")
    assert 'unknown Triton release "24.09"' in str(error.value)
    assert set(re.findall(r"\d\d\.\d\d", str(error.value))) == {"24.09", *RELEASES}


def test_the_page_has_the_same_table() -> None:
    page = Path(__file__).parents[3] / "docs" / "export.md"
    rows = re.findall(
        r"^\| ([\d. -]+) \| (1\.\d+\.\d(?: or newer)?) \| (\d+) \| (\d+) \|",
        *(page.read_text(), re.MULTILINE),
    )
    told = {}
    for names, version, opset, ir_version in rows:
        first, _, last = names.partition("-")
        all_names = list(RELEASES)
        for name in all_names[all_names.index(first) : all_names.index(last or first) + 1]:
            told[name] = (version, int(opset), int(ir_version))
    assert told == {
        name: (r.runtime.removeprefix("ONNX Runtime "), r.max_opset, r.max_ir_version)
        for name, r in RELEASES.items()
    }
