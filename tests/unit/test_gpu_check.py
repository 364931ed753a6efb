"""scripts/gpu-check.sh: names every part, says why one did not run, needs little, exits 0."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
BARE = (
    *("mlflow", "tritonclient", "pandas", "pyarrow", "sklearn", "matplotlib", "PIL", "scipy"),
    *("psutil", "pooch", "iterstrat", "transformers", "tokenizers", "click", "rich"),
)
"""What Thresher uses and a bare machine with torch and onnx lacks."""
REFUSING = """
from importlib.machinery import PathFinder

find = PathFinder.find_spec

def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] in REFUSED else find(name, path, target)

PathFinder.find_spec = staticmethod(find_spec)
"""
"""As if the packages were not installed."""


@pytest.fixture
def check(tmp_path: Path) -> Any:
    """Run the script with some packages refused; return what it wrote."""

    def run(*arguments: str, refused: tuple[str, ...] = ()) -> Any:
        (tmp_path / "sitecustomize.py").write_text(f"REFUSED = {set(refused)!r}\n{REFUSING}")
        done = subprocess.run(
            [str(ROOT / "scripts/gpu-check.sh"), *arguments],
            env=os.environ
            | {"PYTHON": sys.executable, "OUT": str(tmp_path), "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
            timeout=280,
        )
        assert done.returncode == 0, done.stderr
        found = json.loads((tmp_path / "gpu-check.json").read_text())
        for part in found["parts"]:
            assert part["status"] in {"passed", "failed", "not run"}
            assert bool(part["reason"]) == (part["status"] != "passed"), part
        return found

    return run


def statuses(found: Any) -> dict[str, str]:
    return {part["name"]: part["status"] for part in found["parts"]}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_every_part_says_so(check: Any) -> None:
    found = check()
    assert set(statuses(found).values()) == {"not run"}
    assert {part["reason"] for part in found["parts"]} == {"torch sees no GPU"}
    assert {"recurrent", "compiled", "accumulation", "nccl_of_one", "triton_server"} <= set(
        statuses(found)
    )
    machine = found["machine"]
    assert machine["packages"]["torch"] == torch.__version__
    assert machine["torch"]["sees_gpu"] is False
    assert machine["onnxruntime"]["lists"]


def test_training_and_parity_of_logits_need_torch_and_onnx_alone(check: Any) -> None:
    """The parts run on the CPU here; which packages their modules import is the same."""
    parts = ("losses", "accumulation", "onnx_logits", "onnx_runtime", "export")
    refused = (*BARE, "onnxruntime", "onnx_ir", "onnxscript")
    found = check("--device", "cpu", *parts, refused=refused)
    reasons = {part["name"]: part["reason"] for part in found["parts"]}
    assert reasons == {
        **dict.fromkeys(parts[:3], ""),
        "onnx_runtime": "not installed: onnxruntime",
        "export": "not installed: onnx_ir, onnxscript, onnxruntime",
    }
    assert found["machine"]["packages"]["mlflow"] is None
    assert "error" in found["machine"]["onnxruntime"]


def test_onnx_runtime_and_the_conversion_need_no_mlflow_and_no_tritonclient(check: Any) -> None:
    found = check("--device", "cpu", "onnx_runtime", "export", refused=BARE)
    assert statuses(found) == {"onnx_runtime": "passed", "export": "passed"}, found["parts"]
    figures = next(p["figures"] for p in found["parts"] if p["name"] == "export")
    assert {"Wide fp32", "Wide fp16", "Recurrent fp32", "Recurrent fp16"} == set(
        figures["largest_difference_of_logits"]
    )


def test_without_torch_it_says_so_and_when_time_is_up_it_stops(check: Any) -> None:
    (all_of_them,) = check("--device", "cpu", refused=("torch",))["parts"]
    assert "torch" in all_of_them["reason"]
    late = check("--device", "cpu", "losses", "no_such", "--budget", "1")["parts"]
    assert {part["name"]: part["status"] for part in late} == {
        "losses": "not run",
        "no_such": "not run",
    }
    assert "there are loop," in late[0]["reason"]


def test_a_part_that_fails_or_hangs_is_a_finding_and_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "scripts"), *sys.path]))
    from gpu_check.__main__ import _run

    hung = _run("loop", "cpu", 0.05)
    assert (hung["status"], hung["reason"]) == (
        "failed",
        "it took more than 0 s and was ended",
    )
    broken = _run("loop", "meta", 200)
    assert broken["status"] == "failed"
    assert broken["log"]
