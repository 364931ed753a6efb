"""config.pbtxt: complete, checked against Triton's schema, and what may be laid over it."""

import dataclasses
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from onnx import TensorProto, helper, numpy_helper
from tritonclient.grpc import model_config_pb2 as pb

from support.deploy import TRITON
from thresher import Decision
from thresher.errors import ConfigError, ConversionError
from thresher_export import TensorRtOptions, TritonOptions, build_config
from thresher_export.triton_options import laid_over, parse_settings
from thresher_export.warmup import add_warmup

LABELS = ('say "no"', "two\nlines", "back\\slash", "tab\there", "雨 🌧️", "a,b;c")
DECISION = Decision(labels=LABELS, thresholds=np.linspace(0.1, 0.9, len(LABELS)))


def model(*, rank_1: bool = False) -> onnx.ModelProto:
    """Return an ONNX model's declarations: what a configuration is made of."""
    tokens = ["batch"] if rank_1 else ["batch", "sequence"]
    graph = helper.make_graph(
        [],
        "graph",
        [
            helper.make_tensor_value_info("tokens", TensorProto.INT64, tokens),
            helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 3, 8, 8]),
        ],
        [
            helper.make_tensor_value_info(name, kind, ["batch", len(LABELS)])
            for name, kind in (
                ("probabilities", TensorProto.FLOAT),
                ("labels", TensorProto.BOOL),
                ("logits", TensorProto.FLOAT),
            )
        ],
        [numpy_helper.from_array(np.zeros(9, np.float32), "w")],
    )
    return helper.make_model(graph)


def config(options: TritonOptions | None = None, **more: Any) -> Any:
    more = {"release": "25.12", **more}
    return build_config(model(), DECISION, name="m", version=3, options=options, **more)


def settings(*texts: str) -> TritonOptions:
    return laid_over(TritonOptions(), ("--set", parse_settings(texts)))


def test_a_free_axis_is_minus_one_and_the_batch_is_left_out() -> None:
    made = config()
    assert [(i.name, i.data_type, list(i.dims)) for i in made.input] == [
        ("tokens", pb.TYPE_INT64, [-1]),
        ("image", pb.TYPE_UINT8, [3, 8, 8]),
    ]
    assert [(o.name, list(o.dims), o.label_filename) for o in made.output] == [
        ("probabilities", [6], "labels.txt"),
        ("labels", [6], ""),
        ("logits", [6], "labels.txt"),
    ]


def test_what_nobody_asked_for_is_off_and_the_rest_is_said() -> None:
    made = config()
    assert (made.max_batch_size, made.backend) == (64, "onnxruntime")
    assert made.HasField("dynamic_batching")
    assert not made.dynamic_batching.preferred_batch_size
    assert [(g.kind, g.count) for g in made.instance_group] == [
        (pb.ModelInstanceGroup.KIND_AUTO, 2)
    ]
    assert list(made.version_policy.specific.versions) == [3]
    assert not made.HasField("response_cache")
    (cuda,) = made.optimization.execution_accelerators.gpu_execution_accelerator
    assert (cuda.name, dict(cuda.parameters)) == ("cuda", {"use_tf32": "0"})
    assert made.parameters["intra_op_thread_count"].string_value == "1"


def test_weights_outside_the_file_count_as_its_size() -> None:
    large = model()
    weight = large.graph.initializer.add(name="big", data_type=TensorProto.FLOAT, dims=[2**24])
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="model.onnx.data")
    weight.external_data.add(key="length", value=str(2**26))
    made = build_config(large, DECISION, name="m", version=3)
    assert "intra_op_thread_count" not in made.parameters


def test_every_option_reaches_the_configuration() -> None:
    made = config(
        settings(
            "triton.max_batch_size=16",
            "triton.max_queue_delay_us=200",
            "triton.preferred_batch_sizes=[4, 8]",
            "triton.instance_count=3",
            "triton.response_cache=true",
            "triton.tf32=true",
        )
    )
    assert made.max_batch_size == 16
    assert made.dynamic_batching.max_queue_delay_microseconds == 200
    assert list(made.dynamic_batching.preferred_batch_size) == [4, 8]
    assert made.instance_group[0].count == 3
    assert made.response_cache.enable
    assert not made.optimization.execution_accelerators.gpu_execution_accelerator


def test_labels_with_any_characters_survive_the_text() -> None:
    text = text_format.MessageToString(config(), as_utf8=True)
    read = text_format.Parse(text, pb.ModelConfig())
    kept = Decision.from_json(read.parameters["thresher.decision/3"].string_value)
    assert kept == DECISION
    assert kept.labels == LABELS


