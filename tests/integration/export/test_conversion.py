"""Networks of several kinds from MLflow to a published version, in each precision."""

import itertools
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from click.testing import CliRunner, Result
from google.protobuf import text_format
from torch import Tensor, nn
from tritonclient.grpc import model_config_pb2

from support.fixtures import LogVersion
from thresher import Decision
from thresher.certificate import Certificate, file_digest
from thresher.cli import main
from thresher.errors import ConfigError, ConversionError, PublishError
from thresher.evaluation import EvaluationSplit
from thresher.registry import ModelVersion, connect, register
from thresher.repository import ModelRepository
from thresher_export import ExportOptions, export_version

LABELS = ('say "no"', "two\nlines", "back\\slash", "雨 🌧️")
DECISION = Decision(labels=LABELS, thresholds=[0.5, 0.45, 0.55, 0.4])

_runs = itertools.count()


class Tokens(nn.Module):
    """Ids and a mask of any length, as an encoder takes them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(50, 24)
        self.inner = nn.Sequential(nn.Linear(24, 48), nn.GELU(), nn.Linear(48, 24))
        self.output = nn.Linear(24, len(LABELS))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        if input_ids.shape != attention_mask.shape:
            raise ValueError
        hidden = self.embedding(input_ids)
        hidden = hidden + self.inner(hidden)
        shown = attention_mask.unsqueeze(-1).float()
        logits: Tensor = self.output((hidden * shown).sum(1) / shown.sum(1).clamp(min=1))
        return logits * 4


class Pictures(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            *(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5)),
            *(nn.Conv2d(8, 16, 3, stride=2), nn.ReLU()),
        )
        self.output = nn.Linear(16, len(LABELS))

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.output(self.body(image.float() / 255).mean((2, 3)))
        return logits


def token_rows(num_rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(num_rows)
    mask = (np.arange(9) < rng.integers(1, 10, (num_rows, 1))).astype(np.int64)
    return {"input_ids": rng.integers(0, 50, (num_rows, 9)), "attention_mask": mask}


def picture_rows(num_rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(num_rows)
    return {"image": rng.integers(0, 256, (num_rows, 1, 12, 12), dtype=np.uint8)}


def log(
    folder: Path,
    network: nn.Module,
    rows: Mapping[str, np.ndarray],
    *,
    name: str,
    free_axes: int = 1,
    recipe: str | None = None,
) -> ModelVersion:
    """Log and register a network as training does, the first axes of each input free."""
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    mlflow = connect()
    run_folder = folder / f"run-{next(_runs)}"
    (run_folder / "evaluation").mkdir(parents=True)
    DECISION.save(run_folder / "decision.json")
    if recipe is not None:
        (run_folder / "recipe.toml").write_text(recipe)
    with torch.no_grad():
        logits = network.eval()(*map(torch.from_numpy, rows.values())).float().numpy()
    targets = (np.random.default_rng(0).random(logits.shape) < 0.4).astype(np.float32)
    for split in ("validation", "test"):
        EvaluationSplit(inputs=rows, targets_NL=targets, logits_NL=logits).save(
            run_folder / "evaluation" / f"{split}.npz"
        )
    specs = [
        TensorSpec(a.dtype, (*[-1] * min(free_axes, a.ndim), *a.shape[free_axes:]), key)
        for key, a in rows.items()
    ]
    example = tuple(array[:3] for array in rows.values())
    with mlflow.start_run():
        mlflow.log_artifacts(str(run_folder))
        info = mlflow.pytorch.log_model(
            network,
            name="model",
            serialization_format="pt2",
            input_example=example[0] if len(example) == 1 else example,
            signature=ModelSignature(
                inputs=Schema(specs),
                outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, len(LABELS)), "logits")]),
            ),
            pip_requirements=["torch"],
            validate_serving_input=False,
        )
    return register(model_uri=info.model_uri, name=name, alias="candidate", tags={})


@pytest.fixture
def repository(store: Path) -> ModelRepository:
    return ModelRepository(store / "models")


def export(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["export", *arguments, "--repository", "models"])


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_lower_precision_passes_the_same_gates_and_the_certificate_says_it(
    store: Path, repository: ModelRepository, precision: str
) -> None:
    network, rows = (Tokens(), token_rows(40)) if precision == "fp16" else (
        Pictures(), picture_rows(40)
    )  # fmt: skip
    version = log(store, network, rows, name="net")
    done = export("models:/net/1", "--precision", precision)
    assert done.exit_code == 0, done.output
    folder = repository.model_file("net", 1).parent
    assert Certificate.load(folder).precision == precision
    parameters = repository.read_config("net").parameters
    assert parameters["thresher.precision/1"].string_value == precision
    assert parameters["thresher.run/1"].string_value == version.run_id
    certificate = parameters["thresher.certificate_sha256/1"].string_value
    assert certificate == file_digest(folder / "certificate.json")
    repository.check_proven("net", 1)
    types = {t.data_type for t in onnx.load(folder / "model.onnx").graph.initializer}
    narrow = onnx.TensorProto.FLOAT16 if precision == "fp16" else onnx.TensorProto.INT8
    assert narrow in types


def test_a_version_number_has_one_precision(
    log_version: LogVersion, repository: ModelRepository
) -> None:
    log_version()
    assert export("models:/weather/1").exit_code == 0
    before = repository.model_file("weather", 1).read_bytes()
    with pytest.raises(PublishError, match="weather/1 is published in fp32, and was asked for in"):
        export_version(
            "models:/weather/1",
            repository=repository,
            options=ExportOptions(precision="fp16"),
        )
    assert repository.model_file("weather", 1).read_bytes() == before
    proven = export("models:/weather/1", "--precision", "fp16", "--no-publish")
    assert proven.exit_code == 0, proven.output


def test_the_same_weights_in_two_precisions_are_two_versions(
    log_version: LogVersion, repository: ModelRepository
) -> None:
    first = log_version()
    client = connect().MlflowClient()
    client.create_model_version("weather", first.source, run_id=first.run_id)
    one = export_version("models:/weather/1", repository=repository)
    two = export_version(
        "models:/weather/2", repository=repository, options=ExportOptions(precision="fp16")
    )
    assert (one.reused, two.reused) == (None, None)  # a body in FP32 is not taken over for FP16
    assert (one.certificate.precision, two.certificate.precision) == ("fp32", "fp16")
    assert repository.versions("weather") == [1, 2]


def test_the_recipe_says_how_triton_serves_it_and_the_command_line_wins(
    store: Path, repository: ModelRepository
) -> None:
    recipe = (
        '[triton]\nmax_batch_size = 16\ninstance_count = 2\n'
        '[triton.config.metric_tags]\nteam = "vision"\n'
    )  # fmt: skip
    log(store, Pictures(), picture_rows(20), name="net", recipe=recipe)
    done = export("models:/net/1", "--set", "triton.instance_count=3")
    assert done.exit_code == 0, done.output
    config = repository.read_config("net")
    assert (config.max_batch_size, config.instance_group[0].count) == (16, 3)
    assert config.metric_tags["team"] == "vision"
    assert [s.batch_size for s in config.model_warmup] == [1, 7, 16]
    done = export("models:/net/1", "--set", "triton.config.dynamic_batchin.x=1")
    assert done.exit_code == 1
    assert 'did you mean "triton.config.dynamic_batching"' in done.output


def test_a_wrong_section_in_the_recipe_is_named(store: Path, repository: ModelRepository) -> None:
    version = log(
        store, Pictures(), picture_rows(5), name="net", recipe="[triton]\ninstances = 2\n"
    )
    with pytest.raises(ConfigError, match=r'net/1: recipe.toml: unknown key "triton.instances"'):
        export_version(version.uri, repository=repository)
    assert not repository.root.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--target-triton", "24.09"), 'unknown Triton release "24.09"'),
        (("--set", "loss.gamma=2"), "expected triton.KEY=VALUE"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_done(
    log_version: LogVersion, repository: ModelRepository, arguments: tuple[str, ...], words: str
) -> None:
    log_version()
    done = export("models:/weather/1", *arguments)
    assert done.exit_code == 1
    assert words in done.output
    assert not repository.root.exists()


def test_what_the_target_cannot_load_is_not_published(
    log_version: LogVersion, repository: ModelRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    from thresher_export import pipeline

    log_version()
    append = pipeline.append_decision_head

    def newer(model: ir.Model, decision: Decision) -> ir.Model:
        made = append(model, decision)
        made.opset_imports[""] = 23
        return made

    monkeypatch.setattr(pipeline, "append_decision_head", newer)
    options = ExportOptions(target_triton="25.07")
    with pytest.raises(ConversionError, match="Triton 25.07 .* the oldest Triton that loads it is"):
        export_version("models:/weather/1", repository=repository, options=options)
    assert not repository.root.exists()
    options = ExportOptions(target_triton="25.08")
    assert export_version("models:/weather/1", repository=repository, options=options).is_new


def test_tensorrt_needs_the_release_and_an_fp16_body_has_an_engine_name_of_its_own(
    log_version: LogVersion, repository: ModelRepository
) -> None:
    log_version()
    settings = {"tensorrt": {"engine_cache": "/cache"}}
    with pytest.raises(ConfigError, match="needs the Triton release that serves"):
        export_version(
            "models:/weather/1", repository=repository, options=ExportOptions(settings=settings)
        )
    options = ExportOptions(settings=settings, target_triton="26.08", precision="fp16")
    done = export_version("models:/weather/1", repository=repository, options=options)
    assert done.folder is not None
    text = (repository.root / "weather/config.pbtxt").read_text()
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    tensorrt, _ = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert "precision_mode" not in tensorrt.parameters
    graph = onnx.load(done.folder / "model.onnx").graph
    assert graph.name.startswith("thresher_")
    kinds = {value.name: value.type.tensor_type.elem_type for value in graph.output}
    assert kinds["logits"] == kinds["probabilities"] == onnx.TensorProto.FLOAT
    halves = [w for w in graph.initializer if w.data_type == onnx.TensorProto.FLOAT16]
    assert halves, "the body computes in FP16, by its own types"
    heads = [w for w in graph.initializer if w.name.startswith("thresher.")]
    assert {w.data_type for w in heads} == {onnx.TensorProto.FLOAT}


def test_a_published_version_keeps_its_own_facts_when_another_is_published(
    log_version: LogVersion, repository: ModelRepository
) -> None:
    first, second = log_version(), log_version()
    for version in (first, second):
        export_version(version.uri, repository=repository)
    parameters = repository.read_config("weather").parameters
    assert parameters["thresher.run/1"].string_value == first.run_id
    assert parameters["thresher.run/2"].string_value == second.run_id
    assert (repository.root / "weather" / "warmup" / "1.1.0.bin").is_file()
    repository.unpublish("weather", 1)
    left = {key for key in repository.read_config("weather").parameters if key.endswith("/1")}
    assert not left
    names = {path.name for path in (repository.root / "weather" / "warmup").iterdir()}
    assert names == {"2.1.0.bin", "2.7.0.bin", "2.64.0.bin"}


def classified(server: str, rows: Mapping[str, np.ndarray]) -> list[str]:
    """Return the names that Triton's classification extension gives, most probable first."""
    from tritonclient import grpc

    inputs = []
    for name, array in rows.items():
        inputs.append(grpc.InferInput(name, array.shape, "INT64"))
        inputs[-1].set_data_from_numpy(array)
    wanted = grpc.InferRequestedOutput("probabilities", class_count=len(LABELS))
    client = grpc.InferenceServerClient(server)
    try:
        (found,) = client.infer("tokens", inputs, outputs=[wanted]).as_numpy("probabilities")
    finally:
        client.close()
    return [text.decode().split(":", 2)[2] for text in found]


