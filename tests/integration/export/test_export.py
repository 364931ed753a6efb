"""A registered version to a published one, with a real MLflow store and real ONNX Runtime."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from click.testing import CliRunner

from support.fixtures import LogVersion
from support.weather import DECISION, LABELS, Weather
from thresher import Decision
from thresher.certificate import Certificate, file_digest
from thresher.cli import main
from thresher.errors import ConversionError, NotFoundError, ParityError, PublishError
from thresher.golden import GOLDEN_FILE, load_golden
from thresher.registry import ModelVersion, connect, register_decision
from thresher.repository import ModelRepository
from thresher_export import ExportOptions, export_version, read_decision


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_published_model_decides_as_torch_and_explains_itself(
    log_version: LogVersion, store: Path
) -> None:
    version = log_version()
    repository = ModelRepository(store / "models")
    done = export_version("models:/weather@candidate", repository=repository)

    assert done.is_new
    assert done.folder == store / "models" / "weather" / "1"
    assert files_below(store / "models") == {
        "weather/config.pbtxt",
        "weather/labels.txt",
        "weather/1/model.onnx",
        "weather/1/parity.json",
        "weather/1/parity.html",
        "weather/1/certificate.json",
        "weather/1/golden.npz",
        "weather/1/baseline.npz",
        "weather/configs/1.pbtxt",
        *(f"weather/warmup/1.{batch_size}.0.bin" for batch_size in (1, 7, 64)),
    }
    model = onnx.load(done.folder / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert (model.ir_version, model.opset_import[0].version) == (10, 20)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert read_decision(model) == DECISION

    split = version.evaluation("test")
    session = ort.InferenceSession(done.folder / "model.onnx", providers=["CPUExecutionProvider"])
    probabilities, labels, logits = session.run(None, dict(split.inputs))
    expected_p, expected_y = DECISION.apply(split.logits_NL)
    np.testing.assert_allclose(logits, split.logits_NL, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(probabilities, expected_p, atol=1e-6)
    np.testing.assert_array_equal(labels, expected_y)
    np.testing.assert_array_equal(labels, probabilities >= DECISION.thresholds)
    assert (store / "models/weather/labels.txt").read_text().split() == list(LABELS)
    assert json.loads((done.folder / "parity.json").read_text())["ok"]


def test_golden_rows_are_what_the_published_file_answers(
    log_version: LogVersion, store: Path
) -> None:
    version = log_version()
    done = export_version("models:/weather/1", repository=ModelRepository(store / "models"))
    assert done.folder is not None
    golden = load_golden(done.folder)
    assert golden is not None
    session = ort.InferenceSession(done.folder / "model.onnx", providers=["CPUExecutionProvider"])
    logits = session.run(["logits"], dict(golden.inputs))[0]
    np.testing.assert_allclose(golden.logits_NL, logits, rtol=1e-6, atol=1e-6)
    assert done.certificate.files[GOLDEN_FILE] == file_digest(done.folder / GOLDEN_FILE)
    # the rows whose decisions are the first to flip are among them
    rows = version.evaluation("validation")
    margin = np.abs(DECISION.probabilities(rows.logits_NL) - DECISION.thresholds).min(axis=1)
    nearest = rows.inputs["features"][np.argsort(margin)[:20]]
    assert {tuple(row) for row in nearest} <= {tuple(row) for row in golden.inputs["features"]}


def test_version_can_be_exported_beside_the_one_that_serves(
    log_version: LogVersion, store: Path
) -> None:
    log_version()
    log_version()
    repository = ModelRepository(store / "models")
    export_version("models:/weather/1", repository=repository)
    beside = ExportOptions(serve=False)
    export_version("models:/weather/2", repository=repository, options=beside)
    assert repository.served_versions("weather") == [1]
    repository.check_proven("weather", 2)


def test_configuration_is_complete_and_carries_the_decision(
    log_version: LogVersion, store: Path
) -> None:
    log_version()
    repository = ModelRepository(store / "models")
    export_version("models:/weather/1", repository=repository)
    config = repository.read_config("weather")
    assert config.max_batch_size == 64
    assert [(i.name, list(i.dims)) for i in config.input] == [("features", [6])]
    assert [(o.name, list(o.dims)) for o in config.output] == [
        ("probabilities", [4]),
        ("labels", [4]),
        ("logits", [4]),
    ]
    assert list(config.version_policy.specific.versions) == [1]
    assert repository.decision("weather", 1) == DECISION


def test_second_version_serves_and_first_keeps_its_decision(
    log_version: LogVersion, store: Path
) -> None:
    log_version()
    other = Decision(labels=LABELS, thresholds=[0.1, 0.2, 0.3, 0.4])
    log_version(decision=other)
    repository = ModelRepository(store / "models")
    export_version("models:/weather/1", repository=repository)
    export_version("models:/weather/2", repository=repository)
    assert repository.versions("weather") == [1, 2]
    assert repository.serving_version("weather") == 2
    assert repository.decision("weather", 1) == DECISION
    assert repository.decision("weather", 2) == other


def test_exporting_the_same_version_twice_changes_nothing(
    log_version: LogVersion, store: Path
) -> None:
    log_version()
    repository = ModelRepository(store / "models")
    export_version("models:/weather/1", repository=repository)
    times = {p: p.stat().st_mtime_ns for p in (store / "models").rglob("*")}
    again = export_version("models:/weather/1", repository=repository)
    assert not again.is_new
    assert {p: p.stat().st_mtime_ns for p in (store / "models").rglob("*")} == times


def test_version_number_is_never_used_for_another_model(
    log_version: LogVersion, store: Path
) -> None:
    log_version()
    repository = ModelRepository(store / "models")
    export_version("models:/weather/1", repository=repository)
    path = repository.model_file("weather", 1)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(PublishError, match="never used again"):
        export_version("models:/weather/1", repository=repository)


def swap_two_labels(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        if tensor.name == "body.4.bias":
            values = onnx.numpy_helper.to_array(tensor)[[1, 0, 2, 3]]
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        if tensor.name == "body.4.weight":
            values = onnx.numpy_helper.to_array(tensor)[[1, 0, 2, 3]]
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def move_a_threshold(model: onnx.ModelProto) -> None:
    (tensor,) = [t for t in model.graph.initializer if t.name == "thresher.thresholds"]
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[2] += np.float32(1e-3)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def move_a_threshold_by_one_bit(model: onnx.ModelProto) -> None:
    (tensor,) = [t for t in model.graph.initializer if t.name == "thresher.thresholds"]
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[1] = np.nextafter(values[1], np.float32(1))
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def apply_sigmoid_twice(model: onnx.ModelProto) -> None:
    (node,) = [n for n in model.graph.node if n.op_type == "Sigmoid"]
    at = list(model.graph.node).index(node)
    first = onnx.helper.make_node("Sigmoid", [node.input[0]], ["once"])
    node.input[0] = "once"
    model.graph.node.insert(at, first)


def nudge_a_weight(model: onnx.ModelProto) -> None:
    (tensor,) = [t for t in model.graph.initializer if t.name == "body.4.weight"]
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[0, 0] += np.float32(0.02)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (swap_two_labels, ['label "sun"', "decisions flip", "row"]),
        (move_a_threshold, ['label "fog"', "threshold 0.61", "head"]),
        (move_a_threshold_by_one_bit, ['label "rain"', "threshold 0.3", "head"]),
        (apply_sigmoid_twice, ["probabilities differ", "row"]),
        (nudge_a_weight, ["logits differ", 'label "sun"']),
    ],
)
def test_wrong_model_fails_parity_and_nothing_is_published(
    log_version: LogVersion,
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: object,
    words: list[str],
) -> None:
    """The conversion is spoiled between the head and the gate, as a bug in either would."""
    from thresher_export import pipeline

    log_version()
    append = pipeline.append_decision_head

    def spoiled(model: ir.Model, decision: Decision) -> ir.Model:
        result = ir.to_proto(append(model, decision))
        spoil(result)  # type: ignore[operator]
        return ir.from_proto(result)

    monkeypatch.setattr(pipeline, "append_decision_head", spoiled)
    with pytest.raises(ParityError) as error:
        export_version("models:/weather/1", repository=ModelRepository(store / "models"))
    for word in words:
        assert word in str(error.value)
    assert not (store / "models").exists()


def test_frozen_batch_axis_is_refused(log_version: LogVersion, store: Path) -> None:
    log_version(frozen_batch=True)
    with pytest.raises(ConversionError, match="batch axis is frozen"):
        export_version("models:/weather/1", repository=ModelRepository(store / "models"))
    assert not (store / "models").exists()


class EndsInSigmoid(Weather):
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(super().forward(features))


def test_network_that_ends_in_a_sigmoid_is_refused(log_version: LogVersion, store: Path) -> None:
    log_version(EndsInSigmoid())
    with pytest.raises(ConversionError, match=r"ends in Sigmoid.*--has-sigmoid"):
        export_version("models:/weather/1", repository=ModelRepository(store / "models"))


def test_a_sigmoid_is_taken_off_when_asked_and_said(log_version: LogVersion, store: Path) -> None:
    network = EndsInSigmoid()
    log_version(network, logits_of=super(EndsInSigmoid, network).forward)
    said: list[str] = []
    done = export_version(
        "models:/weather/1",
        repository=ModelRepository(store / "models"),
        options=ExportOptions(has_sigmoid=True),
        progress=said.append,
    )
    assert done.report.num_flips == 0
    assert "Taking off the sigmoid that the network ends in" in said
    assert done.folder is not None
    operators = [n.op_type for n in onnx.load(done.folder / "model.onnx").graph.node]
    assert operators.count("Sigmoid") == 1
    assert operators.index("Sigmoid") > operators.index("Gemm")


def test_taking_off_a_sigmoid_that_is_not_there_is_refused(log_version: LogVersion) -> None:
    log_version()
    with pytest.raises(ConversionError, match="not in a sigmoid that could be taken off"):
        export_version(
            "models:/weather/1", repository=None, options=ExportOptions(has_sigmoid=True)
        )


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("models:/wether@candidate", 'did you mean "weather"'),
        ("models:/weather/7", "has versions [1]"),
        ("models:/weather@champion", "aliases candidate -> 1"),
        ("weather", "expected NAME@ALIAS or NAME/VERSION"),
    ],
)
def test_unknown_version_says_what_there_is(log_version: LogVersion, uri: str, words: str) -> None:
    log_version()
    with pytest.raises(NotFoundError) as error:
        export_version(uri, repository=None)
    assert words in str(error.value)


def test_repository_that_cannot_be_written_names_the_place(
    log_version: LogVersion, store: Path
) -> None:
    log_version()
    (store / "models").write_text("a file, not a folder")
    with pytest.raises(PublishError, match="models"):
        export_version("models:/weather/1", repository=ModelRepository(store / "models"))


def other_thresholds(version: ModelVersion, folder: Path) -> ModelVersion:
    """Register the same weights with another decision, as `thresher tune` does."""
    decision = Decision(labels=LABELS, thresholds=[0.4, 0.6, 0.2, 0.5])
    decision.save(folder / "decision.json")
    mlflow = connect()
    with mlflow.start_run() as run:
        mlflow.log_artifact(str(folder / "decision.json"))
    return register_decision(version, run_id=run.info.run_id, alias="candidate", tags={})


def test_new_thresholds_take_over_the_body_without_torch(
    log_version: LogVersion, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from thresher_export import onnx_file

    monkeypatch.setattr(onnx_file, "EMBEDDED_BYTES", 1000)  # as if its weights were large
    monkeypatch.setattr(onnx_file, "_SMALL_TENSOR_BYTES", 100)
    repository = ModelRepository(store / "models")
    first = log_version()
    assert export_version(first.uri, repository=repository).reused is None
    second = other_thresholds(first, store)
    done = export_version(second.uri, repository=repository)
    assert (done.reused, done.is_new) == (1, True)
    one, two = (repository.model_file("weather", n) for n in (1, 2))
    assert one.with_name("model.onnx.data").samefile(two.with_name("model.onnx.data"))
    assert read_decision(onnx.load(two, load_external_data=False)) == second.decision()
    assert repository.serving_version("weather") == 2
    for number in (1, 2):
        repository.check_proven("weather", number)
    assert done.certificate.weights_sha256 == Certificate.load(one.parent).weights_sha256
    assert not any("torch" in check.name for check in done.report.checks)


def test_a_body_that_is_not_what_was_proven_is_named_and_not_taken_over(
    log_version: LogVersion, store: Path
) -> None:
    repository = ModelRepository(store / "models")
    first = log_version()
    export_version(first.uri, repository=repository)
    path = repository.model_file("weather", 1)
    model = onnx.load(path)
    nudge_a_weight(model)
    onnx.save(model, path)
    second = other_thresholds(first, store)
    lines: list[str] = []
    done = export_version(second.uri, repository=repository, progress=lines.append)
    assert done.reused is None
    assert any("weather/1 is not what was proven" in line for line in lines)
    repository.check_proven("weather", 2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder: (folder / "certificate.json").unlink(), "no certificate.json"),
        (lambda folder: (folder / "certificate.json").write_text("{}"), "not a certificate"),
        (lambda folder: (folder / "model.onnx").write_bytes(b"\0"), "has other bytes"),
        (lambda folder: (folder / "parity.json").unlink(), "parity.json is missing"),
        (lambda folder: (folder / "more.data").touch(), "more.data is not in the certificate"),
    ],
)
def test_what_is_not_what_was_proven_is_not_served(
    log_version: LogVersion, store: Path, change: Callable[[Path], object], words: str
) -> None:
    repository = ModelRepository(store / "models")
    folder = export_version(log_version().uri, repository=repository).folder
    assert folder
    repository.check_proven("weather", 1)
    change(folder)
    with pytest.raises(ParityError, match=words):
        repository.check_proven("weather", 1)
    done = CliRunner().invoke(main, ["serve", "--repository", str(repository.root)])
    assert done.exit_code == 1
    assert words in done.output
    assert "--unproven" in done.output


def test_a_decision_that_was_changed_in_the_configuration_is_found(
    log_version: LogVersion, store: Path
) -> None:
    repository = ModelRepository(store / "models")
    export_version(log_version().uri, repository=repository)
    path = store / "models/weather/config.pbtxt"
    path.write_text(path.read_text().replace("0.61", "0.62"))
    with pytest.raises(ParityError, match=r"decision in config\.pbtxt is another one"):
        repository.check_proven("weather", 1)
