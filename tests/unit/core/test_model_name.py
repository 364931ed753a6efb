"""One way to name a model, for every command and for Python."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from thresher.cli import main
from thresher.cli.versions import asked_version, found_version, model_alone
from thresher.errors import ConfigError, NotFoundError
from thresher.model_name import ModelName, parse_model, parse_version


@pytest.mark.parametrize("prefix", ["", "models:/"])
@pytest.mark.parametrize(
    ("text", "version", "alias"),
    [
        ("digits", None, None),
        ("digits/3", 3, None),
        ("digits/007", 7, None),
        ("digits@candidate", None, "candidate"),
    ],
)
def test_every_form_names_the_same_with_and_without_the_scheme(
    prefix: str, text: str, version: int | None, alias: str | None
) -> None:
    found = parse_model(prefix + text)
    assert found == ModelName(name="digits", version=version, alias=alias)
    assert parse_model(found.uri) == found


@pytest.mark.parametrize(
    "text",
    [
        *("", "/", "@a", "models:/", "models:", "digits/", "digits@", "digits/0", "digits/-1"),
        *("digits/x", "digits/latest", "digits/1/2", "digits/1@a", "digits@a/1", "digits@a@b"),
        *("models://digits", "runs:/1/model", "digits/٣", "digits/1.0", f"digits/{10**30}"),
    ],
)
def test_another_form_is_refused_with_the_forms_that_there_are(text: str) -> None:
    with pytest.raises(NotFoundError, match="expected NAME, NAME/VERSION or NAME@ALIAS"):
        parse_model(text)


def test_a_version_is_asked_for_where_one_is_needed() -> None:
    with pytest.raises(NotFoundError, match=r"names no version; .* digits@candidate or digits/3"):
        parse_version("models:/digits")
    with pytest.raises(ConfigError, match=r"expected the model alone: digits"):
        model_alone("digits/3", "it takes no version")
    assert asked_version("digits", print) == ("digits", None)
    assert asked_version("digits", print, number=2) == ("digits", 2)
    assert asked_version("models:/digits/2", print, number=2) == ("digits", 2)
    with pytest.raises(ConfigError, match="is version 3, and an option says 2"):
        asked_version("digits/3", print, number=2)
    assert found_version("models:/digits/3", print) == ("digits", 3, False)


@pytest.mark.parametrize(
    "arguments",
    [
        ["export", "a/b/c"],
        ["tune", "a/b/c"],
        ["diff", "a/b/c", "a/1"],
        ["verify", "a/b/c"],
        ["score", "a/b/c", "--input", "x.csv", "--output", "scored"],
        ["predict", "a/b/c", "x.npy"],
        ["rollout", "a/b/c"],
        ["rollback", "a/b/c"],
        ["repository", "ls", "a/b/c"],
        ["repository", "verify", "a/b/c"],
    ],
)
def test_every_command_reads_names_alike(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model_repository").mkdir()
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1, done.output
    assert '"a/b/c" names no model; expected NAME, NAME/VERSION or NAME@ALIAS' in done.stderr


@pytest.mark.parametrize("command", ["rollout", "rollback", "status", "score", "predict", "verify"])
def test_the_server_has_one_name_and_takes_the_old_one(command: str) -> None:
    (option,) = (one for one in main.commands[command].params if one.name == "server")
    assert option.opts == ["--server", "--to"]
    shown = CliRunner().invoke(main, [command, "--help"]).output
    assert "--server HOST:PORT" in shown
    assert not re.search(r"--to\b", shown)


_BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocked())
from thresher.cli import main
main({arguments})
"""
_HEAVY = {"torch", "mlflow", "onnx", "onnxruntime", "onnxscript", "sklearn", "transformers"}


def without(
    packages: set[str], arguments: list[str], folder: Path
) -> subprocess.CompletedProcess[str]:
    """Run a command where packages cannot be imported."""
    script = _BLOCKED.format(blocked=packages, arguments=arguments)
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=environment,
    )


def test_the_repository_needs_the_serve_extra_alone(tmp_path: Path) -> None:
    (tmp_path / "model_repository/weather").mkdir(parents=True)
    config = tmp_path / "model_repository/weather/config.pbtxt"
    config.write_text('name: "weather"\nbackend: "onnxruntime"\n')
    for command in (["ls"], ["verify"], ["gc"]):
        done = without(_HEAVY, ["repository", *command], tmp_path)
        assert done.returncode == 0, done.stderr
    done = without({*_HEAVY, "tritonclient", "google"}, ["repository", "ls"], tmp_path)
    assert done.returncode == 1
    assert "pip install 'thresher[serve]'" in done.stderr


def test_the_head_needs_onnx_alone(tmp_path: Path) -> None:
    import numpy as np
    import onnx

    from thresher.decision import Decision

    batch = [None, 2]
    node = onnx.helper.make_node("Identity", ["x"], ["logits"])
    graph = onnx.helper.make_graph(
        [node],
        "body",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, batch)],
        [onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, batch)],
    )
    opset = onnx.helper.make_opsetid("", 20)
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9), tmp_path / "m.onnx"
    )
    Decision(labels=("a", "b"), thresholds=np.float32([0.5, 0.5])).save(tmp_path / "d.json")
    arguments = ["head", "m.onnx", "d.json", "-o", "served.onnx"]
    others = _HEAVY - {"onnx"} | {"tritonclient", "google.protobuf.none"}
    done = without(others, arguments, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "served.onnx").is_file()
    done = without({"onnx"}, arguments, tmp_path)
    assert "pip install 'thresher[head]'" in done.stderr


@pytest.mark.parametrize("command", ["score", "rollout", "verify", "predict"])
def test_an_alias_without_mlflow_is_answered_with_the_other_form(
    command: str, tmp_path: Path
) -> None:
    (tmp_path / "model_repository").mkdir()
    more = {
        "score": ["--input", "x.csv", "--output", "scored"],
        "predict": ["x.npy"],
    }
    arguments = [command, "digits@champion", *more.get(command, [])]
    done = without({"mlflow"}, arguments, tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    if "no Triton server" in done.stderr:  # a rollout looks for the server first
        return
    assert "MLflow, which is not installed here" in done.stderr
    assert "digits/3" in done.stderr
    assert "thresher rollout" not in done.stderr