def test_a_free_length_and_any_label_reach_triton(store: Path, repository: ModelRepository) -> None:
    from thresher_serving import Client, find_runtime, start_server

    network = Tokens().eval()
    version = log(store, network, token_rows(40), name="tokens", free_axes=2)
    export_version(version.uri, repository=repository)
    model = onnx.load(repository.model_file("tokens", 1))
    dims = [[d.dim_param for d in i.type.tensor_type.shape.dim] for i in model.graph.input]
    assert dims == [["batch", "sequence"]] * 2
    config = repository.read_config("tokens")
    assert [list(i.dims) for i in config.input] == [[-1], [-1]]
    assert [list(s.inputs["input_ids"].dims) for s in config.model_warmup] == [[9], [9], [9]]
    running = start_server(
        repository.root,
        runtime=find_runtime(),
        grpc_port=0,
        http_port=0,
        metrics_port=0,
        models=["tokens"],
        state_dir=store / "state",
    )
    try:
        for num_rows, length in ((1, 1), (3, 4), (2, 30)):
            rows = {
                "input_ids": np.random.default_rng(length).integers(0, 50, (num_rows, length)),
                "attention_mask": np.ones((num_rows, length), np.int64),
            }
            with Client(running.grpc_url) as client:
                answer = client.predict("tokens", rows, outputs=("probabilities", "logits"))
            with torch.no_grad():
                logits = network(*map(torch.from_numpy, rows.values())).numpy()
            np.testing.assert_allclose(answer.logits, logits, atol=1e-5)
            assert answer.label_names == LABELS
        one = {name: array[:1] for name, array in rows.items()}
        order = np.argsort(-answer.probabilities[0])
        escaped = [label.replace("\\", "\\\\").replace("\n", "\\n") for label in LABELS]
        assert classified(running.grpc_url, one) == [escaped[k] for k in order]
    finally:
        running.stop(timeout_s=0.1)


def test_the_report_names_the_precision_as_json(
    log_version: LogVersion, repository: ModelRepository
) -> None:
    log_version()
    done = export("models:/weather/1", "--precision", "int8", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["name"] == "weather"