def test_the_version_says_where_it_comes_from() -> None:
    made = config(facts={"run": "abc", "certificate_sha256": "12"})
    found = {k: v.string_value for k, v in made.parameters.items() if k.startswith("thresher.")}
    assert found["thresher.run/3"] == "abc"
    assert found["thresher.certificate_sha256/3"] == "12"
    assert len(found["thresher.labels_sha256/3"]) == 64
    other = build_config(
        model(), Decision(labels=LABELS[::-1], thresholds=[0.5] * 6), name="m", version=3
    )
    key = "thresher.labels_sha256/3"
    assert other.parameters[key].string_value != found[key]


TENSORRT = TensorRtOptions(engine_cache="/cache", axes={"sequence": [1, 64, 256]})


def tensorrt_parameters(tensorrt: TensorRtOptions, release: str) -> dict[str, str]:
    options = TritonOptions(max_batch_size=32, tensorrt=tensorrt)
    made = config(options, release=release).optimization.execution_accelerators
    accelerator, _ = made.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    return dict(accelerator.parameters)


def test_tensorrt_has_a_profile_of_shapes_and_a_cache() -> None:
    fp16 = dataclasses.replace(TENSORRT, precision="fp16")
    assert tensorrt_parameters(fp16, "26.05") == {
        "precision_mode": "FP16",
        "max_workspace_size_bytes": str(2**30),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": "/cache",
        "trt_profile_min_shapes": "tokens:1x1,image:1x3x8x8",
        "trt_profile_opt_shapes": "tokens:32x64,image:32x3x8x8",
        "trt_profile_max_shapes": "tokens:32x256,image:32x3x8x8",
    }


@pytest.mark.parametrize("release", ["26.06", "26.08", "26.10"])
def test_tensorrt_11_is_asked_for_no_precision(release: str) -> None:
    """It computes in the model's own types, so a body in FP16 keeps its head in FP32."""
    assert "precision_mode" not in tensorrt_parameters(TENSORRT, release)
    assert "precision_mode" in tensorrt_parameters(TENSORRT, "26.05")
    for precision in ("fp16", "int8"):
        with pytest.raises(ConfigError, match="TensorRT 11.*--precision fp16"):
            tensorrt_parameters(dataclasses.replace(TENSORRT, precision=precision), release)


@pytest.mark.parametrize("release", ["24.10", "25.03"])
def test_one_gpu_is_named_where_every_engine_is_compiled_for_the_first(release: str) -> None:
    with pytest.raises(ConfigError, match="compiles every engine for GPU 0"):
        tensorrt_parameters(TENSORRT, release)
    options = TritonOptions(
        tensorrt=TENSORRT, config={"instance_group": [{"kind": "KIND_GPU", "gpus": [0]}]}
    )
    made = config(options, release=release)
    assert [list(group.gpus) for group in made.instance_group] == [[0]]


@pytest.mark.parametrize("release", ["25.12", "26.08"])
def test_nvidia_s_backend_takes_every_parameter(release: str) -> None:
    for profiles in (True, False):
        tensorrt = dataclasses.replace(TENSORRT, profiles=profiles)
        assert set(tensorrt_parameters(tensorrt, release)) <= set(TRITON["tensorrt"])
    assert "trt_op_types_to_exclude" not in TRITON["tensorrt"]


def test_without_free_axes_the_warmup_settles_the_shapes() -> None:
    """A profile names the model's inputs: where TensorRT takes it in parts, the load would fail."""
    fixed = model()
    fixed.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 9

    def written(tensorrt: TensorRtOptions) -> bool:
        made = build_config(
            fixed,
            DECISION,
            name="m",
            version=3,
            release="26.08",
            options=TritonOptions(tensorrt=tensorrt),
        )
        accelerator, _ = made.optimization.execution_accelerators.gpu_execution_accelerator
        return "trt_profile_min_shapes" in accelerator.parameters

    assert not written(TensorRtOptions())
    assert written(TensorRtOptions(profiles=True))
    parameters = tensorrt_parameters(TensorRtOptions(profiles=False), "26.08")
    assert "trt_profile_min_shapes" not in parameters


