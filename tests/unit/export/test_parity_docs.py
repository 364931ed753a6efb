"""The example in docs/parity.md runs, and the checks for users' tests fail where they must."""

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from thresher.agreement import tolerances_for
from thresher.testing import assert_parity

PAGE = Path(__file__).parents[3] / "docs" / "parity.md"


def test_example_runs_and_catches_another_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(code, str(PAGE), "exec"), names)
    rows, network, decision = (names[name] for name in ("rows", "network", "decision"))
    before = sorted(path.name for path in tmp_path.iterdir())

    module: torch.nn.Module = network  # type: ignore[assignment]
    report = assert_parity(module, "model.onnx", decision, {"input": rows})  # type: ignore[arg-type]
    assert not report.problems()

    with torch.no_grad():
        module[2].weight[0, 0] += 0.05  # type: ignore[index]
    targets = np.zeros((50, 2), np.float32)
    with pytest.raises(AssertionError, match=r'logits differ .* label "cat"') as error:
        assert_parity(
            module,
            "model.onnx",
            decision,  # type: ignore[arg-type]
            {"input": rows},  # type: ignore[dict-item]
            targets_NL=targets,
            evidence=tmp_path / "evidence",
        )
    assert str(tmp_path / "evidence") in str(error.value)
    (tmp_path / "evidence" / "parity-worst-rows.npz").unlink()
    # the user's model is left as it was: the head went to a copy
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "evidence") == before
    assert [o.name for o in onnx.load("model.onnx").graph.output] != ["probabilities"]


@pytest.mark.parametrize(
    ("row", "precision"), [("fp32", "fp32"), ("TF32", "tf32"), ("fp16", "fp16"), ("int8", "int8")]
)
def test_page_states_the_tolerances(row: str, precision: str) -> None:
    (line,) = re.findall(rf"^\| {row}.*$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    _, _, logits, probabilities, f1, *_ = (cell.strip() for cell in line.split("|"))
    limits = tolerances_for(precision)
    assert [float(x) for x in re.findall(r"\d[\d.e-]*", logits)] == [
        limits.logits_atol,
        limits.logits_rtol,
    ]
    assert (float(probabilities), float(f1)) == (limits.probabilities_atol, limits.f1_change)