def test_fields_are_laid_over_message_by_message_and_list_by_list() -> None:
    made = config(
        settings(
            "triton.config.dynamic_batching.preserve_ordering=true",
            'triton.config.instance_group=[{kind = "KIND_CPU", count = 2}]',
            "triton.config.parameters.inter_op_thread_count=2",
            "triton.config.optimization.graph.level=1",
            'triton.config.metric_tags.team="vision"',
        )
    )
    assert made.dynamic_batching.preserve_ordering
    assert made.HasField("dynamic_batching")
    assert [(g.kind, g.count) for g in made.instance_group] == [(pb.ModelInstanceGroup.KIND_CPU, 2)]
    assert made.parameters["inter_op_thread_count"].string_value == "2"
    assert made.parameters["intra_op_thread_count"].string_value == "1"
    assert made.optimization.graph.level == 1
    assert made.metric_tags["team"] == "vision"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("triton.instance_cout=2", 'did you mean "triton.instance_count"'),
        ("triton.instance_count=two", "triton.instance_count is 'two', expected a int"),
        ("triton.instance_count=0", "instance_count is 0, expected at least 1"),
        ("triton.preferred_batch_sizes=[65]", "preferred_batch_sizes has 65, expected 1 to"),
        ("triton.tensorrt.precision=fp8", 'unknown value "fp8". Valid: fp16'),
        ("triton.tensorrt.axes.sequence=[9, 1, 2]", "expected smallest, usual and largest"),
        ("triton.tensorrt.axes.squence=[1, 2, 3]", 'unknown axis "squence"; did you mean'),
        ("triton.tensorrt={}", 'lacks the free axis "sequence"'),
        ("triton.config.dynamic_batchin.x=1", 'did you mean "triton.config.dynamic_batching"'),
        (
            "triton.config.dynamic_batching.max_queue_delay=1",
            'did you mean "triton.config.dynamic_batching.max_queue_delay_microseconds"',
        ),
        ("triton.config.response_cache.enable=1", "response_cache.enable is 1, expected true or"),
        ("triton.config.response_cache=true", "expected a table of enable"),
        ("triton.config.instance_group=3", "instance_group is 3, expected a list"),
        ('triton.config.instance_group=[{kind = "KIND_GUP"}]', 'did you mean "KIND_GPU"'),
        ("triton.config.optimization.priority=5", 'unknown value "5"'),
        (
            "triton.config.dynamic_batching.max_queue_delay_microseconds=-1",
            "max_queue_delay_microseconds",
        ),
        ("triton.config.metric_tags=1", "expected a table of values by name"),
        ("triton.config.backend=python", "it is what was proven"),
        ("triton.config.max_batch_size=8", "set triton.max_batch_size"),
        ("triton.config.version_policy.latest.num_versions=2", "publishing and rolling out"),
        ("loss.gamma=2", "expected triton.KEY=VALUE"),
        ("triton=1", "expected triton.KEY=VALUE"),
        ("triton.instance_count", "expected section.key=value"),
    ],
)
def test_a_wrong_setting_names_the_key_and_the_nearest(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        config(settings(text))
    assert words in str(error.value)


def test_what_thresher_proved_cannot_be_laid_over() -> None:
    options = TritonOptions(config={"parameters": {"thresher.decision/3": "{}"}})
    with pytest.raises(ConfigError, match="Thresher keeps there what was proven"):
        config(options)


def test_a_later_layer_wins_and_is_named_in_errors() -> None:
    recipe = {"instance_count": 2, "config": {"response_cache": {"enable": True}}}
    made = laid_over(
        TritonOptions(max_batch_size=8),
        ("recipe.toml", recipe),
        ("--set", parse_settings(("triton.instance_count=4",))),
    )
    assert (made.max_batch_size, made.instance_count) == (8, 4)
    assert made.config == {"response_cache": {"enable": True}}
    with pytest.raises(ConfigError, match=r"recipe.toml: unknown key .triton.count."):
        laid_over(TritonOptions(), ("recipe.toml", {"count": 2}))


def test_an_input_without_a_second_axis_is_refused() -> None:
    with pytest.raises(ConversionError, match='"tokens" has 1 axes, expected the batch and'):
        build_config(model(rank_1=True), DECISION, name="m", version=3)


def test_warmup_has_a_real_row_for_each_class_of_batch_size() -> None:
    rng = np.random.default_rng(0)
    rows = {
        "tokens": rng.integers(0, 9, (5, 4)),
        "image": rng.integers(0, 256, (5, 3, 8, 8), dtype=np.uint8),
    }
    made = config()
    files = add_warmup(made, rows, version=3)
    assert [sample.batch_size for sample in made.model_warmup] == [1, 7, 64]
    assert len(files) == 6
    for sample, row in zip(made.model_warmup, (0, 2, 4), strict=True):
        for name, value in sample.inputs.items():
            kind = np.int64 if name == "tokens" else np.uint8
            content = files[f"warmup/{value.input_data_file}"]
            read = np.frombuffer(content, kind).reshape(list(value.dims))
            np.testing.assert_array_equal(read, rows[name][row])
            assert value.input_data_file.startswith("3.")
    empty = config()
    assert add_warmup(empty, {name: array[:0] for name, array in rows.items()}, version=3) == {}
    assert not empty.model_warmup
